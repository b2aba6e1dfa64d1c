"""What NVML tells of a GPU's energy or power: the calls, and how often the sensors behind them refresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mlmeter.backends.nvml_errors import ZeroReadingError
from mlmeter.units import NANOSECONDS_PER_MICROSECOND

# Written out because old bindings lack some of the names (nvml.h; the numbers never change).
_FIELD_ENERGY = 83
_FIELD_POWER_INSTANT = 186
_FIELD_POWER_LIMIT = 190
_FIELD_ENERGY_SCOPED = 191
# Scopes of those fields: the GPU alone, or the module on which a CPU sits beside it (Grace Hopper).
_SCOPE_GPU = 0
_SCOPE_MODULE = 1

# Member of the value union of nvmlFieldValue_t for each nvmlValueType_t (nvml.h).
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class Shown(NamedTuple):
    """What one call gave: the raw value, and beside it instant power and the driver's time."""

    value: int
    power_milliwatts: int | None = None
    driver_time_ns: int | None = None


def _energy_and_power(nvml: Any, handle: Any) -> Shown:
    energy, power = nvml.nvmlDeviceGetFieldValues(handle, [_FIELD_ENERGY, _FIELD_POWER_INSTANT])
    milliwatts = _number(nvml, power) if power.nvmlReturn == 0 else None
    # A power of 0 is none: it would only make the counter look wrong.
    return Shown(_number(nvml, energy), milliwatts or None, _driver_time_ns(energy))


def _energy_millijoules(nvml: Any, handle: Any) -> Shown:
    return Shown(int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)))


def _instant_milliwatts(nvml: Any, handle: Any) -> Shown:
    (value,) = nvml.nvmlDeviceGetFieldValues(handle, [_FIELD_POWER_INSTANT])
    return Shown(_number(nvml, value), None, _driver_time_ns(value))


def _average_milliwatts(nvml: Any, handle: Any) -> Shown:
    return Shown(int(nvml.nvmlDeviceGetPowerUsage(handle)))


def _module_millijoules(nvml: Any, handle: Any) -> Shown:
    return _module_field(nvml, handle, _FIELD_ENERGY_SCOPED)


def _module_milliwatts(nvml: Any, handle: Any) -> Shown:
    return _module_field(nvml, handle, _FIELD_POWER_INSTANT)


def _module_field(nvml: Any, handle: Any, field: int) -> Shown:
    (value,) = nvml.nvmlDeviceGetFieldValues(handle, [(field, _SCOPE_MODULE)])
    return Shown(_number(nvml, value), None, _driver_time_ns(value))


def has_module(nvml: Any, handle: Any) -> bool:
    """Return whether the GPU sits on a module with a CPU whose power it tells.

    A driver that ignores the scope answers for the GPU: then both are the same, and there is none.
    """
    fields = [(_FIELD_POWER_INSTANT, _SCOPE_GPU), (_FIELD_POWER_INSTANT, _SCOPE_MODULE)]
    try:
        gpu, module = (_number(nvml, value) for value in nvml.nvmlDeviceGetFieldValues(handle, fields))
    # Old drivers and bindings know neither the fields nor scopes.
    except Exception:
        return False
    return module not in (0, gpu)


def module_limit_milliwatts(nvml: Any, handle: Any) -> int | None:
    """Return the power limit of the module; None if it is not told."""
    try:
        return _module_field(nvml, handle, _FIELD_POWER_LIMIT).value or None
    except Exception:
        return None


def _number(nvml: Any, value: Any) -> int:
    """Return the number of a field value, or raise its error."""
    # The call succeeds even if the field does not: each value has its own return code.
    if value.nvmlReturn != 0:
        raise nvml.NVMLError(value.nvmlReturn)
    return int(getattr(value.value, _VALUE_MEMBERS[value.valueType]))


def _driver_time_ns(value: Any) -> int | None:
    """Return the driver's time of a field value (microseconds since 1970); None if it gave none."""
    return int(value.timestamp) * NANOSECONDS_PER_MICROSECOND if value.timestamp > 0 else None


class Quantity(NamedTuple):
    """One way to meter a GPU: its name in messages, the call that reads it, whether it is a counter."""

    words: str
    read: Callable[[Any, Any], Shown]
    counter: bool = False

    def shown(self, nvml: Any, handle: Any) -> Shown:
        """Return what the GPU shows now.

        Raises:
            ZeroReadingError: it shows 0, as dead sensors do.
            Exception: whatever NVML raises.
        """
        shown = self.read(nvml, handle)
        if shown.value == 0:
            raise ZeroReadingError
        return shown


ENERGY_AND_POWER = Quantity("energy counter", _energy_and_power, counter=True)
ENERGY = Quantity("energy counter", _energy_millijoules, counter=True)
POWER_INSTANT = Quantity("instant power", _instant_milliwatts)
POWER_USAGE = Quantity("power", _average_milliwatts)
# Best first: with power beside it, the counter can be checked.
QUANTITIES = (ENERGY_AND_POWER, ENERGY, POWER_INSTANT, POWER_USAGE)
MODULE_QUANTITIES = (
    Quantity("energy counter of the module", _module_millijoules, counter=True),
    Quantity("power of the module", _module_milliwatts),
)


class Timing(NamedTuple):
    """Refresh period of a generation's sensor and the time over which each power reading averages."""

    update_seconds: float
    instant_window_seconds: float
    usage_window_seconds: float


# By NVML's architecture number, as found on more than 70 boards (JimZeyuYang/GPU_Power_Benchmark,
# arXiv 2312.02741). First guesses: drivers differ.
_TIMINGS = {
    4: Timing(0.02, 0.01, 0.01),  # Pascal
    5: Timing(0.02, 0.01, 0.01),  # Volta
    6: Timing(0.1, 0.1, 0.1),  # Turing
    9: Timing(0.1, 0.025, 1.0),  # Hopper
}
_TIMING_GA100 = Timing(0.1, 0.025, 0.025)
_TIMING_DRIVER_530 = Timing(0.1, 0.1, 0.1)
# Ampere but GA100, Ada, newer and unknown: nvml.h says that PowerUsage is a mean over 1 s.
_TIMING_OTHER = Timing(0.1, 0.1, 1.0)


def timing_of(architecture: int | None, model_name: str | None, driver_version: str) -> Timing:
    """Return the sensor timing to start with."""
    words = (model_name or "").replace("-", " ").split()
    if architecture == 7 and not {"A100", "A800", "A30"}.isdisjoint(words):
        return _TIMING_GA100
    # This driver branch reports 0.1 s means where those before and after it report 1 s.
    if architecture in (7, 8) and driver_version.startswith("530."):
        return _TIMING_DRIVER_530
    return _TIMINGS.get(architecture or 0, _TIMING_OTHER)
