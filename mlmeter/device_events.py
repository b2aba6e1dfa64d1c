"""Edges of windows on a GPU: events that are recorded in passing and read when they have been reached.

GPU work is asynchronous: a window of the host ends when its work has been launched, not when it
is done. An event is put behind the work that was launched before each edge of a window, without
waiting. The sampler's thread asks later whether the device has reached it, and when.

A device has a clock of its own, known only as milliseconds between two of its events, in single
precision. So about once a second a reference is taken: an event on an idle stream, with the
host's time before and after. An event is timed from the reference before it; references tie the
device's clock to the host's (`mlmeter.energy.device_spans`).
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from mlmeter.cuda import Cuda, beside_captures, device_uuid, initialised_cuda
from mlmeter.device_times import NOT_MARKED, NOT_REACHED, REFERENCE_COLUMNS, SPAN_COLUMNS, DeviceTimes

# Events of one device in use or kept for use: windows that the device has yet to reach need two each.
MOST_EVENTS = 10_000
# Spans that the program's own thread reads when all of them are in use.
RELIEF_SPANS = 64
REFERENCE_SECONDS = 1.0
# Single precision tells microseconds for so long. An idle device is left alone until work is
# launched on it again: to ask it would wake it.
REFERENCE_LONGEST_NS = 10_000_000_000
REFERENCE_TRIES = 3
# An idle stream answers in microseconds; one that does not is not idle.
REFERENCE_PATIENCE_NS = 2_000_000
REFERENCE_MOST_QUERIES = 2_000
# References that the host was kept from seeing in time are worse than the drift that they tell.
REFERENCE_WIDEST_RATIO = 4
REFERENCE_OLDEST_NS = 30_000_000_000
NANOSECONDS_PER_MILLISECOND = 1_000_000


class FunctionEdges:
    """The user's function, called at every edge."""

    waits = False

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def mark(self) -> Any:
        """Call the function, whatever it raises; True for the window: it has been waited for."""
        self._function()
        return True

    def submit(self, window_id: int, piece: int, start: Any, end: Any) -> None:
        """Do nothing: no marks are made."""


class WaitingEdges:
    """The current CUDA device, and results of JAX, waited for at every edge."""

    waits = True

    def __init__(self) -> None:
        self._cuda: Cuda | None = None

    def mark(self) -> Any:
        """Wait for the device; None where there is nothing to wait for or waiting would break a capture."""
        cuda = self._cuda
        if cuda is None:
            cuda = self._cuda = initialised_cuda()
        if cuda is None or cuda.capturing(cuda.current_stream()):
            return None
        cuda.synchronise()
        return True

    def submit(self, window_id: int, piece: int, start: Any, end: Any) -> None:
        """Do nothing: no marks are made."""


class Mark:
    """An event that was recorded at the edge of a window.

    Attributes:
        device_ns: when the device reached it, by its clock; `NOT_REACHED` until that is known.
        event: None once its time is known.
    """

    __slots__ = ("clock", "device_ns", "event", "reference", "stream")

    def __init__(self, clock: _DeviceClock, reference: _Reference, event: Any, stream: int) -> None:
        self.clock, self.reference, self.event, self.stream = clock, reference, event, stream
        self.device_ns = NOT_REACHED


class _Reference(NamedTuple):
    """An instant of which the times by the device's and by the host's clock are known."""

    event: Any
    device_ns: int
    host_ns: int


