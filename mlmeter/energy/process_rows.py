"""Raw readings of CPU times and of users of GPUs, from which shares are computed.

Loads no NumPy: the sampler fills the columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

# What a GPU was used by at one reading.
UNUSED, ALONE, SHARED, UNKNOWN = range(4)

# Resolution of CPU times: 1/USER_HZ (proc(5)).
TICK_NS = 10_000_000

CPU_COLUMNS = {"at_ns": "q", "process_ns": "q", "busy_ns": "q", "idle_ns": "q", "processes": "q"}
GPU_COLUMNS = {"at_ns": "q", "states": "q", "own_ratios": "d", "all_ratios": "d"}


@dataclass(frozen=True, slots=True)
class GpuRows:
    """Who used one GPU, reading by reading.

    Attributes:
        at_ns: monotonic nanoseconds.
        states: `UNUSED`, `ALONE` (the process tree only), `SHARED` or `UNKNOWN`.
        own_ratios, all_ratios: time in which kernels of the process tree and of all processes
            ran / time, where the state is `SHARED`.
        reason: why a state was unknown.
    """

    at_ns: array[int]
    states: array[int]
    own_ratios: array[float]
    all_ratios: array[float]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessRows:
    """CPU times of the process tree and the machine, and who used the GPUs: all raw.

    Attributes:
        at_ns: monotonic nanoseconds of the readings, ascending.
        process_ns: CPU time of the process tree since some time before the session.
        busy_ns, idle_ns: CPU time of all hardware threads, likewise.
        processes: living processes of the tree.
        gpus: by name of the domain.
        reason: why CPU times could not be read, None if they could.
    """

    at_ns: array[int]
    process_ns: array[int]
    busy_ns: array[int]
    idle_ns: array[int]
    processes: array[int]
    gpus: Mapping[str, GpuRows] = field(default_factory=dict)
    reason: str | None = None
