"""Which processes use a GPU, and how much of it: asked at most once a second.

Listing processes took 4.5 ms a call under the driver's lock (MangoHud issue 2104), so this is
no part of reading energy, and answers are kept for a second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlmeter.backends.nvml_errors import words_of

SHORTEST_INTERVAL_SECONDS = 1.0
# How far back the first question about utilisation reaches; the driver keeps a few seconds.
FIRST_SPAN_MICROSECONDS = 1_000_000
_NOT_FOUND = 6
_LISTS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """One process on one GPU.

    Attributes:
        pid: in the process namespace of the driver: in a container it may be another than the
            process's own.
        memory_bytes: GPU memory; None if the driver does not tell.
        sm_ratio: share of the time in which the process kept the GPU's processors busy, 0 to 1: the
            mean of the driver's samples since the last question, at first of one second. 0 for a process
            without samples; None if the driver has none of anybody (at first, or MIG).
    """

    pid: int
    memory_bytes: int | None = None
    sm_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """Who used a GPU at one time.

    Attributes:
        at_ns: monotonic time of the answer.
        processes: by process number; None if the driver does not tell.
        reason: why not; empty if it does.
    """

    at_ns: int
    processes: tuple[GpuProcess, ...] | None
    reason: str = ""

    def exclusive_to(self, pids: Collection[int]) -> bool | None:
        """Return whether only these processes use the GPU; None if that cannot be told.

        It cannot if none of them is listed: then the driver may know them by other numbers, as
        it does in containers, or nobody uses the GPU.
        """
        if self.processes is None:
            return None
        listed = {process.pid for process in self.processes}
        if listed.isdisjoint(pids):
            return None
        return listed.issubset(pids)


class ProcessLists:
    """Asks for the processes of GPUs, each GPU at most once a second.

    Args:
        now_ns: monotonic clock.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._latest: dict[str, GpuUse] = {}
        # The driver's time of the newest utilisation sample, by UUID.
        self._seen_microseconds: dict[str, int] = {}

    def processes_of(self, nvml: Any, handle: Any, uuid: str) -> GpuUse:
        """Return who uses a GPU; the last answer if that is younger than a second."""
        latest, now_ns = self._latest.get(uuid), self._now_ns()
        if latest is not None and now_ns - latest.at_ns < SHORTEST_INTERVAL_SECONDS * 1e9:
            return latest
        use = self._asked(nvml, handle, uuid, now_ns)
        self._latest[uuid] = use
        return use

    def _asked(self, nvml: Any, handle: Any, uuid: str, now_ns: int) -> GpuUse:
        memory: dict[int, int | None] = {}
        errors: list[Exception] = []
        for name in _LISTS:
            try:
                for process in getattr(nvml, name)(handle):
                    memory[int(process.pid)] = _larger(memory.get(int(process.pid)), process.usedGpuMemory)
            # Whatever driver and bindings raise: the list is then not known.
            except Exception as error:
                errors.append(error)
        if len(errors) == len(_LISTS):
            return GpuUse(at_ns=now_ns, processes=None, reason=words_of(errors[0]))
        shares = self._sm_ratios(nvml, handle, uuid)
        return GpuUse(
            at_ns=now_ns,
            processes=tuple(
                GpuProcess(
                    pid=pid,
                    memory_bytes=memory[pid],
                    sm_ratio=None if shares is None else shares.get(pid, 0.0),
                )
                for pid in sorted(memory)
            ),
        )

    def _sm_ratios(self, nvml: Any, handle: Any, uuid: str) -> dict[int, float] | None:
        """Return the mean utilisation of each process since the last question; None if it is not told."""
        seen = self._seen_microseconds.get(uuid, 0)
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, seen)
        except Exception as error:
            # "Not Found": no process has done anything since; before the first sample nothing is known.
            return {} if seen and getattr(error, "value", None) == _NOT_FOUND else None
        newest = max((int(sample.timeStamp) for sample in samples), default=0)
        if newest == 0 and not seen:
            return None
        self._seen_microseconds[uuid] = max(seen, newest)
        # Older samples stay in the driver's buffer.
        since = seen or newest - FIRST_SPAN_MICROSECONDS
        fresh = [sample for sample in samples if int(sample.timeStamp) > since]
        percents: dict[int, list[int]] = {}
        for sample in fresh:
            # Garbage was seen in unused entries of the buffer.
            if sample.smUtil <= 100:
                percents.setdefault(int(sample.pid), []).append(int(sample.smUtil))
        return {pid: sum(values) / len(values) / 100.0 for pid, values in percents.items()}


def _larger(known: int | None, told: Any) -> int | None:
    """Return the larger of two memories: a process in both lists has the same memory in both."""
    with suppress(TypeError, ValueError):
        return max(int(told), known or 0)
    return known
