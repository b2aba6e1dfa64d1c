"""The summary of an impact for people, at most 80 columns wide but for names of sources."""

from __future__ import annotations

import textwrap
from collections.abc import Container

from mlmeter.foreign_files import visible
from mlmeter.impact.factors import Amount
from mlmeter.impact.result import Impact, PhaseImpact
from mlmeter.report.impact_quantities import IMPACT_QUANTITIES
from mlmeter.report.text import fitting_table, interval, number, table

WIDTH = 80
SHORT = ("facility_energy", "operational", "cost")
MOST_PHASES = 20


def impact_text(impact: Impact) -> str:
    """Return quantities, phases, equivalences, factors and notes."""
    # The name, as the notes below, may be a stranger's.
    head = textwrap.fill(
        f"{visible(impact.name)}: impact of {number(impact.whole.duration_seconds)} s", WIDTH
    )
    parts = [head, _quantities(impact)]
    if len(impact.phases) > 1:
        parts.append(_phases(impact))
    same = [
        (item.name, _best(item.amount, impact.whole), interval(item.amount.low, item.amount.high))
        for item in impact.equivalences()
        if item.amount.low is not None
    ]
    if same:
        rows = fitting_table(("as much as", "number", "interval"), same)
        parts.append(f"{rows}\n{_sources(impact)}")
    parts += [f"Factors:\n{_factors(impact)}", "\n".join(map(_wrapped, impact.notes))]
    return "\n\n".join(part for part in parts if part)


def short_text(impact: Impact) -> str:
    """Return emissions and cost with their factors, for the summary of a session."""
    return f"{_quantities(impact, SHORT)}\n{_factors(impact)}"


def _quantities(impact: Impact, only: Container[str] = IMPACT_QUANTITIES) -> str:
    rows = [
        (
            IMPACT_QUANTITIES[name],
            number(amount.value) if name == "embodied" else _best(amount, impact.whole),
            interval(amount.low, amount.high),
            amount.unit,
        )
        for name, amount, _ in impact.whole.quantities()
        if name in only and (name != "carbon" or impact.embodied is not None)
    ]
    return table(("quantity", "value", "interval", "unit"), rows)


def _factors(impact: Impact) -> str:
    return "\n".join(_wrapped(f"{factor}{_basis(factor.basis)}") for factor in impact.factors.all)


def _sources(impact: Impact) -> str:
    """Say what one of each equivalence is, and who says so."""
    by_source: dict[str, list[str]] = {}
    for item in impact.equivalences():
        text = f"{item.name} = {item.each} ({item.factor.year})"
        by_source.setdefault(item.factor.source, []).append(text)
    return "\n".join(_wrapped(f"{source}: {', '.join(texts)}") for source, texts in by_source.items())


def _phases(impact: Impact) -> str:
    header = ("phase", "kWh", "gCO2e", *((impact.cost.unit,) if impact.cost else ()), "interval gCO2e")
    rows = []
    for part in impact.phases[:MOST_PHASES]:
        cost = (_best(part.cost, part),) if part.cost else ()
        carbon = part.carbon
        best = (_best(part.facility_energy, part), _best(carbon, part))
        rows.append((part.phase, *best, *cost, interval(carbon.low, carbon.high)))
    text = fitting_table(header, rows)
    hidden = len(impact.phases) - MOST_PHASES
    return f"{text}\nand {hidden} more: see impact.frame()" if hidden > 0 else text


def _best(amount: Amount, part: PhaseImpact) -> str:
    known = amount.value is not None
    return "unresolved" if known and not part.metered.resolved else number(amount.value)


def _basis(basis: str) -> str:
    return f"; {basis}" if basis else ""


def _wrapped(note: str) -> str:
    return textwrap.fill(
        f"- {visible(note)}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
