"""What else decides a GPU's power, noted at the start and the end of a session: clocks, heat, limits.

These calls can take the driver's lock for longer than those for energy, so the sampler never
makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlmeter.backends.nvml_boards import answer
from mlmeter.units import WATTS_PER_MILLIWATT

# nvmlTemperatureSensors_t and nvmlClockType_t.
_SENSOR_GPU = 0
_CLOCK_SM = 1
_CLOCK_MEMORY = 2
# nvmlClocksEventReasons: bit number to name.
_REASONS = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
    "board_limit",
    "reliability",
)


def state_of(nvml: Any, handle: Any) -> dict[str, Any]:
    """Return what a GPU tells of its present state; what it does not tell is left out.

    The keys are ``persistence_mode`` (whether the driver stays loaded without a program),
    ``performance_state`` (0 is the fastest), ``throttle_reasons`` (why the clocks are not
    higher; empty if nothing holds them back), ``temperature_celsius``, ``sm_clock_megahertz``,
    ``memory_clock_megahertz`` and ``power_limit_watts``.
    """
    questions: dict[str, Callable[[], Any]] = {
        "persistence_mode": lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle)),
        "performance_state": lambda: _performance_state(int(nvml.nvmlDeviceGetPerformanceState(handle))),
        "throttle_reasons": lambda: _reason_names(_reasons(nvml, handle)),
        "temperature_celsius": lambda: _temperature(nvml, handle),
        "sm_clock_megahertz": lambda: int(nvml.nvmlDeviceGetClockInfo(handle, _CLOCK_SM)),
        "memory_clock_megahertz": lambda: int(nvml.nvmlDeviceGetClockInfo(handle, _CLOCK_MEMORY)),
        "power_limit_watts": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) * WATTS_PER_MILLIWATT,
    }
    answers = {name: answer(question) for name, question in questions.items()}
    return {name: value for name, value in answers.items() if value is not None}


def _performance_state(number: int) -> int | None:
    # 32 is NVML's word for a state that it does not know.
    return number if number < 32 else None


def _temperature(nvml: Any, handle: Any) -> int:
    """Ask the function of newer drivers first; the older one is to be removed."""
    found = answer(lambda: int(nvml.nvmlDeviceGetTemperatureV(handle, _SENSOR_GPU)))
    return int(nvml.nvmlDeviceGetTemperature(handle, _SENSOR_GPU)) if found is None else int(found)


def _reasons(nvml: Any, handle: Any) -> int:
    """Ask under the name of newer drivers first."""
    found = answer(lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
    return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) if found is None else int(found)


def _reason_names(bits: int) -> list[str]:
    """Return the names of the bits that are set; bits without a name by their number."""
    names = dict(enumerate(_REASONS))
    return [names.get(bit, f"bit_{bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]
