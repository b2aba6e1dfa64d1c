"""Cholesky factors of many banded matrices of one size at once.

Intervals of a counter are correlated with their near neighbours only. A session is cut into
blocks of equally many intervals, and each step of the factorisation is done for all blocks
together: cost and memory grow linearly with the session, without a compiled library.

A *band* array holds the lower diagonals, ``band[d, j] = V[j + d, j]``, of all blocks: shape
(width + 1, size, blocks). Columns to solve for have the shape (columns, size, blocks). Entries
beyond the end of a block are 0 (Golub and Van Loan, Matrix Computations, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def beside(arrays: Sequence[Floats], diagonal: float = 0.0) -> Floats:
    """Return the blocks of several arrays beside each other, filled up to the largest size with zeros.

    Args:
        arrays: bands, or columns.
        diagonal: 1 for bands, which are filled up with the unit matrix: that changes nothing else.
    """
    width, size = (max(array.shape[axis] for array in arrays) for axis in (0, 1))
    joined = np.zeros((width, size, sum(array.shape[2] for array in arrays)))
    joined[0] = diagonal
    first = 0
    for array in arrays:
        joined[: len(array), : array.shape[1], first : first + array.shape[2]] = array
        first += array.shape[2]
    return joined


def factorise(band: Floats) -> Floats:
    """Return the band of L with L L' = V.

    Raises:
        numpy.linalg.LinAlgError: a matrix is not positive definite.
    """
    factor = band.copy()
    width, size = len(band) - 1, band.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        for row in range(size):
            column = factor[:, row]
            column /= np.sqrt(column[0])
            for below in range(1, min(width, size - 1 - row) + 1):
                factor[: width + 1 - below, row + below] -= column[below] * column[below:]
    # The root of what is below zero is no number, nor is anything that follows from it.
    if not (factor[0] > 0).all():
        raise np.linalg.LinAlgError("a covariance is not positive definite")
    return factor


def log_determinants(factor: Floats) -> Floats:
    """Return log |V| of each block, shape (blocks,)."""
    return np.asarray(2 * np.log(factor[0]).sum(axis=0), dtype=np.float64)


def halfway(factor: Floats, columns: Floats) -> Floats:
    """Return L^-1 times columns: columns in units of their standard deviations."""
    solution = columns.copy()
    width, size = len(factor) - 1, factor.shape[1]
    for row in range(size):
        solution[:, row] /= factor[0, row]
        reach = min(width, size - 1 - row)
        if reach:
            solution[:, row + 1 : row + 1 + reach] -= factor[1 : reach + 1, row] * solution[:, row : row + 1]
    return solution


def rest_of_the_way(factor: Floats, columns: Floats) -> Floats:
    """Return L'^-1 times columns: after `halfway` that is V^-1 times the first columns."""
    solution = columns.copy()
    width, size = len(factor) - 1, factor.shape[1]
    for row in reversed(range(size)):
        reach = min(width, size - 1 - row)
        if reach:
            known = solution[:, row + 1 : row + 1 + reach]
            solution[:, row] -= (factor[1 : reach + 1, row] * known).sum(axis=1)
        solution[:, row] /= factor[0, row]
    return solution


def inverse_band(factor: Floats) -> Floats:
    """Return the band of V^-1: the inverse is full, but these entries need no others.

    Takahashi's recursion, from the last row up; `near` holds the inverse for the rows below.
    """
    width, size, blocks = len(factor) - 1, factor.shape[1], factor.shape[2]
    inverse = np.zeros_like(factor)
    near = np.zeros((width, width, blocks))
    for row in reversed(range(size)):
        scale = 1 / factor[0, row]
        ratios = factor[1:, row] * scale
        below = -(near * ratios).sum(axis=1)
        inverse[0, row] = scale**2 - (ratios * below).sum(axis=0)
        inverse[1:, row] = below
        if width:
            near[1:, 1:] = near[:-1, :-1].copy()
            near[0, 0] = inverse[0, row]
            near[0, 1:] = near[1:, 0] = below[:-1]
    return inverse
