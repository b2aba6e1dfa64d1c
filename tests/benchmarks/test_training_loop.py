"""The benchmark of a training loop: its statistics, its order, and that it meters what it times."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import training_loop
from paired_blocks import Round, estimate, pooled, rounds_needed
from pausable import PausableClock, pausable_meter
from training_blocks import (
    ARMS,
    BLOCK_PARTS,
    ROUND_PARTS,
    Bench,
    Sampling,
    Spent,
    bare_loop,
    metering,
    run_block,
    typical,
)
from training_loads import LOADS


def rounds(rng: np.random.Generator, count: int, effect: float, drift: float) -> list[float]:
    """Effects of rounds on a machine whose speed wanders from block to block and never comes back."""
    speed, found = 0.0, []
    for _ in range(count):
        order = rng.permutation(3)
        logs = np.empty(3)
        for arm in order:
            speed += rng.normal(0, drift)
            logs[arm] = speed + rng.normal(0, 0.01) + (effect if arm == 0 else 0.0)
        found.append(Round(*np.exp(logs)).effect)
    return found


def test_a_slower_loop_is_found_whatever_the_clock() -> None:
    """3 % more time is 3 %, and two equal blocks differ by nothing."""
    one = Round(metered=10.3, first_bare=10.0, second_bare=10.0)
    assert 100 * math.expm1(one.effect) == pytest.approx(3.0)
    assert one.control == 0.0
    assert estimate([one.effect] * 3).percent == pytest.approx(3.0)


@pytest.mark.parametrize("drift", [0.0, 0.02])
def test_intervals_hold_the_truth_as_often_as_they_say(drift: float) -> None:
    """95 % intervals hold an effect of 0.4 % in 92 to 98 of 100 runs, also where the speed drifts."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        found = estimate(rounds(rng, 20, 0.004, drift))
        held += found.low_percent <= 100 * math.expm1(0.004) <= found.high_percent
    assert 0.92 <= held / 400 <= 0.98


def test_more_noise_needs_more_rounds() -> None:
    """Twice the spread needs four times the rounds, and those then give the half width."""
    rng = np.random.default_rng(3)
    effects = rng.normal(0, 0.01, 1000)
    few, many = rounds_needed(effects, 0.5), rounds_needed(2 * effects, 0.1)
    assert few == 1000
    assert many == pytest.approx((100 * 0.02 * 1.96 / 0.1) ** 2, rel=0.1)
    assert estimate(rng.normal(0, 0.02, many)).half_width_percent == pytest.approx(0.1, rel=0.1)


def test_loads_are_pooled_round_by_round() -> None:
    """What all loads of a round share does not make the interval of their mean narrower."""
    rng = np.random.default_rng(5)
    shared = rng.normal(0, 0.01, 50)
    together = pooled([shared, shared, shared])
    assert together == pytest.approx(estimate(shared))
    apart = pooled([rng.normal(0, 0.01, 50) for _ in range(3)])
    assert apart.half_width_percent < 0.8 * together.half_width_percent


def test_one_round_has_no_interval() -> None:
    """A single round is an error, not an interval of width 0."""
    with pytest.raises(ValueError, match="one round"):
        estimate([0.1])


@pytest.mark.parametrize("name", LOADS)
def test_steps_can_be_repeated(name: str) -> None:
    """A step does the same work each time that it is called."""
    step = LOADS[name](2)
    first = step()
    assert first == step()


class CountedMetering:
    """Rounds that take what a test says."""

    def __init__(self) -> None:
        self.rounds: list[str] = []

    def round(self, bench: Bench, _order: random.Random) -> dict[str, Spent]:
        self.rounds.append(bench.name)
        return {"metered": Spent(1.01, 1.02), "first_bare": Spent(1.0, 1.0), "second_bare": Spent(1.0, 1.0)}


def test_every_round_has_each_load_once() -> None:
    """Loads are measured in orders drawn anew."""
    benches = [Bench(name, 10, lambda: None) for name in ("a", "b")]
    metered, order = CountedMetering(), random.Random(1)
    for _ in range(20):
        training_loop.one_round(benches, metered, order)  # type: ignore[arg-type]
    assert {tuple(pair) for pair in batched(metered.rounds)} == {("a", "b"), ("b", "a")}
    assert estimate(benches[0].effects("wall_seconds", "effect")).percent == pytest.approx(1.0)
    assert estimate(benches[0].effects("cpu_seconds", "effect")).percent == pytest.approx(2.0)
    assert estimate(benches[0].effects("cpu_seconds", "control")).percent == 0.0


def batched(names: list[str]) -> Iterator[tuple[str, str]]:
    return zip(names[::2], names[1::2], strict=True)


