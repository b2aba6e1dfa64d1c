"""The clock of a GPU, and what ties it to the host's.

A GPU tells only the milliseconds between two events, in single precision. So about once a second
a reference is taken: an event on an idle stream, with the host's time before and after. Other
events are timed from the reference before them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

from mlmeter.device_time.cuda import Cuda

REFERENCE_SECONDS = 1.0
# Single precision tells microseconds for so long. An idle device is left alone until work is
# launched on it again: to ask it would wake it.
LONGEST_NS = 10_000_000_000
# References kept from before a time: they tell the drift then.
REFERENCES_BEFORE = 20
REFERENCE_TRIES = 3
# An idle stream answers in microseconds; one that does not is not idle.
PATIENCE_NS = 2_000_000
MOST_QUERIES = 2_000
# A reference that the host was kept from seeing in time is worse than the drift that it tells.
WIDEST_RATIO = 4
OLDEST_NS = 30_000_000_000
NANOSECONDS_PER_MILLISECOND = 1_000_000


class Reference(NamedTuple):
    """An instant of which the times by the device's and by the host's clock are known."""

    event: Any
    device_ns: int
    host_ns: int

    def elapsed_ns(self, cuda: Cuda, event: Any) -> int:
        """Return the time from the reference to an event that the device has reached."""
        return round(cuda.elapsed_ms(self.event, event) * NANOSECONDS_PER_MILLISECOND)


class DeviceClock:
    """One device: its references, and the events that are kept for it.

    Args:
        cuda: the framework.
        number: CUDA's number of the device.
        uuid: its identity as NVML spells it, or None.
        now_ns: the host's clock.

    Attributes:
        reference: the last one; None as long as the device has not answered.
        used: whether events were recorded since the last try for a reference.
        free, events: events to record again, and how many there are of the device.
    """

    def __init__(self, cuda: Cuda, number: int, uuid: str | None, now_ns: Callable[[], int]) -> None:
        self.number = number
        self.uuid = uuid
        self.reference: Reference | None = None
        self.used = False
        self.free: list[Any] = []
        self.events = 0
        self._cuda = cuda
        self._now_ns = now_ns
        self._stream: Any = None
        self._tried_ns = 0
        self._narrowest_ns = 0
        self._forgotten = 0
        self._device_ns, self._host_ns, self._half_widths_ns = array("q"), array("q"), array("q")

    def is_due(self, *, final: bool) -> bool:
        """Return whether a reference is worth taking; at the end one after the last event."""
        if self.reference is None:
            return True
        return self.used and (final or self._now_ns() - self._tried_ns >= REFERENCE_SECONDS * 1e9)

    def is_stale(self) -> bool:
        """Return whether the last reference is too old for events to be timed from it."""
        return self._now_ns() - self._tried_ns > LONGEST_NS

    def refer(self, tries: int) -> None:
        """Take a reference: the narrowest of a few tries, none if the device does not answer at once.

        The device must be the current one.
        """
        self._tried_ns, self.used = self._now_ns(), False
        best: tuple[int, int, Any] | None = None
        for _ in range(tries):
            if self._stream is None:
                self._stream = self._cuda.own_stream(self.number)
            event = self._cuda.new_event()
            before_ns = self._now_ns()
            event.record(self._stream)
            if not self._answers(event, before_ns):
                # The program may have been given the same stream: take another one next time.
                self._stream = None
                break
            width_ns = self._now_ns() - before_ns
            if best is None or width_ns < best[0]:
                best = width_ns, before_ns, event
        if best is not None:
            width_ns, before_ns, event = best
            self._keep(event, before_ns + width_ns // 2, (width_ns + 1) // 2)

    def append_references(self, columns: dict[str, array[int]], first: int = 0) -> None:
        """Append references, or those from one on, to columns of device, both times and half width."""
        first = max(0, first - self._forgotten)
        numbers = array("i", [self.number]) * (len(self._device_ns) - first)
        mine = (numbers, self._device_ns[first:], self._host_ns[first:], self._half_widths_ns[first:])
        for column, values in zip(columns.values(), mine, strict=True):
            column.extend(values)

    def forget_before(self, host_ns: int) -> None:
        """Forget the references from before a time of the host, but for some."""
        first = max(0, bisect_right(self._host_ns, host_ns) - REFERENCES_BEFORE)
        self._forgotten += first
        for column in (self._device_ns, self._host_ns, self._half_widths_ns):
            del column[:first]

    def _answers(self, event: Any, since_ns: int) -> bool:
        for _ in range(MOST_QUERIES):
            if self._cuda.done(event):
                return True
            if self._now_ns() - since_ns > PATIENCE_NS:
                break
        return False

    def _keep(self, event: Any, host_ns: int, half_width_ns: int) -> None:
        last, device_ns = self.reference, 0
        if last is not None:
            wide = half_width_ns > WIDEST_RATIO * max(self._narrowest_ns, 1)
            if wide and host_ns - last.host_ns < OLDEST_NS:
                return
            elapsed_ns = last.elapsed_ns(self._cuda, event)
            if elapsed_ns <= 0:
                return
            device_ns = last.device_ns + elapsed_ns
        if last is None or half_width_ns < self._narrowest_ns:
            self._narrowest_ns = half_width_ns
        self._device_ns.append(device_ns)
        self._host_ns.append(host_ns)
        self._half_widths_ns.append(half_width_ns)
        self.reference = Reference(event, device_ns, host_ns)
