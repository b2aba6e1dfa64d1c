"""The formulas: power is positive, rises with load, scales, and lies inside its interval."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.backends.cpu_power.machine_model import (
    LOADS,
    MachineInputs,
    curve_watts,
    features,
    implied_tdp_watts,
    kernel,
    machine_curve,
)
from mlmeter.backends.cpu_power.package_model import (
    SPREAD,
    busy_core_ratio,
    memory_watts,
    package_watts,
)
from mlmeter.backends.cpu_power.spreads import NONE, Spread, factor
from mlmeter.backends.cpu_power.tables import coefficients

MILAN = MachineInputs(
    sockets=2,
    cores=128,
    threads=256,
    year=2021,
    tdp_watts=280,
    memory_gigabytes=256,
    base_ghz=2.45,
    intel=False,
)
ratios = st.floats(0, 1)
machines = st.builds(
    MachineInputs,
    sockets=st.integers(1, 64),
    cores=st.integers(64, 2000),
    threads=st.integers(64, 4000),
    year=st.floats(1990, 2100),
    tdp_watts=st.none() | st.floats(1, 2000),
    memory_gigabytes=st.none() | st.floats(0.01, 1e5),
    base_ghz=st.none() | st.floats(0.1, 10),
    intel=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(inputs=machines)
def test_machine_power_is_positive_and_rises_with_load(inputs: MachineInputs) -> None:
    """However odd the machine is, its power is finite, above 0 and never falls with load."""
    curve = machine_curve(inputs, coefficients())
    assert all(math.isfinite(watts) and watts > 0 for watts in curve.watts_at)
    assert list(curve.watts_at) == sorted(curve.watts_at)
    assert curve.watts_at[-1] > curve.watts_at[0]


@settings(deadline=None)
@given(one=ratios, other=ratios)
def test_machine_power_between_levels(one: float, other: float) -> None:
    """Between the levels of the fit power rises, too, and a level is met exactly."""
    curve = machine_curve(MILAN, coefficients())
    low, high = sorted((one, other))
    assert curve.watts(low) <= curve.watts(high)
    for load, watts in zip(LOADS, curve.watts_at, strict=True):
        assert watts == pytest.approx(curve.watts(load))


@pytest.mark.parametrize("load", [-1.0, 2.0])
def test_loads_outside_are_taken_to_the_ends(load: float) -> None:
    """A late tick can make a load a little more than all."""
    curve = machine_curve(MILAN, coefficients())
    assert curve.watts(min(max(load, 0), 1)) == curve.watts(load)


@settings(max_examples=50, deadline=None)
@given(inputs=machines, load=ratios)
def test_machine_interval_contains_its_estimate(inputs: MachineInputs, load: float) -> None:
    """The 95 % interval contains the 68 % interval, and that the estimate."""
    low_95, low_68, high_68, high_95 = machine_curve(inputs, coefficients()).spread(load)
    assert 0 < low_95 <= low_68 <= 1 <= high_68 <= high_95


def test_machine_power_near_a_published_server() -> None:
    """Two EPYC 7763 draw what published results of such servers say: near 100 W idle, 500 W full."""
    curve = machine_curve(MILAN, coefficients())
    assert 70 < curve.watts(0) < 140
    assert 400 < curve.watts(1) < 650


@settings(deadline=None)
@given(year=st.floats(2026, 3000))
def test_years_beyond_the_fit_change_nothing(year: float) -> None:
    """A clock or a firmware that is wrong cannot carry the formula away."""
    far = machine_curve(replace(MILAN, year=year), coefficients())
    assert far.watts_at == machine_curve(replace(MILAN, year=2025), coefficients()).watts_at


def test_memory_beyond_the_fit_changes_nothing() -> None:
    """Of more memory per core than any server of the fit had, nothing is extrapolated."""
    assert features(replace(MILAN, memory_gigabytes=1e5)) == features(replace(MILAN, memory_gigabytes=1e6))


@given(distance=st.floats(0, 100), further=st.floats(0.001, 100))
def test_neighbours_count_less_with_distance(distance: float, further: float) -> None:
    """A kernel is 1 at its centre and falls."""
    assert kernel(0.0, 2.0) == 1.0
    assert kernel(distance + further, 2.0) < kernel(distance, 2.0) or kernel(distance, 2.0) == 0.0


def test_rises_that_fall_are_held() -> None:
    """A fit whose levels cross still gives a curve that rises."""
    watts = curve_watts([math.log(100), *[math.log(0.5), math.log(0.4)] * 4, math.log(0.9), math.log(200)])
    assert list(watts) == sorted(watts)
    assert watts[-1] == pytest.approx(200)


def test_full_power_is_above_idle_power() -> None:
    """A fit in which full power comes out below idle power still gives a curve that rises."""
    watts = curve_watts([math.log(100), *[math.log(0.5)] * 9, math.log(50)])
    assert watts[-1] == pytest.approx(102)


def test_implied_tdp_of_a_server() -> None:
    """Where the TDP is unknown, cores and year give one of the right size."""
    assert 180 < implied_tdp_watts(replace(MILAN, tdp_watts=None), coefficients()) < 400


@given(tdp=st.floats(1, 1000), low=ratios, high=ratios, clock=st.floats(0, 3))
def test_package_power_rises_with_load(tdp: float, low: float, high: float, clock: float) -> None:
    """More busy cores never draw less, and idling draws something."""
    low, high = sorted((low, high))
    assert 0 < package_watts(tdp, low, clock) <= package_watts(tdp, high, clock)


@given(tdp=st.floats(1, 1000), times=st.floats(0.1, 10), busy=ratios)
def test_package_power_scales_with_tdp(tdp: float, times: float, busy: float) -> None:
    """Two packages draw twice what one does."""
    assert times * package_watts(tdp, busy) == pytest.approx(package_watts(times * tdp, busy))


@pytest.mark.parametrize(
    ("busy", "clock", "watts"),
    [(0.0, 1.0, 12.0), (1.0, 1.0, 88.0), (1.0, 5.0, 12 + 76 * 1.3), (1.0, 0.1, 12 + 76 * 0.4)],
)
def test_package_formula(busy: float, clock: float, watts: float) -> None:
    """TDP x (0.12 + 0.76 x busy cores^0.78 x clock), the clock taken into 0.4 to 1.3."""
    assert watts == pytest.approx(package_watts(100.0, busy, clock))


@given(busy=st.lists(ratios, min_size=4, max_size=4))
def test_busy_cores_are_at_least_busy_threads(busy: list[float]) -> None:
    """A core with one busy thread of two counts as busy: the share of cores is the larger one."""
    cores = busy_core_ratio(busy, [(0, 1), (2, 3)])
    assert sum(busy) / 4 - 1e-12 <= cores <= 1.0


def test_one_thread_on_each_core_is_all_cores() -> None:
    """Half of the threads busy, one on each core, is a full machine."""
    assert busy_core_ratio([1.0, 0.0, 1.0, 0.0], [(0, 1), (2, 3)]) == 1.0
    assert busy_core_ratio([1.0, 1.0, 0.0, 0.0], [(0, 1), (2, 3)]) == 0.5


def test_no_cores_are_not_busy() -> None:
    """Without cores there is no load, rather than a division by nothing."""
    assert busy_core_ratio([], []) == 0.0


@given(gigabytes=st.floats(0.001, 1e4), low=ratios, high=ratios)
def test_memory_power(gigabytes: float, low: float, high: float) -> None:
    """Memory draws something when idle, more when used, and no less with more of it."""
    low, high = sorted((low, high))
    assert 0 < memory_watts(gigabytes, low) <= memory_watts(gigabytes, high)
    assert memory_watts(gigabytes, low) <= memory_watts(2 * gigabytes, low)


def test_memory_of_a_server() -> None:
    """512 GB draw 51 W idle and 128 W when all cores are busy."""
    assert memory_watts(512, 0) == pytest.approx(51.2)
    assert memory_watts(512, 1) == pytest.approx(128.0)


spreads = st.builds(factor, st.floats(1, 3), st.floats(3, 9))


@given(one=spreads, other=spreads)
def test_more_doubt_is_a_wider_interval(one: Spread, other: Spread) -> None:
    """Combining can only widen, and less than multiplying would."""
    both = one.combined(other)
    assert both.low_95 <= min(one.low_95, other.low_95) * (1 + 1e-12)
    assert both.high_95 >= max(one.high_95, other.high_95) * (1 - 1e-12)
    assert both.high_95 <= one.high_95 * other.high_95 * (1 + 1e-12)


def test_no_doubt_changes_nothing() -> None:
    """The spread of a known factor leaves the other as it is, its asymmetry included."""
    assert SPREAD.combined(NONE) == pytest.approx(SPREAD)
