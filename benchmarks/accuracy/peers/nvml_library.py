"""A made-up libnvidia-ml.so.1 with one GPU, beneath the real pynvml of whatever tool loads it.

`install` makes ctypes give it out under that name. Its energy counter and its power are functions
of the clock and of the load of the run, so that parent and children of a tool see one GPU:

* the counter shows the exact energy at its last refresh, in millijoules;
* power is the mean of a short time before the last refresh, as boards of that age give it.

Only what the compared tools call is there; anything else is missing, as in an old driver.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load import NS, Machine, now_ns

VARIABLE = "MLMETER_BENCHMARK_GPU"
LIBRARY = "libnvidia-ml.so.1"
LONGEST_RUN_SECONDS = 900
FIRST_MILLIJOULES = 1_000_000_000
LIMIT_MILLIWATTS = 400_000
FIELD_ENERGY, FIELDS_POWER = 83, (185, 186)
TYPE_UINT, TYPE_ULONGLONG = 1, 3
SUCCESS, NOT_SUPPORTED, NOT_FOUND = 0, 3, 6


class Board:
    """The GPU: its counter and its power at the last refresh."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.machine = Machine(Path(settings["folder"]), settings["epoch_ns"])
        self.averaging_ns = round(settings["averaging_seconds"] * NS)
        chance = random.Random(settings["seed"])
        period, jitter = settings["period_seconds"], settings["jitter_seconds"]
        offset = chance.random() * period
        count = int(LONGEST_RUN_SECONDS / period)
        # The counter was refreshed before the epoch too.
        instants = (offset + k * period + chance.gauss(0, jitter) for k in range(-2, count))
        self.refreshes_ns = sorted(settings["epoch_ns"] + round(instant * NS) for instant in instants)

    def last_refresh_ns(self) -> int:
        """Return when the counter last changed."""
        return self.refreshes_ns[max(bisect_right(self.refreshes_ns, now_ns()) - 1, 0)]

    def millijoules(self) -> int:
        """Return what the counter shows."""
        return FIRST_MILLIJOULES + int(self.machine.joules(self.last_refresh_ns()) * 1e3)

    def milliwatts(self) -> int:
        """Return what a power reading shows."""
        end_ns = self.last_refresh_ns()
        joules = self.machine.joules(end_ns) - self.machine.joules(end_ns - self.averaging_ns)
        return round(joules / self.averaging_ns * NS * 1e3)


class Library:
    """What pynvml holds in place of a `ctypes.CDLL`."""

    def __init__(self, board: Board) -> None:
        number, text = _number, _text
        settings = board.settings
        self._functions: dict[str, Callable[..., Any]] = {
            "nvmlInitWithFlags": _nothing,
            "nvmlInit_v2": _nothing,
            "nvmlShutdown": _nothing,
            "nvmlErrorString": _error_string,
            "nvmlSystemGetDriverVersion": text("535.161.08"),
            "nvmlSystemGetCudaDriverVersion": number(lambda: 12_020),
            "nvmlDeviceGetCount_v2": number(lambda: 1),
            "nvmlDeviceGetHandleByIndex_v2": _handle,
            "nvmlDeviceGetHandleByUUID": _handle,
            "nvmlDeviceGetName": text(settings["name"]),
            "nvmlDeviceGetUUID": text("GPU-00002222-3333-4444-5555-666677778888"),
            "nvmlDeviceGetArchitecture": number(lambda: settings["architecture"]),
            "nvmlDeviceGetTotalEnergyConsumption": number(board.millijoules),
            "nvmlDeviceGetPowerUsage": number(board.milliwatts),
            "nvmlDeviceGetEnforcedPowerLimit": number(lambda: LIMIT_MILLIWATTS),
            "nvmlDeviceGetPowerManagementLimit": number(lambda: LIMIT_MILLIWATTS),
            "nvmlDeviceGetPowerManagementDefaultLimit": number(lambda: LIMIT_MILLIWATTS),
            "nvmlDeviceGetTemperature": number(lambda: 40),
            "nvmlDeviceGetComputeMode": number(lambda: 0),
            "nvmlDeviceGetMemoryInfo": _fields(total=80 << 30, free=79 << 30, used=1 << 30),
            "nvmlDeviceGetUtilizationRates": _fields(gpu=50, memory=10),
            "nvmlDeviceGetComputeRunningProcesses_v3": number(lambda: 0),
            "nvmlDeviceGetGraphicsRunningProcesses_v3": number(lambda: 0),
            "nvmlDeviceGetFieldValues": _field_values(board),
        }

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return self._functions[name]
        except KeyError:
            raise AttributeError(f"undefined symbol: {name}") from None


def _nothing(*arguments: Any) -> int:
    return SUCCESS


def _error_string(code: int) -> bytes:
    return b"error %d of the made-up NVML" % code


def _handle(which: Any, out: Any) -> int:
    index = getattr(which, "value", which)
    return NOT_FOUND if isinstance(index, int) and index > 0 else SUCCESS


def _number(value: Callable[[], int]) -> Callable[..., int]:
    """Return a function that writes a number through the reference that it is given."""

    def function(*arguments: Any) -> int:
        references = [item for item in arguments if hasattr(item, "_obj")]
        references[0]._obj.value = value()
        return SUCCESS

    return function


def _text(text: str) -> Callable[..., int]:
    def function(*arguments: Any) -> int:
        buffer = next(item for item in arguments if isinstance(item, ctypes.Array))
        buffer.value = text.encode()
        return SUCCESS

    return function


def _fields(**values: int) -> Callable[..., int]:
    def function(handle: Any, out: Any) -> int:
        for name, value in values.items():
            setattr(out._obj, name, value)
        return SUCCESS

    return function


def _field_values(board: Board) -> Callable[..., int]:
    def function(handle: Any, count: Any, out: Any) -> int:
        for field in getattr(out, "_obj", out):
            field.timestamp, field.nvmlReturn = now_ns() // 1_000, SUCCESS
            if field.fieldId == FIELD_ENERGY:
                field.valueType, field.value.ullVal = TYPE_ULONGLONG, board.millijoules()
            elif field.fieldId in FIELDS_POWER:
                field.valueType, field.value.uiVal = TYPE_UINT, board.milliwatts()
            else:
                field.nvmlReturn = NOT_SUPPORTED
        return SUCCESS

    return function


def install() -> None:
    """Give the library to whoever loads it with ctypes from now on, in this process."""
    library = Library(Board(json.loads(os.environ[VARIABLE])))
    real = ctypes.CDLL

    class Loader(real):  # type: ignore[valid-type,misc]
        def __new__(cls, name: Any = None, *arguments: Any, **keywords: Any) -> Any:
            return library if name == LIBRARY else real(name, *arguments, **keywords)

    ctypes.CDLL = Loader  # type: ignore[misc]
