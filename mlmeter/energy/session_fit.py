"""Whether a session of one counter is fitted, and how: the choices that lead to a `Split`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.counter_lag import with_kernel
from mlmeter.energy.counters import FAST_PERIOD_SECONDS
from mlmeter.energy.edge_errors import edge_joules, fast_edge_seconds, slow_edge_seconds
from mlmeter.energy.groups import degrees_of_freedom
from mlmeter.energy.guards import systematic_sigmas
from mlmeter.energy.label_power import find_scatter
from mlmeter.energy.labels import LabelledWindows
from mlmeter.energy.occupancy import CounterRecord, Segments, occupancy
from mlmeter.energy.phase_power import PhasePowerFit, fit_phase_power, solve
from mlmeter.energy.split import Split
from mlmeter.energy.timeline import CounterTimeline
from mlmeter.energy.wandering_lag import wandering_lag
from mlmeter.energy.windows import Windows, depths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.timeline import Timeline

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Fewer refreshes say nothing about scatter; more labels or segments take too long.
FEWEST_INTERVALS, FEWEST_WINDOWS = 8, 1
MOST_FITTED_LABELS = 40
MOST_SEGMENTS = 5_000_000
# Many windows that overlap have more members than the session has segments.
MOST_MEMBERSHIPS = 20_000_000
# Labels x intervals: what they occupy is held in memory.
MOST_OCCUPATIONS = 20_000_000
# A fast counter is read at the edges themselves: from some length on, that tells more of a window
# than other windows do, sooner where most edges are followed by another read.
LONGEST_FAST_PERIODS, LONGEST_FOLLOWED_PERIODS = 40.0, 8.0
FOLLOWED_PERIODS, MOSTLY_RATIO = (1.0, 4.0), 0.5
MOST_EDGES = 20_000
# Wider brackets do not tell windows apart, and their errors are not independent.
WIDEST_BRACKET_PERIODS, SHARP_BRACKET_PERIODS = 0.5, 0.25
# A fit whose energies have to be scaled by more is wrong about the load.
LARGEST_CLOSURE_ERROR = 0.02
# By how much a lag that was found can be wrong, in periods.
LAG_ERROR_PERIODS = 0.02


@dataclass(frozen=True, slots=True)
class Refusal:
    """A fit that contradicts the counter: the energies are interpolated instead."""

    closure_ratio: float

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield kind and sentence of what users of the energies must know."""
        error = f"{100 * (self.closure_ratio - 1):+.1f} %"
        yield "closure", f"fitted energies were {error} off the counter: windows are interpolated instead"


def split_of(timeline: Timeline, labelled: LabelledWindows) -> Split | Refusal | None:
    """Fit the windows of a session; None where interpolation is as good or nothing can be fitted."""
    windows, ownership = labelled.windows, labelled.ownership
    if not isinstance(timeline, CounterTimeline) or not timeline.known or len(windows) <= FEWEST_WINDOWS:
        return None
    # An estimate would only be fitted to its own formula.
    measured = timeline.interval_ratios == (1.0, 1.0)
    fast = timeline.period_seconds <= FAST_PERIOD_SECONDS
    segments = len(ownership.edges) - 1
    enough = len(timeline.joules) > FEWEST_INTERVALS and 2 <= segments <= MOST_SEGMENTS
    if not measured or not enough or (fast and _edges_tell(timeline, windows, ownership.edges)):
        return None
    if (ownership.last - ownership.first).sum() > MOST_MEMBERSHIPS:
        return None
    if depths(windows.parent)[ownership.owner].sum() > MOST_MEMBERSHIPS:
        return None
    label = labelled.segment_labels(timeline.period_seconds)
    labels = int(label.max()) + 1
    record = _record_of(timeline)
    if labels > MOST_FITTED_LABELS or labels * len(record.joules) > MOST_OCCUPATIONS:
        return None
    if not fast and not _brackets_are_narrow(record, ownership.edges, timeline.period_seconds):
        return None
    try:
        fit = _fit_of(record, Segments(ownership.edges, label, labels), find_lag=not fast)
        edge_seconds = fast_edge_seconds(timeline) if fast else slow_edge_seconds(record)
        edge_seconds = max(edge_seconds, windows.edge_sigma_seconds)
        systematic = systematic_sigmas(fit, edge_seconds, refit=not fast)
        lag = wandering_lag(fit, fast=fast)
    except np.linalg.LinAlgError:
        return None
    if abs(fit.closure_ratio - 1) > LARGEST_CLOSURE_ERROR:
        return Refusal(fit.closure_ratio)
    found = fit.occupancy.record
    if found.lag_seconds > 0 or found.sensed_ratio < 1 or lag.wanders:
        uncertain = LAG_ERROR_PERIODS * timeline.period_seconds
        uncertain += max(lag.longest_seconds - found.lag_seconds, found.lag_seconds - lag.shortest_seconds)
        timeline = timeline.lagging(found.lag_seconds, uncertain, part_time=found.sensed_ratio < 1)
    return Split(
        timeline,
        fit,
        np.hypot(systematic, lag.changes_joules),
        degrees_of_freedom(label, labels),
        edge_joules(fit),
        windows,
        ownership,
        lag,
    )


