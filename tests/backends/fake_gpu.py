"""What a fake NVML library shows: boards, their slices, processes and powers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

FIELD_ENERGY = 83
FIELD_POWER_AVERAGE = 185
FIELD_POWER_INSTANT = 186
FIELD_POWER_LIMIT = 190
FIELD_ENERGY_SCOPED = 191

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeProcess:
    """A process on a board; `memory_bytes` is None where the driver does not tell."""

    pid: int
    memory_bytes: int | None = 0


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
        virtualization: NVML's mode; 2 is a vGPU.
        module_power_watts: of the module of CPU and GPU; None if there is none.
        module_counter_millijoules: its energy; None if it has no counter.
        ignores_scope: an old driver, which answers for the GPU whatever the scope is.
        temperature_celsius, sm_clock_megahertz, memory_clock_megahertz, throttle_reasons,
            persistence_mode, performance_state: as NVML shows them; None answers "Not Supported".
        compute_processes, graphics_processes: who uses the board; None answers "Not Supported".
        utilization: samples (process, microseconds since 1970, SM percent); None likewise.
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
    virtualization: int | None = 0
    module_power_watts: float | None = None
    module_counter_millijoules: int | None = None
    ignores_scope: bool = False
    temperature_celsius: int | None = 45
    sm_clock_megahertz: int | None = 1980
    memory_clock_megahertz: int | None = 2619
    throttle_reasons: int | None = 0
    persistence_mode: int | None = 1
    performance_state: int | None = 0
    compute_processes: tuple[FakeProcess, ...] | None = ()
    graphics_processes: tuple[FakeProcess, ...] | None = ()
    utilization: tuple[tuple[int, int, int], ...] | None = ()
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

    def milliwatts(self, seconds: float) -> float | None:
        """Return the instant power at a time; None if the board has no sensor."""
        return milli(self.power_now_watts(seconds)) if self.has_power else None

    def average_milliwatts(self, seconds: float) -> float | None:
        """Return the mean power at a time; None if the board has no sensor."""
        if self.has_power and self.average_power_watts is not None:
            return milli(self.average_power_watts)
        return self.milliwatts(seconds)

    def millijoules(self, seconds: float) -> int | None:
        """Return the energy counter at a time; None if there is none."""
        return self.counter_now_millijoules(seconds) if self.has_energy_counter else None

    def field(self, number: int, scope: int, seconds: float) -> float | None:
        """Return the value of a field; None if the board does not have it."""
        if number not in self.fields and scope == 0:
            return None
        if scope and not self.ignores_scope:
            module = {
                FIELD_POWER_INSTANT: milli(self.module_power_watts),
                FIELD_ENERGY_SCOPED: self.module_counter_millijoules,
            }
            return module.get(number) if scope == 1 else None
        if number in (FIELD_ENERGY, FIELD_ENERGY_SCOPED):
            return self.millijoules(seconds)
        if number == FIELD_POWER_INSTANT:
            return self.milliwatts(seconds)
        return self.average_milliwatts(seconds) if number == FIELD_POWER_AVERAGE else None


def milli(value: float | None) -> float | None:
    """Return thousandths; None for nothing."""
    return None if value is None else value * _MILLI_PER_UNIT