@pytest.mark.parametrize("busy_share", [0.0, 0.25])
def test_a_round_compares_the_same_work(monkeypatch: pytest.MonkeyPatch, busy_share: float) -> None:
    """Parts that take 4 % longer are 4 % slower, however many more of them were run for a busy thread."""
    clock, seconds = BusyClock(busy_share), [0.0]

    def take(part_seconds: float) -> None:
        seconds[0] += part_seconds

    monkeypatch.setattr("training_blocks.time.perf_counter", lambda: seconds[0])
    loops = {arm: bare_loop(Bench("a", 10, partial(take, 1.04 if arm == "metered" else 1.0))) for arm in ARMS}
    blocks = {
        arm: [run_block(loops[arm], clock, metered=arm == "metered") for _ in range(8)]  # type: ignore[arg-type]
        for arm in ARMS
    }
    weights = [block.parts for block in blocks["metered"]]
    assert {block.parts for block in blocks["first_bare"]} == {BLOCK_PARTS}
    assert (sum(weights) > 8 * BLOCK_PARTS) == (busy_share > 0)
    effect = Round(*(typical(blocks[arm], weights).wall_seconds for arm in ARMS)).effect
    assert math.expm1(effect) == pytest.approx(0.04)


def test_blocks_in_which_the_meter_is_at_work_for_longer_count_for_more() -> None:
    """10 parts at 1 s and 30 at 1.02 s are a geometric mean of 1.015 s a part; a stall does not rule it."""
    blocks = [Spent(10.0, 10.0, 10), Spent(30 * 1.02, 30.0, 30)]
    found = typical(blocks, [10, 30])
    assert found == Spent(pytest.approx(1.02**0.75), pytest.approx(1.0), 1)
    stalled = typical([*blocks * 50, Spent(100.0, 10.0, 10)], [10, 30] * 50 + [10])
    assert stalled.wall_seconds == pytest.approx(found.wall_seconds, rel=0.02)


class BusyClock:
    """A clock on which some thread is at work with some probability."""

    def __init__(self, share: float) -> None:
        self._share, self._random = share, random.Random(2)

    @property
    def busy(self) -> bool:
        return self._random.random() < self._share

    def pulse(self) -> None:
        """Wake nobody."""


def bench_of(percent: float) -> Bench:
    rng = np.random.default_rng(1)
    bench = Bench("a", 10, lambda: None)
    bench.sampling = Sampling(10.0, 0.1, 1000, 100, 10)
    for _ in range(30):
        bare = 1 + rng.normal(0, 0.001)
        spent = (1 + percent / 100 + rng.normal(0, 0.001), bare, 1 + rng.normal(0, 0.001))
        bench.rounds.append({arm: Spent(value, value) for arm, value in zip(ARMS, spent, strict=True)})
    return bench


@pytest.mark.parametrize(("percent", "words"), [(0.2, "reached"), (0.7, "NOT reached"), (3.0, "NOT reached")])
def test_verdict(percent: float, words: str) -> None:
    """The aim is reached or not, by the mean of all loads and by the end of its interval."""
    assert f": {words})" in training_loop.verdict([bench_of(percent)])


def test_report_says_when_there_were_too_few_rounds() -> None:
    """Figures that are less sharp than was aimed for say so."""
    benches = [bench_of(0.2)]
    assert "90 would be needed" in training_loop.report(benches, 90, 1, "")
    assert "would be needed" not in training_loop.report(benches, 30, 1, "")


def test_a_metered_round_is_metered() -> None:
    """Windows, edge reads and the sampler are at work in what is timed, on counters of known energy."""
    bench = Bench("a", 10, LOADS["numpy matmul"](20))
    with metering() as metered:
        total = metered.round(bench, random.Random(0))
    parts = bench.sampling.wall_seconds / total["metered"].wall_seconds
    assert parts > 0.5 * ROUND_PARTS
    assert bench.sampling.windows >= ROUND_PARTS / bench.parts
    assert bench.sampling.reads > 0
    assert set(total) == set(ARMS)


def test_the_meter_stands_still_between_its_blocks() -> None:
    """Nothing is read in a block without it, however long, and to the meter no time has passed."""
    with pausable_meter() as (meter, sampler, clock):
        clock.go_on()
        with meter.training("step"):
            time.sleep(0.02)
        rest(clock)
        reads, now_ns = sampler.cost().reads, clock.now_ns()
        time.sleep(0.5)
        clock.pulse()
        time.sleep(0.1)
        assert (sampler.cost().reads, clock.now_ns()) == (reads, now_ns)


def rest(clock: PausableClock) -> None:
    """Pause when no thread of the meter is at work."""
    while clock.busy:
        time.sleep(0.001)
        clock.pulse()
    clock.pause()


def test_a_metered_second_has_its_ticks() -> None:
    """In blocks that make up two seconds the sampler ticks twenty times, however long the pauses are."""
    with pausable_meter() as (_, sampler, clock):
        rest(clock)
        before, begun_ns = sampler.cost().ticks, clock.now_ns()
        while clock.now_ns() < begun_ns + 2_000_000_000:
            clock.go_on()
            for _ in range(10):
                time.sleep(0.002)
                clock.pulse()
            rest(clock)
            time.sleep(0.01)
        assert 14 <= sampler.cost().ticks - before <= 21
