"""Which part of a domain's energy belongs to this process and its children.

What is read, at the sampler's period and never on the metered program's path, are counters:
the CPU time of the process tree (this process and the children that it has waited for, all
living descendants, and those that ended without being waited for), and the busy and idle CPU
time of the machine. They are kept raw (`ProcessRows`), so that every share can be computed again.

From one reading to the next, with the energy E of a domain over d seconds, the CPU times of the
process tree P, of all processes B and of none I, a CPU's or its DRAM's energy has three parts::

    idle    = E - active
    process = active * P / B
    others  = active * (1 - P / B)

    active  = E * B / (B + I)              "cpu_time_of_capacity"
            = max(0, E - idle_watts * d)   "cpu_time_of_active", where the idle power is known

The first rule needs no baseline; it is Kepler's split by usage, in which a process pays for the
share of the machine's capacity that it takes. It calls too much idle: a half loaded CPU draws
more than half of its power. The second is the rule of measurements with a baseline. Neither
knows of clock rates, vector units or memory traffic: CPU time is what counts, not what it did.

A GPU that no process of others uses is the process tree's as a whole ("gpu_exclusive"). Where
others are on it, the share of time in which kernels of each process ran splits it likewise
("sm_time_of_capacity", with an idle power "sm_time_of_active"). Where nothing tells, the energy
is not attributed: it is a fourth part, with a reason, and never given to the process.

CPU time is told in ticks of 10 ms. That, and where inside an interval of readings a process
worked, is not known: `mlmeter.energy.process_parts` adds it to the intervals of energies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.process_rows import (
    ALONE,
    CPU_COLUMNS,
    GPU_COLUMNS,
    SHARED,
    TICK_NS,
    UNKNOWN,
    UNUSED,
    GpuRows,
    ProcessRows,
)
from mlmeter.units import SECONDS_PER_NANOSECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PARTS = ("process", "others", "idle", "unattributed")
PROCESS, OTHERS, IDLE, UNATTRIBUTED = range(4)
CPU_OF_CAPACITY, CPU_OF_ACTIVE = "cpu_time_of_capacity", "cpu_time_of_active"
SM_OF_CAPACITY, SM_OF_ACTIVE = "sm_time_of_capacity", "sm_time_of_active"
# Readings that are closer together than so many ticks are not told apart.
CLOSE_NS = 4 * TICK_NS
EXCLUSIVE, NOT_ATTRIBUTED = "gpu_exclusive", "not_attributed"


@dataclass(frozen=True, slots=True)
class Shares:
    """Which part of what happens between readings belongs to whom.

    Attributes:
        times: of the readings in seconds, shape (intervals + 1,).
        work: part of the active energy that is the process tree's, shape (intervals,).
        usage: part of the capacity that was in use, NaN where that is not known.
        whole: whether all energy counts as active: the process tree is the only user.
        work_half, usage_half: how far off `work` and `work * usage` may be.
        resource: ``"cpu"`` or ``"sm"``.
    """

    times: Floats
    work: Floats
    usage: Floats
    whole: NDArray[np.bool_]
    work_half: Floats
    usage_half: Floats
    resource: str

    @property
    def unknown(self) -> bool:
        """Whether the shares of any interval are not known."""
        return bool(np.isnan(self.usage).any())

    def parts(self, joules: Floats, seconds: Floats, idle_watts: float | None) -> Floats:
        """Return the ratios of the four `PARTS`, which add up to 1; shape (4, intervals).

        Args:
            joules: energy of the domain in each interval.
            seconds: length of each interval.
            idle_watts: power of the domain without any work; None if not known.
        """
        unknown = np.isnan(self.usage)
        active = np.where(self.whole, 1.0, self.active(joules, seconds, idle_watts))
        # Where nothing worked, nothing was above idle, whatever the baseline says.
        active = np.where(unknown | ~(self.usage > 0), 0.0, active)
        process = active * np.where(unknown, 0.0, self.work)
        return np.stack(
            [process, active - process, np.where(unknown, 0.0, 1.0 - active), np.where(unknown, 1.0, 0.0)]
        )

    def active(self, joules: Floats, seconds: Floats, idle_watts: float | None) -> Floats:
        """Return the part of each interval's energy that is above idle, shape (intervals,)."""
        if idle_watts is None:
            return self.usage
        above = np.ones(len(joules))
        np.divide(idle_watts * seconds, joules, out=above, where=joules > 0)
        return np.asarray(np.clip(1.0 - above, 0.0, 1.0))

    def half(self, parts: Floats, idle_watts: float | None) -> Floats:
        """Return how far off the ratio of the process may be in each interval, shape (intervals,)."""
        active = parts[PROCESS] + parts[OTHERS]
        wide = self.usage_half if idle_watts is None else self.work_half * active
        wide = np.where(self.whole, self.work_half, wide)
        return np.where(np.isnan(self.usage), 0.0, np.clip(wide, 0.0, 1.0))

    def method(self, idle_watts: float | None) -> str:
        """Return the name of the rule that splits this domain's energy."""
        if np.isnan(self.usage).all():
            return NOT_ATTRIBUTED
        if self.resource == "cpu":
            return CPU_OF_CAPACITY if idle_watts is None else CPU_OF_ACTIVE
        if not (~self.whole & ~np.isnan(self.usage) & (self.usage > 0)).any():
            return EXCLUSIVE
        return SM_OF_CAPACITY if idle_watts is None else SM_OF_ACTIVE


