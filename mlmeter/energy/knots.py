"""The curve of a fast counter through its edge reads and the edges of windows.

A read at time s shows a refresh somewhere in the last period, on average half a period
ago (half-period correction). Where the power changes, at the edges of windows, the energy is
estimated from both sides and the two are weighted by their variances:

* from before: the energy of the knot before, going on with the power before it;
* from after: the energy of the knot after, going back with the power after it. It is the
  better one where the power falls. It is used only where no other edge comes before the
  rows that tell that power.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Shorter spans say more about the refresh time than about the power.
SHORTEST_SPAN_PERIODS = 1.5
NARROW_PERIODS = 0.5
# Edges this close to a row, those of windows that follow each other, are one edge.
SAME_EDGE_PERIODS = 0.25
# Farther apart, two knots are joined by a straight line.
NEAR_PERIODS = 20.0
# A power taken from a neighbouring span is trusted to this share.
POWER_SCATTER = 0.15


@dataclass(frozen=True, slots=True)
class Knots:
    """Points of the curve, one per row.

    Attributes:
        times, energies: shape (rows,); seconds and joules.
        forward: the estimate from before alone, shape (rows,); what follows a kink must not
            enter what is said of the time before it.
        variances: of that estimate in joules squared, shape (rows,).
        blended: variance of `energies`, where a located refresh sharpens it, shape (rows,).
        power_before, power_after: watts on either side, shape (rows,).
        told_at: read time of the row that ends the span of `power_after`, infinite for the last
            row, which has none; shape (rows,).
    """

    times: Floats
    energies: Floats
    forward: Floats
    variances: Floats
    blended: Floats
    power_before: Floats
    power_after: Floats
    told_at: Floats


def fast_curve(
    after: Floats, before: Floats, joules: Floats, period: float, kinks: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return times and energies of the curve, ascending, to be joined by straight lines.

    Args:
        after, before: bracket of each row in seconds, shape (rows,).
        joules: cumulative energy shown, shape (rows,).
        period: mean time between refreshes in seconds.
        kinks: times at which the power may change, ascending; None where that is not known.
    """
    knots = row_knots(after, before, joules, period, kinks)
    if kinks is None or len(knots.times) < 2:
        return knots.times, knots.energies
    at, energies = _at_kinks(knots, joules, kinks, period)
    times = np.concatenate([knots.times, at])
    order = np.argsort(times, kind="stable")
    curve = np.concatenate([knots.energies, energies])[order]
    # A row before an edge cannot have more than the edge, where more is known.
    return times[order], np.minimum.accumulate(curve[::-1])[::-1]


def row_knots(after: Floats, before: Floats, joules: Floats, period: float, kinks: Floats | None) -> Knots:
    """Correct each row: one with a narrow bracket is a knot at its centre, others at their read time.

    A row's power is told by the energy of the row before it. All rows are computed together, again
    and again until nothing changes: as each depends on earlier ones only, that gives what
    computing them one by one would. At most half of an error is handed on, mostly much less, so few
    rounds are enough.
    """
    width = before - after
    narrow = width <= NARROW_PERIODS * period
    # The instant at which the counter showed `joules`, at best knowledge.
    shown_at = np.where(narrow, (after + before) / 2, before - period / 2)
    knot_at = np.where(narrow, shown_at, before)
    later = _later(shown_at, period)
    powers_after = _powers_after(shown_at, joules, later)
    # A read just after an edge shows a refresh from before it.
    told_at = np.where(later > np.arange(len(later)), before[later] - SAME_EDGE_PERIODS * period, np.inf)
    spread = width**2 / 12
    takes_after = _takes_power_after(knot_at, shown_at, told_at, kinks, period)
    power_of = _PowerBefore(knot_at, shown_at, joules, takes_after, powers_after, period)
    # Where the row that follows tells more: its energy, going back with the power after it.
    near = np.diff(knot_at) <= NEAR_PERIODS * period
    rows = np.flatnonzero(_steady_from(knot_at, told_at, kinks, period)[:-1] & ~narrow[:-1] & near)
    ahead, next_power = shown_at[rows + 1] - knot_at[rows], powers_after[rows + 1]
    other = joules[rows + 1] - next_power * ahead
    other_variance = next_power**2 * (spread[rows + 1] + (POWER_SCATTER * ahead) ** 2)
    energies = joules
    for _ in range(len(joules) + 1):
        powers = power_of(energies)
        forward = np.where(narrow, joules, joules + powers * period / 2)
        variances = powers**2 * spread
        found = forward.copy()
        found[rows] = _weighted(forward[rows], variances[rows], other, other_variance)
        found[:-1] = np.minimum(found[:-1], joules[1:])
        found = np.maximum.accumulate(np.maximum(found, joules))
        settled, energies = np.array_equal(found, energies), found
        if settled:
            break
    blended = variances.copy()
    sharp = narrow[rows + 1]
    blended[rows[sharp]] = _combined(variances[rows[sharp]], other_variance[sharp])
    return Knots(knot_at, energies, forward, variances, blended, powers, powers_after, told_at)


