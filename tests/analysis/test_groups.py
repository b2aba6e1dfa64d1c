"""Ratios of groups of runs, repeats that settle them, and the schedule of a benchmark."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from mlmeter.analysis.blocks import Pairs, Plan, make_pairs, orders
from mlmeter.analysis.groups import RANKS, independent_ratio, paired_ratio, pareto_front
from mlmeter.errors import ArgumentError

A = [101.2, 100.4, 102.1, 99.8, 100.9]
B = [97.1, 96.0, 98.3, 96.6, 97.4]


def test_ratios_of_worked_groups() -> None:
    """The figures of the design: Welch 0.9623 [0.9502, 0.9747], paired [0.9566, 0.9681]."""
    welch, paired = independent_ratio(A, B), paired_ratio(A, B)
    assert (welch.ratio, welch.low, welch.high) == pytest.approx((0.9623, 0.9502, 0.9747), abs=1e-4)
    assert welch.degrees == pytest.approx(7.99, abs=0.01)
    assert (paired.ratio, paired.low, paired.high) == pytest.approx((0.9623, 0.9566, 0.9681), abs=1e-4)


def test_exchanging_groups_inverts_the_ratio() -> None:
    there, back = independent_ratio(A, B), independent_ratio(B, A)
    assert (there.ratio, there.low, there.high) == pytest.approx(
        (1 / back.ratio, 1 / back.high, 1 / back.low)
    )


def test_groups_without_scatter() -> None:
    """Equal runs have a ratio without width; three repeats are always enough."""
    found = independent_ratio([2.0, 2.0], [1.0, 1.0])
    assert (found.ratio, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.repeats(0.02) == 3


def test_one_outlier_does_not_hide_a_difference() -> None:
    """With eight runs each and one of 40 %, ranks see the 3 % that means do not."""
    draw = random.Random(5)
    a = [100 * (1 + draw.gauss(0, 0.003)) for _ in range(10)]
    b = [97 * (1 + draw.gauss(0, 0.003)) for _ in range(9)] + [140.0]
    found = independent_ratio(a, b)
    assert found.method == RANKS
    assert 0.96 < found.low < found.ratio < found.high < 0.98


def test_repeats_of_a_known_scatter() -> None:
    """16 (CV / effect)^2 and one or two more: 1 % sees 2 % with 5 to 6 runs, 1 % with 17 to 20."""
    draw = random.Random(2)
    groups = [[100 * (1 + draw.gauss(0, 0.01)) for _ in range(400)] for _ in "ab"]
    found = independent_ratio(*groups)
    assert 5 <= found.repeats(0.02) <= 6
    assert 17 <= found.repeats(0.01) <= 20


def test_pareto_front() -> None:
    """Cheap and bad, middling, dear and good stay; what is dearer and no better goes; equals both stay."""
    points = [(1.0, 0.80), (2.0, 0.90), (3.0, 0.95), (2.5, 0.90), (4.0, 0.94), (2.0, 0.90)]
    assert pareto_front(points) == [True, True, True, False, False, True]
    losses = [(joules, 1 - accuracy) for joules, accuracy in points]
    assert pareto_front(losses, falling=True) == [True, True, True, False, False, True]


def test_orders_are_balanced_and_random() -> None:
    """Of every two pairs one begins with either variant; seeds differ."""
    found = list(itertools.islice(orders(1), 100))
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert {first, second} == {(0, 1), (1, 0)}
    assert found == list(itertools.islice(orders(1), 100))
    assert found != list(itertools.islice(orders(2), 100))
    # Not simply in turns.
    assert len(set(found[::2])) == 2


def test_pairs_without_scatter_stop_after_the_pilot_and_drop_the_warm_up() -> None:
    made: list[tuple[int, int]] = []

    def make(variant: int, pair: int) -> float:
        made.append((variant, pair))
        return 100.0

    pairs = make_pairs(Plan(pilot=4, warm_up=2), make, float)
    assert [len(side) for side in pairs.runs] == [4, 4]
    assert pairs.complete
    assert sorted({pair for _, pair in made}) == [-2, -1, 0, 1, 2, 3]


def test_a_large_difference_ends_it_early() -> None:
    """Runs that scatter by 10 % would need a thousand pairs to find 2 %; half the energy shows at once."""
    draw = random.Random(1)
    pairs = make_pairs(Plan(limit=100), lambda side, _: draw.gauss(100, 10) / (1 + side), float)
    assert pairs.early
    assert not pairs.complete
    assert len(pairs.runs[0]) == 6


def test_pairs_end_at_the_limit() -> None:
    """What scatters too much is left unsettled, and says so."""
    draw = random.Random(1)
    pairs = make_pairs(Plan(pilot=4, limit=10), lambda *_: draw.uniform(50, 150), float)
    assert len(pairs.runs[0]) == 10
    assert not pairs.complete
    assert pairs.needed > 10


class Timed:
    """Runs of 10 s each that scatter by 30 %, on a clock of their own."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds, self.time = seconds, 0.0
        self.order: list[tuple[int, int]] = []
        self._draw = random.Random(1)

    def make(self, variant: int, pair: int) -> float:
        self.order.append((pair, variant))
        self.time += self.seconds
        return self._draw.uniform(50, 150)

    def pairs(self, **plan: Any) -> Pairs[float]:
        return make_pairs(Plan(**plan), self.make, float, now=lambda: self.time)


