"""A fake NVML library beneath the real `pynvml`: real bindings, real structures, no GPU.

`FakeNvml` takes the place of the shared library that `pynvml` loads. The bindings run their
own code: they "load" it, look its C functions up by name, call them through ctypes and turn
return codes into their own exceptions. A function that the fake lacks is missing, as it is
in an old driver.

    with FakeNvml([FakeGpu(power_watts=300.0)]) as nvml:
        nvml.fail("nvmlDeviceGetTotalEnergyConsumption", pynvml.NVML_ERROR_TIMEOUT, times=2)
        ...

Leaving the block puts `pynvml` back exactly as it was.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pynvml

from tests.backends.fake_gpu import FIELD_ENERGY, FakeGpu, gpu_uuid
from tests.backends.fake_nvml_calls import FUNCTIONS, unpack

__all__ = ["ENERGY_CALL", "ENERGY_FIELD", "FIELDS_CALL", "POWER_CALL", "FakeGpu", "FakeNvml", "gpu_uuid"]

ENERGY_CALL = "nvmlDeviceGetTotalEnergyConsumption"
POWER_CALL = "nvmlDeviceGetPowerUsage"
FIELDS_CALL = "nvmlDeviceGetFieldValues"
# How `FakeNvml.fail` names the energy counter of a driver that has field values.
ENERGY_FIELD = f"field:{FIELD_ENERGY}"

_NANOSECONDS_PER_SECOND = 1_000_000_000


@dataclass(slots=True)
class _Fault:
    """A call that returns an error: the `after`+1st to `after`+`times`th matching call."""

    function: str
    code: int
    gpu: int | None
    after: int
    times: float
    seen: int = 0

    def strikes(self, function: str, gpu: int | None) -> bool:
        if function != self.function or (self.gpu is not None and gpu != self.gpu):
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


@dataclass(slots=True)
class _PynvmlState:
    """What `pynvml` keeps in its module, to be put back."""

    cdll: Any
    library: Any
    sessions: int
    functions: dict[str, Any] = field(default_factory=dict)


class _Library:
    """What `pynvml` holds in place of a `ctypes.CDLL`: functions as attributes."""

    def __init__(self, nvml: FakeNvml) -> None:
        self._nvml = nvml

    def __getattr__(self, name: str) -> Any:
        return self._nvml.function_pointer(name)


class FakeNvml:
    """The NVML library of a machine with the given GPUs.

    Args:
        gpus: boards in NVML's order.
        now_ns: clock that the counters follow; their time 0 is the making of the fake.
        wall_ns: clock of the time stamps of field values, nanoseconds since 1970.
        driver_version: what nvidia-smi would show.
        load_error: raised when the bindings load the library; `OSError` is what a missing
            library raises.
        init_error: return code of nvmlInit.

    Attributes:
        gpus: the boards; change them at will.
        calls: number of calls by function name.
        sessions: nvmlInit calls less nvmlShutdown calls.
        on_call: called with the name of each function before it runs (advance a clock here
            to make a call slow); None for nothing.
    """

    def __init__(
        self,
        gpus: Sequence[FakeGpu] = (),
        *,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        wall_ns: Callable[[], int] = time.time_ns,
        driver_version: str = "570.86.15",
        load_error: Exception | None = None,
        init_error: int = pynvml.NVML_SUCCESS,
    ) -> None:
        self.gpus = list(gpus)
        for number, gpu in enumerate(self.gpus):
            gpu.uuid = gpu.uuid or gpu_uuid(number)
        self.driver_version = driver_version
        self.load_error = load_error
        self.init_error = init_error
        self.calls: Counter[str] = Counter()
        self.sessions = 0
        self.on_call: Callable[[str], None] | None = None
        self._now_ns = now_ns
        self.wall_ns = wall_ns
        self._start_ns = now_ns()
        self._faults: list[_Fault] = []
        self._removed: set[str] = set()
        self._broken: list[BaseException] = []
        self.texts: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._saved: _PynvmlState | None = None

    def __enter__(self) -> FakeNvml:
        self._saved = _PynvmlState(
            pynvml.CDLL, pynvml.nvmlLib, pynvml._nvmlLib_refcount, dict(pynvml._nvmlGetFunctionPointer_cache)
        )
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.CDLL = self._load
        pynvml.nvmlLib = None
        pynvml._nvmlLib_refcount = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved = self._saved
        assert saved is not None
        pynvml.CDLL = saved.cdll
        pynvml.nvmlLib = saved.library
        pynvml._nvmlLib_refcount = saved.sessions
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(saved.functions)
        self._saved = None
        # ctypes cannot pass an exception through C, so it is kept and told here.
        if self._broken and error is None:
            raise AssertionError("the fake NVML library is broken") from self._broken[0]

    def fail(
        self, function: str, code: int, *, gpu: int | None = None, after: int = 0, times: float = math.inf
    ) -> None:
        """Make calls return an error.

        Args:
            function: name of the C function, or ``"field:186"`` for one field value, whose own
                return code it then is.
            code: one of pynvml.NVML_ERROR_*.
            gpu: position of the board; None for all.
            after: calls that still succeed.
            times: calls that fail after those; for ever by default.
        """
        self._faults.append(_Fault(function, code, gpu, after, times))

    def clear_faults(self) -> None:
        """End all failures."""
        self._faults.clear()

    def remove(self, function: str) -> None:
        """Take a C function out of the library, as if the driver were older."""
        self._removed.add(function)
        pynvml._nvmlGetFunctionPointer_cache.pop(function, None)

    def replace_handles(self, gpu: int) -> None:
        """Make all handles of a board stale ("GPU is lost"); newly fetched ones work."""
        self.gpus[gpu].generation += 1

    def function_pointer(self, name: str) -> Any:
        """Return the C function of that name.

        Raises:
            AttributeError: there is none, which is what a `ctypes.CDLL` raises.
        """
        if name not in FUNCTIONS or name in self._removed:
            raise AttributeError(f"undefined symbol: {name}")
        method, result_type, argument_types = FUNCTIONS[name]

        def call(*arguments: Any) -> Any:
            try:
                return self._run(name, method, arguments)
            except BaseException as error:
                self._broken.append(error)
                return pynvml.NVML_ERROR_UNKNOWN

        return ctypes.CFUNCTYPE(result_type, *argument_types)(call)

    def _load(self, path: str) -> _Library:
        if self.load_error is not None:
            raise self.load_error
        return _Library(self)

    def _run(self, name: str, method: Callable[..., int], arguments: Sequence[Any]) -> int:
        self.calls[name] += 1
        if self.on_call is not None:
            self.on_call(name)
        if name == "nvmlErrorString":
            return method(self, *arguments)
        if self.sessions == 0 and name != "nvmlInitWithFlags":
            return int(pynvml.NVML_ERROR_UNINITIALIZED)
        code = self.fault(name, self._position(name, arguments))
        return code if code is not None else method(self, *arguments)

    def fault(self, function: str, gpu: int | None) -> int | None:
        """Count a call and return the error that it has to give; None for none."""
        # Every fault counts the call, also those that do not strike.
        struck = [fault.code for fault in self._faults if fault.strikes(function, gpu)]
        return struck[0] if struck else None

    def _position(self, name: str, arguments: Sequence[Any]) -> int | None:
        """Return which board a call is about."""
        if name == "nvmlDeviceGetHandleByIndex_v2":
            return int(arguments[0])
        if name == "nvmlDeviceGetHandleByUUID":
            wanted = arguments[0].decode()
            return next((number for number, gpu in enumerate(self.gpus) if gpu.uuid == wanted), None)
        takes_handle = name.startswith("nvmlDeviceGet") and name != "nvmlDeviceGetCount_v2"
        return unpack(arguments[0])[0] if takes_handle else None

    def seconds(self) -> float:
        """Return the time since the fake was made."""
        return (self._now_ns() - self._start_ns) / _NANOSECONDS_PER_SECOND