class _PowerBefore:
    """The power before each row, from the energies of the rows.

    A row after an edge takes the power after it; one that follows too closely to tell a power, that of
    the row before.
    """

    def __init__(
        self,
        knot_at: Floats,
        shown_at: Floats,
        joules: Floats,
        takes_after: NDArray[np.bool_],
        powers_after: Floats,
        period: float,
    ) -> None:
        span = shown_at[1:] - knot_at[:-1]
        self._own = np.flatnonzero(~takes_after[1:] & (span >= period))
        self._span, self._joules = span[self._own], joules[self._own + 1]
        told = takes_after.copy()
        told[self._own + 1] = True
        told[:1] = True
        self._source = np.maximum.accumulate(np.where(told, np.arange(len(told)), 0))
        self._powers = powers_after.copy()

    def __call__(self, energies: Floats) -> Floats:
        self._powers[self._own + 1] = np.maximum(0.0, (self._joules - energies[self._own]) / self._span)
        return self._powers[self._source]


def _weighted(one: Floats, one_variance: Floats, other: Floats, other_variance: Floats) -> Floats:
    """Combine two estimates by their variances."""
    total = one_variance + other_variance
    share = np.divide(one_variance, total, out=np.zeros_like(total), where=total > 0)
    return (1 - share) * one + share * other


def _combined(one_variance: Floats, other_variance: Floats) -> Floats:
    """Return the variance of two estimates combined by their variances."""
    total = one_variance + other_variance
    return np.divide(one_variance * other_variance, total, out=np.zeros_like(total), where=total > 0)


def _at_kinks(knots: Knots, joules: Floats, kinks: Floats, period: float) -> tuple[Floats, Floats]:
    """Estimate the energy at kinks between two near knots; elsewhere a straight line is as good."""
    left = np.clip(np.searchsorted(knots.times, kinks, side="right") - 1, 0, len(knots.times) - 2)
    right = left + 1
    inside = (kinks > knots.times[left]) & (kinks < knots.times[right])
    use = inside & (knots.times[right] - knots.times[left] <= NEAR_PERIODS * period)
    at, left, right = kinks[use], left[use], right[use]
    behind, ahead = at - knots.times[left], knots.times[right] - at
    power_before, power_after = knots.power_before[left], knots.power_after[right]
    forward = knots.forward[left] + power_before * behind
    backward = knots.energies[right] - power_after * ahead
    forward_variance = knots.variances[left] + (POWER_SCATTER * power_before * behind) ** 2
    backward_variance = knots.blended[right] + (POWER_SCATTER * power_after * ahead) ** 2
    total = forward_variance + backward_variance
    share = np.divide(forward_variance, total, out=np.full_like(total, 0.5), where=total > 0)
    # With an edge in between, the power after is that of another window; close by it does no harm.
    steady = _edge_free(kinks, at + SAME_EDGE_PERIODS * period, knots.told_at[right])
    share = np.where(steady | (ahead < SHORTEST_SPAN_PERIODS * period), share, 0.0)
    energies = (1 - share) * forward + share * backward
    return at, np.clip(energies, joules[left], knots.energies[right])


def _later(shown_at: Floats, period: float) -> NDArray[np.intp]:
    """Index of the first row at least one and a half periods after each row, or of the last row."""
    later = np.searchsorted(shown_at, shown_at + SHORTEST_SPAN_PERIODS * period)
    return np.minimum(later, len(shown_at) - 1)


def _powers_after(shown_at: Floats, joules: Floats, later: NDArray[np.intp]) -> Floats:
    """Mean power from each row to its later row."""
    span = shown_at[later] - shown_at
    step = joules[later] - joules
    return np.divide(step, span, out=np.zeros_like(step), where=span > 0)


def _edge_free(kinks: Floats, starts: Floats, ends: Floats) -> NDArray[np.bool_]:
    """Tell of each span whether it is finite and no edge lies in it."""
    return np.isfinite(ends) & (np.searchsorted(kinks, ends) <= np.searchsorted(kinks, starts))


def _steady_from(knot_at: Floats, told_at: Floats, kinks: Floats | None, period: float) -> NDArray[np.bool_]:
    """Tell of each row whether the next row and the power after that belong to what follows it."""
    found = np.zeros(len(knot_at), dtype=np.bool_)
    if kinks is not None:
        found[:-1] = _edge_free(kinks, knot_at[:-1] + SAME_EDGE_PERIODS * period, told_at[1:])
    return found


def _takes_power_after(
    knot_at: Floats, shown_at: Floats, told_at: Floats, kinks: Floats | None, period: float
) -> NDArray[np.bool_]:
    """Tell of each row whether the power after it describes it better than the power before it.

    So it is after an edge, and where the row before is too near to tell a power.
    """
    found = np.zeros(len(knot_at), dtype=np.bool_)
    if kinks is not None:
        crossed = ~_edge_free(kinks, knot_at[:-1], shown_at[1:])
        near = shown_at[1:] - knot_at[:-1] < period
        found[1:] = _edge_free(kinks, shown_at[1:], told_at[1:]) & (crossed | near)
    return found