def _record_of(timeline: CounterTimeline) -> CounterRecord:
    """Return the rows as the fit takes them."""
    after, before, period = timeline.after, timeline.before, timeline.period_seconds
    unknown, rows = np.zeros((2, 0)), np.arange(len(before))
    if period <= FAST_PERIOD_SECONDS:
        # A read shows a refresh of unknown age: its best single bracket is one period long.
        after = np.maximum(after, before - period)
    else:
        # Nothing beside a row at an end makes up for its error, and the first one is of unknown age.
        known = np.flatnonzero(before - after <= WIDEST_BRACKET_PERIODS * period)
        # Where polls rest now and then, refreshes in between are hardly placed: one long interval
        # with two sharp ends says more.
        sharp = np.flatnonzero(before - after <= SHARP_BRACKET_PERIODS * period)
        if len(sharp) > FEWEST_INTERVALS:
            known = sharp
            # Before the first and after the last of them nothing is fitted: there every row counts.
            rows = np.union1d(sharp, rows[(rows < sharp[0]) | (rows > sharp[-1])])
        if len(known):
            first, last = known[0], known[-1]
            unknown = np.array([[after[0], after[last]], [before[first], before[-1]]])
            unknown = unknown[:, [first > 0, last < len(before) - 1]]
    gaps = np.column_stack([[timeline.gaps.starts, timeline.gaps.ends], unknown])
    return CounterRecord(
        after[rows],
        before[rows],
        timeline.joules[rows],
        timeline.resolution_joules,
        timeline.min_power_watts,
        timeline.max_power_watts,
        gap_starts=np.sort(gaps[0]),
        gap_ends=np.sort(gaps[1]),
    )


def _fit_of(record: CounterRecord, segments: Segments, *, find_lag: bool) -> PhasePowerFit:
    """Fit a session; where the counter may lag or watch a part of the time, find out first."""
    if not find_lag:
        return fit_phase_power(record, segments)
    parts = occupancy(record.about(segments.edges[0], segments.edges[-1]), segments)
    return solve(*with_kernel(parts, find_scatter(parts)))


def _edges_tell(timeline: CounterTimeline, windows: Windows, edges: Floats) -> bool:
    """Whether windows are long enough for the reads at their edges to tell their energies."""
    period = timeline.period_seconds
    usual_periods = float(np.median(windows.end[1:] - windows.start[1:])) / period
    edges = edges[:: 1 + len(edges) // MOST_EDGES]
    soon, late = (np.searchsorted(timeline.before, edges + wait * period) for wait in FOLLOWED_PERIODS)
    followed = float(np.mean(late > soon)) >= MOSTLY_RATIO
    return usual_periods > (LONGEST_FOLLOWED_PERIODS if followed else LONGEST_FAST_PERIODS)


def _brackets_are_narrow(record: CounterRecord, edges: Floats, period_seconds: float) -> bool:
    """Whether refreshes about the edges of windows are known to better than half a period."""
    following = np.bincount(np.searchsorted(record.before, edges), minlength=len(record.before))
    rows = np.flatnonzero(following[: len(record.before)])
    width = record.before[rows] - record.after[rows]
    return len(rows) > 0 and float(np.median(width)) <= WIDEST_BRACKET_PERIODS * period_seconds
