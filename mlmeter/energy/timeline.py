"""Cumulative joules over time of one domain, with hard bounds.

All times are float64 seconds since the session started. The bounds hold whatever happens
between two refreshes, as long as the power stays within [0, `max_power_watts`].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mlmeter.cached import cached_property
from mlmeter.energy.counters import DEFAULT_MAX_POWER_WATTS, FAST_PERIOD_SECONDS, Rows
from mlmeter.energy.gaps import Gaps
from mlmeter.energy.gauge_timeline import GaugeTimeline
from mlmeter.energy.knots import fast_curve
from mlmeter.measurement import Domain
from mlmeter.units import SECONDS_PER_NANOSECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Seconds = NDArray[np.float64]
    Indices = NDArray[np.int64]
    Joules = NDArray[np.float64]

# Few enough for the processor's cache.
INTERVALS_AT_A_TIME = 1 << 15


class Timeline(Protocol):
    """What attribution asks of a domain's curve."""

    method: str

    @property
    def known(self) -> bool:
        """Whether any energy can be told at all."""

    def energy_at(self, times: Seconds) -> Joules:
        """Return cumulative joules at `times`."""

    def bounds(self, starts: Seconds, ends: Seconds) -> tuple[Joules, Joules]:
        """Return the least and the greatest energy that each span can have."""

    def bounds_between(self, edges: Seconds, first: Indices, last: Indices) -> tuple[Joules, Joules]:
        """Return the same of spans from edge to edge.

        Args:
            edges: instants, ascending, shape (edges,).
            first, last: numbers of the edges at which spans start and end, shape (spans,).
        """

    def share_bounds(self, edges: Seconds, weights: Seconds) -> tuple[float, float]:
        """Return the least and the greatest energy of a part of the session's time.

        Args:
            edges: instants, ascending, shape (edges,).
            weights: which part of the time from edge to edge counts, 0 to 1, shape (edges - 1,).
        """

    def covered_seconds(self, starts: Seconds, ends: Seconds) -> Seconds:
        """Return the metered time in each span."""

    def release(self) -> None:
        """Give back memory that can be had again by computing."""


class _Places(NamedTuple):
    """Where some consecutive intervals between refreshes begin and end.

    Attributes:
        rows: the refreshes, from that which begins the first interval to that which ends the last one.
        steps: the steps from edge to edge that the intervals touch.
        step_seconds: metered time of each step, shape (steps,).
        first, since_first: the step in which each interval begins at the earliest, from 0, and the metered
            time since that step began, shape (intervals,).
        last, since_last: the same of its latest end.
    """

    rows: slice
    steps: slice
    step_seconds: Seconds
    first: Indices
    since_first: Seconds
    last: Indices
    since_last: Seconds

    def part_seconds(self, weights: Seconds) -> Seconds:
        """Return the metered time in each interval of which a part counts, shape (intervals,)."""
        weights = weights[self.steps]
        upto = np.zeros(len(weights) + 1)
        np.cumsum(weights * self.step_seconds, out=upto[1:])
        seconds = upto[self.last] + weights[self.last] * self.since_last
        seconds -= upto[self.first] + weights[self.first] * self.since_first
        return np.asarray(seconds, dtype=np.float64)


