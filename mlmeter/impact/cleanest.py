"""When and where a run would have been cleanest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.errors import ArgumentError
from mlmeter.impact.energy_over_time import phase_steps
from mlmeter.impact.series import IntensitySeries
from mlmeter.measurement import Energy
from mlmeter.units import JOULES_PER_KILOWATT_HOUR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.recording import Recording
    from mlmeter.session import Session

# The power curve is cut into so many pieces, which is finer than any forecast.
CURVE_PIECES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """A time and place at which the run could be.

    Attributes:
        place: name of the series, as given.
        start, end: of the run.
        grams_co2e: emissions of its metered electricity, with the session's best value of energy.
        low, high: with the ends of the interval of energy, and of the series.
        ratio: emissions / those of the dirtiest time and place.
    """

    place: str
    start: datetime
    end: datetime
    grams_co2e: float
    low: float
    high: float
    ratio: float


def cleanest(
    session: Session, series: IntensitySeries | Mapping[str, IntensitySeries]
) -> tuple[RunTime, ...]:
    """Return the times and places at which a run like this could be, the cleanest first.

    The run is moved over each series, its power curve unchanged; it starts or ends at a step of the
    series, and only where the series covers all of it.

    Args:
        session: the run.
        series: a forecast of a provider, or your own; or several by place, all of one kind.

    Raises:
        ArgumentError: no series covers so long a run, average and marginal ones are mixed, or no
            energy was read.
    """
    by_place = series if isinstance(series, Mapping) else {series.place or series.source: series}
    if not by_place:
        raise ArgumentError("series: expected at least one")
    if len({one.kind for one in by_place.values()}) > 1:
        raise ArgumentError("average and marginal intensities cannot be compared with each other")
    energy = session.total()
    if energy.energy_joules is None:
        raise ArgumentError("no energy was read in this session")
    duration = session.duration_seconds
    curve = _curve(session.recording, duration)
    found = [
        time
        for place, one in by_place.items()
        for start in _starts(one, duration)
        if (time := _run_time(place, one, start, duration, curve, energy)) is not None
    ]
    if not found:
        raise ArgumentError(f"no series covers a run of {duration:g} s without a gap")
    most = max(time.grams_co2e for time in found)
    rated = [replace(time, ratio=time.grams_co2e / most if most > 0 else 1.0) for time in found]
    return tuple(sorted(rated, key=lambda time: (time.grams_co2e, time.start)))


def _starts(series: IntensitySeries, duration: float) -> list[float]:
    """Return times at which the run would start or end at a step."""
    edges = {step.start for step in series.steps} | {step.end for step in series.steps}
    return sorted(edges | {edge - duration for edge in edges})


def _curve(recording: Recording, duration: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times since the start, and the share of energy up to each."""
    times = np.linspace(0.0, duration, CURVE_PIECES + 1)
    shares = np.concatenate(([0.0], np.cumsum(phase_steps(recording, times).sum(axis=0))))
    if shares[-1] <= 0:
        shares = times
    return times, shares / shares[-1] if shares[-1] > 0 else shares


def _run_time(
    place: str,
    series: IntensitySeries,
    start: float,
    duration: float,
    curve: tuple[NDArray[np.float64], NDArray[np.float64]],
    energy: Energy,
) -> RunTime | None:
    if not series.covers(start, start + duration):
        return None
    steps = series.between(start, start + duration)
    edges = np.array([step.start - start for step in steps] + [duration])
    weights = np.diff(np.interp(edges, *curve))
    if weights.sum() <= 0:
        weights = np.full(len(steps), 1 / len(steps))
    mean, low, high = (
        float(np.dot(weights, [getattr(step, name) for step in steps]) / weights.sum())
        for name in ("grams_per_kwh", "low", "high")
    )
    joules = energy.energy_joules or 0.0
    least = joules if energy.low_joules is None else energy.low_joules
    most = joules if energy.high_joules is None else energy.high_joules
    return RunTime(
        place=place,
        start=datetime.fromtimestamp(start, UTC),
        end=datetime.fromtimestamp(start + duration, UTC),
        grams_co2e=joules * mean / JOULES_PER_KILOWATT_HOUR,
        low=least * low / JOULES_PER_KILOWATT_HOUR,
        high=most * high / JOULES_PER_KILOWATT_HOUR,
        ratio=1.0,
    )
