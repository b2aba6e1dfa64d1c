"""How often counters are read where nobody has asked for a period: by what a round costs."""

from __future__ import annotations

import itertools

import pytest

from mlmeter import EnergyMeter
from mlmeter.sampling.pace import Pace
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import Source
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.testing import FakeBackend, FakeClock, fake_domain

SECOND_NS = 1_000_000_000


class Used(ThreadTime):
    """A thread whose reading takes what a test says, and all else at a round, too."""

    def __init__(self, reading_ns: int, telling_ns: int) -> None:
        self._pieces = itertools.cycle([reading_ns, telling_ns])

    def piece_ns(self) -> int:
        return next(self._pieces)


def rounds_in(sampler: Sampler, seconds: float, used_ns: int, telling_ns: int = 0) -> int:
    """Let the sampler's thread work for a time and return how often it read all counters."""
    clock, spent = sampler.clock, Used(used_ns, telling_ns)
    before, end_ns = sampler.cost().ticks, clock.now_ns() + round(seconds * SECOND_NS)
    deadline_ns = clock.now_ns() + sampler._period_ns
    while clock.now_ns() < end_ns:
        sampler._round(sampler._thread.turn, deadline_ns, spent)
        deadline_ns = sampler._next_deadline_ns(deadline_ns)
    return sampler.cost().ticks - before


def subscribed(paced: bool, **domain: object) -> Sampler:
    """Return the sampler of a meter of one domain."""
    clock = FakeClock()
    sampler = Sampler(clock, threaded=False)
    backend = FakeBackend.with_power(clock, 100, **domain)
    sampler.subscribe([Source.of(backend, backend.open())], paced=paced)
    return sampler


@pytest.mark.parametrize(("used_us", "rounds"), [(20, 100), (100, 100), (150, 67), (300, 43), (50_000, 43)])
def test_dear_rounds_come_less_often(used_us: int, rounds: int) -> None:
    """Ten in a second as long as they take 0.1 % of a core; fewer where they are dear, but four at least."""
    sampler = subscribed(paced=True)
    rounds_in(sampler, 30, used_us * 1_000)
    assert rounds_in(sampler, 10, used_us * 1_000) == pytest.approx(rounds, abs=2)


def test_what_fewer_rounds_would_not_save_makes_none_fewer() -> None:
    """Putting away what was read, and what meters and users do at rounds, is no part of the pace."""
    sampler = subscribed(paced=True)
    rounds_in(sampler, 30, 50_000, telling_ns=3_000_000)
    assert rounds_in(sampler, 10, 50_000, telling_ns=3_000_000) == pytest.approx(100, abs=2)


def test_windows_between_rare_rounds_are_no_quiet_time() -> None:
    """Looks at a counter of 20 ms go on until the next round tells whether windows still open."""
    clock = FakeClock()
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([], period_seconds=0.25, on_tick=lambda: True)
    sampler.tick()
    assert sampler._active_ns == clock.now_ns() + 150_000_000


def test_pace_recovers() -> None:
    """A program that keeps the interpreter makes each round dear; when it has ended, they are cheap again."""
    sampler = subscribed(paced=True)
    rounds_in(sampler, 30, 1_000_000)
    assert rounds_in(sampler, 10, 1_000_000) == pytest.approx(43, abs=2)
    rounds_in(sampler, 60, 20_000)
    assert rounds_in(sampler, 10, 20_000) == pytest.approx(100, abs=2)


def test_who_asks_for_a_period_gets_it() -> None:
    """Another meter of the process that would do with less changes nothing."""
    sampler = subscribed(paced=False)
    sampler.subscribe([], paced=True)
    rounds_in(sampler, 30, 1_000_000)
    assert rounds_in(sampler, 10, 1_000_000) == pytest.approx(100, abs=2)


def test_power_is_read_as_often_as_ever() -> None:
    """What is drawn between two readings of power nobody knows."""
    sampler = subscribed(paced=True, joules_per_count=None, watts_per_count=0.001)
    rounds_in(sampler, 30, 1_000_000)
    assert rounds_in(sampler, 10, 1_000_000) == pytest.approx(100, abs=2)


def test_a_counter_that_wraps_soon_is_read_in_time() -> None:
    """Rounds are never further apart than a quarter of the time in which a counter wraps."""
    sampler = subscribed(paced=True, modulus=60_000_000, max_power_watts=100.0)
    rounds_in(sampler, 30, 1_000_000)
    assert rounds_in(sampler, 10, 1_000_000) == pytest.approx(10 / 0.15, abs=2)


@pytest.mark.parametrize(("given", "seconds"), [(None, 0.23), (0.1, 0.1), (2.0, 2.0)])
def test_meters_are_paced_unless_a_period_is_given(given: float | None, seconds: float) -> None:
    """`period_seconds=0.1` means 0.1 s on any machine."""
    clock = FakeClock()
    sampler = Sampler(clock, threaded=False)
    backend = FakeBackend([fake_domain()], [0], clock)
    with EnergyMeter(backends=[backend], period_seconds=given, sampler=sampler):
        (subscription,) = sampler._subscriptions
        assert subscription.longest_seconds == seconds


def test_shared_machines_are_read_as_often_as_ever() -> None:
    """What a process has used between two readings cannot be divided."""
    clock = FakeClock()
    sampler = Sampler(clock, threaded=False)
    with EnergyMeter(backends=[FakeBackend([fake_domain()], [0], clock)], scope="process", sampler=sampler):
        (subscription,) = sampler._subscriptions
        assert subscription.longest_seconds == 0.1


def test_periods_keep_their_bounds() -> None:
    """Whatever a round has cost."""
    pace = Pace()
    assert pace.period_ns(5, 10) == 5
    pace.took(SECOND_NS)
    assert pace.period_ns(5, 10) == 10
