"""Waiting until counters and devices have shown what there is to be known of an instant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlmeter.errors import ArgumentError

if TYPE_CHECKING:
    from mlmeter.collected import Collected
    from mlmeter.windows import Window

# How long the end of a session may wait for the slowest counter to show it.
SETTLE_PERIODS = 2
LONGEST_SETTLE_SECONDS = 0.25
SETTLE_STEPS = 20
SHORTEST_STEP_SECONDS = 0.001
LONGEST_TIMEOUT_SECONDS = 3600.0
# How long a device that has not finished a window is waited for, unless told otherwise.
LONGEST_DEVICE_SECONDS = 60.0


class Settling:
    """Waits on behalf of one session, and reads its counters meanwhile.

    Args:
        session: its counters, and devices on which windows may end later than on the host.
        going: whether the session goes on.
    """

    def __init__(self, session: Collected, going: Callable[[], bool]) -> None:
        self._session, self._going = session, going

    @property
    def slowest_seconds(self) -> float:
        """Update period of the slowest counter; 0 without any."""
        return self._session.slowest_seconds

    def is_shown(self, window: Window) -> bool:
        """Whether the counters have shown the end of a window, on the device too."""
        device_end_ns = self._session.devices.end_ns(window.end_mark)
        if device_end_ns is None:
            return False
        if self._session.processes is not None and self._session.processes.waits_for(window.end_ns):
            return False
        return self._session.sampler.refreshed_since(self._session.sources, max(window.end_ns, device_end_ns))

    def wait_for(self, window: Window, period_seconds: float, timeout_seconds: float | None) -> bool:
        """Wait until the end of a window is shown, or the session or the time is over; return whether it is.

        Args:
            window: a closed window.
            period_seconds: time between two regular readings.
            timeout_seconds: the longest wait; None for as long as device and counters need.

        Raises:
            ArgumentError: the time is no number of seconds.
        """
        if timeout_seconds is None:
            devices = self._session.devices
            self._until(lambda: devices.end_ns(window.end_mark) is not None, LONGEST_DEVICE_SECONDS)
            timeout_seconds = SETTLE_PERIODS * self.slowest_seconds + 2 * period_seconds
        else:
            _check_timeout(timeout_seconds)
        self._until(lambda: self.is_shown(window), timeout_seconds)
        return self.is_shown(window)

    def settle(self, end_ns: int) -> None:
        """Wait, but not long, until slow counters have shown an instant."""
        sampler, clock = self._session.sampler, self._session.sampler.clock
        slowest_seconds = self.slowest_seconds
        wait_seconds = min(SETTLE_PERIODS * slowest_seconds, LONGEST_SETTLE_SECONDS)
        deadline_ns = end_ns + round(wait_seconds * 1e9)
        waiter = threading.Event()
        while not sampler.refreshed_since(self._session.sources, end_ns) and clock.now_ns() < deadline_ns:
            clock.wait(waiter, slowest_seconds / SETTLE_STEPS)
            sampler.tick()

    def _until(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        clock, waiter = self._session.sampler.clock, threading.Event()
        deadline_ns = clock.now_ns() + round(timeout_seconds * 1e9)
        step_seconds = max(self.slowest_seconds / SETTLE_STEPS, SHORTEST_STEP_SECONDS)
        while self._going() and not condition() and clock.now_ns() < deadline_ns:
            clock.wait(waiter, step_seconds)
            self._session.sampler.tick()


def _check_timeout(timeout_seconds: object) -> None:
    number = isinstance(timeout_seconds, (int, float)) and not isinstance(timeout_seconds, bool)
    if not number or not 0 <= timeout_seconds <= LONGEST_TIMEOUT_SECONDS:  # type: ignore[operator]
        accepted = f"a number from 0 to {LONGEST_TIMEOUT_SECONDS:.0f}, or None"
        raise ArgumentError(f"timeout_seconds={timeout_seconds!r}: expected {accepted}")
