"""Which processes use a GPU, and how much of it: asked at most once a second.

Listing processes took 4.5 ms a call under the driver's lock (MangoHud issue 2104), so this is
no part of reading energy, and answers are kept for a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mlmeter.backends.nvml_errors import words_of
from mlmeter.measurement import GpuUse

# The processes on one GPU, or why they are not known.
Uses = tuple[GpuUse, ...] | str

SHORTEST_INTERVAL_SECONDS = 1.0
# How far back the first question about utilisation reaches; the driver keeps a few seconds.
FIRST_SPAN_MICROSECONDS = 1_000_000
_NOT_FOUND = 6
_LISTS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")


class ProcessLists:
    """Asks for the processes of GPUs, each GPU at most once a second.

    Args:
        now_ns: monotonic clock.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        # Time and answer of the last question, by UUID.
        self._latest: dict[str, tuple[int, Uses]] = {}
        # The driver's time of the newest utilisation sample, by UUID.
        self._seen_microseconds: dict[str, int] = {}

    def uses_of(self, nvml: Any, handle: Any, uuid: str) -> Uses:
        """Return who uses a GPU, or why that is not known; asked once a second at most."""
        now_ns = self._now_ns()
        asked_ns, uses = self._latest.get(uuid, (-math.inf, ()))
        if now_ns - asked_ns >= SHORTEST_INTERVAL_SECONDS * 1e9:
            uses = self._asked(nvml, handle, uuid)
            self._latest[uuid] = now_ns, uses
        return uses

    def _asked(self, nvml: Any, handle: Any, uuid: str) -> Uses:
        pids: set[int] = set()
        errors: list[Exception] = []
        for name in _LISTS:
            try:
                pids.update(int(process.pid) for process in getattr(nvml, name)(handle))
            # Whatever driver and bindings raise: the list is then not known.
            except Exception as error:
                errors.append(error)
        if len(errors) == len(_LISTS):
            return f"the driver does not list the processes of a GPU ({words_of(errors[0])})"
        shares = self._sm_ratios(nvml, handle, uuid)
        return tuple(GpuUse(pid, None if shares is None else shares.get(pid, 0.0)) for pid in sorted(pids))

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
