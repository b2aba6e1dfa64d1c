"""Software carbon intensity: SCI = (E * I + M) per R, ISO/IEC 21031:2024.

Boundaries are those of the draft "SCI for AI" of the Green Software Foundation: a consumer counts
what runs the model, a provider what made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlmeter.errors import ArgumentError
from mlmeter.impact.factors import GRAMS, Amount, Factor, checked_number
from mlmeter.impact.result import Impact, PhaseImpact
from mlmeter.work import singular

ALL = "all"
BOUNDARIES = {
    "consumer": ("inference",),
    "provider": ("training", "evaluation", "data", "tuning"),
    ALL: (),
}
MOST_UNITS = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class SciScore:
    """Emissions of one functional unit, and its parts as the standard names them.

    Attributes:
        score: grams of CO2e of one unit: (O + M) / R.
        energy: E, kWh in all, with PUE if one was given.
        intensity: I; None if the phases had different ones.
        operational: O, gCO2e in all.
        embodied: M, gCO2e in all; None if no hardware was named: the standard asks for it.
        count: R.
        unit: name of the functional unit.
        boundary: ``"consumer"``, ``"provider"`` or ``"all"``.
        phases: phases of the session that are counted.
        complete: whether M is in it.
    """

    score: Amount
    energy: Amount
    intensity: Factor | None
    operational: Amount
    embodied: Amount | None
    count: float
    unit: str
    boundary: str
    phases: tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        missing = "" if self.complete else "; without M: name the hardware with embodied="
        return (
            f"SCI {self.score} (R: {self.count:g} {self.unit}; "
            f"{self.boundary} boundary: {', '.join(self.phases)}{missing})"
        )


def sci_score(
    impact: Impact, unit: str, count: float | None, *, boundary: str, phases: Sequence[str]
) -> SciScore:
    """Return the score; arguments and errors as of `Impact.sci`."""
    parts = _parts(impact, boundary, phases)
    number = _count(parts, unit, count)
    operational = _sum([part.operational for part in parts])
    manufacture = [part.embodied for part in parts if part.embodied is not None]
    embodied = _sum(manufacture) if manufacture else None
    carbon = operational if embodied is None else operational.plus(embodied)
    grids = {part.factors.grid for part in parts}
    return SciScore(
        score=carbon.divided_by(number, f"{GRAMS} per {singular(unit)}"),
        energy=_sum([part.facility_energy for part in parts]),
        intensity=grids.pop() if len(grids) == 1 else None,
        operational=operational,
        embodied=embodied,
        count=number,
        unit=unit,
        boundary=boundary,
        phases=tuple(part.phase for part in parts),
        complete=embodied is not None,
    )


def _parts(impact: Impact, boundary: str, phases: Sequence[str]) -> list[PhaseImpact]:
    if boundary not in BOUNDARIES:
        raise ArgumentError(f"boundary={boundary!r}: expected one of {', '.join(BOUNDARIES)}")
    if boundary == ALL and not phases:
        return [impact.whole]
    wanted = [phases] if isinstance(phases, str) else list(phases) or list(BOUNDARIES[boundary])
    there = {part.phase: part for part in impact.phases}
    unknown = [phase for phase in wanted if phase not in there]
    if phases and unknown:
        raise ArgumentError(f"phases={phases!r}: the session has {', '.join(there) or 'none'}")
    parts = [there[phase] for phase in wanted if phase in there]
    if not parts:
        raise ArgumentError(
            f"boundary={boundary!r}: the session has none of the phases {', '.join(wanted)}, "
            f"only {', '.join(there) or 'none'}; name some with phases="
        )
    return parts


def _count(parts: Sequence[PhaseImpact], unit: str, count: float | None) -> float:
    """Return R."""
    if count is not None:
        return checked_number("count", count, 1e-12, MOST_UNITS, "how many units of work were done")
    counted = sum(part.units.get(unit, 0.0) for part in parts)
    if counted <= 0:
        known = sorted({name for part in parts for name in part.units})
        raise ArgumentError(
            f"unit={unit!r}: no window of these phases counted any "
            f"(counted were {', '.join(known) or 'none'}); give count="
        )
    return counted


def _sum(amounts: Sequence[Amount]) -> Amount:
    total, *others = amounts
    for other in others:
        total = total.plus(other)
    return total
