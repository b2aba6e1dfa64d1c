"""Power over time as pictures show it: few enough points, no peak lost, no energy lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.chapters.whole import WholeSession, results
from mlmeter.energy.counters import FAST_PERIOD_SECONDS
from mlmeter.measurement import Domain
from mlmeter.recording import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.counters import Rows
    from mlmeter.energy.timeline import Timeline

    Floats = NDArray[np.float64]

# The mean power between two readings is shown where they are so many times further apart than
# their times are uncertain: right to about a twentieth. Between closer ones it would be noise that
# looks like peaks.
CERTAIN_STRETCH = 10
# A stretch is metered if this part of it is.
METERED_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class PowerSeries:
    """Mean power of a domain from one instant to the next.

    Attributes:
        domain: what was metered.
        edges: the instants in seconds since the start, ascending, shape (stretches + 1,).
        watts: mean power of each stretch, NaN where it was not metered, shape (stretches,).
        low, high: least and greatest of the means that a stretch was made of, shape (stretches,); the
            same as `watts` where nothing was thinned.
        readings: stretches before thinning.
    """

    domain: Domain
    edges: Floats
    watts: Floats
    low: Floats
    high: Floats
    readings: int

    @property
    def thinned(self) -> bool:
        """Whether a stretch stands for several."""
        return len(self.watts) < self.readings

    @property
    def mean_watts(self) -> float:
        """Mean power of the metered time; NaN if there is none."""
        return float(self.mean_between(self.edges[:1], self.edges[-1:])[0])

    def mean_between(self, starts: Floats, ends: Floats) -> Floats:
        """Return mean powers of the metered time in spans, NaN where there is none; shape (spans,)."""
        metered = ~np.isnan(self.watts)
        seconds = np.where(metered, np.diff(self.edges), 0.0)
        joules = np.where(metered, self.watts, 0.0) * seconds
        sums = [np.concatenate(([0.0], np.cumsum(amounts))) for amounts in (joules, seconds)]
        joules, seconds = (
            np.interp(ends, self.edges, amounts) - np.interp(starts, self.edges, amounts) for amounts in sums
        )
        means = np.full(len(seconds), np.nan)
        np.divide(joules, seconds, out=means, where=seconds > 0)
        return means


def power_series(recording: Recording, most_points: int) -> list[PowerSeries]:
    """Return the power of each domain that was read.

    Where there are more readings, each of ``most_points // 3`` equal spans of time has its mean, which
    keeps the energy, and its lowest and highest, which keep the peaks.

    Args:
        recording: the session.
        most_points: values of one domain, 3 at least.
    """
    duration = recording.run.duration_seconds
    found, whole = [], results(recording)
    for domain, rows in recording.domains:
        if isinstance(whole, WholeSession):
            edges, watts = _of_samples(whole, domain)
        else:
            timeline = recording.resolution.timelines[domain.name]
            if timeline is None or not timeline.known or duration <= 0:
                continue
            edges = _edges(recording, domain, rows)
            watts = _mean_watts(timeline, edges)
        if not len(watts):
            continue
        series = PowerSeries(domain, edges, watts, watts, watts, len(watts))
        found.append(series if len(watts) <= most_points else thin(series, most_points // 3))
    return found


def _of_samples(whole: WholeSession, domain: Domain) -> tuple[Floats, Floats]:
    """Return edges and mean powers of a session whose past is kept as thinned samples."""
    times, joules = whole.samples().get(domain.name, (np.zeros(1), np.zeros(1)))
    return times, np.diff(joules) / np.diff(times)


def _edges(recording: Recording, domain: Domain, rows: Rows) -> Floats:
    """Return the session's start, its end, and readings between them that are far enough apart."""
    run = recording.run
    after, before = (np.array(times, dtype=np.int64) for times in (rows.after_ns, rows.before_ns))
    uncertain = float(np.median(before - after)) * 1e-9 if len(before) else 0.0
    if domain.update_period_seconds <= FAST_PERIOD_SECONDS:
        # Read when a window or the sampler asked, not when it was refreshed.
        uncertain = max(uncertain, domain.update_period_seconds)
    least = CERTAIN_STRETCH * uncertain
    kept, last, end = [0.0], 0.0, run.duration_seconds
    for time in np.unique((before - run.start_ns) * 1e-9).tolist():
        if least <= time - last and time > last and end - time >= least and time < end:
            kept.append(time)
            last = time
    return np.array([*kept, end])


def _mean_watts(timeline: Timeline, edges: Floats) -> Floats:
    seconds = np.diff(edges)
    covered = timeline.covered_seconds(edges[:-1], edges[1:])
    watts: Floats = np.diff(timeline.energy_at(edges)) / seconds
    return np.where(covered >= METERED_RATIO * seconds, watts, np.nan)


def thin(series: PowerSeries, most_stretches: int) -> PowerSeries:
    """Join neighbours in equal spans of time: means keep the energy, lowest and highest the peaks.

    Args:
        series: of any length.
        most_stretches: how many spans; a gap can add two stretches.
    """
    start, end = series.edges[0], series.edges[-1]
    ends = series.edges[1:]
    span = np.minimum(((ends - start) / (end - start) * most_stretches).astype(np.int64), most_stretches - 1)
    # A gap that could be seen stays a gap; a shorter one is left out of its span's mean.
    gap = np.isnan(series.watts) & (np.diff(series.edges) > (end - start) / most_stretches)
    new = np.concatenate(([True], (np.diff(span) > 0) | (gap[1:] != gap[:-1])))
    first = np.flatnonzero(new)
    edges = np.concatenate((series.edges[first], [end]))
    low = np.fmin.reduceat(series.low, first)
    high = np.fmax.reduceat(series.high, first)
    return PowerSeries(
        series.domain, edges, series.mean_between(edges[:-1], edges[1:]), low, high, series.readings
    )