class _DeviceClock:
    """One device: its references and its events."""

    def __init__(self, number: int, uuid: str | None) -> None:
        self.number = number
        self.uuid = uuid
        self.reference: _Reference | None = None
        self.half_width_ns = 0
        self.tried_ns = 0
        # Whether events were recorded since the last try for a reference.
        self.used = False
        self.stream: Any = None
        self.free: list[Any] = []
        self.events = 0


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
        self._clocks: dict[int, _DeviceClock] = {}
        self._queue: deque[_Span] = deque()
        # Events of one stream are reached in order: only the first need be asked for.
        self._waiting: dict[tuple[int, int], deque[_Span]] = {}
        self._spans = {name: array(typecode) for name, typecode in SPAN_COLUMNS.items()}
        self._references = {name: array(typecode) for name, typecode in REFERENCE_COLUMNS.items()}
        # Host times up to which so many spans had been read, ascending.
        self._read_at_ns, self._read_spans = array("q"), array("q")
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
            if self._now_ns() - clock.tried_ns > REFERENCE_LONGEST_NS:
                self._refer_again(cuda, clock)
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

    def _new_clock(self, cuda: Cuda, number: int) -> _DeviceClock:
        """Take the first reference of a device, so that its first window is timed too."""
        with self._lock:
            clock = self._clocks.get(number)
            if clock is None:
                clock = self._clocks[number] = _DeviceClock(number, device_uuid(number))
                with cuda.on_device(number), beside_captures():
                    self._refer(cuda, clock)
            return clock

    def _refer_again(self, cuda: Cuda, clock: _DeviceClock) -> None:
        """Take a reference where the last one is too old for events to be timed from it."""
        with self._lock, cuda.on_device(clock.number), beside_captures():
            self._refer(cuda, clock, tries=1)

    def _free_event(self, cuda: Cuda, clock: _DeviceClock) -> Any:
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
                if cuda.capturing(cuda.current_stream()):
                    return
                self._read_all(cuda, MOST_EVENTS)
                for clock in list(self._clocks.values()):
                    if self._is_due(clock, final):
                        with cuda.on_device(clock.number), beside_captures():
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
            references = {name: column[:] for name, column in self._references.items()}
            return DeviceTimes(**spans, **references, uuids=self.uuids())

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
            if cuda.capturing(cuda.current_stream()):
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
        reference, event = mark.reference, mark.event
        elapsed_ns = round(cuda.elapsed_ms(reference.event, event) * NANOSECONDS_PER_MILLISECOND)
        mark.device_ns = reference.device_ns + max(0, elapsed_ns)
        mark.event = None
        mark.clock.free.append(event)

    # -- references --------------------------------------------------------------------------

    def _is_due(self, clock: _DeviceClock, final: bool) -> bool:  # noqa: FBT001  # of `collect`
        if clock.reference is None:
            return True
        age_ns = self._now_ns() - clock.tried_ns
        return clock.used and (final or age_ns >= REFERENCE_SECONDS * 1e9)

    def _refer(self, cuda: Cuda, clock: _DeviceClock, tries: int = REFERENCE_TRIES) -> None:
        """Take a reference: the narrowest of a few tries, none if the device does not answer at once."""
        clock.tried_ns, clock.used = self._now_ns(), False
        best: tuple[int, int, Any] | None = None
        for _ in range(tries):
            if clock.stream is None:
                clock.stream = cuda.own_stream(clock.number)
            event = cuda.new_event()
            before_ns = self._now_ns()
            event.record(clock.stream)
            if not self._answers(cuda, event, before_ns):
                # The program may have been given the same stream: take another one next time.
                clock.stream = None
                break
            width_ns = self._now_ns() - before_ns
            if best is None or width_ns < best[0]:
                best = width_ns, before_ns, event
        if best is not None:
            self._keep_reference(cuda, clock, best[1] + best[0] // 2, (best[0] + 1) // 2, best[2])

    def _answers(self, cuda: Cuda, event: Any, since_ns: int) -> bool:
        for _ in range(REFERENCE_MOST_QUERIES):
            if cuda.done(event):
                return True
            if self._now_ns() - since_ns > REFERENCE_PATIENCE_NS:
                break
        return False

    def _keep_reference(
        self, cuda: Cuda, clock: _DeviceClock, host_ns: int, half_width_ns: int, event: Any
    ) -> None:
        last, device_ns = clock.reference, 0
        if last is not None:
            wide = half_width_ns > REFERENCE_WIDEST_RATIO * max(clock.half_width_ns, 1)
            if wide and host_ns - last.host_ns < REFERENCE_OLDEST_NS:
                return
            elapsed_ms = cuda.elapsed_ms(last.event, event)
            device_ns = last.device_ns + round(elapsed_ms * NANOSECONDS_PER_MILLISECOND)
            if device_ns <= last.device_ns:
                return
        narrower = last is None or half_width_ns < clock.half_width_ns
        clock.half_width_ns = half_width_ns if narrower else clock.half_width_ns
        values = (clock.number, device_ns, host_ns, half_width_ns)
        for column, value in zip(self._references.values(), values, strict=True):
            column.append(value)
        clock.reference = _Reference(event, device_ns, host_ns)

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
