"""Banded factors against the dense ones of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlmeter.energy.banded import (
    beside,
    factorise,
    halfway,
    inverse_band,
    log_determinants,
    rest_of_the_way,
)

Floats = NDArray[np.float64]

SIZE, BLOCKS, COLUMNS = 17, 5, 4


def band_of(width: int, seed: int) -> Floats:
    """Bands of random positive definite matrices."""
    band = np.random.default_rng(seed).normal(size=(width + 1, SIZE, BLOCKS))
    band[0] = 1 + 2 * np.abs(band).sum(axis=0)
    for distance in range(1, width + 1):
        band[distance, SIZE - distance :] = 0.0
    # A row has its neighbours on both sides.
    band[0] += 2 * np.abs(band[1:]).sum(axis=(0, 1))
    return band


def dense(band: Floats) -> Floats:
    """The symmetric matrices of a band, shape (blocks, size, size)."""
    matrix = np.zeros((BLOCKS, SIZE, SIZE))
    for distance, diagonal in enumerate(band):
        row = np.arange(SIZE - distance)
        matrix[:, row + distance, row] = matrix[:, row, row + distance] = diagonal[: SIZE - distance].T
    return matrix


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 6), st.integers(0, 1000))
def test_factors_solve_as_dense_matrices_do(width: int, seed: int) -> None:
    """Determinants, solutions and the band of the inverse are those of the whole matrices."""
    band = band_of(width, seed)
    matrix, factor = dense(band), factorise(band)
    assert log_determinants(factor) == pytest.approx(np.linalg.slogdet(matrix)[1])
    columns = np.random.default_rng(seed + 1).normal(size=(COLUMNS, SIZE, BLOCKS))
    half = halfway(factor, columns)
    expected = np.linalg.solve(matrix, columns.transpose(2, 1, 0))
    assert rest_of_the_way(factor, half).transpose(2, 1, 0) == pytest.approx(expected)
    squares = np.einsum("bsc,bsc->cb", columns.transpose(2, 1, 0), expected)
    assert (half**2).sum(axis=1) == pytest.approx(squares)
    inverse = np.linalg.inv(matrix)
    inside = dense(np.where(band == 0, 0.0, 1.0)) != 0
    assert dense(inverse_band(factor))[inside] == pytest.approx(inverse[inside])


def test_blocks_of_several_sizes_are_solved_beside_each_other() -> None:
    """What smaller matrices are filled up with changes neither their solutions nor their determinants."""
    bands = [band_of(3, 0), band_of(1, 1)[:, 5:]]
    columns = [np.random.default_rng(2).normal(size=(COLUMNS, *band.shape[1:])) for band in bands]
    factor = factorise(beside(bands, diagonal=1.0))
    together = rest_of_the_way(factor, halfway(factor, beside(columns)))
    for number, (band, own) in enumerate(zip(bands, columns, strict=True)):
        blocks, alone = slice(number * BLOCKS, (number + 1) * BLOCKS), factorise(band)
        assert log_determinants(factor)[blocks] == pytest.approx(log_determinants(alone))
        expected = rest_of_the_way(alone, halfway(alone, own))
        assert together[:, : own.shape[1], blocks] == pytest.approx(expected)
        assert not together[:, own.shape[1] :, blocks].any()


def test_what_is_no_covariance_is_refused() -> None:
    """A matrix that is not positive definite has no factor."""
    band = band_of(2, 0)
    band[0, 3, 1] = -1.0
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        factorise(band)