def cpu_shares(rows: ProcessRows, origin_ns: int) -> Shares | None:
    """Return the process tree's share of CPU time from reading to reading; None without readings.

    CPU time is booked late, never early: that of a child when it is first seen or waited for.
    What is more than all CPUs worked in an interval therefore belongs to the ones before.

    Args:
        rows: the readings.
        origin_ns: monotonic time that becomes 0 s.
    """
    if len(rows.at_ns) < 2:
        return None
    kept = _apart(np.array(rows.at_ns))
    at, process, busy, idle, processes = (np.array(getattr(rows, name))[kept] for name in CPU_COLUMNS)
    # A CPU that is taken offline takes its times with it.
    busy, idle = np.maximum.accumulate(busy), np.maximum.accumulate(idle)
    process = booked_in_time(np.maximum.accumulate(process), busy)
    own_ns, busy_ns, idle_ns = np.diff(process), np.diff(busy), np.diff(idle)
    capacity_ns = busy_ns + idle_ns
    work = _ratio(own_ns, busy_ns)
    threads = np.maximum(_ratio(capacity_ns, np.diff(at)), 1.0)
    own_half_ns = TICK_NS * np.maximum(processes[:-1], processes[1:])
    busy_half_ns = TICK_NS * np.sqrt(threads)
    known = capacity_ns > 0
    return Shares(
        times=(at - origin_ns) * SECONDS_PER_NANOSECOND,
        work=work,
        usage=np.where(known, _ratio(busy_ns, capacity_ns), np.nan),
        whole=np.zeros(len(own_ns), dtype=np.bool_),
        work_half=np.where(busy_ns > 0, _ratio(np.hypot(own_half_ns, work * busy_half_ns), busy_ns), 1.0),
        usage_half=_ratio(own_half_ns, capacity_ns),
        resource="cpu",
    )


def _apart(at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which readings to use: the first, the last, and between them those that are ticks apart.

    The readings at both ends of a session come when they must. Between two that are close, ticks
    that were counted have little to do with what was worked.
    """
    if (np.diff(at_ns) >= CLOSE_NS).all():
        return np.arange(len(at_ns))
    kept = [0]
    for number, at in enumerate(at_ns.tolist()):
        if at >= at_ns[kept[-1]] + CLOSE_NS:
            kept.append(number)
    last = len(at_ns) - 1
    if kept[-1] != last:
        kept[max(len(kept) - 1, 1) :] = [last]
    return np.array(kept)


def booked_in_time(process_ns: NDArray[np.int64], busy_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move CPU time that was booked late back until no interval has more than all CPUs worked.

    Args:
        process_ns, busy_ns: cumulative, never falling, shape (readings,).
    """
    ahead = np.maximum.accumulate((process_ns - busy_ns)[::-1])[::-1]
    return np.asarray(busy_ns + ahead)


def unexplained_ns(rows: ProcessRows) -> int:
    """Return CPU time of the process tree that no CPU of the machine has worked.

    More than a tick or two means that the system does not show the whole machine here.
    """
    if len(rows.at_ns) < 2:
        return 0
    process = np.maximum.accumulate(np.array(rows.process_ns))
    moved = booked_in_time(process, np.maximum.accumulate(np.array(rows.busy_ns)))
    return int(moved[0] - process[0])


def gpu_shares(rows: GpuRows, origin_ns: int) -> Shares | None:
    """Return the process tree's share of a GPU from reading to reading; None without readings.

    What a reading says is of the time before it. A GPU belongs to the process tree as a whole
    only if both readings say so; an interval in which others came or left is known less well.

    Args:
        rows: the readings.
        origin_ns: monotonic time that becomes 0 s.
    """
    if len(rows.at_ns) < 2:
        return None
    at, states, own, everyone = (np.array(getattr(rows, name)) for name in GPU_COLUMNS)
    shared = states == SHARED
    work = np.where(shared, _ratio(own, everyone), np.where(states == ALONE, 1.0, 0.0))
    usage = np.where(shared, np.minimum(everyone, 1.0), np.where(states == UNUSED, 0.0, 1.0))
    # If others have left since, how busy they were is what the reading before tells.
    left = shared[:-1] & ~shared[1:]
    work_between = np.where(left, work[:-1], work[1:])
    usage_between = np.where(left, usage[:-1], usage[1:])
    either = np.maximum(states[:-1], states[1:])
    taken = work * usage
    half = np.abs(np.diff(taken))
    unknown = either == UNKNOWN
    return Shares(
        times=(at - origin_ns) * SECONDS_PER_NANOSECOND,
        work=work_between,
        usage=np.where(unknown, np.nan, usage_between),
        whole=(either == ALONE) & (usage_between > 0),
        work_half=np.where(unknown, 0.0, np.abs(np.diff(work))),
        usage_half=np.where(unknown, 0.0, half),
        resource="sm",
    )


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide; 0 where there is nothing to divide by."""
    found = np.zeros(len(numerator))
    np.divide(numerator, denominator, out=found, where=denominator > 0)
    return found
