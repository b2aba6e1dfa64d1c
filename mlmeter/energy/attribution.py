"""Joules of windows and phases from ownership of time and a domain's curve.

Energies of all pieces add up to the curve's total, so exclusive energies of a session's
windows, and phases, add up to the session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.cached import cached_property
from mlmeter.energy.counters import FAST_PERIOD_SECONDS, LONGEST_PERIOD_RATIO
from mlmeter.energy.gauge_intervals import GaugeIntervals, gauge_intervals_of
from mlmeter.energy.labels import LabelledWindows
from mlmeter.energy.session_fit import Refusal, split_of
from mlmeter.energy.split import METHOD, Split
from mlmeter.energy.timeline import CounterTimeline
from mlmeter.energy.uncertainty import RESOLVED_RATIO, UNIFORM_SIGMA
from mlmeter.energy.windows import (
    Ownership,
    Windows,
    add_to_ancestors,
    add_to_enclosing,
    hulls,
)
from mlmeter.measurement import Domain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.timeline import Timeline

    Joules = NDArray[np.float64]


# The work grows with phases times windows; who labels every window differently has bounds of windows.
MOST_BOUNDED_PHASES = 200
RUNS_AT_A_TIME = 50_000


@dataclass(frozen=True, slots=True)
class Energies:
    """Energies of many spans of one domain, as columns of shape (spans,).

    Attributes:
        joules, low, high: best value and hard bounds.
        covered_seconds, duration_seconds: metered and whole time; shared time counts by share.
        known: False if the domain's counter tells nothing, such as one that never moved.
        sigma_statistical, sigma_systematic: standard uncertainties of a fit; None where only
            the bounds are known.
        fitted: whether the fit tells a span's energy to 10 % or better; None without a fit.
        told: whether the counter was refreshed in a span or one period after it, or can still be;
            others have bounds only. None where that is not asked.
        share: rule by which each is a part of the whole domain's; None if they are the whole.
    """

    domain: Domain
    method: str
    joules: Joules
    low: Joules
    high: Joules
    covered_seconds: Joules
    duration_seconds: Joules
    known: bool = True
    sigma_statistical: Joules | None = None
    sigma_systematic: Joules | None = None
    fitted: NDArray[np.bool_] | None = None
    told: NDArray[np.bool_] | None = None
    share: NDArray[np.object_] | None = None

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Whether any part of a span was metered; a span of no length needs no metering."""
        metered = (self.covered_seconds > 0) | (self.duration_seconds <= 0)
        return np.asarray(self.known & metered)

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Whether the refreshes of the counter tell a span's energy to 10 % or better.

        An estimate can be resolved: its factors are another matter, told by the interval.
        """
        if self.fitted is not None:
            return np.asarray(self.readable & self.fitted & (True if self.told is None else self.told))
        low, high = self.low / self.domain.interval_low_ratio, self.high / self.domain.interval_high_ratio
        sharp = (high - low) * UNIFORM_SIGMA < RESOLVED_RATIO * self.joules
        long_enough = self.duration_seconds >= self.domain.update_period_seconds
        return np.asarray(self.readable & long_enough & sharp & (True if self.told is None else self.told))

    @property
    def sigma(self) -> Joules:
        """Standard uncertainty: the truth lies anywhere within the bounds."""
        return np.asarray((self.high - self.low) * UNIFORM_SIGMA)

    @property
    def coverage_ratio(self) -> Joules:
        """Metered time / time asked for; 1 for a span of no length."""
        ratio = np.ones_like(self.covered_seconds)
        np.divide(self.covered_seconds, self.duration_seconds, out=ratio, where=self.duration_seconds > 0)
        return np.clip(ratio, 0.0, 1.0)


class Attribution:
    """All energies of one domain in one session, each found when it is asked for.

    Args:
        domain: whose energies.
        timeline: its curve.
        labelled: the windows by the clock that counts for the domain.

    Attributes:
        labelled: as given.
    """

    def __init__(
        self,
        domain: Domain,
        timeline: Timeline,
        labelled: LabelledWindows,
    ) -> None:
        self._domain, self._given, self.labelled = domain, timeline, labelled
        self._windows, self._ownership = labelled.windows, labelled.ownership
        self._phase_of_window = labelled.phase_of_window

    @cached_property
    def _attempt(self) -> Split | Refusal | None:
        return split_of(self._given, self.labelled)

    @property
    def _fit(self) -> Split | None:
        return self._attempt if isinstance(self._attempt, Split) else None

    @property
    def split(self) -> Split | GaugeIntervals | None:
        """The fit that energies come from, or what judges integrated power; None for a plain curve."""
        return self._fit or gauge_intervals_of(self._given, self._windows, self._ownership)

    @property
    def timeline(self) -> Timeline:
        """The curve that energies come from; that of the counter's own time if it lags."""
        return self._given if self._fit is None else self._fit.timeline

    @property
    def steps(self) -> Joules:
        """Energy of the whole domain from edge to edge, shape (edges - 1,)."""
        return self._steps

    @cached_property
    def _steps(self) -> Joules:
        """Energy from edge to edge, shape (edges - 1,)."""
        if self._fit is None:
            return np.diff(self._given.energy_at(self._ownership.edges))
        return self._fit.steps

    @cached_property
    def remarks(self) -> tuple[tuple[str, str], ...]:
        """Kind and sentence of what users of the energies must know."""
        telling = self._attempt or self.split
        return () if telling is None else tuple(telling.remarks())

    def release(self) -> None:
        """Keep what is small: phases and total. What windows need is found again if asked for."""
        for kept in ("total", "phases", "remarks"):
            getattr(self, kept)
        for name in ("_attempt", "_steps", "owned", "enclosed", "exclusive", "inclusive"):
            self.__dict__.pop(name, None)
        self._given.release()

    @cached_property
    def total(self) -> Energies:
        """The session, shape (1,)."""
        start, end = self._windows.start[:1], self._windows.end[:1]
        low, high = self.timeline.bounds(start, end)
        covered = self.timeline.covered_seconds(start, end)
        found = self._energies(np.stack([self._steps.sum(keepdims=True), low, high, covered, end - start]))
        return found if self.split is None else self.split.whole(found)

    @cached_property
    def phases(self) -> Energies:
        """Energy of each phase, shape (phases,)."""
        phase_of_piece = self._phase_of_window[self._ownership.owner]
        phases = int(self._phase_of_window.max()) + 1
        if self._ownership.concurrent_piece.any():
            columns = _sum_by(phase_of_piece, self._piece_table(), phases)
        else:
            columns = self._undivided_phases(phases)
        _tighten_phases(self.timeline, self._ownership, phase_of_piece, columns, self.total)
        found = self._energies(columns)
        return found if self.split is None else self.split.by_phase(found, self._phase_of_window)

    @cached_property
    def owned(self) -> Energies:
        """Energy that each window has for itself, as far as the curve alone tells; shape (windows,)."""
        return self._energies(_sum_by(self._ownership.owner, self._piece_table(), len(self._windows)))

    @cached_property
    def enclosed(self) -> Energies:
        """Energy of each window with all inside it, as far as the curve alone tells; shape (windows,)."""
        columns = add_to_enclosing(self._windows, self._ownership, self._piece_table())
        _tighten_undivided(self.timeline, self._windows, self._ownership, columns)
        return self._energies(columns)

    @cached_property
    def exclusive(self) -> Energies:
        """Energy that each window has for itself, shape (windows,); row 0 is the session."""
        return self._told(self.owned if self.split is None else self.split.owned(self.owned), self.owned)

    @cached_property
    def inclusive(self) -> Energies:
        """Energy of each window with all inside it, shape (windows,); row 0 is the session."""
        found = self.enclosed if self.split is None else self.split.enclosed(self.enclosed)
        return self._told(found, self.enclosed)

    def _told(self, found: Energies, bounded: Energies) -> Energies:
        """Give windows that no refresh of a slow counter tells of their hard bounds, and say so.

        Args:
            found: energies of windows, shape (windows,).
            bounded: the same by the curve alone.
        """
        timeline = self.timeline
        if not isinstance(timeline, CounterTimeline) or timeline.interval_ratios != (1.0, 1.0):
            return found
        period = timeline.period_seconds
        starts, ends = hulls(self._windows)
        # The first refresh that can be after the start; its bracket may begin earlier.
        after = np.append(timeline.after, np.inf)[np.searchsorted(timeline.before, starts)]
        latest = ends + LONGEST_PERIOD_RATIO * period
        # At the end of a session, and of a snapshot, the refresh may still come.
        told = (ends <= starts) | (after <= latest) | (latest > self._windows.end[0])
        if period <= FAST_PERIOD_SECONDS or told.all():
            return found
        low, high = (
            np.where(told, of_fit, of_curve)
            for of_fit, of_curve in ((found.low, bounded.low), (found.high, bounded.high))
        )
        low, high = np.minimum(low, found.joules), np.maximum(high, found.joules)
        return replace(found, low=low, high=high, told=told)

    def _energies(self, columns: NDArray[np.float64]) -> Energies:
        """Make energies of value, low, high, metered and all seconds, shape (5, spans)."""
        value, low, high, covered, seconds = columns
        value = np.maximum(value, 0.0)
        low, high = np.minimum(low, value), np.maximum(high, value)
        method = self._given.method if self._fit is None else METHOD
        return Energies(self._domain, method, value, low, high, covered, seconds, self.timeline.known)

    def _piece_table(self) -> NDArray[np.float64]:
        """Value, low, high, metered and all seconds of each piece, shape (5, pieces).

        Several owners of one instant each get an equal part of its energy and of its time.
        """
        edges, shared_out = self._ownership.edges, self._ownership.share_out
        low, high = self.timeline.bounds_between(edges, self._ownership.first, self._ownership.last)
        shared = self._ownership.concurrent_piece
        if shared.any():
            every = np.arange(len(edges))
            step_low, step_high = self.timeline.bounds_between(edges, every[:-1], every[1:])
            low = np.where(shared, shared_out(step_low), low)
            high = np.where(shared, shared_out(step_high), high)
        covered = self.timeline.covered_seconds(edges[:-1], edges[1:])
        parts = [shared_out(steps) for steps in (self._steps, covered, np.diff(edges))]
        return np.stack([parts[0], low, high, *parts[1:]])

    def _undivided_phases(self, phases: int) -> NDArray[np.float64]:
        """Return the columns of phases without concurrent pieces: what follows each other is one span."""
        ownership, timeline = self._ownership, self.timeline
        phase, first, last = self.labelled.phase_runs
        upto = np.concatenate(([0.0], np.cumsum(self._steps)))
        columns = np.zeros((5, phases))
        # Some runs at a time, that the processor's cache holds.
        for begin in range(0, len(phase), RUNS_AT_A_TIME):
            some = slice(begin, begin + RUNS_AT_A_TIME)
            base = int(first[begin])
            starts, ends = first[some] - base, last[some] - base
            edges, curve = ownership.edges[base:][: int(ends[-1]) + 1], upto[base:][: int(ends[-1]) + 1]
            values = [
                curve[ends] - curve[starts],
                *timeline.bounds_between(edges, starts, ends),
                timeline.covered_seconds(edges[starts], edges[ends]),
                edges[ends] - edges[starts],
            ]
            columns += _sum_by(phase[some], np.stack(values), phases)
        return columns


