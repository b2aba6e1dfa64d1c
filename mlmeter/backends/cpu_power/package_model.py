"""Power of processor packages and of memory from their load; comparable with RAPL.

The package formula is the fit of this project to the power of 11 processors that RAPL told
under sweeps of load (codecarbon, MIT; Teads, Apache-2.0). Its spread is that of true to
predicted power for a processor that was left out of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mlmeter.backends.cpu_power.spreads import Spread, factor

IDLE_RATIO = 0.12
BUSY_RATIO = 0.76
BUSY_EXPONENT = 0.78
FREQUENCY_RATIOS = (0.4, 1.3)

SPREAD = Spread(0.42, 0.58, 1.17, 1.65)
# Without the clock the mean error of a processor left out rises from 37 to 47 %.
UNKNOWN_FREQUENCY = factor(1.15, 1.3)

# DDR4 and DDR5 of servers, between the idle and loaded figures that RAPL and wall power give.
RAM_IDLE_WATTS_PER_GIGABYTE = 0.10
RAM_BUSY_WATTS_PER_GIGABYTE = 0.15
LEAST_RAM_WATTS = 1.5
RAM_SPREAD = factor(1.5, 2.0)


def package_watts(tdp_watts: float, busy_ratio: float, frequency_ratio: float = 1.0) -> float:
    """Return the power of packages.

    Args:
        tdp_watts: thermal design power of all packages together, positive.
        busy_ratio: share of the physical cores that are busy; taken into 0..1.
        frequency_ratio: mean clock to base clock; taken into 0.4..1.3.
    """
    low, high = FREQUENCY_RATIOS
    busy = min(max(busy_ratio, 0.0), 1.0)
    clock = min(max(frequency_ratio, low), high)
    return tdp_watts * (IDLE_RATIO + BUSY_RATIO * math.pow(busy, BUSY_EXPONENT) * clock)


def memory_watts(gigabytes: float, busy_ratio: float) -> float:
    """Return the power of a server's memory modules, not of memory inside a package."""
    busy = min(max(busy_ratio, 0.0), 1.0)
    per_gigabyte = RAM_IDLE_WATTS_PER_GIGABYTE + RAM_BUSY_WATTS_PER_GIGABYTE * busy
    return max(gigabytes * per_gigabyte, LEAST_RAM_WATTS)


def busy_core_ratio(thread_busy: Sequence[float], cores: Iterable[Sequence[int]]) -> float:
    """Return the share of physical cores that are busy.

    A core with one busy thread of two draws nearly what it draws with two, so a core is busy
    if any of its threads is, taken as independent.

    Args:
        thread_busy: share of time in which each thread was busy, 0..1.
        cores: for each core the positions of its threads in `thread_busy`.
    """
    shares = []
    for threads in cores:
        idle = 1.0
        for thread in threads:
            idle *= 1.0 - min(max(thread_busy[thread], 0.0), 1.0)
        shares.append(1.0 - idle)
    return sum(shares) / len(shares) if shares else 0.0