class CounterTimeline:
    """The curve of a counter: interpolated between refreshes, bounded by its rows.

    Args:
        after, before: bracket of each refresh in seconds, shape (rows,).
        joules: cumulative energy that the counter showed then, shape (rows,).
        resolution_joules: one count.
        period_seconds: mean time between refreshes.
        max_power_watts, min_power_watts: limits of the domain's power.
        gaps: spans in which energy may be missing.
        interval_ratios: 95 % factors of an estimate, (1, 1) for a counter.
        kinks: edges of windows, ascending: there the power may change.
        part_time: whether the counter watches a part of the time only: its rows bound nothing.
    """

    def __init__(
        self,
        after: Seconds,
        before: Seconds,
        joules: Joules,
        *,
        resolution_joules: float,
        period_seconds: float,
        max_power_watts: float,
        min_power_watts: float = 0.0,
        gaps: Gaps | None = None,
        interval_ratios: tuple[float, float] = (1.0, 1.0),
        kinks: Seconds | None = None,
        part_time: bool = False,
    ) -> None:
        self.part_time = part_time
        self.after, self.before, self.joules = after, before, joules
        self.resolution_joules = resolution_joules
        self.period_seconds = period_seconds
        self.max_power_watts, self.min_power_watts = max_power_watts, min_power_watts
        self.gaps = gaps or Gaps.of([])
        # Bounds hold for the energy outside gaps: they grow with metered time only.
        self._after, self._before = self.gaps.metered(after), self.gaps.metered(before)
        self.interval_ratios = interval_ratios
        self._kinks = kinks
        self._placed: tuple[Seconds, list[_Places]] | None = None
        self._fast = period_seconds <= FAST_PERIOD_SECONDS
        self.method = "counter_edges" if self._fast else "interpolated"

    @cached_property
    def _knots(self) -> tuple[Seconds, Joules]:
        """Times and energies between which the curve is straight."""
        if self._fast:
            return fast_curve(self.after, self.before, self.joules, self.period_seconds, self._kinks)
        return (self.after + self.before) / 2, self.joules

    def lagging(self, lag_seconds: float, uncertain_seconds: float, *, part_time: bool) -> CounterTimeline:
        """Return the curve of a slow counter that shows what was used some time ago.

        Args:
            lag_seconds: how long ago.
            uncertain_seconds: by how much that may be wrong.
            part_time: whether the counter watches a part of the time only.
        """
        return CounterTimeline(
            self.after - lag_seconds - uncertain_seconds,
            self.before - lag_seconds + uncertain_seconds,
            self.joules,
            resolution_joules=self.resolution_joules,
            period_seconds=self.period_seconds,
            max_power_watts=self.max_power_watts,
            min_power_watts=self.min_power_watts,
            gaps=self.gaps,
            part_time=part_time,
        )

    @property
    def known(self) -> bool:
        """Whether the counter has moved: one that never did tells nothing."""
        return len(self.joules) > 1 and bool(self.joules[-1] > self.joules[0])

    def energy_at(self, times: Seconds) -> Joules:
        """Return cumulative joules at `times`; beyond the rows with the power next to them."""
        knots, values = self._knots
        energies = np.interp(times, knots, values)
        early, late = times < knots[0], times > knots[-1]
        if early.any():
            ahead = self.gaps.metered(knots[:1]) - self.gaps.metered(times)
            energies = np.where(early, values[0] - ahead * self._end_power(0), energies)
        if late.any():
            behind = self.gaps.metered(times) - self.gaps.metered(knots[-1:])
            energies = np.where(late, values[-1] + behind * self._end_power(-1), energies)
        lower, upper = self._limits(times)
        return np.asarray(np.clip(energies, lower, np.maximum(lower, upper)), dtype=np.float64)

    def bounds(self, starts: Seconds, ends: Seconds) -> tuple[Joules, Joules]:
        """Return the least and the greatest energy that each span can have."""
        at_starts, at_ends = self._limits(starts), self._limits(ends)
        return self._span_bounds(at_starts, at_ends, starts, ends)

    def bounds_between(self, edges: Seconds, first: Indices, last: Indices) -> tuple[Joules, Joules]:
        """Return the same of spans from edge to edge."""
        lower, upper = self._limits(edges)
        return self._span_bounds(
            (lower[first], upper[first]), (lower[last], upper[last]), edges[first], edges[last]
        )

    def _span_bounds(
        self,
        at_starts: tuple[Joules, Joules],
        at_ends: tuple[Joules, Joules],
        starts: Seconds,
        ends: Seconds,
    ) -> tuple[Joules, Joules]:
        """Bound spans, given the limits of the energy at both ends."""
        gap_seconds = self.gaps.between(starts, ends)
        metered = np.maximum(ends - starts - gap_seconds, 0.0)
        low, high = self.min_power_watts * metered, self.max_power_watts * metered
        if not self.part_time:
            low = np.maximum(at_ends[0] - at_starts[1], low)
            high = np.minimum(at_ends[1] - at_starts[0], high)
        low = np.maximum(low, 0.0)
        high = np.maximum(low, high) + self.max_power_watts * gap_seconds
        # An estimate can be wrong by its factors, wherever the refreshes were.
        low_ratio, high_ratio = self.interval_ratios
        return low * low_ratio, high * high_ratio

    def share_bounds(self, edges: Seconds, weights: Seconds) -> tuple[float, float]:
        """Return the least and the greatest energy of a part of the session's time.

        From refresh to refresh the energy is known; the part has all of it but what the rest
        of the time can have drawn, and no more than it can have drawn itself. That many spans
        are short does not matter then, as it does when each is bounded by itself.
        """
        if self.part_time:
            part_seconds = float(np.diff(edges) @ weights)
            return self.min_power_watts * part_seconds, self.max_power_watts * part_seconds
        least, most, low, high = self.min_power_watts, self.max_power_watts, 0.0, 0.0
        for place in self._places(edges):
            # A refresh is somewhere in its bracket: from the first to the last possible instant.
            seconds = self._before[place.rows][1:] - self._after[place.rows][:-1]
            own_seconds = place.part_seconds(weights)
            rest_seconds = np.maximum(seconds - own_seconds, 0.0)
            steps = np.diff(self.joules[place.rows])
            low += float(np.maximum(steps - most * rest_seconds, least * own_seconds).sum())
            most_steps = steps + self.resolution_joules
            high += float(np.minimum(most_steps - least * rest_seconds, most * own_seconds).sum())
        # Before the first and after the last refresh, and in gaps, only the power is limited.
        open_seconds = _part_between(edges, weights, edges[0], self.before[0])
        open_seconds += _part_between(edges, weights, self.after[-1], edges[-1])
        if len(self.gaps.starts):
            open_seconds += float(weights @ self.gaps.between(edges[:-1], edges[1:]))
        high += most * open_seconds
        low_ratio, high_ratio = self.interval_ratios
        return float(low * low_ratio), float(high * high_ratio)

    def _places(self, edges: Seconds) -> list[_Places]:
        """Return where intervals between refreshes begin and end, some at a time.

        Several parts of a session are asked for one after the other.
        """
        if self._placed is None or self._placed[0] is not edges:
            starts = range(0, len(self.joules) - 1, INTERVALS_AT_A_TIME)
            places = [self._places_of(edges, slice(row, row + INTERVALS_AT_A_TIME + 1)) for row in starts]
            self._placed = edges, places
        return self._placed[1]

    def _places_of(self, edges: Seconds, rows: slice) -> _Places:
        starts, ends = (
            np.clip(times, edges[0], edges[-1]) for times in (self.after[rows][:-1], self.before[rows][1:])
        )
        first, last = (
            np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
            for times in (starts, ends)
        )
        begin, end = int(first.min()), int(last.max()) + 1
        first, last = first - begin, last - begin
        metered = self.gaps.metered(edges[begin : end + 1])
        since_first = self.gaps.metered(starts) - metered[first]
        since_last = self.gaps.metered(ends) - metered[last]
        return _Places(rows, slice(begin, end), np.diff(metered), first, since_first, last, since_last)

    def covered_seconds(self, starts: Seconds, ends: Seconds) -> Seconds:
        """Return the metered time in each span."""
        return np.maximum(ends - starts - self.gaps.between(starts, ends), 0.0)

    def release(self) -> None:
        """Give back memory that can be had again by computing."""
        self._placed = None
        for name in ("_knots", "_extremes"):
            self.__dict__.pop(name, None)

    def _end_power(self, end: int) -> float:
        """Mean power beside the first (0) or last (-1) row, over 1 period or more where possible."""
        times, values = self._knots
        if len(times) < 2:
            return 0.0
        if end == 0:
            far = min(int(np.searchsorted(times, times[0] + self.period_seconds)), len(times) - 1)
            near = 0
        else:
            near = max(int(np.searchsorted(times, times[-1] - self.period_seconds, side="right")) - 1, 0)
            far = len(times) - 1
        span = times[far] - times[near]
        return float((values[far] - values[near]) / span) if span > 0 else 0.0

    @cached_property
    def _extremes(self) -> tuple[Joules, Joules, Joules]:
        """Extremes that rows up to and from each row on allow, shape (rows,) each."""
        least, most = self.min_power_watts, self.max_power_watts
        return (
            np.maximum.accumulate(self.joules - least * self._before),
            np.maximum.accumulate((self.joules - most * self._before)[::-1])[::-1],
            np.minimum.accumulate(self.joules - most * self._after),
        )

    def _limits(self, times: Seconds) -> tuple[Joules, Joules]:
        """Least and greatest energy at `times`, from all rows before and after."""
        behind = np.searchsorted(self.before, times, side="right")
        before, after = np.maximum(behind - 1, 0), np.minimum(behind, len(self.before) - 1)
        least, most, count = self.min_power_watts, self.max_power_watts, self.resolution_joules
        metered = self.gaps.metered(times)
        seen, ahead, surely = self._extremes
        next_before, next_after = self._before[after], self._after[after] - metered
        lower_before = seen[before] + least * np.maximum(metered, self._before[before])
        lower_after = ahead[after] + most * np.minimum(metered, next_before)
        upper_before = surely[before] + count + most * metered
        upper_after = self.joules[after] + count - np.where(next_after >= 0, least, most) * next_after
        none_before, none_after = behind == 0, behind == len(self.before)
        for unknown, lower, upper in (
            (none_before, lower_before, upper_before),
            (none_after, lower_after, upper_after),
        ):
            lower[unknown], upper[unknown] = -np.inf, np.inf
        return np.maximum(lower_before, lower_after), np.minimum(upper_before, upper_after)


