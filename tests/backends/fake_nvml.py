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

ENERGY_CALL = "nvmlDeviceGetTotalEnergyConsumption"
POWER_CALL = "nvmlDeviceGetPowerUsage"
FIELDS_CALL = "nvmlDeviceGetFieldValues"
FIELD_ENERGY = 83
FIELD_POWER_AVERAGE = 185
FIELD_POWER_INSTANT = 186
FIELD_ENERGY_SCOPED = 191
# How `FakeNvml.fail` names the energy counter of a driver that has field values.
ENERGY_FIELD = f"field:{FIELD_ENERGY}"

_SUCCESS = int(pynvml.NVML_SUCCESS)
_NANOSECONDS_PER_SECOND = 1_000_000_000
_MILLI_PER_UNIT = 1_000


def gpu_uuid(number: int) -> str:
    """Return a UUID for GPU `number`; those of different numbers differ in their fourth digit."""
    return f"GPU-{number:04x}2222-3333-4444-5555-666677778888"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeMigSlice:
    """One MIG device of a board."""

    uuid: str
    gpu_instance: int = 1
    compute_instance: int = 0


@dataclass(slots=True, kw_only=True)
class FakeGpu:
    """One board. Everything may be changed while the fake is in use.

    Attributes:
        uuid: empty for one made from the position in the list.
        pci_bus: bus number; None for the position in the list.
        architecture: NVML's number (7 Ampere, 9 Hopper); None answers "Not Supported".
        power_watts: power, constant or as a function of the seconds since the fake was made.
        energy_joules: energy counter as a function of those seconds; None integrates a
            constant power from `energy_start_joules` on.
        counter_millijoules: overrides both with a value that is set by hand.
        update_period_seconds: the counter shows its value at the last multiple of this; 0
            shows it at once.
        fields: numbers of the field values that the driver knows.
        field_latency_microseconds: how long the driver says that it took to get a field value.
        mig: slices; None if MIG mode is off.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = ""
    pci_bus: int | None = None
    architecture: int | None = 9
    enforced_limit_watts: float | None = 700.0
    management_limit_watts: float | None = 700.0
    power_watts: float | Callable[[float], float] = 300.0
    average_power_watts: float | None = None
    energy_joules: Callable[[float], float] | None = None
    energy_start_joules: float = 1_000_000.0
    counter_millijoules: int | None = None
    update_period_seconds: float = 0.0
    has_energy_counter: bool = True
    has_power: bool = True
    fields: frozenset[int] = frozenset({FIELD_ENERGY, FIELD_POWER_AVERAGE, FIELD_POWER_INSTANT})
    field_latency_microseconds: int = 5
    mig: tuple[FakeMigSlice, ...] | None = None
    # A handle from before the last `FakeNvml.replace_handles` is dead.
    generation: int = 0

    def power_now_watts(self, seconds: float) -> float:
        """Return the power at a time."""
        return self.power_watts(seconds) if callable(self.power_watts) else self.power_watts

    def counter_now_millijoules(self, seconds: float) -> int:
        """Return what the energy counter shows at a time."""
        if self.counter_millijoules is not None:
            return self.counter_millijoules
        if self.update_period_seconds > 0.0:
            seconds = math.floor(seconds / self.update_period_seconds) * self.update_period_seconds
        if self.energy_joules is not None:
            return math.floor(self.energy_joules(seconds) * _MILLI_PER_UNIT)
        if callable(self.power_watts):
            raise ValueError("a GPU whose power is a function needs energy_joules too")
        return math.floor((self.energy_start_joules + self.power_watts * seconds) * _MILLI_PER_UNIT)


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
        self._wall_ns = wall_ns
        self._start_ns = now_ns()
        self._faults: list[_Fault] = []
        self._removed: set[str] = set()
        self._broken: list[BaseException] = []
        self._texts: dict[int, ctypes.Array[ctypes.c_char]] = {}
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
        if name not in _FUNCTIONS or name in self._removed:
            raise AttributeError(f"undefined symbol: {name}")
        method, result_type, argument_types = _FUNCTIONS[name]

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
        code = self._fault(name, self._position(name, arguments))
        return code if code is not None else method(self, *arguments)

    def _fault(self, function: str, gpu: int | None) -> int | None:
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
        return _unpack(arguments[0])[0] if takes_handle else None

    def _seconds(self) -> float:
        return (self._now_ns() - self._start_ns) / _NANOSECONDS_PER_SECOND

    def _give_handle(self, position: int, mig_slice: int, out: int) -> int:
        handle = _pack(position, mig_slice, self.gpus[position].generation)
        ctypes.c_void_p.from_address(out).value = handle
        return _SUCCESS

    def _board(self, handle: int) -> FakeGpu | int:
        """Return the board of a handle, or the error that the call has to return."""
        position, mig_slice, generation = _unpack(handle)
        if position >= len(self.gpus) or generation != self.gpus[position].generation:
            return int(pynvml.NVML_ERROR_GPU_IS_LOST)
        # Energy, power and the like exist for the board only.
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED) if mig_slice else self.gpus[position]

    def _number(self, handle: int, out: Any, type_: Any, value: Callable[[FakeGpu], float | None]) -> int:
        """Write one number about a board; None is "Not Supported"."""
        board = self._board(handle)
        if isinstance(board, int):
            return board
        number = value(board)
        if number is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        type_.from_address(out).value = int(number)
        return _SUCCESS

    # The C functions. Addresses are integers; a missing feature is "Not Supported".

    def _init(self, flags: int) -> int:
        if self.init_error == pynvml.NVML_SUCCESS:
            self.sessions += 1
        return self.init_error

    def _shutdown(self) -> int:
        self.sessions -= 1
        return _SUCCESS

    def _error_string(self, code: int) -> int:
        text = self._texts.setdefault(code, ctypes.create_string_buffer(f"fake error {code}".encode()))
        return ctypes.addressof(text)

    def _driver_version(self, out: int, length: int) -> int:
        return _write_text(self.driver_version, out, length)

    def _count(self, out: int) -> int:
        ctypes.c_uint.from_address(out).value = len(self.gpus)
        return _SUCCESS

    def _handle_by_index(self, index: int, out: int) -> int:
        if index >= len(self.gpus):
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._give_handle(index, 0, out)

    def _handle_by_uuid(self, uuid: bytes, out: int) -> int:
        # Only full UUIDs are found, as in NVML.
        for position, gpu in enumerate(self.gpus):
            if gpu.uuid == uuid.decode():
                return self._give_handle(position, 0, out)
        return int(pynvml.NVML_ERROR_NOT_FOUND)

    def _uuid(self, handle: int, out: int, length: int) -> int:
        position, mig_slice, _ = _unpack(handle)
        if mig_slice:
            return _write_text((self.gpus[position].mig or ())[mig_slice - 1].uuid, out, length)
        board = self._board(handle)
        return board if isinstance(board, int) else _write_text(board.uuid, out, length)

    def _name(self, handle: int, out: int, length: int) -> int:
        board = self._board(handle)
        return board if isinstance(board, int) else _write_text(board.name, out, length)

    def _pci_info(self, handle: int, out: int) -> int:
        board = self._board(handle)
        if isinstance(board, int):
            return board
        info = pynvml.nvmlPciInfo_t.from_address(out)
        info.domain = 0
        info.bus = board.pci_bus if board.pci_bus is not None else _unpack(handle)[0] + 1
        info.device = 0
        info.busId = f"{0:08X}:{info.bus:02X}:00.0".encode()
        return _SUCCESS

    def _architecture(self, handle: int, out: int) -> int:
        return self._number(handle, out, ctypes.c_uint, lambda gpu: gpu.architecture)

    def _enforced_limit(self, handle: int, out: int) -> int:
        return self._number(handle, out, ctypes.c_uint, lambda gpu: _milli(gpu.enforced_limit_watts))

    def _management_limit(self, handle: int, out: int) -> int:
        return self._number(handle, out, ctypes.c_uint, lambda gpu: _milli(gpu.management_limit_watts))

    def _energy(self, handle: int, out: int) -> int:
        return self._number(handle, out, ctypes.c_ulonglong, self._counter)

    def _power_usage(self, handle: int, out: int) -> int:
        return self._number(handle, out, ctypes.c_uint, self._average_power)

    def _counter(self, gpu: FakeGpu) -> int | None:
        return gpu.counter_now_millijoules(self._seconds()) if gpu.has_energy_counter else None

    def _instant_power(self, gpu: FakeGpu) -> float | None:
        return _milli(gpu.power_now_watts(self._seconds())) if gpu.has_power else None

    def _average_power(self, gpu: FakeGpu) -> float | None:
        if gpu.has_power and gpu.average_power_watts is not None:
            return _milli(gpu.average_power_watts)
        return self._instant_power(gpu)

    def _field_values(self, handle: int, count: int, address: int) -> int:
        board = self._board(handle)
        if isinstance(board, int):
            return board
        for value in (pynvml.c_nvmlFieldValue_t * count).from_address(address):
            self._fill_field(board, _unpack(handle)[0], value)
        return _SUCCESS

    def _fill_field(self, board: FakeGpu, position: int, value: Any) -> None:
        """Write one field value, with its own type and return code."""
        number: float | None = None
        if value.fieldId in board.fields:
            if value.fieldId in (FIELD_ENERGY, FIELD_ENERGY_SCOPED):
                number = self._counter(board)
            elif value.fieldId == FIELD_POWER_INSTANT:
                number = self._instant_power(board)
            elif value.fieldId == FIELD_POWER_AVERAGE:
                number = self._average_power(board)
        value.timestamp = self._wall_ns() // 1_000
        value.latencyUsec = board.field_latency_microseconds
        fault = self._fault(f"field:{value.fieldId}", position)
        if fault is not None or number is None:
            value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED if fault is None else fault
            return
        value.nvmlReturn = _SUCCESS
        if value.fieldId in (FIELD_ENERGY, FIELD_ENERGY_SCOPED):
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = int(number)
        else:
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
            value.value.uiVal = int(number)

    def _mig_mode(self, handle: int, current: int, pending: int) -> int:
        for out in (current, pending):
            code = self._number(handle, out, ctypes.c_uint, lambda gpu: 0 if gpu.mig is None else 1)
            if code != pynvml.NVML_SUCCESS:
                return code
        return _SUCCESS

    def _max_mig_count(self, handle: int, out: int) -> int:
        # Seven on the data-centre boards, whatever slices exist.
        return self._number(handle, out, ctypes.c_uint, lambda gpu: 0 if gpu.mig is None else 7)

    def _mig_handle(self, handle: int, index: int, out: int) -> int:
        board = self._board(handle)
        if isinstance(board, int):
            return board
        if index >= len(board.mig or ()):
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        return self._give_handle(_unpack(handle)[0], index + 1, out)

    def _gpu_instance(self, handle: int, out: int) -> int:
        return self._instance(handle, out, lambda part: part.gpu_instance)

    def _compute_instance(self, handle: int, out: int) -> int:
        return self._instance(handle, out, lambda part: part.compute_instance)

    def _instance(self, handle: int, out: int, number: Callable[[FakeMigSlice], int]) -> int:
        position, mig_slice, _ = _unpack(handle)
        if not mig_slice:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        ctypes.c_uint.from_address(out).value = number((self.gpus[position].mig or ())[mig_slice - 1])
        return _SUCCESS


def _milli(value: float | None) -> float | None:
    return None if value is None else value * _MILLI_PER_UNIT


def _pack(position: int, mig_slice: int, generation: int) -> int:
    """Return a handle, which is never a null pointer."""
    return 0x1_0000_0000 | generation << 16 | mig_slice << 8 | position


def _unpack(handle: int | None) -> tuple[int, int, int]:
    """Return position, MIG slice (0: the board itself) and generation of a handle."""
    bits = handle or 0
    return bits & 0xFF, bits >> 8 & 0xFF, bits >> 16 & 0xFFFF


def _write_text(text: str, out: int, length: int) -> int:
    raw = text.encode() + b"\0"
    if len(raw) > length:
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    ctypes.memmove(out, raw, len(raw))
    return _SUCCESS


_UINT = ctypes.c_uint
_POINTER = ctypes.c_void_p
# C name: method, result and argument types. Every pointer is an address.
_FUNCTIONS: dict[str, tuple[Callable[..., int], Any, tuple[Any, ...]]] = {
    "nvmlInitWithFlags": (FakeNvml._init, _UINT, (_UINT,)),
    "nvmlShutdown": (FakeNvml._shutdown, _UINT, ()),
    "nvmlErrorString": (FakeNvml._error_string, _POINTER, (_UINT,)),
    "nvmlSystemGetDriverVersion": (FakeNvml._driver_version, _UINT, (_POINTER, _UINT)),
    "nvmlDeviceGetCount_v2": (FakeNvml._count, _UINT, (_POINTER,)),
    "nvmlDeviceGetHandleByIndex_v2": (FakeNvml._handle_by_index, _UINT, (_UINT, _POINTER)),
    "nvmlDeviceGetHandleByUUID": (FakeNvml._handle_by_uuid, _UINT, (ctypes.c_char_p, _POINTER)),
    "nvmlDeviceGetUUID": (FakeNvml._uuid, _UINT, (_POINTER, _POINTER, _UINT)),
    "nvmlDeviceGetName": (FakeNvml._name, _UINT, (_POINTER, _POINTER, _UINT)),
    "nvmlDeviceGetPciInfo_v3": (FakeNvml._pci_info, _UINT, (_POINTER, _POINTER)),
    "nvmlDeviceGetArchitecture": (FakeNvml._architecture, _UINT, (_POINTER, _POINTER)),
    "nvmlDeviceGetEnforcedPowerLimit": (FakeNvml._enforced_limit, _UINT, (_POINTER, _POINTER)),
    "nvmlDeviceGetPowerManagementLimit": (FakeNvml._management_limit, _UINT, (_POINTER, _POINTER)),
    ENERGY_CALL: (FakeNvml._energy, _UINT, (_POINTER, _POINTER)),
    POWER_CALL: (FakeNvml._power_usage, _UINT, (_POINTER, _POINTER)),
    FIELDS_CALL: (FakeNvml._field_values, _UINT, (_POINTER, ctypes.c_int32, _POINTER)),
    "nvmlDeviceGetMigMode": (FakeNvml._mig_mode, _UINT, (_POINTER, _POINTER, _POINTER)),
    "nvmlDeviceGetMaxMigDeviceCount": (FakeNvml._max_mig_count, _UINT, (_POINTER, _POINTER)),
    "nvmlDeviceGetMigDeviceHandleByIndex": (FakeNvml._mig_handle, _UINT, (_POINTER, _UINT, _POINTER)),
    "nvmlDeviceGetGpuInstanceId": (FakeNvml._gpu_instance, _UINT, (_POINTER, _POINTER)),
    "nvmlDeviceGetComputeInstanceId": (FakeNvml._compute_instance, _UINT, (_POINTER, _POINTER)),
}
