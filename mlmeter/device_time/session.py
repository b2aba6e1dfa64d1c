"""What one session does about devices at the edges of its windows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mlmeter.device_time.cuda import initialised_cuda
from mlmeter.device_time.events import DeviceEvents, Mark
from mlmeter.device_time.times import DeviceTimes, numbers_of_domains
from mlmeter.device_time.waits import FunctionEdges, WaitingEdges

if TYPE_CHECKING:
    from mlmeter.measurement import Domain

Edges = FunctionEdges | WaitingEdges | DeviceEvents


class SessionDevices:
    """Marks windows on devices, or waits for these, as the user wants.

    Args:
        sync: a function to call, ``"device"``, ``"events"``, ``"none"``, or None for events as soon as
            CUDA is used.
        now_ns: monotonic clock.
        remark: notes an event: kind and sentence.

    Attributes:
        edges: what windows call at their edges; None where there is nothing to call.
    """

    def __init__(
        self,
        sync: Callable[[], object] | str | None,
        now_ns: Callable[[], int],
        remark: Callable[[str, str], None],
    ) -> None:
        self.edges: Edges | None = None
        self._sync, self._now_ns, self._remark = sync, now_ns, remark
        self._events: DeviceEvents | None = None
        self._domains: tuple[Domain, ...] = ()
        self._running = self._meters_gpus = False
        self._lock = threading.Lock()

    def begin(self, domains: Iterable[Domain]) -> None:
        """Begin a session that meters `domains`."""
        self._domains = tuple(domains)
        self._running = True
        self._meters_gpus = any(domain.kind == "gpu" for domain in self._domains)
        if callable(self._sync):
            self.edges = FunctionEdges(self._sync)
        elif self._sync == "device":
            self.edges = WaitingEdges()
        elif self._sync == "events":
            self.edges = self._events = DeviceEvents(self._now_ns, self._remark)
        self.look()

    def look(self) -> None:
        """Read the events that a device has reached; begin with them once CUDA is used."""
        if self._events is None and self._sync is None and self._running:
            self._begin_with_cuda()
        if self._events is not None:
            self._events.collect()
            if self._events.failed:
                self.edges = None

    def end(self) -> None:
        """Take the last reference and tell what the device has not done yet."""
        with self._lock:
            self._running = False
        events, self.edges = self._events, None
        if events is None:
            return
        events.collect(final=True)
        waiting = events.waiting()
        if waiting:
            text = f"the device had not finished the work of {waiting} windows when the session ended"
            self._remark("window", f"{text}: what it did afterwards is not in their energy")
        metered = numbers_of_domains(self._domains, events.uuids()).values()
        for number in events.uuids().keys() - set(metered) if self._meters_gpus else ():
            text = f"which of the metered GPUs CUDA device {number} is cannot be told"
            self._remark("window", f"{text}: windows on it have host times only")
        if not events.found:
            text = "neither PyTorch nor CuPy has initialised CUDA: windows have host times only"
            self._remark("window", f'sync="events": {text}')

    def end_ns(self, mark: Mark | None) -> int | None:
        """Return when the device had reached the end of a window, 0 if that is not known.

        None if it has not reached it yet.

        Args:
            mark: of the window's end.
        """
        return 0 if self._events is None else self._events.end_ns(mark)

    def times(self, since_ns: int | None) -> DeviceTimes:
        """Return what is known of windows, or of those since some time."""
        return DeviceTimes() if self._events is None else self._events.times(since_ns)

    def forget_before(self, time_ns: int) -> None:
        """Forget what had been read before a time of the host."""
        if self._events is not None:
            self._events.forget_before(time_ns)

    @property
    def forgotten_spans(self) -> int:
        """How many pieces of windows are forgotten; `news` counts them, too."""
        return 0 if self._events is None else self._events.forgotten

    def news(self, spans: int, references: Mapping[int, int]) -> DeviceTimes:
        """Return what has been read since there were so many spans, and references of each device."""
        return DeviceTimes() if self._events is None else self._events.news(spans, references)

    def forget(self) -> None:
        """In a forked child: the device's events are the parent's."""
        self.edges = self._events = None
        self._running = False

    def _begin_with_cuda(self) -> None:
        """Mark windows from now on if CUDA is used and a GPU metered: else nobody needs its times."""
        cuda = initialised_cuda() if self._meters_gpus else None
        if cuda is None:
            return
        # Two threads may read the counters at a time.
        with self._lock:
            if self._events is None and self._running:
                self.edges = self._events = DeviceEvents(self._now_ns, self._remark, cuda)
