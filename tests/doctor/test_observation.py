"""A second of readings: period, steps, power, and counters that stand still."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest

from mlmeter.doctor.observation import observe, step_joules, within
from mlmeter.measurement import Failure, Provenance
from mlmeter.testing import FakeBackend, FakeClock, SimulatedBackend, fake_domain


@pytest.mark.parametrize("period", [0.001, 0.02, 0.1])
def test_period_and_power_are_those_of_the_counter(period: float) -> None:
    """Whatever the domain claims, the measured period is the counter's."""
    clock = FakeClock()
    backend = SimulatedBackend(
        [0, 60], [50.0], clock, update_period_seconds=period, jitter_seconds=period / 100
    )
    (seen,) = observe(backend, backend.open(), clock, 2.0)
    assert seen.period_seconds == pytest.approx(period, rel=0.02)
    assert seen.watts == pytest.approx(50, rel=0.02)
    assert not seen.stuck(backend.domain)


def test_a_fast_counter_is_not_read_for_longer_than_needed() -> None:
    """A hundred refreshes tell its period."""
    clock = FakeClock()
    backend = SimulatedBackend([0, 60], [50.0], clock, update_period_seconds=0.001)
    (seen,) = observe(backend, backend.open(), clock, 2.0)
    assert seen.seconds < 0.5


def test_a_counter_that_stands_still_is_stuck() -> None:
    """As those that a virtual machine shows; a gauge of constant power is not."""
    clock = FakeClock()
    gauge = fake_domain(
        name="gpu-0", joules_per_count=None, watts_per_count=1e-3, provenance=Provenance.DERIVED
    )
    backend = FakeBackend([fake_domain(), gauge], [7_000_000, 60_000], clock)
    counter, power = observe(backend, backend.open(), clock)
    assert counter.stuck(backend.domains[0])
    assert not power.stuck(gauge)
    assert power.watts == pytest.approx(60)


def test_power_that_hardly_changes_tells_no_period() -> None:
    """Seldom changes of a gauge are changes of the load, not refreshes."""
    clock = FakeClock()
    gauge = fake_domain(
        joules_per_count=None, watts_per_count=1e-3, provenance="derived", update_period_seconds=0.02
    )
    backend = FakeBackend([gauge], [lambda now: 60_000 + now // 100_000_000], clock)
    (seen,) = observe(backend, backend.open(), clock)
    assert seen.changes > 5
    assert seen.period_seconds is None


def test_a_counter_that_wraps_has_a_power() -> None:
    """The wrap is no negative power."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, watts=100, modulus=3_000_000)
    (seen,) = observe(backend, backend.open(), clock)
    assert seen.watts == pytest.approx(100, rel=0.02)


def test_failures_and_exceptions_are_told() -> None:
    """A failed read and a backend that raises leave a reason, never an exception."""
    clock = FakeClock()
    (failed,) = observe(
        FakeBackend([fake_domain()], [Failure(0, "is lost", True, 0)], clock), [fake_domain()], clock
    )
    assert (failed.readings, failed.failure) == (0, "is lost")
    (raised,) = observe(FakeBackend([fake_domain()], [OSError("gone")], clock), [fake_domain()], clock)
    assert raised.failure == "read() raised OSError: gone"


@pytest.mark.parametrize("unit", [2.0**-14, 2.0**-16, 15.3e-6, 1.0])
def test_the_hardwares_step_is_found_behind_microjoules(unit: float) -> None:
    """The kernel rounds multiples of the unit to microjoules."""
    draw = random.Random(1)
    counts, total = [0], 0
    for _ in range(40):
        total += draw.randint(300, 3000) if unit < 0.1 else draw.randint(1, 3)
        counts.append(int(total * unit * 1e6))
    steps = [later - earlier for earlier, later in pairwise(counts)]
    assert step_joules(steps, 1e-6) == pytest.approx(unit)


def test_no_step_is_claimed_without_evidence() -> None:
    """Random differences, or few of them, are multiples of nothing known."""
    draw = random.Random(2)
    assert step_joules([draw.randint(10_000, 99_999) for _ in range(40)], 1e-6) is None
    assert step_joules([61, 122], 1e-6) is None


def test_what_hangs_is_left_behind() -> None:
    """No answer in time is None; an exception is the caller's; an answer is the answer."""
    never = threading.Event()
    assert within(0.01, never.wait) is None
    never.set()
    assert within(5.0, lambda: 3) == 3
    with pytest.raises(OSError, match="gone"):
        within(5.0, lambda: (_ for _ in ()).throw(OSError("gone")))
