"""Student's t distribution for any degrees of freedom, without SciPy."""

from __future__ import annotations

import math
from functools import lru_cache

TINY = 1e-300
ENOUGH = 1e-14
MOST_TERMS = 10_000


def student_probability(value: float, degrees: float) -> float:
    """Return the probability that Student's t is at most `value`.

    Args:
        value: any number.
        degrees: degrees of freedom, more than 0, not necessarily whole.
    """
    tail = 0.5 * _beta_share(degrees / (degrees + value * value), degrees / 2, 0.5)
    return 1 - tail if value > 0 else tail


@lru_cache(maxsize=4096)
def student_quantile(probability: float, degrees: float) -> float:
    """Return the value that Student's t stays below with this probability, 0.5 to 1 without the ends.

    Found by bisection to 1e-12 of itself: the distribution is continuous and grows.
    """
    low, high = 0.0, 1.0
    while student_probability(high, degrees) < probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if student_probability(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    By its continued fraction (NIST Digital Library of Mathematical Functions, 8.17.22), which
    converges fast below the mean; above it by the symmetry I_x(a, b) = 1 - I_1-x(b, a).
    """
    if not 0 < x < 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return 1 + d1/(1 + d2/(1 + ...)), evaluated forward as a product (the method of Lentz)."""
    value, upper, lower = 1.0, 1.0, 0.0
    for term in range(1, MOST_TERMS):
        half, odd = divmod(term, 2)
        if odd:
            step = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            step = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        lower = 1 / (1 + step * lower or TINY)
        upper = 1 + step / upper or TINY
        value *= upper * lower
        if abs(upper * lower - 1) < ENOUGH:
            break
    return value