def _part_between(edges: Seconds, weights: Seconds, start: float, end: float) -> float:
    """Return the seconds from `start` to `end` of which a part counts: weights from edge to edge."""
    first = max(int(np.searchsorted(edges, start, side="right")) - 1, 0)
    last = int(np.searchsorted(edges, end))
    return float(weights[first:last] @ np.diff(np.clip(edges[first : last + 1], start, end)))


def timeline_of(domain: Domain, rows: Rows, origin_ns: int, kinks: Seconds | None = None) -> Timeline | None:
    """Build the curve of one domain from its rows; None if it was never read.

    Args:
        domain: what the rows are of.
        rows: readings of the domain.
        origin_ns: monotonic time that becomes 0 s.
        kinks: edges of windows in seconds, ascending: there the power may change.
    """
    if not rows.counts:
        return None
    after = _seconds(rows.after_ns, origin_ns)
    before = _seconds(rows.before_ns, origin_ns)
    counts = np.frombuffer(rows.counts, dtype=np.int64).astype(np.float64)
    gaps = Gaps.of([((start - origin_ns) * 1e-9, (end - origin_ns) * 1e-9) for start, end in rows.gaps_ns])
    if domain.watts_per_count is not None:
        return GaugeTimeline(
            (after + before) / 2,
            counts * domain.watts_per_count,
            update_period_seconds=domain.update_period_seconds,
            averaging_window_seconds=domain.averaging_window_seconds,
            max_power_watts=max_power_watts(domain, rows),
            gaps=gaps,
        )
    joules_per_count = domain.joules_per_count or 0.0
    return CounterTimeline(
        after,
        before,
        counts * joules_per_count,
        resolution_joules=joules_per_count,
        period_seconds=rows.period_seconds or domain.update_period_seconds,
        max_power_watts=max_power_watts(domain, rows),
        gaps=gaps,
        interval_ratios=(domain.interval_low_ratio, domain.interval_high_ratio),
        kinks=kinks,
    )


def max_power_watts(domain: Domain, rows: Rows) -> float:
    """Return a power that the domain did not exceed: its limit, widened by what was seen."""
    seen = 1.5 * rows.largest_mean_watts
    if domain.max_power_watts is not None:
        return max(domain.max_power_watts, seen)
    return seen if seen > 0 else DEFAULT_MAX_POWER_WATTS


def _seconds(times_ns: object, origin_ns: int) -> Seconds:
    integers = np.frombuffer(times_ns, dtype=np.int64)  # type: ignore[call-overload]  # array of "q"
    return np.asarray((integers - origin_ns) * SECONDS_PER_NANOSECOND, dtype=np.float64)
