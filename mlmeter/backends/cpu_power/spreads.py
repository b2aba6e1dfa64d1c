"""How far the truth may lie from an estimate, as factors."""

from __future__ import annotations

import math
from typing import NamedTuple


class Spread(NamedTuple):
    """Factors on an estimate that hold the truth: 68 % and 95 % of the time.

    Every low factor is at most 1 and every high one at least 1, so that an interval always
    contains its estimate.
    """

    low_95: float
    low_68: float
    high_68: float
    high_95: float

    def combined(self, *others: Spread) -> Spread:
        """Return the spread of a product of independent factors: logarithms add as squares."""
        columns = zip(self, *others, strict=True)
        lengths = [math.hypot(*(math.log(factor) for factor in column)) for column in columns]
        low_95, low_68, high_68, high_95 = lengths
        return Spread(math.exp(-low_95), math.exp(-low_68), math.exp(high_68), math.exp(high_95))

    def around(self, *others: Spread) -> Spread:
        """Return the narrowest spread that contains this one and all others."""
        lows_95, lows_68, highs_68, highs_95 = zip(self, *others, strict=True)
        return Spread(min(lows_95), min(lows_68), max(highs_68), max(highs_95))


def factor(ratio_68: float, ratio_95: float) -> Spread:
    """Return a symmetric spread: the truth is within the factors either way."""
    return Spread(1 / ratio_95, 1 / ratio_68, ratio_68, ratio_95)


NONE = Spread(1.0, 1.0, 1.0, 1.0)
