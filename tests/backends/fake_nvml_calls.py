"""The C functions of the fake NVML library, by name. A missing feature is "Not Supported"."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pynvml

from tests.backends.fake_gpu import FakeGpu, FakeMigSlice, FakeProcess, milli

if TYPE_CHECKING:
    from tests.backends.fake_nvml import FakeNvml

_SUCCESS = int(pynvml.NVML_SUCCESS)
_NOT_SUPPORTED = int(pynvml.NVML_ERROR_NOT_SUPPORTED)
_SM_CLOCK, _MEMORY_CLOCK = 1, 2
_UINT = ctypes.c_uint
_LONG = ctypes.c_ulonglong
_POINTER = ctypes.c_void_p


def pack(position: int, mig_slice: int, generation: int) -> int:
    """Return a handle, which is never a null pointer."""
    return 0x1_0000_0000 | generation << 16 | mig_slice << 8 | position


def unpack(handle: int | None) -> tuple[int, int, int]:
    """Return position, MIG slice (0: the board itself) and generation of a handle."""
    bits = handle or 0
    return bits & 0xFF, bits >> 8 & 0xFF, bits >> 16 & 0xFFFF


# -- what several functions do ---------------------------------------------------------------


def _board(nvml: FakeNvml, handle: int) -> FakeGpu | int:
    """Return the board of a handle, or the error that the call has to return."""
    position, mig_slice, generation = unpack(handle)
    if position >= len(nvml.gpus) or generation != nvml.gpus[position].generation:
        return int(pynvml.NVML_ERROR_GPU_IS_LOST)
    # Energy, power and the like exist for the board only.
    return _NOT_SUPPORTED if mig_slice else nvml.gpus[position]


def _number_of(value: Callable[[FakeGpu, float], float | None], type_: Any = _UINT) -> Callable[..., int]:
    """Return a function that writes one number about a board; None is "Not Supported"."""

    def call(nvml: FakeNvml, handle: int, out: int) -> int:
        board = _board(nvml, handle)
        if isinstance(board, int):
            return board
        number = value(board, nvml.seconds())
        if number is None:
            return _NOT_SUPPORTED
        type_.from_address(out).value = int(number)
        return _SUCCESS

    return call


def _text_of(text: Callable[[FakeGpu], str]) -> Callable[..., int]:
    """Return a function that writes one text about a board."""

    def call(nvml: FakeNvml, handle: int, out: int, length: int) -> int:
        board = _board(nvml, handle)
        return board if isinstance(board, int) else _write_text(text(board), out, length)

    return call


def _write_text(text: str, out: int, length: int) -> int:
    raw = text.encode() + b"\0"
    if len(raw) > length:
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    ctypes.memmove(out, raw, len(raw))
    return _SUCCESS


def _give_handle(nvml: FakeNvml, position: int, mig_slice: int, out: int) -> int:
    _POINTER.from_address(out).value = pack(position, mig_slice, nvml.gpus[position].generation)
    return _SUCCESS


# -- the library -----------------------------------------------------------------------------


def _init(nvml: FakeNvml, flags: int) -> int:
    if nvml.init_error == pynvml.NVML_SUCCESS:
        nvml.sessions += 1
    return nvml.init_error


def _shutdown(nvml: FakeNvml) -> int:
    nvml.sessions -= 1
    return _SUCCESS


def _error_string(nvml: FakeNvml, code: int) -> int:
    text = nvml.texts.setdefault(code, ctypes.create_string_buffer(f"fake error {code}".encode()))
    return ctypes.addressof(text)


def _driver_version(nvml: FakeNvml, out: int, length: int) -> int:
    return _write_text(nvml.driver_version, out, length)


def _count(nvml: FakeNvml, out: int) -> int:
    _UINT.from_address(out).value = len(nvml.gpus)
    return _SUCCESS


# -- boards ----------------------------------------------------------------------------------


def _handle_by_index(nvml: FakeNvml, index: int, out: int) -> int:
    if index >= len(nvml.gpus):
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    return _give_handle(nvml, index, 0, out)


def _handle_by_uuid(nvml: FakeNvml, uuid: bytes, out: int) -> int:
    # Only full UUIDs are found, as in NVML.
    for position, gpu in enumerate(nvml.gpus):
        if gpu.uuid == uuid.decode():
            return _give_handle(nvml, position, 0, out)
    return int(pynvml.NVML_ERROR_NOT_FOUND)


def _uuid(nvml: FakeNvml, handle: int, out: int, length: int) -> int:
    position, mig_slice, _ = unpack(handle)
    if mig_slice:
        return _write_text((nvml.gpus[position].mig or ())[mig_slice - 1].uuid, out, length)
    board = _board(nvml, handle)
    return board if isinstance(board, int) else _write_text(board.uuid, out, length)


def _pci_info(nvml: FakeNvml, handle: int, out: int) -> int:
    board = _board(nvml, handle)
    if isinstance(board, int):
        return board
    info = pynvml.nvmlPciInfo_t.from_address(out)
    info.domain = 0
    info.bus = board.pci_bus if board.pci_bus is not None else unpack(handle)[0] + 1
    info.device = 0
    info.busId = f"{0:08X}:{info.bus:02X}:00.0".encode()
    return _SUCCESS


def _clock(nvml: FakeNvml, handle: int, kind: int, out: int) -> int:
    def megahertz(gpu: FakeGpu, seconds: float) -> float | None:
        return {_SM_CLOCK: gpu.sm_clock_megahertz, _MEMORY_CLOCK: gpu.memory_clock_megahertz}.get(kind)

    return _number_of(megahertz)(nvml, handle, out)


def _temperature(nvml: FakeNvml, handle: int, sensor: int, out: int) -> int:
    return _number_of(lambda gpu, seconds: gpu.temperature_celsius)(nvml, handle, out)


def _temperature_structure(nvml: FakeNvml, handle: int, address: int) -> int:
    board = _board(nvml, handle)
    if isinstance(board, int):
        return board
    if board.temperature_celsius is None:
        return _NOT_SUPPORTED
    pynvml.c_nvmlTemperature_v1_t.from_address(address).temperature = board.temperature_celsius
    return _SUCCESS


# -- energy and power ------------------------------------------------------------------------


def _field_values(nvml: FakeNvml, handle: int, count: int, address: int) -> int:
    board = _board(nvml, handle)
    if isinstance(board, int):
        return board
    for value in (pynvml.c_nvmlFieldValue_t * count).from_address(address):
        _fill_field(nvml, board, unpack(handle)[0], value)
    return _SUCCESS


def _fill_field(nvml: FakeNvml, board: FakeGpu, position: int, value: Any) -> None:
    """Write one field value, with its own type and return code."""
    number = board.field(value.fieldId, value.scopeId, nvml.seconds())
    value.timestamp = nvml.wall_ns() // 1_000
    value.latencyUsec = board.field_latency_microseconds
    scope = f":{value.scopeId}" if value.scopeId else ""
    fault = nvml.fault(f"field:{value.fieldId}{scope}", position)
    if fault is not None or number is None:
        value.nvmlReturn = _NOT_SUPPORTED if fault is None else fault
        return
    value.nvmlReturn = _SUCCESS
    if isinstance(number, int):
        value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        value.value.ullVal = number
    else:
        value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
        value.value.uiVal = int(number)


# -- MIG -------------------------------------------------------------------------------------


def _mig_mode(nvml: FakeNvml, handle: int, current: int, pending: int) -> int:
    call = _number_of(lambda gpu, seconds: 0 if gpu.mig is None else 1)
    return call(nvml, handle, current) or call(nvml, handle, pending)


def _mig_handle(nvml: FakeNvml, handle: int, index: int, out: int) -> int:
    board = _board(nvml, handle)
    if isinstance(board, int):
        return board
    if index >= len(board.mig or ()):
        return int(pynvml.NVML_ERROR_NOT_FOUND)
    return _give_handle(nvml, unpack(handle)[0], index + 1, out)


def _instance_of(number: Callable[[FakeMigSlice], int]) -> Callable[..., int]:
    """Return a function that writes one number of a slice."""

    def call(nvml: FakeNvml, handle: int, out: int) -> int:
        position, mig_slice, _ = unpack(handle)
        if not mig_slice:
            return _NOT_SUPPORTED
        _UINT.from_address(out).value = number((nvml.gpus[position].mig or ())[mig_slice - 1])
        return _SUCCESS

    return call


# -- processes -------------------------------------------------------------------------------


def _processes_of(
    processes: Callable[[FakeGpu], Sequence[FakeProcess] | None],
) -> Callable[..., int]:
    """Return a function that lists processes; the first call of the bindings asks how many there are."""

    def call(nvml: FakeNvml, handle: int, count: int, address: int | None) -> int:
        board = _board(nvml, handle)
        if isinstance(board, int):
            return board
        listed = processes(board)
        if listed is None:
            return _NOT_SUPPORTED
        room, _UINT.from_address(count).value = _UINT.from_address(count).value, len(listed)
        if address is None or room < len(listed):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE) if listed else _SUCCESS
        array = (pynvml.c_nvmlProcessInfo_v3_t * len(listed)).from_address(address)
        for entry, process in zip(array, listed, strict=True):
            entry.pid = process.pid
            unknown = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value
            entry.usedGpuMemory = unknown if process.memory_bytes is None else process.memory_bytes
        return _SUCCESS

    return call


def _utilization(nvml: FakeNvml, handle: int, address: int | None, count: int, since: int) -> int:
    board = _board(nvml, handle)
    if isinstance(board, int):
        return board
    if board.utilization is None:
        return _NOT_SUPPORTED
    newer = [sample for sample in board.utilization if sample[1] > since]
    if not newer:
        return int(pynvml.NVML_ERROR_NOT_FOUND)
    # The buffer of the driver holds old samples as well.
    samples = board.utilization
    _UINT.from_address(count).value = len(samples)
    if address is None:
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    array = (pynvml.c_nvmlProcessUtilizationSample_t * len(samples)).from_address(address)
    for entry, (pid, microseconds, percent) in zip(array, samples, strict=True):
        entry.pid, entry.timeStamp, entry.smUtil = pid, microseconds, percent
    return _SUCCESS


_OF_BOARD = (_POINTER, _POINTER)
_TEXT_OF_BOARD = (_POINTER, _POINTER, _UINT)
_LIST_OF_BOARD = (_POINTER, _POINTER, _POINTER)
_reasons = _number_of(lambda gpu, seconds: gpu.throttle_reasons, _LONG)

# C name: function and argument types; all return a code, but for the text of an error. Every pointer
# is an address.
FUNCTIONS: dict[str, tuple[Callable[..., int], Any, tuple[Any, ...]]] = {
    name: (function, _POINTER if name == "nvmlErrorString" else _UINT, arguments)
    for name, (function, arguments) in {
        "nvmlInitWithFlags": (_init, (_UINT,)),
        "nvmlShutdown": (_shutdown, ()),
        "nvmlErrorString": (_error_string, (_UINT,)),
        "nvmlSystemGetDriverVersion": (_driver_version, (_POINTER, _UINT)),
        "nvmlDeviceGetCount_v2": (_count, (_POINTER,)),
        "nvmlDeviceGetHandleByIndex_v2": (_handle_by_index, (_UINT, _POINTER)),
        "nvmlDeviceGetHandleByUUID": (_handle_by_uuid, (ctypes.c_char_p, _POINTER)),
        "nvmlDeviceGetUUID": (_uuid, _TEXT_OF_BOARD),
        "nvmlDeviceGetName": (_text_of(lambda gpu: gpu.name), _TEXT_OF_BOARD),
        "nvmlDeviceGetPciInfo_v3": (_pci_info, _OF_BOARD),
        "nvmlDeviceGetArchitecture": (_number_of(lambda gpu, seconds: gpu.architecture), _OF_BOARD),
        "nvmlDeviceGetVirtualizationMode": (
            _number_of(lambda gpu, seconds: gpu.virtualization),
            _OF_BOARD,
        ),
        "nvmlDeviceGetEnforcedPowerLimit": (
            _number_of(lambda gpu, seconds: milli(gpu.enforced_limit_watts)),
            _OF_BOARD,
        ),
        "nvmlDeviceGetPowerManagementLimit": (
            _number_of(lambda gpu, seconds: milli(gpu.management_limit_watts)),
            _OF_BOARD,
        ),
        "nvmlDeviceGetPersistenceMode": (_number_of(lambda gpu, seconds: gpu.persistence_mode), _OF_BOARD),
        "nvmlDeviceGetPerformanceState": (_number_of(lambda gpu, seconds: gpu.performance_state), _OF_BOARD),
        "nvmlDeviceGetCurrentClocksEventReasons": (_reasons, _OF_BOARD),
        "nvmlDeviceGetCurrentClocksThrottleReasons": (_reasons, _OF_BOARD),
        "nvmlDeviceGetClockInfo": (_clock, (_POINTER, _UINT, _POINTER)),
        "nvmlDeviceGetTemperature": (_temperature, (_POINTER, _UINT, _POINTER)),
        "nvmlDeviceGetTemperatureV": (_temperature_structure, _OF_BOARD),
        "nvmlDeviceGetTotalEnergyConsumption": (
            _number_of(lambda gpu, seconds: gpu.millijoules(seconds), _LONG),
            _OF_BOARD,
        ),
        "nvmlDeviceGetPowerUsage": (
            _number_of(lambda gpu, seconds: gpu.average_milliwatts(seconds)),
            _OF_BOARD,
        ),
        "nvmlDeviceGetFieldValues": (_field_values, (_POINTER, ctypes.c_int32, _POINTER)),
        "nvmlDeviceGetMigMode": (_mig_mode, _LIST_OF_BOARD),
        # Seven on the data-centre boards, whatever slices exist.
        "nvmlDeviceGetMaxMigDeviceCount": (
            _number_of(lambda gpu, seconds: 0 if gpu.mig is None else 7),
            _OF_BOARD,
        ),
        "nvmlDeviceGetMigDeviceHandleByIndex": (_mig_handle, (_POINTER, _UINT, _POINTER)),
        "nvmlDeviceGetGpuInstanceId": (_instance_of(lambda part: part.gpu_instance), _OF_BOARD),
        "nvmlDeviceGetComputeInstanceId": (_instance_of(lambda part: part.compute_instance), _OF_BOARD),
        "nvmlDeviceGetComputeRunningProcesses_v3": (
            _processes_of(lambda gpu: gpu.compute_processes),
            _LIST_OF_BOARD,
        ),
        "nvmlDeviceGetGraphicsRunningProcesses_v3": (
            _processes_of(lambda gpu: gpu.graphics_processes),
            _LIST_OF_BOARD,
        ),
        "nvmlDeviceGetProcessUtilization": (_utilization, (_POINTER, _POINTER, _POINTER, _LONG)),
    }.items()
}
