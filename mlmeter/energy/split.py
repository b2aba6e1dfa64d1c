"""The energy of a slow counter split among windows that are shorter than its refresh.

Interpolation between refreshes smears one window into the next. Where a session has enough
refreshes and windows, their powers are fitted instead (`mlmeter.energy.phase_power`): right on
average, with an uncertainty that tells when the split cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.counter_lag import with_kernel
from mlmeter.energy.counters import FAST_PERIOD_SECONDS, LONGEST_PERIOD_RATIO
from mlmeter.energy.groups import GroupEnergies, degrees_of_freedom, group_energies, refreshed
from mlmeter.energy.guards import FAST_EDGE_SECONDS, SLOW_EDGE_SECONDS, systematic_sigmas
from mlmeter.energy.label_power import find_scatter
from mlmeter.energy.labels import gap_labels, merge_rare_labels
from mlmeter.energy.membership import Membership
from mlmeter.energy.occupancy import CounterRecord, Occupancy, Segments, occupancy
from mlmeter.energy.phase_power import PhasePowerFit, fit_phase_power, solve
from mlmeter.energy.timeline import CounterTimeline
from mlmeter.energy.uncertainty import RESOLVED_RATIO, UNIFORM_SIGMA
from mlmeter.energy.wandering_lag import WanderingLag, wandering_lag
from mlmeter.energy.windows import Ownership, Windows, depths, pieces_by_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies
    from mlmeter.energy.timeline import Timeline

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

METHOD = "phase_power"
# Fewer refreshes say nothing about scatter; more labels or segments take too long.
FEWEST_INTERVALS, FEWEST_WINDOWS = 8, 1
MOST_LABELS = 40
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
# Two edges, each with up to a whole interval on the wrong side.
EDGES_SIGMA = 2**0.5
# The white noise of one label may be so much stronger than that of all without being structure.
NOISE_EXCESS_RATIO = 3.0
# A fit whose energies have to be scaled by more is wrong about the load.
REMARKED_CLOSURE_ERROR, LARGEST_CLOSURE_ERROR = 0.005, 0.02
# By how much a lag that was found can be wrong, in periods.
LAG_ERROR_PERIODS = 0.02


@dataclass(frozen=True, slots=True)
class Split:
    """A fitted session of one counter.

    Attributes:
        timeline: the curve, in the counter's own time if it lags.
        fit: powers and energies of all segments.
        systematic_joules: of each label, shape (labels,).
        degrees: of freedom of each label, shape (labels,).
        edge_joules: standard uncertainty of each segment's energy because its power at the
            edges is not its mean, shape (segments,).
        windows, ownership: what the segments were made from.
        lag: whether the counter's lag changes during the session.
    """

    timeline: CounterTimeline
    fit: PhasePowerFit
    systematic_joules: Floats
    degrees: Floats
    edge_joules: Floats
    windows: Windows
    ownership: Ownership
    lag: WanderingLag

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield kind and sentence of what users of the energies must know."""
        record, closure = self.fit.occupancy.record, self.fit.closure_ratio
        if self.lag.wanders:
            span = f"{1e3 * self.lag.shortest_seconds:.1f} to {1e3 * self.lag.longest_seconds:.1f} ms"
            yield (
                "lag",
                f"the counter's lag changes during the session, from {span}; windows are less certain",
            )
        elif record.lag_seconds > 0:
            yield "lag", f"the counter lags by {1e3 * record.lag_seconds:.0f} ms; windows are placed by that"
        if record.sensed_ratio < 1:
            text = (
                f"the counter watches {record.sensed_ratio:.0%} of the time, as its fit to the windows says"
            )
            yield "part-time", text
        if abs(closure - 1) > REMARKED_CLOSURE_ERROR:
            text = f"fitted energies were {100 * (closure - 1):+.1f} % off the counter and were scaled to it"
            yield "closure", text

    @property
    def steps(self) -> Floats:
        """Energy of each segment, from edge to edge."""
        return self.fit.energies_joules

    def owned(self, energies: Energies) -> Energies:
        """Sharpen the energies that windows have for themselves."""
        pieces = np.arange(len(self.ownership.owner))
        return self._sharpened(energies, self.ownership.owner, pieces, len(self.windows))

    def enclosed(self, energies: Energies) -> Energies:
        """Sharpen the energies of windows with what is inside them."""
        return self._sharpened(energies, *self._by_window(), len(self.windows))

    def by_phase(self, energies: Energies, phase_of_window: Indices) -> Energies:
        """Sharpen the energies of phases."""
        phase_of_piece = phase_of_window[self.ownership.owner]
        if self.ownership.concurrent_piece.any():
            pieces = np.arange(len(phase_of_piece))
            return self._sharpened(energies, phase_of_piece, pieces, len(energies.joules))
        segments = self.fit.occupancy.segments
        # Each label has one phase, that of the piece which any of its segments is in.
        any_segment = np.zeros(segments.labels, dtype=np.int64)
        any_segment[segments.label] = np.arange(len(segments.label))
        piece = np.searchsorted(self.ownership.first, any_segment, side="right") - 1
        phase_of_label = phase_of_piece[piece]
        return self._by_label(energies, phase_of_label)

    def whole(self, energies: Energies) -> Energies:
        """Return the energy of the session: the counter itself tells it."""
        return energies

    def pooled(self, energies: Energies, rows: Indices, group: Indices) -> Energies:
        """Sharpen the energies of groups of windows, none inside another one of its group."""
        group_of_window = np.full(len(self.windows), -1)
        group_of_window[rows] = group
        window, piece = self._by_window()
        chosen = group_of_window[window] >= 0
        return self._sharpened(energies, group_of_window[window[chosen]], piece[chosen], len(energies.joules))

    def _by_window(self) -> tuple[Indices, Indices]:
        return pieces_by_window(self.windows, self.ownership)

    def _by_label(self, energies: Energies, group: Indices) -> Energies:
        """Sharpen the energies of groups of labels.

        Args:
            energies: of the groups.
            group: of each label, shape (labels,).
        """
        segments, covariance = self.fit.occupancy.segments, self.fit.label_covariance
        groups = len(energies.joules)
        indicator = (group == np.arange(groups)[:, None]).astype(np.float64)
        structure = np.bincount(segments.label, self.edge_joules**2, minlength=segments.labels)
        found = GroupEnergies(
            joules=energies.joules,
            sigma_statistical_joules=np.sqrt(
                np.maximum(np.einsum("gi,gi->g", indicator @ covariance, indicator), 0.0)
                + indicator @ structure
            ),
            sigma_systematic_joules=indicator @ self.systematic_joules,
        )
        degrees = np.full(groups, np.inf)
        np.minimum.at(degrees, group, self.degrees)
        edges = segments.edges
        starts, ends = np.full(groups, edges[0]), np.full(groups, edges[-1])
        return self._told(energies, found, degrees, starts, ends)

    def _sharpened(self, energies: Energies, group: Indices, piece: Indices, groups: int) -> Energies:
        """Sharpen the energies of groups of pieces."""
        ownership = self.ownership
        spans = Membership.of_ranges(ownership.first[piece], ownership.last[piece])
        weight = 1.0 / np.maximum(ownership.owners[spans.segment], 1)
        members = Membership(spans.segment, group[spans.group], groups, weight)
        found = group_energies(self.fit, self.systematic_joules, members)
        label = self.fit.occupancy.segments.label
        # A group of several labels is as uncertain as the least known of them.
        degrees = np.full(groups, np.inf)
        np.minimum.at(degrees, members.group, self.degrees[label[members.segment]])
        starts, ends = np.full(groups, np.inf), np.full(groups, -np.inf)
        np.minimum.at(starts, members.group, ownership.edges[members.segment])
        np.maximum.at(ends, members.group, ownership.edges[members.segment + 1])
        structure = np.bincount(
            members.group, (members.weight * self.edge_joules[members.segment]) ** 2, minlength=groups
        )
        statistical = np.sqrt(found.sigma_statistical_joules**2 + structure)
        found = replace(found, sigma_statistical_joules=statistical)
        return self._told(energies, found, degrees, starts, ends)

    def _told(
        self, energies: Energies, found: GroupEnergies, degrees: Floats, starts: Floats, ends: Floats
    ) -> Energies:
        """Return energies with the interval of the fit, within their hard bounds."""
        low, high = found.interval(degrees, energies.low, energies.high)
        # In gaps nothing is fitted: any power was possible there.
        lost_seconds = np.maximum(energies.duration_seconds - energies.covered_seconds, 0.0)
        lost_joules = self.timeline.max_power_watts * lost_seconds
        high = np.minimum(high + lost_joules, energies.high)
        told = refreshed(self.timeline.before, starts, ends, self.timeline.period_seconds)
        return replace(
            energies,
            low=np.minimum(low, energies.joules),
            high=np.maximum(high, energies.joules),
            # Of groups too many to be told of only the bounds are known.
            sigma_statistical=np.where(np.isfinite(sigma := found.sigma_statistical_joules), sigma, np.nan),
            sigma_systematic=found.sigma_systematic_joules,
            fitted=found.resolved(told) & (lost_joules * UNIFORM_SIGMA < RESOLVED_RATIO * energies.joules),
        )


