"""Edges of windows on a GPU: events that are recorded in passing and read when they have been reached.

GPU work is asynchronous: a window of the host ends when its work has been launched, not when it
is done. An event is put behind the work that was launched before each edge of a window, without
waiting. The sampler's thread asks later whether the device has reached it, and when.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlmeter.device_time.clock import REFERENCE_TRIES, DeviceClock, Reference
from mlmeter.device_time.cuda import Cuda, beside_captures, device_uuid, initialised_cuda
from mlmeter.device_time.times import NOT_MARKED, NOT_REACHED, REFERENCE_COLUMNS, SPAN_COLUMNS, DeviceTimes

# Events of one device in use or kept for use: windows that the device has yet to reach need two each.
MOST_EVENTS = 10_000
# Spans that the program's own thread reads when all of them are in use.
RELIEF_SPANS = 64


class Mark:
    """An event that was recorded at the edge of a window.

    Attributes:
        device_ns: when the device reached it, by its clock; `NOT_REACHED` until that is known.
        event: None once its time is known.
    """

    __slots__ = ("clock", "device_ns", "event", "reference", "stream")

    def __init__(self, clock: DeviceClock, reference: Reference, event: Any, stream: int) -> None:
        self.clock, self.reference, self.event, self.stream = clock, reference, event, stream
        self.device_ns = NOT_REACHED


class _Span(NamedTuple):
    """A window's piece with the marks of its edges, of one device; one of them may be None."""

    window_id: int
    piece: int
    start: Mark | None
    end: Mark | None

    @property
    def last(self) -> Mark:
        mark = self.start if self.end is None else self.end
        assert mark is not None
        return mark


