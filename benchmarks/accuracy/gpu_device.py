"""A real NVIDIA GPU: NVML is only read, and loads are matrix products of torch.

Nothing here changes clocks, limits or modes.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

# Written out because old bindings lack the names (nvml.h; the numbers never change).
FIELD_ENERGY, FIELD_POWER_INSTANT = 83, 186
TOTAL_POWER_SAMPLES = 0
# Member of the value union of nvmlFieldValue_t for each nvmlValueType_t.
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
# Boards exceed their limit for tens of milliseconds.
HIGHEST_POWER_PER_LIMIT, DEFAULT_MAX_WATTS = 1.5, 1500.0
MATRIX_SIZE, WARM_UP_KERNELS = 4096, 8
# Kernels are launched in batches of about so long, and half load pauses for as long again.
BATCH_SECONDS = 0.5e-3
HALF_LOAD_SECONDS = 2e-3
SPIN_SECONDS = 1e-3

Span = tuple[float, float]


class Sample(NamedTuple):
    """One read of counter and power.

    Attributes:
        begin, end: seconds of the device's clock before and after the call.
        wall: time of day at `begin`, seconds since 1970.
        millijoules, milliwatts: energy counter and instant power; None if not supported.
        stamp_microseconds: the driver's time stamp of the energy.
        latency_microseconds: what the driver says that reading it took.
    """

    begin: float
    end: float
    wall: float
    millijoules: int | None
    milliwatts: int | None
    stamp_microseconds: int
    latency_microseconds: int


class Load(Protocol):
    """A load that was asked for."""

    def finish(self) -> list[Span]:
        """Wait for its end and return when it was on."""


class Gpu(Protocol):
    """What the experiments ask of a GPU, real or simulated."""

    simulated: bool
    no_load_reason: str
    facts: dict[str, str]
    max_watts: float

    def now(self) -> float: ...
    def sleep_until(self, seconds: float) -> None: ...
    def read(self) -> Sample: ...
    def play(self, spans: Sequence[Span], strength: float = 1.0) -> Load: ...
    def power_ring(self) -> list[tuple[float, float]]: ...
    def state(self) -> str: ...
    def close(self) -> None: ...


class NoGpuError(Exception):
    """There is no NVIDIA GPU that can be read."""


class NvidiaGpu:
    """Reads one GPU through NVML.

    Raises:
        NoGpuError: bindings, driver or GPU are missing, or it has no energy counter.
    """

    simulated = False

    def __init__(self, index: int) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        # Bindings, library, driver and device fail with errors of their own.
        except Exception as error:
            raise NoGpuError(f"{type(error).__name__}: {error}") from error
        self._nvml = pynvml
        if self.read().millijoules is None:
            raise NoGpuError("the GPU has no energy counter")
        limit = self._answer(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1e3)
        self.max_watts = limit * HIGHEST_POWER_PER_LIMIT if limit else DEFAULT_MAX_WATTS
        self._torch, self.no_load_reason = _torch_with_cuda()
        self._kernels = None if self._torch is None else self._kernels_of(index)
        self.facts = self._facts()

    def now(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.perf_counter()

    def sleep_until(self, seconds: float) -> None:
        """Sleep, at least so long that other threads get their turn."""
        time.sleep(max(seconds - time.perf_counter(), 0.0))

    def read(self) -> Sample:
        """Read counter and instant power in one call; each field has its own return code."""
        wall, begin = time.time(), time.perf_counter()
        energy, power = self._nvml.nvmlDeviceGetFieldValues(self._handle, [FIELD_ENERGY, FIELD_POWER_INSTANT])
        end = time.perf_counter()
        return Sample(
            begin, end, wall, _value(energy), _value(power), int(energy.timestamp), int(energy.latencyUsec)
        )

    def play(self, spans: Sequence[Span], strength: float = 1.0) -> Load:
        """Multiply matrices in these spans, in a thread.

        Args:
            spans: start and end of each in seconds of `now`; ahead and in order.
            strength: 1 for kernels without pause, less for pauses between them.
        """
        if self._kernels is None:
            raise RuntimeError(self.no_load_reason)
        return _TorchLoad(self._kernels, spans, strength)

    def power_ring(self) -> list[tuple[float, float]]:
        """Return wall time in seconds and watts of the power samples that the driver keeps."""
        _, samples = self._nvml.nvmlDeviceGetSamples(self._handle, TOTAL_POWER_SAMPLES, 0)
        return [(sample.timeStamp / 1e6, sample.sampleValue.uiVal / 1e3) for sample in samples]

    def state(self) -> str:
        """Return performance state and clock."""
        nvml, handle = self._nvml, self._handle
        state = self._answer(lambda: nvml.nvmlDeviceGetPerformanceState(handle))
        clock = self._answer(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        return f"P{state}, {clock} MHz"

    def close(self) -> None:
        """Leave NVML."""
        with contextlib.suppress(Exception):
            self._nvml.nvmlShutdown()

    def _kernels_of(self, index: int) -> _Kernels | None:
        """Find the GPU among those that torch sees, which CUDA may number otherwise."""
        uuid, cuda = str(self._nvml.nvmlDeviceGetUUID(self._handle)), self._torch.cuda
        seen = [str(getattr(cuda.get_device_properties(k), "uuid", "")) for k in range(cuda.device_count())]
        same = [k for k, known in enumerate(seen) if known and known in uuid]
        if not same and len(seen) == 1 == self._nvml.nvmlDeviceGetCount():
            same = [0]
        if not same:
            self.no_load_reason = f"torch does not tell which of its GPUs is number {index} of NVML"
            return None
        try:
            return _Kernels(self._torch, self._torch.device("cuda", same[0]))
        # Such as no memory left, or a build of torch that does not know this GPU.
        except RuntimeError as error:
            self.no_load_reason = f"torch cannot run kernels ({error})"
            return None

    def _facts(self) -> dict[str, str]:
        nvml, handle = self._nvml, self._handle
        questions: dict[str, Callable[[], Any]] = {
            "device": lambda: nvml.nvmlDeviceGetName(handle),
            "driver": lambda: str(nvml.nvmlSystemGetDriverVersion()),
            "NVML": lambda: str(nvml.nvmlSystemGetNVMLVersion()),
            "persistence mode": lambda: ("off", "on")[nvml.nvmlDeviceGetPersistenceMode(handle)],
            "MIG mode": lambda: ("off", "on")[nvml.nvmlDeviceGetMigMode(handle)[0]],
            "power limit": lambda: f"{nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3:g} W",
            "torch": lambda: self._torch.__version__ if self._torch else self.no_load_reason,
            "system": platform.platform,
        }
        answers = {name: self._answer(question) for name, question in questions.items()}
        return {name: "unknown" if answer is None else str(answer) for name, answer in answers.items()}

    def _answer(self, question: Callable[[], Any]) -> Any:
        """Return what an optional call gives; None if driver, GPU or bindings do not know it."""
        try:
            return question()
        except Exception:
            return None


class _Kernels:
    """Matrix products in batches of about BATCH_SECONDS."""

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch, self._device = torch, device
        self._matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=torch.float16)
        self._product = torch.empty_like(self._matrix)
        # The first ones load the library.
        self._kernels = WARM_UP_KERNELS
        self.run_batch()
        begin = time.perf_counter()
        self.run_batch()
        kernel_seconds = (time.perf_counter() - begin) / WARM_UP_KERNELS
        self._kernels = max(1, round(BATCH_SECONDS / kernel_seconds))

    def run_batch(self) -> None:
        """Run one batch to its end."""
        for _ in range(self._kernels):
            self._torch.matmul(self._matrix, self._matrix, out=self._product)
        self._torch.cuda.synchronize(self._device)


class _TorchLoad:
    """Runs kernels on time."""

    def __init__(self, kernels: _Kernels, spans: Sequence[Span], strength: float) -> None:
        self._kernels, self._strength = kernels, strength
        self._error: Exception | None = None
        self._played: list[Span] = []
        self._thread = threading.Thread(target=self._run, args=(list(spans),), daemon=True)
        self._thread.start()

    def finish(self) -> list[Span]:
        """Wait for the end and return when kernels ran.

        Raises:
            RuntimeError: the load could not be run.
        """
        self._thread.join()
        if self._error is not None:
            raise RuntimeError(f"the load failed: {self._error}") from self._error
        return self._played

    def _run(self, spans: list[Span]) -> None:
        try:
            for start, end in spans:
                time.sleep(max(start - SPIN_SECONDS - time.perf_counter(), 0.0))
                while time.perf_counter() < start:
                    pass
                begin = time.perf_counter()
                self._keep_busy(end)
                self._played.append((begin, time.perf_counter()))
        # A thread's error would be printed and lost.
        except Exception as error:
            self._error = error

    def _keep_busy(self, end: float) -> None:
        busy_since = time.perf_counter()
        while (now := time.perf_counter()) < end:
            if self._strength < 1 and now - busy_since >= HALF_LOAD_SECONDS:
                time.sleep(HALF_LOAD_SECONDS * (1 / self._strength - 1))
                busy_since = time.perf_counter()
            self._kernels.run_batch()


def _value(field: Any) -> int | None:
    """Return a field's value; the call succeeds even if the field does not."""
    if field.nvmlReturn != 0:
        return None
    return int(getattr(field.value, VALUE_MEMBERS[field.valueType]))


def _torch_with_cuda() -> tuple[Any, str]:
    """Return torch, or None and why loads cannot be run."""
    try:
        import torch
    except Exception as error:
        return None, f"torch cannot be imported ({type(error).__name__}: {error})"
    if not torch.cuda.is_available():
        return None, "torch sees no CUDA"
    return torch, ""
