"""Joules of windows and phases from ownership of time and a domain's curve.

Energies of all pieces add up to the curve's total, so exclusive energies of a session's
windows, and phases, add up to the session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.gauge_intervals import GaugeIntervals, gauge_intervals_of
from mlmeter.energy.split import METHOD, Split, split_of
from mlmeter.energy.uncertainty import RESOLVED_RATIO, UNIFORM_SIGMA
from mlmeter.energy.windows import (
    Ownership,
    Windows,
    add_to_ancestors,
    add_to_enclosing,
    same_phase_runs,
)
from mlmeter.measurement import Domain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.timeline import Timeline

    Joules = NDArray[np.float64]


# The work grows with phases times windows; who labels every window differently has bounds of windows.
MOST_BOUNDED_PHASES = 200


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
            return np.asarray(self.readable & self.fitted)
        low, high = self.low / self.domain.interval_low_ratio, self.high / self.domain.interval_high_ratio
        sharp = (high - low) * UNIFORM_SIGMA < RESOLVED_RATIO * self.joules
        long_enough = self.duration_seconds >= self.domain.update_period_seconds
        return np.asarray(self.readable & long_enough & sharp)

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


@dataclass(frozen=True)
class Attribution:
    """All energies of one domain in one session.

    Attributes:
        timeline: the curve that they come from; that of the counter's own time if it lags.
        owned, enclosed: per window without and with what is inside it, shape (windows,), as far
            as the curve alone tells; row 0 is the session.
        phases: per phase, shape (phases,).
        total: the session, shape (1,).
        split: the fit that they come from, or what judges integrated power; None where the
            curve of a counter was interpolated.
    """

    timeline: Timeline
    owned: Energies
    enclosed: Energies
    phases: Energies
    total: Energies
    split: Split | GaugeIntervals | None = None

    @cached_property
    def exclusive(self) -> Energies:
        """Energy that each window has for itself, shape (windows,); row 0 is the session."""
        return self.owned if self.split is None else self.split.owned(self.owned)

    @cached_property
    def inclusive(self) -> Energies:
        """Energy of each window with all inside it, shape (windows,); row 0 is the session."""
        return self.enclosed if self.split is None else self.split.enclosed(self.enclosed)


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


def attribute(
    domain: Domain,
    timeline: Timeline,
    windows: Windows,
    ownership: Ownership,
    phase_of_window: NDArray[np.int64],
) -> Attribution:
    """Give every window and every phase its share of the domain's energy."""
    split = split_of(timeline, windows, ownership, phase_of_window)
    if split is not None:
        timeline = split.timeline
    steps = np.diff(timeline.energy_at(ownership.edges)) if split is None else split.steps
    table = _piece_table(timeline, ownership, steps)
    exclusive = _sum_by(ownership.owner, table, len(windows))
    inclusive = add_to_enclosing(windows, ownership, table)
    _tighten_undivided(timeline, windows, ownership, inclusive)
    n_phases = int(phase_of_window.max()) + 1
    phases = _sum_by(phase_of_window[ownership.owner], table, n_phases)
    total = table.sum(axis=1, keepdims=True)
    span = windows.start[:1], windows.end[:1]
    total[1:3] = np.array(timeline.bounds(*span))
    _tighten_phases(timeline, ownership, phase_of_window, phases, total)

    def energies(columns: NDArray[np.float64]) -> Energies:
        value, low, high, seconds, length = columns
        value = np.maximum(value, 0.0)
        return Energies(
            domain,
            timeline.method if split is None else METHOD,
            value,
            np.minimum(low, value),
            np.maximum(high, value),
            seconds,
            length,
            timeline.known,
        )

    told = split or gauge_intervals_of(timeline, windows, ownership)
    by_phase, whole = energies(phases), energies(total)
    if told is not None:
        by_phase, whole = told.by_phase(by_phase, phase_of_window), told.whole(whole)
    return Attribution(timeline, energies(exclusive), energies(inclusive), by_phase, whole, told)


def _piece_table(timeline: Timeline, ownership: Ownership, steps: Joules) -> NDArray[np.float64]:
    """Value, low, high, metered and all seconds of each piece, shape (5, pieces).

    Several owners of one instant each get an equal part of its energy and of its time.

    Args:
        timeline: what bounds the energies.
        ownership: whose pieces.
        steps: energy from edge to edge, shape (edges - 1,).
    """
    edges, shared_out = ownership.edges, ownership.share_out
    low, high = timeline.bounds(ownership.start, ownership.end)
    shared = ownership.concurrent_piece
    if shared.any():
        step_low, step_high = timeline.bounds(edges[:-1], edges[1:])
        low = np.where(shared, shared_out(step_low), low)
        high = np.where(shared, shared_out(step_high), high)
    return np.stack(
        [
            shared_out(steps),
            low,
            high,
            shared_out(timeline.covered_seconds(edges[:-1], edges[1:])),
            shared_out(np.diff(edges)),
        ]
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
    phase_of_window: NDArray[np.int64],
    phases: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Bound phases by their joined runs and by what the total leaves for the others."""
    if not ownership.concurrent_piece.any():
        phase, start, end = same_phase_runs(ownership, phase_of_window)
        low, high = timeline.bounds(start, end)
        size = phases.shape[1]
        phases[1] = np.maximum(phases[1], np.bincount(phase, weights=low, minlength=size))
        phases[2] = np.minimum(phases[2], np.bincount(phase, weights=high, minlength=size))
    owner_phase = phase_of_window[ownership.owner]
    # A session of no length has no instants, and nothing to bound.
    bounded = min(phases.shape[1], MOST_BOUNDED_PHASES) if len(owner_phase) else 0
    for phase_number in range(bounded):
        weights = ownership.weights(owner_phase == phase_number)
        low_joules, high_joules = timeline.share_bounds(ownership.edges, weights)
        phases[1, phase_number] = max(phases[1, phase_number], low_joules)
        phases[2, phase_number] = min(phases[2, phase_number], high_joules)
    if timeline.known:
        other_low, other_high = phases[1].sum() - phases[1], phases[2].sum() - phases[2]
        phases[1] = np.maximum(phases[1], total[1] - other_high)
        phases[2] = np.minimum(phases[2], total[2] - other_low)