def split_of(
    timeline: Timeline, windows: Windows, ownership: Ownership, phase_of_window: Indices
) -> Split | None:
    """Fit the windows of a session; None where interpolation is as good or nothing can be fitted."""
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
    label = segment_labels(windows, ownership, phase_of_window, timeline.period_seconds)
    labels = int(label.max()) + 1
    record = _record_of(timeline)
    if labels > MOST_LABELS or labels * len(record.joules) > MOST_OCCUPATIONS:
        return None
    if not fast and not _brackets_are_narrow(record, ownership.edges, timeline.period_seconds):
        return None
    try:
        fit = _fit_of(record, Segments(ownership.edges, label, labels), find_lag=not fast)
        edge_seconds = _fast_edge_seconds(timeline) if fast else _edge_seconds(record)
        edge_seconds = max(edge_seconds, windows.edge_sigma_seconds)
        systematic = systematic_sigmas(fit, edge_seconds, refit=not fast)
        lag = wandering_lag(fit, fast=fast)
    except np.linalg.LinAlgError:
        return None
    if abs(fit.closure_ratio - 1) > LARGEST_CLOSURE_ERROR:
        return None
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
        _edge_joules(fit),
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
            rows = np.union1d(sharp, [0, len(before) - 1])
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
    rows = np.unique(np.searchsorted(record.before, edges))
    rows = rows[rows < len(record.before)]
    width = record.before[rows] - record.after[rows]
    return len(rows) > 0 and float(np.median(width)) <= WIDEST_BRACKET_PERIODS * period_seconds


