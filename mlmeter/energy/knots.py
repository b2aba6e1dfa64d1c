"""Half-period correction: the curve of a fast counter through its edge reads.

A read at time s shows a refresh somewhere in the last period, on average half a period
ago. Two estimates of E(s) are combined by their variances:

* from before: the count plus half a period of the power before s;
* from after: if the next refresh was caught in a narrow bracket, its count less the energy
  of the power after s up to there. It is the better one where the power falls at s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Shorter spans say more about the refresh time than about the power.
SHORTEST_SPAN_PERIODS = 1.5
NARROW_PERIODS = 0.5
NEXT_REFRESH_PERIODS = 3.0
# A power taken from a neighbouring span is trusted to this share.
POWER_SCATTER = 0.15


def edge_knots(
    after: NDArray[np.float64], before: NDArray[np.float64], joules: NDArray[np.float64], period: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times and corrected energies of the curve, one knot per row.

    A row with a narrow bracket is a knot at its centre, any other one at its read time.

    Args:
        after, before: bracket of each row in seconds, shape (rows,).
        joules: cumulative energy shown, shape (rows,).
        period: mean time between refreshes in seconds.
    """
    width = before - after
    narrow = width <= NARROW_PERIODS * period
    # The instant at which the counter showed `joules`, at best knowledge.
    shown_at = np.where(narrow, (after + before) / 2, before - period / 2)
    knot_at = np.where(narrow, shown_at, before).tolist()
    shown, counts, widths = shown_at.tolist(), joules.tolist(), width.tolist()
    is_narrow = narrow.tolist()
    powers_after = _powers_after(shown_at, joules, period)
    last = len(counts) - 1
    power = powers_after[0] if counts else 0.0
    knots: list[float] = []
    for k, count in enumerate(counts):
        if k and shown[k] - knot_at[k - 1] >= period:
            power = max(0.0, (count - knots[k - 1]) / (shown[k] - knot_at[k - 1]))
        if is_narrow[k]:
            knots.append(max(count, knots[-1]) if knots else count)
            continue
        energy = count + power * period / 2
        if k < last and is_narrow[k + 1] and knot_at[k + 1] - knot_at[k] <= NEXT_REFRESH_PERIODS * period:
            ahead = knot_at[k + 1] - knot_at[k]
            next_power = powers_after[k + 1]
            before_variance = (power * period) ** 2 / 12
            after_variance = next_power**2 * (widths[k + 1] ** 2 / 12 + (POWER_SCATTER * ahead) ** 2)
            weight = before_variance / (before_variance + after_variance or 1.0)
            energy = (1 - weight) * energy + weight * (counts[k + 1] - next_power * ahead)
        if k < last:
            energy = min(energy, counts[k + 1])
        knots.append(max(energy, count, knots[-1] if knots else count))
    return np.array(knot_at), np.array(knots)


def _powers_after(shown_at: NDArray[np.float64], joules: NDArray[np.float64], period: float) -> list[float]:
    """Mean power from each row to the first row at least one and a half periods later."""
    if len(joules) < 2:
        return [0.0] * len(joules)
    later = np.searchsorted(shown_at, shown_at + SHORTEST_SPAN_PERIODS * period)
    later = np.minimum(later, len(joules) - 1)
    span = shown_at[later] - shown_at
    step = joules[later] - joules
    power = np.divide(step, span, out=np.zeros_like(step), where=span > 0)
    return [float(value) for value in power]
