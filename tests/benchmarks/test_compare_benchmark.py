"""What comparisons must reach, on simulated runs with fixed seeds; the benchmark prints the same."""

from __future__ import annotations

import compare
import pytest

# One standard error of a share of 5 % is then 0.5 %.
TRIALS = 2_000


@pytest.mark.parametrize("drift", ["none", "warm-up, 3 runs"])
@pytest.mark.parametrize("deviation", [0.01, 0.02])
def test_bench_finds_what_is_there_and_nothing_else(drift: str, deviation: float) -> None:
    """Through a warm-up of 3 %: false differences in 6 % at most, a true one of 2 % found in 80 % or more."""
    more, less, _ = compare.judge(compare.by_bench, drift, deviation, 0.0, TRIALS)
    assert more + less <= 0.06
    found, _, repeats = compare.judge(compare.by_bench, drift, deviation, compare.EFFECT, TRIALS)
    assert found >= 0.80
    assert repeats < 30


def test_groups_one_after_the_other_are_the_wrong_way() -> None:
    """The simulation is not too kind: the same warm-up deceives runs that are not mixed."""
    more, less, _ = compare.judge(compare.one_after_the_other, "warm-up, 3 runs", 0.005, 0.0, 200)
    assert more + less > 0.5


def test_groups_of_as_many_runs_as_asked_for() -> None:
    more, less, _ = compare.judge(compare.in_turns, "warm-up, 3 runs", 0.01, 0.0, TRIALS)
    assert more + less <= 0.06
    found, _, _ = compare.judge(compare.in_turns, "warm-up, 3 runs", 0.01, compare.EFFECT, TRIALS)
    assert found >= 0.80
