"""A life as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlmeter.analysis.figure import Figure
from mlmeter.measurement import Provenance
from mlmeter.report.text import fitting_table, interval, number, percent, shorten
from mlmeter.work import singular

if TYPE_CHECKING:
    from mlmeter.analysis.lifecycle import Forecast, Lifecycle, Serving

PHASE_HEADER = ("phase", "seconds", "joules", "95 % interval", "share", "95 % of share")
SERVING_HEADER = ("inference", "J each", "95 % interval", "break-even", "95 % of break-even")
MOST_SERVINGS = 20
WIDTH = 80


def lifecycle_text(life: Lifecycle) -> str:
    """Return the tables of phases and of inference, and what they mean."""
    rows = [
        (
            shorten(phase.phase, 16),
            number(phase.duration_seconds),
            *_cells(phase.energy),
            percent(phase.share.value) if phase.share.resolved else "-",
            _percents(phase.share),
        )
        for phase in life.phases
    ]
    parts = [fitting_table(PHASE_HEADER, rows, width=WIDTH, drop=("seconds",))]
    if life.serving is None:
        parts.append("No inference was metered: nothing tells how many pay for the rest.")
    else:
        parts.append(servings_table(life))
    if life.forecast is not None:
        parts.append(_forecast_text(life.forecast))
    notes = (*_notes(life), *life.notes)
    parts.append("\n".join(textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in notes))
    return "\n\n".join(part for part in parts if part)


def servings_table(life: Lifecycle) -> str:
    """Return joules each and break-even of inference, by name of the windows where there are several."""
    chosen = list(life.servings[:MOST_SERVINGS])
    if life.serving is not None and len(life.servings) != 1:
        chosen.append(life.serving)
    return fitting_table(SERVING_HEADER, [_serving_row(serving) for serving in chosen], width=WIDTH)


def _serving_row(serving: Serving) -> tuple[str, ...]:
    name = shorten(serving.name, 22) if serving.name is not None else "all inference"
    even = serving.break_even
    known = even.value is not None and even.resolved
    return (
        name,
        *_cells(serving.joules_each),
        f"{even.value:,.0f}" if known else "unresolved" if even.value is not None else "not known",
        _limits(even),
    )


def _forecast_text(forecast: Forecast) -> str:
    share = forecast.inference_share
    percents = f"{percent(share.value)} ({_percents(share)})" if share.resolved else _percents(share)
    return (
        f"With {forecast.inferences:,.0f} inferences: {_joules(forecast.total)} in all,\n"
        f"of it inference: {_joules(forecast.inference)}, {percents}."
    )


def _notes(life: Lifecycle) -> Iterator[str]:
    if life.serving is not None:
        unit = singular(life.serving.unit)
        once = " and ".join(life.paid_once_phases) or "what is paid once"
        yield f"Each is one {unit}. Break-even: so many use as much energy as {once}."
        yield "Intervals of joules each allow for the scatter from window to window."
    if any(phase.energy.provenance is Provenance.ESTIMATED for phase in life.phases):
        yield "Energies here are ESTIMATED, at least in part, not measured."
    if life.serving is not None and life.serving.break_even.high is None:
        yield f"Break-even is not bounded: {life.serving.break_even.reason}."


def _cells(figure: Figure) -> tuple[str, str]:
    value = number(figure.value) if figure.resolved else "unresolved" if figure.value is not None else "-"
    return value, _limits(figure)


def _limits(figure: Figure) -> str:
    if figure.low is not None and figure.high is None:
        return f"at least {number(figure.low, 3)}"
    return interval(figure.low, figure.high)


def _joules(figure: Figure) -> str:
    if figure.resolved:
        return f"{number(figure.value)} J ({_limits(figure)})"
    return "not known" if figure.low is None else f"{_limits(figure)} J"


def _percents(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return "-"
    return f"{100 * figure.low:.1f} .. {100 * figure.high:.1f} %"
