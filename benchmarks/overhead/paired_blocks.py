"""What a treatment adds to the cost of some work, from rounds in which it is done with it and without.

A round does the same work once with the meter and twice without, by turns, in orders drawn for it alone.
The effect of a round is log(with) less the mean of both log(without); its control compares the two without.

Slow drifts of the machine cancel within a round. What is left may depend on the rounds before
it (a neighbour in the same host works for minutes), but because every order is drawn independently,
the errors of any two rounds are uncorrelated over the draws whatever the machine did. So
Student's interval of the rounds' mean holds without a model of the noise, up to the usual
approximation of means of some tens of values by a normal law. The lag-1 autocorrelation is printed
as a check of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlmeter.analysis.groups import CONFIDENCE
from mlmeter.analysis.student import student_quantile


class Estimate(NamedTuple):
    """A mean effect with its interval, in percent, and how the rounds' effects follow each other."""

    percent: float
    low_percent: float
    high_percent: float
    autocorrelation: float

    @property
    def half_width_percent(self) -> float:
        """Half of the interval."""
        return (self.high_percent - self.low_percent) / 2


class Round(NamedTuple):
    """What the work of one round took in each way, in seconds of any one clock."""

    metered: float
    first_bare: float
    second_bare: float

    @property
    def effect(self) -> float:
        """What metering adds, as a difference of logarithms."""
        return math.log(self.metered) - (math.log(self.first_bare) + math.log(self.second_bare)) / 2

    @property
    def control(self) -> float:
        """The same between both without a meter, of which the truth is 0."""
        return math.log(self.second_bare) - math.log(self.first_bare)


def estimate(effects: Sequence[float]) -> Estimate:
    """Return mean and Student's interval of independent effects, shape (rounds,), in percent.

    Raises:
        ValueError: there are fewer than two rounds.
    """
    values = np.asarray(effects, float)
    mean, error = float(values.mean()), _standard_error(values)
    reach = student_quantile(CONFIDENCE, len(values) - 1) * error
    low, middle, high = (100 * math.expm1(value) for value in (mean - reach, mean, mean + reach))
    return Estimate(middle, low, high, _autocorrelation(values))


def pooled(groups: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean over groups of equal weight that were measured in the same rounds.

    Raises:
        ValueError: groups differ in length, or there are fewer than two rounds.
    """
    # Blocks of one round are neighbours in time: their mean is one value of that round.
    return estimate(np.mean(np.array(groups, float), axis=0).tolist())


def rounds_needed(effects: Sequence[float], half_width_percent: float) -> int:
    """Return how many rounds give an interval of that half width, from a first sample (Stein 1945)."""
    values = np.asarray(effects, float)
    deviation = _standard_error(values) * math.sqrt(len(values))
    spread = student_quantile(CONFIDENCE, len(values) - 1) * deviation
    return max(len(values), math.ceil((100 * spread / half_width_percent) ** 2))


def _standard_error(values: np.ndarray) -> float:
    if len(values) < 2:
        raise ValueError("one round tells nothing about its error")
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _autocorrelation(values: np.ndarray) -> float:
    """Return the correlation of each value with the next; NaN of fewer than three or of equal values."""
    rest = values - values.mean()
    power = float(rest @ rest)
    return float(rest[1:] @ rest[:-1]) / power if len(values) > 2 and power > 0 else math.nan