def _edge_seconds(record: CounterRecord) -> float:
    """Return by how much times may be wrong in step with the load.

    Power trails the edges of windows; and the middles of wide brackets miss the refreshes by
    amounts that are alike for a while where polls, counter and load have nearly one period.
    """
    width = float(np.median(record.before - record.after))
    return max(SLOW_EDGE_SECONDS, width * UNIFORM_SIGMA)


def _fast_edge_seconds(timeline: CounterTimeline) -> float:
    """Return the same of a counter that is read at the edges.

    One that has left more time between refreshes than a regular one does shows energy of an age
    that is only known within the longest such time.
    """
    longest = float((timeline.before - timeline.after).max()) / LONGEST_PERIOD_RATIO
    return max(FAST_EDGE_SECONDS, (longest - timeline.period_seconds) * UNIFORM_SIGMA)


def _edge_joules(fit: PhasePowerFit) -> Floats:
    """Return what the structure inside segments can do at their edges, shape (segments,).

    The fit takes the power of a segment to be constant. How much it varies shows in long ones:
    from interval to interval, beyond what errors of time explain.
    """
    parts, segments = fit.occupancy, fit.occupancy.segments
    instants, period = parts.instants, parts.period_seconds
    first = np.searchsorted(segments.edges, instants[:-1], side="right") - 1
    pure = first == np.searchsorted(segments.edges, instants[1:]) - 1
    pure &= (first >= 0) & (first < len(segments.label)) & parts.usable
    watts, expected = _interval_watts(parts, fit.scatter.noise_density)
    segment, watts, expected = first[pure], watts[pure], expected[pure]
    count = np.bincount(segment, minlength=len(segments.label))
    mean = np.bincount(segment, watts, minlength=len(count)) / np.maximum(count, 1)
    several = count[segment] > 1
    label, freedom = segments.label[segment[several]], 1 - 1 / count[segment[several]]
    # The last sums are those of all labels: what one label shows, another may have too.
    found, explained, freedoms = (
        np.append(sums := np.bincount(label, values, minlength=segments.labels), sums.sum())
        for values in (
            (watts - mean[segment])[several] ** 2,
            expected[several] * freedom,
            freedom,
        )
    )
    excess = np.where(found > NOISE_EXCESS_RATIO * explained, found - explained, 0.0)
    variance = np.divide(excess, freedoms, out=np.zeros(len(excess)), where=freedoms > 0)
    sigma_watts = np.sqrt(np.maximum(variance[:-1], variance[-1]))[segments.label]
    long = segments.seconds >= period
    return np.asarray(np.where(long, sigma_watts * period * EDGES_SIGMA, 0.0), dtype=np.float64)


