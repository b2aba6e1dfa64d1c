"""How well a window of a given length will be known, before it is metered.

The figures are those of `benchmarks/accuracy` (made-up loads whose windows scatter by 15 %), read between
their rows; beyond the longest row the error falls as one over the length. What the counter's steps
add is computed. The gain of a sensor is not in them: no repetition shows it.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp, hypot, log
from typing import NamedTuple

from mlmeter.energy.counters import FAST_PERIOD_SECONDS
from mlmeter.energy.uncertainty import UNIFORM_SIGMA

# Root mean square errors by length in update periods: (length, one window, phase of some seconds).
# A slow counter's refreshes are placed to a hundredth of its period, a fast one's are not.
SLOW_ROWS = (
    (0.01, 0.22, 0.023),
    (0.1, 0.145, 0.020),
    (0.3, 0.104, 0.010),
    (0.5, 0.074, 0.0062),
    (1.0, 0.0126, 0.0016),
    (10.0, 0.0015, 0.0007),
)
FAST_ROWS = ((1.0, 0.152, 0.017), (3.0, 0.078, 0.0062), (10.0, 0.0265, 0.0027), (30.0, 0.0093, 0.0019))
# Windows of one label scatter by 15 % in these loads: more is not known of a single short one.
SHORTEST_RATIO = 0.22


class ExpectedError(NamedTuple):
    """Standard errors relative to the energy; None where the sensor cannot tell it.

    Attributes:
        single: of one window.
        phase: of a phase of many such windows, some seconds of them.
    """

    single: float | None
    phase: float | None


def counter_error(
    window_seconds: float,
    period_seconds: float,
    *,
    resolution_joules: float = 0.0,
    watts: float | None = None,
) -> ExpectedError:
    """Return what to expect of a cumulative counter.

    Args:
        window_seconds: length of the window.
        period_seconds: between refreshes, as measured.
        resolution_joules: one step of the counter.
        watts: its power; without it steps are taken to be small.

    Example:
        >>> [round(100 * counter_error(seconds, 0.1).single, 2) for seconds in (0.01, 0.1, 10.0)]
        [14.5, 1.26, 0.01]
    """
    periods = window_seconds / period_seconds
    rows = FAST_ROWS if period_seconds <= FAST_PERIOD_SECONDS else SLOW_ROWS
    single, phase = (_between([(row[0], row[column]) for row in rows], periods) for column in (1, 2))
    step = 0.0
    if watts:
        # Two reads, each anywhere within a step.
        step = resolution_joules * UNIFORM_SIGMA * 2**0.5 / (watts * window_seconds)
    return ExpectedError(hypot(min(single, SHORTEST_RATIO), step), hypot(phase, min(step, phase)))


def gauge_error(
    window_seconds: float, period_seconds: float, averaging_seconds: float = 0.0
) -> ExpectedError:
    """Return what to expect of integrated power: each end is known to a part of an update.

    A span shorter than an update, or than the time over which the sensor averages, is not told at all,
    and many such spans are not either.
    """
    blur = max(period_seconds, averaging_seconds)
    if window_seconds < blur:
        return ExpectedError(None, None)
    ends = UNIFORM_SIGMA * 2**0.5 * blur / window_seconds
    return ExpectedError(ends, ends)


def _between(points: list[tuple[float, float]], at: float) -> float:
    """Read a value between points on logarithmic scales; beyond the last it falls as 1 / `at`."""
    lengths = [length for length, _ in points]
    if at <= lengths[0]:
        return points[0][1]
    if at >= lengths[-1]:
        return points[-1][1] * lengths[-1] / at
    right = bisect_left(lengths, at)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    share = (log(at) - log(x0)) / (log(x1) - log(x0))
    return exp(log(y0) + share * (log(y1) - log(y0)))
