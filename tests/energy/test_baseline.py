"""Laws of idle power and of the energy above it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmeter.energy.baseline import above_idle, idle_power, idle_sigma_joules, sum_above_idle
from mlmeter.energy.idle_power import IdlePower

# Numbers whose digits float has all.
normal = st.floats(0, 10, allow_subnormal=False)
watts = st.floats(0, 1_000)
seconds = st.floats(1e-3, 1e5)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_the_worked_example_of_the_formula() -> None:
    """5000 +- 25 J in 20 s over 60 +- 3 W are 3800 +- 65 J."""
    found = above_idle(
        (column(5000), column(4950), column(5050)),
        column(25),
        (column(20), column(20)),
        IdlePower(60.0, systematic_watts=3.0),
    )
    assert found.joules[0] == pytest.approx(3800)
    assert found.sigma[0] == pytest.approx(65)
    assert (found.low[0], found.high[0]) == (pytest.approx(3800 - 170), pytest.approx(3800 + 170))
    assert found.above_idle[0]


@given(watts, st.floats(0, 100), seconds, st.floats(0, 1), st.floats(-1, 1), st.floats(-2, 2), watts)
def test_the_interval_holds_the_truth_where_both_parts_do(
    idle: float, sigma: float, length: float, width: float, place: float, sigmas: float, load: float
) -> None:
    """Whatever the energy is within its interval and idle power within two sigma, so is their difference."""
    true_idle = max(0.0, idle + sigmas * sigma)
    true_energy = (true_idle + load) * length
    half = width * true_energy
    value = true_energy + place * half
    found = above_idle(
        (column(value), column(value - half), column(value + half)),
        column(half / 2),
        (column(length), column(length)),
        IdlePower(idle, systematic_watts=sigma),
    )
    slack = 1e-9 * (true_energy + idle * length + 1)
    assert found.low[0] - slack <= load * length <= found.high[0] + slack


@given(watts, st.floats(0, 10), seconds)
def test_an_idle_span_is_never_told_to_be_above_idle(idle: float, sigma: float, length: float) -> None:
    """Energy of exactly the idle power is not distinguishable from idle, however long the span."""
    energy = column(idle * length)
    found = above_idle(
        (energy, energy, energy), column(0), (column(length), column(length)), IdlePower(idle, sigma)
    )
    assert not found.above_idle[0]
    assert found.low[0] <= found.joules[0] <= found.high[0]


@given(watts, normal, normal, st.floats(0.1, 100), seconds, seconds)
def test_two_spans_together_are_not_more_uncertain_than_apart(
    idle: float, scatter: float, systematic: float, piece: float, first: float, second: float
) -> None:
    """The uncertainty of idle energy grows with time, but not faster than the parts' sum."""
    power = IdlePower(idle, scatter, systematic, piece)
    one, other, both = idle_sigma_joules(power, column(first, second, first + second))
    assert max(one, other) <= both * (1 + 1e-12)
    assert both <= (one + other) * (1 + 1e-12)


@given(st.lists(watts, min_size=4, max_size=30), st.floats(0.1, 100), st.floats(0.01, 100))
def test_scaling_power_scales_the_baseline(pieces: list[float], length: float, factor: float) -> None:
    """Mean, scatter and drift are powers, all three."""
    joules = np.concatenate(([0.0], np.cumsum(pieces))) * length
    once, scaled = idle_power(joules, length), idle_power(factor * joules, length)
    for name in ("watts", "scatter_watts", "systematic_watts"):
        expected = factor * getattr(once, name)
        assert getattr(scaled, name) == pytest.approx(
            expected, rel=1e-6, abs=1e-6 * factor * max(pieces) + 1e-9
        )


def test_drift_is_half_the_difference_between_the_halves() -> None:
    """10 W in the first half and 14 W in the last are 12 +- 2 W."""
    joules = np.concatenate(([0.0], np.cumsum([10.0, 10.0, 14.0, 14.0])))
    found = idle_power(joules, 1.0)
    assert (found.watts, found.systematic_watts) == (12.0, 2.0)


def test_too_few_pieces_tell_no_scatter() -> None:
    """Three pieces are refused, not taken for a steady machine."""
    with pytest.raises(ValueError, match="4 pieces"):
        idle_power([0.0, 1.0, 2.0, 3.0], 1.0)


def test_time_that_was_not_metered_has_no_idle_energy() -> None:
    """With half the time metered, idle energy of that half is taken off."""
    found = above_idle(
        (column(100), column(100), column(900)), column(0), (column(1), column(2)), IdlePower(60.0)
    )
    assert (found.idle[0], found.joules[0]) == (60.0, 40.0)


def test_what_was_not_read_stays_absent() -> None:
    """No energy gives no energy above idle and no idle energy, not 0."""
    nothing = column(np.nan)
    found = above_idle((nothing, nothing, nothing), nothing, (column(1), column(1)), IdlePower(60.0))
    assert np.isnan([found.idle[0], found.joules[0], found.low[0]]).all()
    assert not found.above_idle[0]


def test_uncertainties_of_idle_powers_are_added() -> None:
    """Two domains of 3 W each are 6 W uncertain together: they drift with the room."""
    power = IdlePower(60.0, systematic_watts=3.0)
    energy = (column(1000), column(1000), column(1000))
    part = above_idle(energy, column(0), (column(10), column(10)), power)
    both = sum_above_idle([part, part], (column(2000), column(2000), column(2000)), column(0))
    assert both.joules[0] == 800
    assert both.low[0] == pytest.approx(800 - 2 * 2 * 30)
