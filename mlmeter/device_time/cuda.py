"""CUDA events through a framework that the program has loaded itself: PyTorch or CuPy.

Nothing here imports a framework, initialises CUDA or makes a context: a framework counts only
once it is in `sys.modules` and has initialised CUDA. Everything that it may raise is the
caller's to catch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

# Driver library of a process that uses CUDA, and CU_STREAM_CAPTURE_MODE_RELAXED (cuda.h).
_DRIVER = "libcuda.so.1"
_CAPTURE_RELAXED = 2
# More GPUs than one machine has.
_MOST_DEVICES = 64
_drivers: list[Any] = []


class Cuda(Protocol):
    """What is needed of a framework; streams and events are its own objects."""

    name: str

    def current_stream(self) -> Any:
        """Return the stream that this thread launches work on."""

    def device_of(self, stream: Any) -> int:
        """Return the framework's number of the device of the current stream."""

    def identity_of(self, stream: Any) -> int:
        """Return a number of the stream that is its own on its device."""

    def capturing(self, stream: Any) -> bool:
        """Return whether what is launched on the current stream goes into a graph, and is not run."""

    def new_event(self) -> Any:
        """Return an event that keeps its time; it belongs to the device that first records it."""

    def done(self, event: Any) -> bool:
        """Return at once whether the device has reached an event."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events of one device that it has reached."""

    def own_stream(self, device: int) -> Any:
        """Return a stream that the program does not use and that waits for no other."""

    def on_device(self, device: int) -> AbstractContextManager[Any]:
        """Make a device the current one, as calls from a thread that has none need."""

    def synchronise(self) -> None:
        """Wait until the current device has done everything."""


class TorchCuda:
    """CUDA events of PyTorch."""

    name = "torch"

    def __init__(self, torch: Any) -> None:
        cuda = torch.cuda
        self._cuda = cuda
        self.current_stream: Callable[[], Any] = cuda.current_stream
        self.on_device: Callable[[int], AbstractContextManager[Any]] = cuda.device
        self.synchronise: Callable[[], None] = cuda.synchronize
        self._capturing: Callable[[], bool] = getattr(cuda, "is_current_stream_capturing", lambda: False)

    @staticmethod
    def initialised(torch: Any) -> bool:
        """Return whether PyTorch uses NVIDIA GPUs in this process; also while it is being imported."""
        cuda, version = getattr(torch, "cuda", None), getattr(torch, "version", None)
        asked = getattr(cuda, "is_initialized", None)
        # ROCm goes by the name of CUDA; its GPUs are not metered.
        return asked is not None and getattr(version, "hip", None) is None and bool(asked())

    def device_of(self, stream: Any) -> int:
        """Return the number of a stream's device."""
        return int(stream.device.index)

    def identity_of(self, stream: Any) -> int:
        """Return the address of a stream."""
        return int(stream.cuda_stream)

    def capturing(self, stream: Any) -> bool:  # noqa: ARG002  # PyTorch asks about the current one
        """Return whether the current stream is being captured, or may not be asked because of captures."""
        try:
            return self._capturing()
        except Exception:  # as of the default stream while one that it waits for is captured
            return True

    def new_event(self) -> Any:
        """Return an event that keeps its time."""
        return self._cuda.Event(enable_timing=True)

    def done(self, event: Any) -> bool:
        """Return whether the device has reached an event."""
        return bool(event.query())

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events."""
        return float(start.elapsed_time(end))

    def own_stream(self, device: int) -> Any:
        """Return a stream of the urgent ones, which programs seldom use."""
        return self._cuda.Stream(device=device, priority=-1)


class CupyCuda:
    """CUDA events of CuPy."""

    name = "cupy"

    def __init__(self, cupy: Any) -> None:
        cuda = cupy.cuda
        self._cuda = cuda
        self.current_stream: Callable[[], Any] = cuda.get_current_stream
        self.on_device: Callable[[int], AbstractContextManager[Any]] = cuda.Device
        self.synchronise: Callable[[], None] = cuda.runtime.deviceSynchronize

    @staticmethod
    def initialised(cupy: Any) -> bool:
        """Return whether CUDA runs in this process; CuPy does not say whether it started it."""
        return hasattr(getattr(cupy, "cuda", None), "get_current_stream") and cuda_runs()

    def device_of(self, stream: Any) -> int:  # noqa: ARG002  # the default stream has no number
        """Return the number of the current device, which the current stream is on."""
        return int(self._cuda.runtime.getDevice())

    def identity_of(self, stream: Any) -> int:
        """Return the address of a stream."""
        return int(stream.ptr)

    def capturing(self, stream: Any) -> bool:
        """Return whether a stream is being captured, or may not be asked because of captures."""
        try:
            return bool(stream.is_capturing())
        except Exception:  # as of the default stream while one that it waits for is captured
            return True

    def new_event(self) -> Any:
        """Return an event that keeps its time."""
        return self._cuda.Event()

    def done(self, event: Any) -> bool:
        """Return whether the device has reached an event."""
        return bool(event.done)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events."""
        return float(self._cuda.get_elapsed_time(start, end))

    def own_stream(self, device: int) -> Any:
        """Return a new stream."""
        with self.on_device(device):
            return self._cuda.Stream(non_blocking=True)


def initialised_cuda() -> Cuda | None:
    """Return the framework that has initialised CUDA, PyTorch first; None as long as none has."""
    for name, framework in (("torch", TorchCuda), ("cupy", CupyCuda)):
        module = sys.modules.get(name)
        if module is not None:
            # A version that lacks something is as good as none.
            with suppress(Exception):
                if framework.initialised(module):
                    return framework(module)
    return None


def cuda_runs() -> bool:
    """Return whether any device has a context of this process; loads and initialises nothing."""
    driver = _driver()
    if driver is None:
        return False
    import ctypes

    flags, active = ctypes.c_uint(), ctypes.c_int()
    for device in range(_MOST_DEVICES):
        # Without cuInit, and beyond the last device, the answer is an error.
        if driver.cuDevicePrimaryCtxGetState(device, ctypes.byref(flags), ctypes.byref(active)) != 0:
            return False
        if active.value:
            return True
    return False


def device_uuid(number: int) -> str | None:
    """Return the identity of a device as NVML spells it, ``GPU-...``; None if the driver does not tell.

    Of a slice of a GPU (MIG) it is the identity of the whole GPU.

    Args:
        number: the framework's number of the device, which is also the driver's.
    """
    driver = _driver()
    if driver is None:
        return None
    import ctypes

    handle, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGet(ctypes.byref(handle), number) or driver.cuDeviceGetUuid(uuid, handle):
        return None
    digits = bytes(uuid).hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@contextmanager
def beside_captures() -> Iterator[None]:
    """Keep the questions asked in the block from ending a capture of a graph on another thread.

    CUDA forbids every thread of a process to query events while one captures, unless the asking
    thread declares that it does not mean the capture: PyTorch's own watchdog had to learn it too
    (pytorch/pytorch pull request 148594).
    """
    driver = _driver()
    if driver is None:
        yield
        return
    import ctypes

    mode = ctypes.c_int(_CAPTURE_RELAXED)
    exchanged = driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
    try:
        yield
    finally:
        if exchanged:
            driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))


def _driver() -> Any:
    """Return the CUDA driver library if the process has loaded it; never loads it."""
    if not _drivers:
        import ctypes

        # Its calls are shorter than handing the interpreter to another thread and back: PyDLL.
        with suppress(OSError):
            _drivers.append(ctypes.PyDLL(_DRIVER, mode=os.RTLD_NOLOAD))
    return _drivers[0] if _drivers else None
