"""The benchmark of a training loop: its statistics, its order, and that it meters what it times."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest
import training_loop
from paired_blocks import Round, estimate, pooled, rounds_needed
from pausable import pausable_meter
from training_loads import LOADS
from training_loop import ARMS, Bench, Sampling, Spent


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
    """Blocks that take what a test says."""

    def __init__(self) -> None:
        self.blocks = 0

    def block(self, bench: Bench) -> Spent:
        self.blocks += 1
        return Spent(1.01, 1.02)


def test_every_round_has_each_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks per load and round, the metered one in every place of the order."""
    monkeypatch.setattr(training_loop, "bare_block", lambda bench: Spent(1.0, 1.0))
    benches = [Bench(name, 10, lambda: None, 0.01) for name in ("a", "b")]
    metered = CountedMetering()
    for _ in range(20):
        training_loop.one_round(benches, metered, random.Random(1))  # type: ignore[arg-type]
    assert metered.blocks == 40
    assert all(set(blocks) == set(ARMS) for bench in benches for blocks in bench.rounds)
    assert estimate(benches[0].effects("wall_seconds", "effect")).percent == pytest.approx(1.0)
    assert estimate(benches[0].effects("cpu_seconds", "effect")).percent == pytest.approx(2.0)
    assert estimate(benches[0].effects("cpu_seconds", "control")).percent == 0.0


def test_order_is_drawn_anew() -> None:
    """In some rounds the metered block comes first, in others last."""
    order = random.Random(0)
    places = {order.sample(ARMS, len(ARMS)).index("metered") for _ in range(50)}
    assert places == {0, 1, 2}


def bench_of(percent: float) -> Bench:
    rng = np.random.default_rng(1)
    bench = Bench("a", 10, lambda: None, 0.01)
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


def test_a_metered_block_is_metered() -> None:
    """Windows, edge reads and the sampler are at work in what is timed, on counters of known energy."""
    bench = Bench("a", 10, LOADS["numpy matmul"](200), 0.01)
    with training_loop.metering() as metered:
        spent = metered.block(bench)
    assert 0 < spent.wall_seconds == bench.sampling.wall_seconds
    assert bench.sampling.windows == 10
    assert bench.sampling.reads > 0


def test_the_meter_stands_still_between_its_blocks() -> None:
    """Nothing is read in a block without it, however long, and to the meter no time has passed."""
    with pausable_meter() as (meter, sampler, clock):
        clock.go_on(0.02)
        with meter.training("step"):
            time.sleep(0.02)
        clock.pause()
        # The read for which a thread was waiting when the block ended.
        time.sleep(0.2)
        reads, now_ns = sampler.cost().reads, clock.now_ns()
        time.sleep(0.5)
        assert (sampler.cost().reads, clock.now_ns()) == (reads, now_ns)


def test_a_metered_second_has_its_ticks() -> None:
    """In blocks that make up a second the sampler ticks ten times, however long the pauses between them."""
    with pausable_meter() as (_, sampler, clock):
        before, begun_ns = sampler.cost().ticks, clock.now_ns()
        while clock.now_ns() < begun_ns + 2_000_000_000:
            clock.go_on(0.1)
            time.sleep(0.1)
            clock.pause()
            time.sleep(0.03)
        assert 14 <= sampler.cost().ticks - before <= 21
