"""Time series of a long session with a bounded number of points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = tuple[NDArray[np.float64], NDArray[np.float64]]

# Of each domain in all chapters together.
MOST_SAMPLES = 10_000
# The spacing doubles from here on as the session gets longer.
SHORTEST_STEP_SECONDS = 0.1


def thinned(seconds: NDArray[np.float64], joules: NDArray[np.float64], most: int = MOST_SAMPLES) -> Samples:
    """Return the first point and the last one of each step; what is kept is as it was.

    The step depends on the last time only, and each is a multiple of all shorter ones: what has
    been thinned before gives the same as if all points were thinned at once.

    Args:
        seconds, joules: the points, ascending, shape (points,).
        most: how many points may stay, 3 or more.
    """
    if len(seconds) <= 1:
        return seconds, joules
    step = step_seconds(float(seconds[-1]), most)
    cell = np.ceil(seconds / step - 1e-9)
    kept = np.append(cell[1:] != cell[:-1], True)
    kept[0] = True
    return seconds[kept], joules[kept]


def step_seconds(duration_seconds: float, most: int = MOST_SAMPLES) -> float:
    """Return the spacing of the points of a session of such a length."""
    shortest = duration_seconds / (most - 2) / SHORTEST_STEP_SECONDS
    return float(SHORTEST_STEP_SECONDS * 2 ** max(0, math.ceil(math.log2(max(shortest, 1e-12)))))
