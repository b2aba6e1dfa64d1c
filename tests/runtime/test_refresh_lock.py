"""Polling a slow counter round its refreshes: on virtual time, with threads that wake late."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mlmeter.sampling.poll_budget import CPU_RATIO
from mlmeter.sampling.refresh_lock import NEVER_NS, QUIET_PERIODS, Mode
from tests.runtime.refresh_simulation import Simulation, exponential, steady

Delay = Callable[[random.Random], float]
IDLE = exponential(0.1)


def sometimes_late(rng: random.Random) -> float:
    """3 % of the wake-ups are late by 5 ms on average."""
    return IDLE(rng) + (rng.expovariate(1 / 5) if rng.random() < 0.03 else 0.0)


def busy(rng: random.Random) -> float:
    """Half of the wake-ups wait up to 5 ms for the interpreter."""
    return IDLE(rng) + (rng.uniform(0, 5) if rng.random() < 0.5 else 0.0)


@pytest.mark.parametrize(
    ("period_ms", "jitter_ms", "delay", "most_reads", "brackets_ms", "most_early_ratio"),
    [
        (100, 1, IDLE, 5.4, (1.3, 1.5, 2.0), 0.005),
        (100, 1, sometimes_late, 5.6, (1.3, 5.0, 105), 0.03),
        (100, 1, busy, 5.2, (4.7, 6.7, 10), 0.01),
        (20, 0.5, IDLE, 3.9, (1.3, 1.5, 2.0), 0.005),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_each_refresh_lies_in_a_narrow_bracket(
    period_ms: float,
    jitter_ms: float,
    delay: Delay,
    most_reads: float,
    brackets_ms: tuple[float, float, float],
    most_early_ratio: float,
    seed: int,
) -> None:
    """Few reads a refresh, whatever the machine does; its delays widen brackets, nothing else."""
    run = Simulation(steady(period_ms, jitter_ms, 130, seed), period_ms, delay, seed=seed)
    run.run(5)
    seen = run.run(125)
    assert seen.modes == {Mode.LOCK}
    assert seen.reads_per_update <= most_reads
    assert all(seen.bracket(share) <= most for share, most in zip((0.5, 0.9, 0.99), brackets_ms, strict=True))
    assert seen.early_ratio <= most_early_ratio
    assert run.lock.measured_ns == pytest.approx(period_ms * 1e6, rel=0.002)


@pytest.mark.parametrize(
    ("guess_ms", "period_ms"), [(100, 20), (20, 100), (100, 33.3), (1000, 100), (100, 500)]
)
def test_wrong_first_guess_is_learnt(guess_ms: float, period_ms: float) -> None:
    """A prior that is wrong by a factor of five or ten costs polls for a while, not the lock."""
    run = Simulation(steady(period_ms, period_ms / 100, 70), guess_ms)
    run.run(10)
    seen = run.run(60)
    assert run.lock.mode is Mode.LOCK
    assert run.lock.measured_ns == pytest.approx(period_ms * 1e6, rel=0.005)
    assert seen.bracket(0.9) <= max(1.6, 0.01 * period_ms)
    assert run.lock.polls[Mode.DISCOVER] <= 400


@pytest.mark.parametrize(("first_ms", "then_ms"), [(100, 20), (20, 100), (100, 130), (100, 90)])
def test_period_that_changes_in_mid_run_is_learnt_again(first_ms: float, then_ms: float) -> None:
    """A driver that changes its mind loses the lock and gets it back."""
    early = steady(first_ms, 0.5, 30)
    late = [early[-1] + time for time in steady(then_ms, 0.5, 80)]
    run = Simulation([*early, *late], first_ms)
    run.run(60)
    seen = run.run(100)
    assert run.lock.measured_ns == pytest.approx(then_ms * 1e6, rel=0.005)
    assert seen.bracket(0.5) <= 1.3
    assert seen.reads_per_update <= 8


def test_missed_updates_do_not_change_the_period() -> None:
    """A tenth of the refreshes does not come: the next one is looked for, and the period stays."""
    rng = random.Random(3)
    kept = [time for time in steady(100, 1, 130) if rng.random() > 0.1]
    run = Simulation(kept, 100)
    run.run(5)
    seen = run.run(125)
    assert run.lock.measured_ns == pytest.approx(100e6, rel=0.002)
    assert seen.bracket(0.5) <= 1.3
    assert seen.bracket(0.9) <= 6


def test_irregular_counter_falls_back() -> None:
    """Where nothing can be foreseen, it is polled at random, at no more than a few reads a refresh."""
    rng, times = random.Random(0), [0.0]
    while times[-1] < 400_000:
        times.append(times[-1] + rng.uniform(50, 150))
    run = Simulation(times, 100)
    run.run(100)
    seen = run.run(390)
    assert run.lock.polls[Mode.COARSE] > 5 * run.lock.polls[Mode.LOCK]
    assert seen.reads_per_update <= 6
    assert seen.bracket(0.9) <= 50


def test_counter_that_stands_still_is_polled_twice_a_period() -> None:
    """And is locked again as soon as it goes on."""
    early = steady(100, 1, 20)
    run = Simulation([*early, *(early[-1] + 20_000 + time for time in steady(100, 1, 60))], 100)
    run.run(21)
    still = run.run(39)
    assert still.modes == {Mode.COARSE}
    assert still.reads / still.seconds <= 40
    assert run.run(70).bracket(0.5) <= 1.3


def test_starved_thread_goes_on_where_it_was() -> None:
    """Seconds without a processor cost one wide bracket each time."""
    wakes = iter(range(10**9))

    def starved(rng: random.Random) -> float:
        return 3000.0 if next(wakes) % 400 == 399 else IDLE(rng)

    run = Simulation(steady(100, 1, 200), 100, starved)
    run.run(10)
    seen = run.run(190)
    assert seen.bracket(0.9) <= 6
    assert run.lock.measured_ns == pytest.approx(100e6, rel=0.002)


def test_thread_that_is_always_late_falls_back() -> None:
    """Wake-ups up to 60 ms late catch nothing: few polls are spent on it."""
    run = Simulation(steady(100, 1, 200), 100, lambda rng: rng.uniform(0, 60))
    seen = run.run(190)
    assert run.lock.mode is not Mode.LOCK
    assert seen.polls / seen.seconds <= 40


@pytest.mark.parametrize("period_ms", [20, 100])
@pytest.mark.parametrize("cost_us", [10, 50, 100, 200, 1000])
def test_dear_polls_stay_within_their_share(period_ms: float, cost_us: int) -> None:
    """Wider steps, then rows of polls with rests, then few polls: never more than 0.5 % of a core."""
    run = Simulation(steady(period_ms, period_ms / 100, 80), period_ms, poll_cost_ns=1000 * cost_us)
    run.run(10)
    seen = run.run(70)
    assert seen.polls * cost_us * 1e-6 <= 1.06 * CPU_RATIO * seen.seconds
    if cost_us <= 50:
        assert seen.bracket(0.5) <= 2


def test_quiet_means_no_polls() -> None:
    """Long after the last window nothing is polled; the first poll afterwards finds the phase again."""
    run = Simulation(steady(100, 1, 200), 100)
    run.run(10)
    quiet = run.run(100, active=False)
    assert quiet.polls == 0
    assert run.lock.due_ns(run.now_ns - 2 * QUIET_PERIODS * 100_000_000) == NEVER_NS
    again = run.run(101)
    assert again.reads_per_update <= 9
    assert run.run(110).bracket(0.9) <= 1.6


def test_known_period_needs_no_discovery() -> None:
    """A counter that this process has measured before is locked at once."""
    run = Simulation(steady(100, 1, 20), 50, known_ms=100)
    seen = run.run(19)
    assert run.lock.polls[Mode.DISCOVER] == 0
    assert seen.bracket(0.9) <= 6


def test_counter_faster_than_polls_is_left_alone() -> None:
    """A counter that changes at every poll has no phase to lock to, and no period is made up."""
    run = Simulation(steady(1, 0.01, 60), 100)
    run.run(30)
    assert run.lock.measured_ns is None
    assert run.lock.mode is not Mode.LOCK


def test_unreadable_counter_is_tried_again_later() -> None:
    """A failed read is not repeated at once."""
    run = Simulation(steady(100, 1, 20), 100)
    run.run(10)
    run.lock.postpone(run.now_ns)
    assert run.lock.due_ns(run.now_ns) >= run.now_ns + 5_000_000


def test_polls_are_never_due_in_the_past() -> None:
    """After each reading the next poll is at least a quarter of a millisecond away."""
    run = Simulation(steady(100, 1, 60), 100, busy)
    for second in range(1, 50):
        run.run(second)
        reading = run.read()
        run.lock.observe(reading, polled=False)
        assert run.lock.due_ns(run.now_ns) >= reading.end_ns + 250_000