def pool(
    energies: Energies, rows: NDArray[np.int64], group: NDArray[np.int64], bounds: NDArray[np.float64]
) -> Energies:
    """Add spans by group.

    Args:
        energies: of spans that do not overlap within a group.
        rows: the spans to add, shape (chosen,).
        group: the group of each, from 0, shape (chosen,).
        bounds: low and high of each group as a whole, shape (2, groups): many short spans together
            are known better than the sum of what is known of each.
    """
    columns = (
        energies.joules,
        energies.low,
        energies.high,
        energies.covered_seconds,
        energies.duration_seconds,
    )
    value, low, high, covered, duration = _sum_by(
        group, np.stack([column[rows] for column in columns]), bounds.shape[1]
    )
    return replace(
        energies,
        joules=value,
        low=np.minimum(np.maximum(low, bounds[0]), value),
        high=np.maximum(np.minimum(high, bounds[1]), value),
        covered_seconds=covered,
        duration_seconds=duration,
    )


def _sum_by(index: NDArray[np.int64], table: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    # Sums of nothing, as in a session of no length, come back as integers.
    sums = [np.bincount(index, weights=column, minlength=size) for column in table]
    return np.stack(sums).astype(np.float64)


def _tighten_undivided(
    timeline: Timeline, windows: Windows, ownership: Ownership, inclusive: NDArray[np.float64]
) -> None:
    """Bound a window of one interval as a whole: the edges between its children do not matter.

    Holds only if all its time, and that of its descendants, is its own: not concurrent and
    adding up to the span.
    """
    shared = add_to_ancestors(windows.parent, ownership.concurrent[None, :].astype(np.float64))[0] > 0
    once = np.bincount(windows.owner, minlength=len(windows)) == 1
    first = np.zeros(len(windows), dtype=np.int64)
    first[windows.owner[::-1]] = np.arange(len(windows.owner))[::-1]
    start, end = windows.start[first], windows.end[first]
    whole = once & ~shared & (np.abs(inclusive[4] - (end - start)) < 1e-6)
    low, high = timeline.bounds(start, end)
    inclusive[1] = np.where(whole, np.maximum(inclusive[1], low), inclusive[1])
    inclusive[2] = np.where(whole, np.minimum(inclusive[2], high), inclusive[2])


def _tighten_phases(
    timeline: Timeline,
    ownership: Ownership,
    phase_of_piece: NDArray[np.int64],
    phases: NDArray[np.float64],
    total: Energies,
) -> None:
    """Bound phases by all their time together and by what the total leaves for the others."""
    # A session of no length has no instants, and nothing to bound.
    bounded = min(phases.shape[1], MOST_BOUNDED_PHASES) if len(phase_of_piece) else 0
    for phase_number in range(bounded):
        weights = ownership.weights(phase_of_piece == phase_number)
        low_joules, high_joules = timeline.share_bounds(ownership.edges, weights)
        phases[1, phase_number] = max(phases[1, phase_number], low_joules)
        phases[2, phase_number] = min(phases[2, phase_number], high_joules)
    if timeline.known:
        other_low, other_high = phases[1].sum() - phases[1], phases[2].sum() - phases[2]
        phases[1] = np.maximum(phases[1], total.low - other_high)
        phases[2] = np.minimum(phases[2], total.high - other_low)
