"""How often a comparison finds a difference: on simulated runs, with and without one.

Runs scatter by 0.5 to 2 % and become up to 3 % cheaper while the machine warms up. Three ways are judged:
runs of one variant after those of the other, six of each; the schedule of `mlmeter bench`; and two groups of
as many runs as `mlmeter.compare` asked for after a pilot, in turns and with new runs.

    python benchmarks/accuracy/compare.py [--trials 2000]
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from statistics import fmean

from mlmeter.analysis.blocks import Plan, make_pairs, orders
from mlmeter.analysis.groups import GroupRatio, independent_ratio, paired_ratio

DRIFT = 0.03
EFFECT = 0.02
# Mean energy of a run as a factor, by how many were made before.
DRIFTS: dict[str, Callable[[int], float]] = {
    "none": lambda _: 1.0,
    "warm-up, 3 runs": lambda made: 1 + DRIFT * math.exp(-made / 3),
    "warm-up, 10 runs": lambda made: 1 + DRIFT * math.exp(-made / 10),
    "steady, 100 runs": lambda made: 1 + DRIFT * max(0.0, 1 - made / 100),
}
DEVIATIONS = (0.005, 0.01, 0.02)


class Runs:
    """Simulated runs, one after the other."""

    def __init__(self, drift: Callable[[int], float], deviation: float, effect: float, seed: int) -> None:
        self._drift, self._deviation, self._effect = drift, deviation, effect
        # Not the numbers that the order of the runs is drawn from.
        self._draw = random.Random(f"energies {seed}")
        self.made = 0

    def make(self, variant: int, _pair: int = 0) -> float:
        """Return the joules of the next run, of variant 0 or 1."""
        level = 100.0 * self._drift(self.made) * (1 + self._effect * variant)
        self.made += 1
        return level * math.exp(self._draw.gauss(0.0, self._deviation))


def by_bench(runs: Runs, seed: int) -> tuple[GroupRatio, int]:
    """Judge as `mlmeter bench` does."""
    pairs = make_pairs(Plan(effect=EFFECT, limit=200, seed=seed), runs.make, float)
    return paired_ratio(*pairs.runs, pilot=pairs.pilot), len(pairs.runs[0])


def one_after_the_other(runs: Runs, _seed: int) -> tuple[GroupRatio, int]:
    """Judge six runs of the first variant, then six of the second."""
    groups = [[runs.make(variant) for _ in range(6)] for variant in (0, 1)]
    return independent_ratio(*groups), 6


def in_turns(runs: Runs, _seed: int) -> tuple[GroupRatio, int]:
    """Judge groups of as many runs as a pilot of eight pairs asked for."""
    pilot = _turns(runs, 9)  # the first pair warms up
    needed = independent_ratio(*([*side[1:]] for side in pilot)).repeats(EFFECT)
    return independent_ratio(*_turns(runs, needed)), needed


def _turns(runs: Runs, pairs: int) -> tuple[list[float], list[float]]:
    made: tuple[list[float], list[float]] = ([], [])
    for order, _ in zip(orders(runs.made), range(pairs), strict=False):
        for variant in order:
            made[variant].append(runs.make(variant))
    return made


def judge(
    way: Callable[[Runs, int], tuple[GroupRatio, int]],
    drift: str,
    deviation: float,
    effect: float,
    trials: int,
) -> tuple[float, float, float]:
    """Return the shares of trials that found more and that found less, and the mean number of repeats."""
    more = less = 0
    repeats = []
    for seed in range(trials):
        found, made = way(Runs(DRIFTS[drift], deviation, effect, seed), seed)
        more += found.low > 1
        less += found.high < 1
        repeats.append(made)
    return more / trials, less / trials, fmean(repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2_000)
    trials = parser.parse_args().trials
    print(
        f"{trials} trials each; a true difference is {EFFECT:.0%}, found if the 95 % interval leaves out 1\n"
    )
    print(f"{'way':22}{'drift':18}{'scatter':>8}{'false':>8}{'found':>8}{'repeats':>9}")
    ways = {"one after the other": one_after_the_other, "bench": by_bench, "compare, in turns": in_turns}
    for name, way in ways.items():
        for drift in DRIFTS:
            for deviation in DEVIATIONS:
                more, less, _ = judge(way, drift, deviation, 0.0, trials)
                found, _, repeats = judge(way, drift, deviation, EFFECT, trials)
                print(
                    f"{name:22}{drift:18}{deviation:8.1%}{more + less:8.1%}{found:8.1%}{repeats:9.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