def _interval_watts(parts: Occupancy, noise_density: float) -> tuple[Floats, Floats]:
    """Return the power of each interval and its variance by errors of time and white noise."""
    seconds = parts.seconds
    errors = (parts.instant_watts * parts.instant_sigma_seconds) ** 2
    variance = (errors[:-1] + errors[1:]) / seconds**2 + noise_density / seconds
    return parts.joules / seconds, variance


def segment_labels(
    windows: Windows, ownership: Ownership, phase_of_window: Indices, period_seconds: float
) -> Indices:
    """Label each segment by its owners; gaps also by the window before them, shape (segments,).

    What fills less than one period of the counter joins its phase.
    """
    spans = Membership.of_ranges(ownership.first, ownership.last)
    owner = ownership.owner[spans.group]
    size = len(ownership.edges) - 1
    is_parent = np.zeros(len(windows), dtype=np.bool_)
    is_parent[windows.parent[1:]] = True
    is_parent[0] = True
    label = np.zeros(size, dtype=np.int64)
    label[spans.segment] = windows.label[owner] + 1
    shared = ownership.owners > 1
    if shared.any():
        # Several owners make one label of their own: that of the set of their labels.
        names = int(windows.label.max()) + 2
        codes = np.random.default_rng(0).integers(1, 2**62, names, dtype=np.uint64)
        code = np.zeros(size, dtype=np.uint64)
        np.add.at(code, spans.segment, codes[windows.label[owner] + 1])
        label[shared] = names + np.unique(code[shared], return_inverse=True)[1].reshape(-1)
    gap = np.ones(size, dtype=np.bool_)
    gap[spans.segment[~is_parent[owner]]] = False
    phase = np.zeros(size, dtype=np.int64)
    phase[spans.segment] = phase_of_window[owner]
    seconds = np.diff(ownership.edges)
    group = 2 * phase + gap
    return merge_rare_labels(gap_labels(label, gap), group, seconds, least_seconds=period_seconds)
