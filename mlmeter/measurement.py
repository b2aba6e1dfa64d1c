"""The values that flow through the meter: domains, readings, energies, events.

Raw readings are integers with the times of their read call. What a count is worth, where
the counter wraps and how good the figure is belong to the `Domain`, so that every joule
of a report can be recomputed from the readings.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

KINDS = ("cpu", "dram", "gpu", "psys", "machine", "other")
# psys and whole-machine sensors contain the components, so only components are summed; of other
# sensors (a rail, a module) nobody knows what else contains them.
COUNTED_KINDS = ("cpu", "dram", "gpu")


class Provenance(enum.StrEnum):
    """Where a number comes from, from best to worst."""

    MEASURED = "measured"  # difference of a hardware energy counter
    DERIVED = "derived"  # measured power integrated over time, or energy attributed by shares
    ESTIMATED = "estimated"  # a formula; nothing was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One thing whose energy is counted: a CPU package, its DRAM, a GPU.

    Exactly one of `joules_per_count` (a cumulative counter) and `watts_per_count` (a
    gauge of instantaneous power) is set.

    Attributes:
        name: short name within a session, such as ``"package-0"`` or ``"gpu-0"``.
        id: stable identity of the device: a GPU's UUID, ``"rapl:package-0"``.
        kind: one of `KINDS`.
        source: name of the backend that reads it.
        provenance: what its energies are worth; those of a gauge are `derived` at best.
        joules_per_count: value of one count of a counter.
        watts_per_count: value of one count of a gauge.
        power_watts_per_count: value of one count of the power that a counter's readings carry
            beside it (`Reading.power_counts`); None if they carry none.
        modulus: counts after which the counter starts again at 0; None if it never does.
        update_period_seconds: mean time between refreshes of the hardware value, so far as
            is known beforehand.
        averaging_window_seconds: time over which a gauge averages; 0 for an instant value.
        cheap_read: a read costs microseconds, so windows may read it at their edges.
        parent: name of the domain that contains this one. A domain with a parent is
            reported but never added to a total.
        uuid: vendor's identity where there is one.
        model_name: product name where there is one.
        max_power_watts: a power that the domain cannot exceed, or None if unknown. It
            tells a wrap from a reset and bounds what is not resolved.
        interval_low_ratio, interval_high_ratio: 95 % factors for an estimate: the truth
            lies between value * low and value * high. 1 for anything measured.
        shared: the device serves others too and cannot be split (MIG).
    """

    name: str
    id: str
    kind: str
    source: str
    provenance: Provenance
    update_period_seconds: float
    joules_per_count: float | None = None
    watts_per_count: float | None = None
    power_watts_per_count: float | None = None
    modulus: int | None = None
    averaging_window_seconds: float = 0.0
    cheap_read: bool = False
    parent: str | None = None
    uuid: str | None = None
    model_name: str | None = None
    max_power_watts: float | None = None
    interval_low_ratio: float = 1.0
    interval_high_ratio: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        # Text is accepted, but everything else may rely on the enumeration.
        object.__setattr__(self, "provenance", Provenance(self.provenance))
        # Power says nothing about the time between two readings: its integral is not measured.
        if self.watts_per_count is not None and self.provenance is Provenance.MEASURED:
            object.__setattr__(self, "provenance", Provenance.DERIVED)
        if (self.joules_per_count is None) == (self.watts_per_count is None):
            raise ValueError(f"domain {self.name}: set joules_per_count or watts_per_count, not both")
        if self.kind not in KINDS:
            raise ValueError(f"domain {self.name}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.modulus is not None and self.modulus <= 0:
            raise ValueError(f"domain {self.name}: modulus must be positive, not {self.modulus}")

    @property
    def counted(self) -> bool:
        """Whether the domain is part of the session's total (nothing is counted twice)."""
        return self.parent is None and self.kind in COUNTED_KINDS

    @property
    def resolution_joules(self) -> float | None:
        """Energy of one count; None for a gauge."""
        return self.joules_per_count


class Reading(NamedTuple):
    """One raw integer of one domain, with the monotonic times just before and after the read.

    Attributes:
        position: of the domain in what the backend's `open` returned.
        value: the raw count.
        begin_ns, end_ns: `time.perf_counter_ns` before and after the read call.
        power_counts: instant power from the same call, if a counter gives that too.
        driver_time_ns: the driver's own time stamp of the value, nanoseconds since 1970.
    """

    position: int
    value: int
    begin_ns: int
    end_ns: int
    power_counts: int | None = None
    driver_time_ns: int | None = None


class Failure(NamedTuple):
    """A domain that could not be read this time.

    Attributes:
        position: of the domain in what the backend's `open` returned.
        reason: what happened, in words.
        lost: True if the device is gone; False if the next read may succeed.
        at_ns: monotonic time of the attempt.
    """

    position: int
    reason: str
    lost: bool
    at_ns: int


class GpuUse(NamedTuple):
    """One process that uses a GPU.

    Attributes:
        pid: its number, as the host counts processes.
        sm_share: time in which its kernels ran / time, since it was last asked, 0 to 1; None where
            the driver does not tell.
    """

    pid: int
    sm_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """A source that gave nothing, and why: absent numbers are explained, never 0."""

    source: str
    kinds: tuple[str, ...]
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a reader of the session's numbers must know.

    Attributes:
        time_seconds: seconds since the session started.
        kind: one word: ``reset``, ``gap``, ``lost``, ``stuck``, ``suspend``, ``clock``,
            ``unavailable``, ``estimate``, ``note``, ``cross-check`` or ``window``.
        domain: name of the domain concerned, or None.
        message: one sentence for people.
    """

    time_seconds: float
    kind: str
    domain: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """An amount of energy and what is known about it.

    Attributes:
        energy_joules: best value; None if nothing could be read.
        low_joules, high_joules: interval that holds the truth (95 % or better).
        sigma_statistical_joules, sigma_systematic_joules: standard uncertainties (GUM);
            None where not evaluated.
        provenance: None if nothing could be read.
        method: how the value was made, such as ``"counter_edges"``.
        resolved: False if the span is too short for the sensor: read the interval then.
        coverage_ratio: metered time / time asked for.
    """

    energy_joules: float | None
    low_joules: float | None = None
    high_joules: float | None = None
    sigma_statistical_joules: float | None = None
    sigma_systematic_joules: float | None = None
    provenance: Provenance | None = None
    method: str | None = None
    resolved: bool = False
    coverage_ratio: float = 0.0

    def __str__(self) -> str:
        if self.energy_joules is None:
            return "no energy reading"
        interval = f"[{self.low_joules:.4g}, {self.high_joules:.4g}] J"
        if not self.resolved:
            return f"unresolved, in {interval} ({self.provenance})"
        return f"{self.energy_joules:.4g} J, in {interval} ({self.provenance})"
