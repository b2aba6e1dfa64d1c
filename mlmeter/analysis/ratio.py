"""Ratios of two uncertain energies, by Fieller's theorem (E. C. Fieller, J. R. Stat. Soc. B 16, 1954)."""

from __future__ import annotations

import math

from mlmeter.analysis.figure import NORMAL_FACTOR, Figure, first_reason, unknown, worst

UNBOUNDED = "the divisor is not distinguishable from 0"


def fieller(
    top: float, sigma_top: float, bottom: float, sigma_bottom: float, factor: float = NORMAL_FACTOR
) -> tuple[float, float | None]:
    """Return the interval of the ratio of two independent values of 0 or more.

    It holds the ratios R for which top - R bottom is within `factor` standard uncertainties of 0.

    Args:
        top, bottom: best values.
        sigma_top, sigma_bottom: their standard uncertainties.
        factor: of the coverage; 1.96 for 95 %.

    Returns:
        low and high; high is None if `bottom` is not distinguishable from 0.
    """
    variance_top, variance_bottom = (factor * sigma_top) ** 2, (factor * sigma_bottom) ** 2
    square = bottom**2 - variance_bottom
    middle, rest = top * bottom, top**2 - variance_top
    root = math.sqrt(max(0.0, middle**2 - square * rest))
    if square > 0:
        return max(0.0, (middle - root) / square), (middle + root) / square
    # Every ratio from here on fits, or, where the dividend may be 0 as well, every ratio.
    return (rest / (middle + root) if rest > 0 else 0.0), None


def ratio(top: Figure, bottom: Figure, *, independent: bool) -> Figure:
    """Return top / bottom with its 95 % interval.

    Args:
        top, bottom: in the same unit.
        independent: whether their errors have nothing in common, as those of counters in two sessions.
            If they may have, the interval goes from low / high to high / low: that is Fieller's for
            errors of opposite sign, the worst case.
    """
    if top.value is None or bottom.value is None:
        return unknown(first_reason((top, bottom)))
    if bottom.value <= 0:
        return unknown(UNBOUNDED)
    low, high = _interval(top, bottom, independent=independent)
    return Figure(
        value=top.value / bottom.value,
        low=low,
        high=high,
        resolved=top.resolved and bottom.resolved,
        provenance=worst((top, bottom)),
        reason=first_reason((top, bottom)) or (UNBOUNDED if high is None else ""),
    )


def share_of(part: Figure, rest: Figure, *, independent: bool) -> Figure:
    """Return part / (part + rest) with its 95 % interval, 0 to 1."""
    if part.value is None or rest.value is None:
        return unknown(first_reason((part, rest)))
    if part.value + rest.value <= 0:
        return unknown("both energies are 0")
    if part.value <= 0:
        most = ratio(part, rest, independent=independent)
        high = 1.0 if most.high is None else most.high / (1 + most.high)
        return Figure(value=0.0, low=0.0, high=high, resolved=part.resolved, provenance=worst((part, rest)))
    # A share falls as the ratio of the rest to the part grows.
    other = ratio(rest, part, independent=independent)
    return Figure(
        value=part.value / (part.value + rest.value),
        low=0.0 if other.high is None else 1 / (1 + other.high),
        high=1 / (1 + (other.low or 0.0)),
        resolved=other.resolved,
        provenance=other.provenance,
        reason="" if other.resolved else other.reason,
    )


def _interval(top: Figure, bottom: Figure, *, independent: bool) -> tuple[float, float | None]:
    if independent and math.isfinite(top.half_width) and math.isfinite(bottom.half_width):
        sigmas = top.half_width / NORMAL_FACTOR, bottom.half_width / NORMAL_FACTOR
        return fieller(top.value or 0.0, sigmas[0], bottom.value or 0.0, sigmas[1])
    low = 0.0 if bottom.high is None else (top.low or 0.0) / bottom.high
    bounded = top.high is not None and bottom.low is not None and bottom.low > 0
    return low, (top.high or 0.0) / (bottom.low or 1.0) if bounded else None
