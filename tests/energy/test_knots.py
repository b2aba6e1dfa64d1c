"""Rows of a fast counter corrected all at once: as if one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlmeter.energy import knots
from mlmeter.energy.knots import NARROW_PERIODS, NEAR_PERIODS, POWER_SCATTER, row_knots

Floats = NDArray[np.float64]

PERIOD = 0.001


def one_by_one(
    after: Floats, before: Floats, joules: Floats, kinks: Floats
) -> tuple[list[float], list[float]]:
    """Return energy and power of each row, from the row before it."""
    narrow = before - after <= NARROW_PERIODS * PERIOD
    shown = np.where(narrow, (after + before) / 2, before - PERIOD / 2)
    at = np.where(narrow, shown, before)
    later = knots._later(shown, PERIOD)
    ahead = knots._powers_after(shown, joules, later)
    told = np.where(later > np.arange(len(later)), before[later] - knots.SAME_EDGE_PERIODS * PERIOD, np.inf)
    steady = knots._steady_from(at, told, kinks, PERIOD)
    takes_after = knots._takes_power_after(at, shown, told, kinks, PERIOD)
    spread, energies, powers = (before - after) ** 2 / 12, [], []
    power = ahead[0]
    for k, count in enumerate(joules):
        if takes_after[k]:
            power = ahead[k]
        elif k and shown[k] - at[k - 1] >= PERIOD:
            power = max(0.0, (count - energies[-1]) / (shown[k] - at[k - 1]))
        energy = count if narrow[k] else count + power * PERIOD / 2
        if steady[k] and not narrow[k] and at[k + 1] - at[k] <= NEAR_PERIODS * PERIOD:
            step, own = shown[k + 1] - at[k], power**2 * spread[k]
            variance = ahead[k + 1] ** 2 * (spread[k + 1] + (POWER_SCATTER * step) ** 2)
            share = own / (own + variance) if own + variance > 0 else 0.0
            energy = (1 - share) * energy + share * (joules[k + 1] - ahead[k + 1] * step)
        if k < len(joules) - 1:
            energy = min(energy, joules[k + 1])
        energies.append(max(energy, count, energies[-1] if energies else count))
        powers.append(power)
    return energies, powers


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1e-5, 3e-4, 1e-3, 1.3e-3, 5e-3, 0.1]),
            st.floats(0.5, 1.5),
            st.floats(0, 300),
            st.floats(0.05, 1),
        ),
        min_size=1,
        max_size=40,
    ),
    st.lists(st.floats(0, 1), max_size=10),
)
def test_all_at_once_is_one_by_one(rows: list[tuple[float, float, float, float]], edges: list[float]) -> None:
    """Whatever the gaps between rows, their brackets and the edges of windows."""
    gaps = np.array([gap * factor for gap, factor, _, _ in rows])
    before = np.cumsum(gaps)
    widths = 1.2 * PERIOD * np.array([width for *_, width in rows])
    after = np.maximum(before - widths, np.concatenate([[-1.0], before[:-1]]))
    joules = np.cumsum(gaps * np.array([watts for _, _, watts, _ in rows]))
    kinks = np.sort(np.array(edges)) * before[-1]
    found = row_knots(after, before, joules, PERIOD, kinks)
    energies, powers = one_by_one(after, before, joules, kinks)
    assert found.energies == pytest.approx(np.array(energies), rel=1e-9, abs=1e-12)
    assert found.power_before == pytest.approx(np.array(powers), rel=1e-6, abs=1e-9)