class DeviceEvents:
    """Records events at the edges of one meter's windows and reads when they were reached.

    `mark` and `submit` run on the program's threads and wait for nothing, but for the first
    reference of a device. What the framework or the driver raises ends the recording of events,
    not the program.

    Args:
        now_ns: the host's clock.
        remark: notes an event of the session, by kind and message.
        cuda: the framework; None to look for it at every mark until one has initialised CUDA.
    """

    waits = False

    def __init__(
        self, now_ns: Callable[[], int], remark: Callable[[str, str], None], cuda: Cuda | None = None
    ) -> None:
        self._now_ns = now_ns
        self._remark = remark
        self._cuda = cuda
        self._lock = threading.RLock()
        self._clocks: dict[int, DeviceClock] = {}
        self._queue: deque[_Span] = deque()
        # Events of one stream are reached in order: only the first need be asked for.
        self._waiting: dict[tuple[int, int], deque[_Span]] = {}
        self._spans = {name: array(typecode) for name, typecode in SPAN_COLUMNS.items()}
        # Host times up to which so many spans had been read, ascending.
        self._read_at_ns, self._read_spans = array("q"), array("q")
        # Spans that are no longer here.
        self.forgotten = 0
        self.failed = False

    @property
    def found(self) -> bool:
        """Whether a framework has initialised CUDA."""
        return self._cuda is not None

    # -- the metered program's threads -----------------------------------------------------

    def mark(self) -> Mark | None:
        """Record an event on the current stream; None if that cannot be done here and now."""
        cuda = self._cuda
        if cuda is None:
            cuda = self._cuda = initialised_cuda()
        if cuda is None or self.failed:
            return None
        try:
            stream = cuda.current_stream()
            # In a capture an event becomes part of the graph and has no time.
            if cuda.capturing(stream):
                return None
            number = cuda.device_of(stream)
            clock = self._clocks.get(number) or self._new_clock(cuda, number)
            if clock.is_stale():
                self._refer(cuda, clock, tries=1)
            reference = clock.reference
            event = None if reference is None else self._free_event(cuda, clock)
            if reference is None or event is None:
                return None
            event.record(stream)
            clock.used = True
            return Mark(clock, reference, event, cuda.identity_of(stream))
        except Exception as error:  # whatever a driver raises must not reach the metered program
            self._fail(error)
            return None

    def submit(self, window_id: int, piece: int, start: Mark | None, end: Mark | None) -> None:
        """Hand over the marks of one piece of a window."""
        if start is not None and end is not None and start.clock is not end.clock:
            self._queue.append(_Span(window_id, piece, start, None))
            self._queue.append(_Span(window_id, piece, None, end))
        elif start is not None or end is not None:
            self._queue.append(_Span(window_id, piece, start, end))

    def _new_clock(self, cuda: Cuda, number: int) -> DeviceClock:
        """Take the first reference of a device, so that its first window is timed too."""
        with self._lock:
            clock = self._clocks.get(number)
            if clock is None:
                clock = self._clocks[number] = DeviceClock(cuda, number, device_uuid(number), self._now_ns)
                self._refer(cuda, clock)
            return clock

    def _refer(self, cuda: Cuda, clock: DeviceClock, tries: int = REFERENCE_TRIES) -> None:
        with self._lock, cuda.on_device(clock.number), beside_captures():
            clock.refer(tries)

    def _free_event(self, cuda: Cuda, clock: DeviceClock) -> Any:
        """Return an event to record; None if too many wait to be reached."""
        try:
            return clock.free.pop()
        except IndexError:
            pass
        if clock.events < MOST_EVENTS:
            clock.events += 1
            return cuda.new_event()
        if self._lock.acquire(blocking=False):
            try:
                self._sort_queue()
                self._read_all(cuda, RELIEF_SPANS)
            finally:
                self._lock.release()
        if clock.free:
            return clock.free.pop()
        self._remark(
            "window",
            f"more than {MOST_EVENTS} events wait for CUDA device {clock.number}: windows opened or closed "
            "meanwhile have host times only",
        )
        return None

    # -- the sampler's thread, and whoever asks for results ----------------------------------

    def collect(self, *, final: bool = False) -> None:
        """Read the events that have been reached, and take references; waits for nothing.

        Args:
            final: take a reference whenever the last one was.
        """
        cuda = self._cuda
        if cuda is None or self.failed:
            return
        with self._lock:
            self._sort_queue()
            try:
                if self._in_capture(cuda):
                    return
                self._read_all(cuda, MOST_EVENTS)
                for clock in list(self._clocks.values()):
                    if clock.is_due(final=final):
                        self._refer(cuda, clock)
            except Exception as error:  # whatever a driver raises must not reach the metered program
                self._fail(error)

    def times(self, since_ns: int | None = None) -> DeviceTimes:
        """Return the edges of windows so far; those not yet reached come after now.

        Args:
            since_ns: leave out what had been read before that time of the host.
        """
        self.collect()
        with self._lock:
            self._time_starts()
            first = 0
            if since_ns is not None and self._read_at_ns:
                before = bisect_left(self._read_at_ns, since_ns)
                first = self._read_spans[before - 1] if before else 0
            spans = {name: column[first:] for name, column in self._spans.items()}
            for waiting in self._waiting.values():
                for span in waiting:
                    _append(spans, span)
            references = {name: array(typecode) for name, typecode in REFERENCE_COLUMNS.items()}
            for clock in self._clocks.values():
                clock.append_references(references)
            return DeviceTimes(**spans, **references, uuids=self.uuids())

    def forget_before(self, time_ns: int) -> None:
        """Forget the edges of windows that had been read before a time of the host."""
        with self._lock:
            for clock in self._clocks.values():
                clock.forget_before(time_ns)
            before = bisect_left(self._read_at_ns, time_ns)
            if not before:
                return
            spans = self._read_spans[before - 1]
            self.forgotten += spans
            for column in self._spans.values():
                del column[:spans]
            # What was read at the last of these times is still here.
            del self._read_at_ns[: before - 1], self._read_spans[: before - 1]
            self._read_spans = array("q", [count - spans for count in self._read_spans])

    def news(self, spans: int, references: Mapping[int, int]) -> DeviceTimes:
        """Return what has been read since there were so many spans, and references of each device."""
        with self._lock:
            first = max(0, spans - self.forgotten)
            new = {name: column[first:] for name, column in self._spans.items()}
            columns = {name: array(typecode) for name, typecode in REFERENCE_COLUMNS.items()}
            for number, clock in self._clocks.items():
                clock.append_references(columns, references.get(number, 0))
            return DeviceTimes(**new, **columns, uuids=self.uuids())

    def end_ns(self, mark: Mark | None) -> int | None:
        """Return the host's time at which a device reached a mark, about; None if it has not yet.

        A mark that will never be read counts as reached at time 0.
        """
        if mark is None or self.failed:
            return 0
        if mark.device_ns == NOT_REACHED:
            return None
        return mark.reference.host_ns + mark.device_ns - mark.reference.device_ns

    def uuids(self) -> dict[int, str]:
        """Return the identities of the devices that windows were marked on, by number; empty if unknown."""
        return {number: clock.uuid or "" for number, clock in list(self._clocks.items())}

    def waiting(self) -> int:
        """Return how many pieces of windows the devices have not finished."""
        with self._lock:
            return len(self._queue) + sum(map(len, self._waiting.values()))

    def _in_capture(self, cuda: Cuda) -> bool:
        """Return whether this thread, if it is the program's, is capturing a graph."""
        # Asked about a device that the program does not use, CUDA would make a context on it.
        for number in self._clocks:
            with cuda.on_device(number):
                return cuda.capturing(cuda.current_stream())
        return True

    def _sort_queue(self) -> None:
        """Give what has been handed over to its streams."""
        while self._queue:
            span = self._queue.popleft()
            key = span.last.clock.number, span.last.stream
            self._waiting.setdefault(key, deque()).append(span)

    def _read_all(self, cuda: Cuda, most: int) -> None:
        """Time up to `most` spans of each stream that have been reached."""
        if not self._waiting:
            return
        now_ns, before = self._now_ns(), len(self._spans["ids"])
        for (number, stream), spans in list(self._waiting.items()):
            with cuda.on_device(number), beside_captures():
                self._read(cuda, spans, most)
            if not spans:
                del self._waiting[number, stream]
        if len(self._spans["ids"]) > before:
            self._read_at_ns.append(now_ns)
            self._read_spans.append(before)

    def _read(self, cuda: Cuda, spans: deque[_Span], most: int) -> None:
        for _ in range(min(most, len(spans))):
            span = spans[0]
            marks = [mark for mark in (span.start, span.end) if mark is not None and mark.event is not None]
            # The start comes first, if it is on the same stream.
            asked = marks if len({mark.stream for mark in marks}) > 1 else marks[-1:]
            if not all(cuda.done(mark.event) for mark in asked):
                return
            for mark in marks:
                self._time(cuda, mark)
            spans.popleft()
            _append(self._spans, span)

    def _time_starts(self) -> None:
        """Time the starts of spans whose ends have not been reached."""
        cuda = self._cuda
        if cuda is None or self.failed:
            return
        try:
            if self._in_capture(cuda):
                return
            for (number, _), spans in self._waiting.items():
                with cuda.on_device(number), beside_captures():
                    for mark in [span.start for span in spans]:
                        if mark is not None and mark.event is not None and cuda.done(mark.event):
                            self._time(cuda, mark)
        except Exception as error:  # whatever a driver raises must not reach the metered program
            self._fail(error)

    def _time(self, cuda: Cuda, mark: Mark) -> None:
        """Compute when a device reached a mark; its event can then be recorded again."""
        event = mark.event
        mark.device_ns = mark.reference.device_ns + max(0, mark.reference.elapsed_ns(cuda, event))
        mark.event = None
        mark.clock.free.append(event)

    def _fail(self, error: Exception) -> None:
        """Give up: what has been read stays, all else has host times."""
        with self._lock:
            self.failed = True
            self._queue.clear()
            self._waiting.clear()
        text = f"{type(error).__name__}: {error}"
        self._remark("window", f"CUDA events failed, so that windows have host times from here on: {text}")


def _append(columns: dict[str, array[int]], span: _Span) -> None:
    edges = [NOT_MARKED if mark is None else mark.device_ns for mark in (span.start, span.end)]
    values = (span.window_id, span.piece, span.last.clock.number, *edges)
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