@pytest.mark.parametrize("warm_up", [0, 1, 2, 3])
@pytest.mark.parametrize("max_seconds", [1, 100, 195, 205, 333, 480])
def test_time_ends_it_between_blocks(warm_up: int, max_seconds: float) -> None:
    """Both commands begin as many pairs; not more than one block is made if the time is too short for it."""
    timed = Timed()
    pairs = timed.pairs(max_seconds=max_seconds, warm_up=warm_up)
    made = len(pairs.runs[0])
    assert (made % 2, len(pairs.runs[1])) == (0, made)
    firsts = [variant for pair, variant in timed.order[::2] if pair >= 0]
    assert sum(firsts) == made / 2
    assert timed.time <= max_seconds or made == 2
    # Another block would have taken too long.
    assert timed.time + 40 > max_seconds
    assert pairs.out_of_time
    assert not pairs.complete
    assert pairs.missing == pairs.needed - made > 0


def test_time_that_is_left_changes_nothing() -> None:
    """With a limit that is not reached the runs and the verdict are those without one."""
    plain, limited = Timed(), Timed()
    expected = plain.pairs(pilot=4, limit=10, seed=3)
    assert limited.pairs(pilot=4, limit=10, seed=3, max_seconds=1000) == expected
    assert plain.order == limited.order
    assert not expected.out_of_time


def test_the_last_block_that_was_slow_is_not_followed_by_another() -> None:
    """160 s are left after two blocks of 40 s, but the machine has become slower: the second took 200 s."""
    timed = Timed()
    slow = timed.make

    def make(variant: int, pair: int) -> float:
        timed.seconds = 50.0 if pair >= 2 else 10.0
        return slow(variant, pair)

    pairs = make_pairs(Plan(warm_up=0, max_seconds=400), make, float, now=lambda: timed.time)
    assert (len(pairs.runs[0]), timed.time) == (4, 240.0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_limit_of_no_time_is_told(seconds: float) -> None:
    with pytest.raises(ArgumentError, match="max_seconds="):
        Plan(max_seconds=seconds)


@pytest.mark.parametrize(
    "numbers", [{"effect": 0}, {"pilot": 2}, {"limit": 3}, {"warm_up": -1}, {"effect": 1}]
)
def test_plans_that_make_no_sense(numbers: dict[str, float]) -> None:
    with pytest.raises(ArgumentError):
        Plan(**numbers)  # type: ignore[arg-type]
