"""A fake PyTorch, CuPy and GPU: work that is launched now and done later, by a clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlmeter.testing import FakeClock


@dataclass
class FakeStream:
    """Work launched on it is done in order."""

    device_index: int
    cuda_stream: int
    busy_until_ns: int = 0

    @property
    def device(self) -> SimpleNamespace:
        return SimpleNamespace(index=self.device_index)


@dataclass
class FakeGpu:
    """The state of CUDA: streams, their work, the clocks of the devices, and what was asked of it.

    Attributes:
        offset_ns, drift: the device's clock is (1 + drift) times the host's, plus the offset.
        spans: start and end of all work done, in host seconds.
        waits: how often the host waited for the device.
        error: raised by every call on events from now on.
        stuck: no event is reached from now on.
    """

    clock: FakeClock
    offset_ns: int = 7_000_000_000
    drift: float = 0.0
    call_ns: int = 0
    initialised: bool = True
    hip: str | None = None
    capturing: bool = False
    stuck: bool = False
    error: Exception | None = None
    device: int = 0
    waits: int = 0
    records_in_capture: int = 0
    events: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)
    streams: dict[int, FakeStream] = field(default_factory=dict)
    stream: FakeStream | None = None

    def current_stream(self) -> FakeStream:
        assert self.initialised, "asked for a stream before CUDA was initialised"
        if self.stream is not None and self.stream.device_index == self.device:
            return self.stream
        return self.streams.setdefault(self.device, FakeStream(self.device, 0))

    def launch(self, seconds: float, delay_seconds: float = 0.0) -> None:
        """Put work on the current stream and return at once."""
        stream, now = self.current_stream(), self.clock.now_ns()
        start = max(now, stream.busy_until_ns) + round(delay_seconds * 1e9)
        stream.busy_until_ns = start + round(seconds * 1e9)
        self.spans.append((start * 1e-9, stream.busy_until_ns * 1e-9))

    def new_stream(self, device: int, number: int) -> FakeStream:
        return FakeStream(device, number)

    def device_ms(self, host_ns: int) -> float:
        return (host_ns * (1 + self.drift) + self.offset_ns) * 1e-6

    def microjoules(self, now_ns: int, idle_watts: float = 50.0, busy_watts: float = 300.0) -> int:
        """Return what a counter of the GPU shows: it is busy while it works on anything."""
        now = now_ns * 1e-9
        busy = sum(max(0.0, min(end, now) - start) for start, end in self.spans)
        return int((idle_watts * now + (busy_watts - idle_watts) * busy) * 1e6)


class FakeEvent:
    """An event as PyTorch's; it belongs to the device that first records it."""

    def __init__(self, gpu: FakeGpu) -> None:
        gpu.events += 1
        self.gpu = gpu
        self.device: int | None = None
        self.at_ns: int | None = None

    def record(self, stream: FakeStream | None = None) -> None:
        self._call()
        stream = stream or self.gpu.current_stream()
        self.gpu.records_in_capture += self.gpu.capturing
        assert self.device in (None, stream.device_index), "an event was recorded on another device"
        self.device = stream.device_index
        self.at_ns = max(self.gpu.clock.now_ns(), stream.busy_until_ns)

    def query(self) -> bool:
        self._call()
        assert self.at_ns is not None
        return not self.gpu.stuck and self.gpu.clock.now_ns() >= self.at_ns

    def elapsed_time(self, end: FakeEvent) -> float:
        self._call()
        assert self.at_ns is not None
        assert end.at_ns is not None
        assert self.device == end.device, "events of two devices"
        assert self.gpu.clock.now_ns() >= max(self.at_ns, end.at_ns), "an event is not ready"
        # CUDA gives a float of 32 bits.
        return float(np.float32(self.gpu.device_ms(end.at_ns) - self.gpu.device_ms(self.at_ns)))

    def synchronize(self) -> None:
        self.gpu.waits += 1

    def _call(self) -> None:
        if self.gpu.error is not None:
            raise self.gpu.error
        self.gpu.clock.advance(self.gpu.call_ns * 1e-9)


def fake_torch(gpu: FakeGpu) -> Any:
    """A module `torch` on a fake GPU."""

    def event(*, enable_timing: bool = False) -> FakeEvent:
        assert enable_timing
        return FakeEvent(gpu)

    @contextmanager
    def device(number: int) -> Iterator[None]:
        before, gpu.device = gpu.device, number
        try:
            yield
        finally:
            gpu.device = before

    def synchronize() -> None:
        assert not gpu.capturing, "waiting ends a capture"
        gpu.waits += 1
        now = gpu.clock.now_ns()
        busy = max((s.busy_until_ns for s in gpu.streams.values()), default=now)
        gpu.clock.advance(max(0, busy - now) * 1e-9)

    cuda = SimpleNamespace(
        is_initialized=lambda: gpu.initialised,
        Event=event,
        Stream=lambda device, priority: gpu.new_stream(device, 99),
        current_stream=gpu.current_stream,
        is_current_stream_capturing=lambda: gpu.capturing,
        device=device,
        synchronize=synchronize,
    )
    return SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip=gpu.hip), __version__="2.9.0")


class CurrentStream:
    """CuPy's default stream: it knows no device."""

    def __init__(self, gpu: FakeGpu, stream: FakeStream) -> None:
        self.gpu, self.stream = gpu, stream
        self.ptr = stream.cuda_stream

    @property
    def device_index(self) -> int:
        return self.stream.device_index

    @property
    def busy_until_ns(self) -> int:
        return self.stream.busy_until_ns

    def is_capturing(self) -> bool:
        return self.gpu.capturing


def fake_cupy(gpu: FakeGpu) -> Any:
    """A module `cupy` on a fake GPU."""

    class Event(FakeEvent):
        def __init__(self) -> None:
            super().__init__(gpu)

        @property
        def done(self) -> bool:
            return self.query()

    class Device:
        def __init__(self, number: int) -> None:
            self.number, self.before = number, gpu.device

        def __enter__(self) -> None:
            self.before, gpu.device = gpu.device, self.number

        def __exit__(self, *error: object) -> None:
            gpu.device = self.before

    class Stream(FakeStream):
        def __init__(self, *, non_blocking: bool = False) -> None:
            assert non_blocking, "a blocking stream waits for the default one"
            super().__init__(gpu.device, 98)

    cuda = SimpleNamespace(
        Event=Event,
        Stream=Stream,
        Device=Device,
        get_current_stream=lambda: CurrentStream(gpu, gpu.current_stream()),
        get_elapsed_time=lambda start, end: start.elapsed_time(end),
        runtime=SimpleNamespace(getDevice=lambda: gpu.device, deviceSynchronize=lambda: None),
    )
    return SimpleNamespace(cuda=cuda, __version__="14.0.0")
