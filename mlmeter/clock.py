"""The one clock: integer nanoseconds of `time.perf_counter_ns`, and one wall-clock anchor."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Source of monotonic time and the only way in which the sampler waits."""

    def now_ns(self) -> int:
        """Return monotonic nanoseconds."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970; for display and file names only."""

    def wait(self, wake: threading.Event, timeout_seconds: float) -> bool:
        """Wait until `wake` is set or the time is over; return whether it is set."""


class MonotonicClock:
    """The machine's clock.

    On Linux `perf_counter_ns` is CLOCK_MONOTONIC, the same in all processes of the machine.
    Wall-clock steps (NTP, daylight saving) never enter a duration.
    """

    now_ns = staticmethod(time.perf_counter_ns)
    wall_ns = staticmethod(time.time_ns)

    def wait(self, wake: threading.Event, timeout_seconds: float) -> bool:
        """Wait until `wake` is set or the time is over; return whether it is set."""
        return wake.wait(max(0.0, timeout_seconds))
