"""Ratios of the energies of two groups of runs, and how many runs would settle them.

Energies are compared by their logarithms, so that a ratio and its inverse are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance

from mlmeter.analysis.student import student_quantile

CONFIDENCE = 0.975
POWER = 0.8
# Of one run nothing tells how much runs scatter.
FEWEST = 2
MANY_DEGREES = 30
# With as many runs in each group and an outlier among them ranks are compared in place of means.
FEWEST_FOR_RANKS = 8
# So many robust standard deviations from the median (B. Iglewicz, D. C. Hoaglin, 1993).
OUTLYING = 3.5
DEVIATIONS_PER_MAD = 1.4826
NORMAL_FACTOR = 1.959964
WELCH, PAIRED, RANKS, STEIN = "welch", "paired", "ranks", "paired, two stages"


@dataclass(frozen=True, slots=True)
class GroupRatio:
    """Energy of group b / energy of group a.

    Attributes:
        ratio, low, high: best value and 95 % interval.
        method: how it was made.
        deviation: standard deviation of one log-ratio: of a pair, or of one run of each group.
        degrees: degrees of freedom of that deviation.
        paired: whether a repeat is a pair.
    """

    ratio: float
    low: float
    high: float
    method: str
    deviation: float
    degrees: float
    paired: bool

    def repeats(self, effect: float) -> int:
        """Return how many runs on each side find a difference of this size in 80 % of trials.

        By the deviation found so far, of which few runs know little: so Student's points of its degrees of
        freedom stand in for those of the normal distribution (C. Stein, Ann. Math. Stat. 16, 1945).

        Args:
            effect: difference to be found, such as 0.02 for 2 %.
        """
        number = FEWEST
        while number < self._enough(number, effect):
            number += 1
        # A deviation of few runs comes out too small as often as too large, and the former costs more
        # power than the latter gains: in simulations one run more makes up for it.
        return number + 1 if self.degrees < MANY_DEGREES else number

    def _enough(self, number: int, effect: float) -> float:
        """Return how many are needed if the last test is made with so many: few of them cost power, too."""
        degrees = min(self.degrees, number - 1 if self.paired else 2 * (number - 1))
        points = student_quantile(CONFIDENCE, degrees) + student_quantile(POWER, degrees)
        return (points * self.deviation / math.log1p(effect)) ** 2


def independent_ratio(a: Sequence[float], b: Sequence[float]) -> GroupRatio:
    """Return the ratio of two groups whose runs have no order in common (Welch's t of logarithms).

    With eight runs or more in each group and an outlier in one, it is that of the Mann-Whitney test.

    Args:
        a, b: energies, all above 0, at least two each.
    """
    logs_a, logs_b = [math.log(value) for value in a], [math.log(value) for value in b]
    parts = variance(logs_a) / len(a), variance(logs_b) / len(b)
    total = sum(parts)
    degrees = float(len(a) + len(b) - 2)
    if total > 0:
        # Welch and Satterthwaite.
        degrees = total**2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    deviation = math.sqrt(variance(logs_a) + variance(logs_b))
    if min(len(a), len(b)) >= FEWEST_FOR_RANKS and (_has_outlier(logs_a) or _has_outlier(logs_b)):
        middle, low, high = _shift_by_ranks(logs_a, logs_b)
        return _exponential(middle, low, high, RANKS, deviation, degrees, paired=False)
    difference = fmean(logs_b) - fmean(logs_a)
    half = student_quantile(CONFIDENCE, degrees) * math.sqrt(total)
    return _exponential(
        difference, difference - half, difference + half, WELCH, deviation, degrees, paired=False
    )


def paired_ratio(
    a: Sequence[float], b: Sequence[float], pilot: int | None = None, confidence: float = CONFIDENCE
) -> GroupRatio:
    """Return the ratio of runs that were made in pairs, so that what drifts slowly cancels.

    Args:
        a, b: energies in order of time, all above 0, as many of each and at least two.
        pilot: how many pairs there were when the number of all pairs was chosen by their deviation. The
            interval then rests on the deviation of these alone (Stein's two stages): with that of all pairs
            it would be too narrow, because few pairs follow where it came out small by chance.
        confidence: probability below the upper end of the interval; 0.975 for a 95 % interval.
    """
    differences = [math.log(after / before) for before, after in zip(a, b, strict=True)]
    first = differences[:pilot]
    deviation, degrees = math.sqrt(variance(first)), float(len(first) - 1)
    middle = fmean(differences)
    half = student_quantile(confidence, degrees) * deviation / math.sqrt(len(differences))
    method = PAIRED if pilot is None else STEIN
    return _exponential(middle, middle - half, middle + half, method, deviation, degrees, paired=True)


def pareto_front(points: Sequence[tuple[float, float]], *, falling: bool = False) -> list[bool]:
    """Tell which variants no other one beats: less energy and at least as good, or better and no more energy.

    Args:
        points: (joules, quality) of each.
        falling: True for a quality that is better the lower it is.
    """
    sign = -1.0 if falling else 1.0
    better = [(joules, -sign * quality) for joules, quality in points]
    return [
        not any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in better)
        for mine in better
    ]


def _has_outlier(values: Sequence[float]) -> bool:
    middle = median(values)
    robust = DEVIATIONS_PER_MAD * median(abs(value - middle) for value in values)
    return any(abs(value - middle) > OUTLYING * robust for value in values)


def _shift_by_ranks(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return the shift from a to b and its interval (Hodges and Lehmann; Moses); normal approximation."""
    differences = sorted(after - before for before in a for after in b)
    pairs = len(differences)
    spread = NORMAL_FACTOR * math.sqrt(pairs * (len(a) + len(b) + 1) / 12)
    first = max(0, math.floor(pairs / 2 - spread))
    return median(differences), differences[first], differences[pairs - 1 - first]


def _exponential(
    middle: float, low: float, high: float, method: str, deviation: float, degrees: float, *, paired: bool
) -> GroupRatio:
    ratio, least, most = (math.exp(value) for value in (middle, low, high))
    return GroupRatio(ratio, least, most, method, deviation, degrees, paired)
