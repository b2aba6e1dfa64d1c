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
    """Correct each row: one with a narrow bracket is a knot at its centre, others at their read time."""
    width = before - after
    narrow = width <= NARROW_PERIODS * period
    # The instant at which the counter showed `joules`, at best knowledge.
    shown_at = np.where(narrow, (after + before) / 2, before - period / 2)
    knot_at = np.where(narrow, shown_at, before).tolist()
    later = _later(shown_at, period)
    powers_after = _powers_after(shown_at, joules, later)
    # A read just after an edge shows a refresh from before it.
    told_at = np.where(later > np.arange(len(later)), before[later] - SAME_EDGE_PERIODS * period, np.inf)
    steady = _steady_from(np.array(knot_at), told_at, kinks, period)
    shown, counts, spread = shown_at.tolist(), joules.tolist(), (width**2 / 12).tolist()
    is_narrow, ahead_powers = narrow.tolist(), powers_after.tolist()
    takes_after = _takes_power_after(np.array(knot_at), shown_at, told_at, kinks, period)
    last, power = len(counts) - 1, ahead_powers[0] if len(counts) else 0.0
    energies: list[float] = []
    forward: list[float] = []
    variances: list[float] = []
    blended: list[float] = []
    powers: list[float] = []
    for k, count in enumerate(counts):
        if takes_after[k]:
            power = ahead_powers[k]
        elif k and shown[k] - knot_at[k - 1] >= period:
            power = max(0.0, (count - energies[k - 1]) / (shown[k] - knot_at[k - 1]))
        energy = count if is_narrow[k] else count + power * period / 2
        forward.append(energy)
        variances.append(power**2 * spread[k])
        blended.append(variances[k])
        if steady[k] and not is_narrow[k] and knot_at[k + 1] - knot_at[k] <= NEAR_PERIODS * period:
            ahead, next_power = shown[k + 1] - knot_at[k], ahead_powers[k + 1]
            other = next_power**2 * (spread[k + 1] + (POWER_SCATTER * ahead) ** 2)
            energy = _weighted(energy, variances[k], counts[k + 1] - next_power * ahead, other)
            if is_narrow[k + 1]:
                blended[k] = _combined(variances[k], other)
        if k < last:
            energy = min(energy, counts[k + 1])
        energies.append(max(energy, count, energies[-1] if energies else count))
        powers.append(power)
    return Knots(
        np.array(knot_at),
        np.array(energies),
        np.array(forward),
        np.array(variances),
        np.array(blended),
        np.array(powers),
        powers_after,
        told_at,
    )


def _weighted(one: float, one_variance: float, other: float, other_variance: float) -> float:
    """Combine two estimates by their variances."""
    total = one_variance + other_variance
    share = one_variance / total if total > 0 else 0.0
    return (1 - share) * one + share * other


def _combined(one_variance: float, other_variance: float) -> float:
    """Return the variance of two estimates combined by their variances."""
    total = one_variance + other_variance
    return one_variance * other_variance / total if total > 0 else 0.0


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


def _steady_from(knot_at: Floats, told_at: Floats, kinks: Floats | None, period: float) -> list[bool]:
    """Tell of each row whether the next row and the power after that belong to what follows it."""
    if kinks is None:
        return [False] * len(knot_at)
    return [*_edge_free(kinks, knot_at[:-1] + SAME_EDGE_PERIODS * period, told_at[1:]).tolist(), False]


def _takes_power_after(
    knot_at: Floats, shown_at: Floats, told_at: Floats, kinks: Floats | None, period: float
) -> list[bool]:
    """Tell of each row whether the power after it describes it better than the power before it.

    So it is after an edge, and where the row before is too near to tell a power.
    """
    if kinks is None:
        return [False] * len(knot_at)
    crossed = ~_edge_free(kinks, knot_at[:-1], shown_at[1:])
    near = shown_at[1:] - knot_at[:-1] < period
    return [False, *(_edge_free(kinks, shown_at[1:], told_at[1:]) & (crossed | near)).tolist()]
