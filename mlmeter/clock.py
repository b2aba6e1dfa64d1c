"""The one clock: integer nanoseconds of `time.perf_counter_ns`, and one wall-clock anchor.

Two more clocks are only compared with it: one that goes on while the machine is suspended, and
the wall clock, which can be set.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Flag(Protocol):
    """What a thread waits for, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether it is set."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set or so many seconds have passed; return whether it is set."""


class Clock(Protocol):
    """Source of monotonic time and the only way in which the sampler waits."""

    def now_ns(self) -> int:
        """Return monotonic nanoseconds."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970; for display and file names only."""

    def boot_ns(self) -> int:
        """Return monotonic nanoseconds that include the time for which the machine was suspended."""

    def wait(self, wake: Flag, timeout_seconds: float) -> bool:
        """Wait until `wake` is set or the time is over; return whether it is set."""


def _boot_clock() -> Callable[[], int]:
    """Return the clock that goes on in suspend; the monotonic one where the system has no other.

    On Linux that is CLOCK_BOOTTIME. On macOS `perf_counter` stands still in sleep and
    CLOCK_MONOTONIC_RAW does not (clock_gettime(3)); on Windows both go on (PEP 418).
    """
    name = "CLOCK_MONOTONIC_RAW" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    number = getattr(time, name, None)
    if number is None:
        return time.perf_counter_ns
    clock = partial(time.clock_gettime_ns, number)
    try:
        clock()
    except OSError:  # a sandbox need not allow it
        return time.perf_counter_ns
    return clock


class MonotonicClock:
    """The machine's clock.

    On Linux `perf_counter_ns` is CLOCK_MONOTONIC, the same in all processes of the machine.
    Wall-clock steps (NTP, somebody who sets the date) never enter a duration, nor does time for
    which the machine was suspended.
    """

    now_ns = staticmethod(time.perf_counter_ns)
    wall_ns = staticmethod(time.time_ns)
    boot_ns = staticmethod(_boot_clock())

    def wait(self, wake: Flag, timeout_seconds: float) -> bool:
        """Wait until `wake` is set or the time is over; return whether it is set."""
        return wake.wait(max(0.0, timeout_seconds))
