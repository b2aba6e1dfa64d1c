"""Reads, on the sampler's thread, what ``scope="process"`` needs: CPU times and users of GPUs."""

from __future__ import annotations

import logging
import math
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlmeter.clock import Clock
from mlmeter.energy.process_rows import (
    ALONE,
    CPU_COLUMNS,
    GPU_COLUMNS,
    SHARED,
    UNKNOWN,
    UNUSED,
    GpuRows,
    ProcessRows,
)
from mlmeter.measurement import Domain, GpuUse
from mlmeter.sampling.process_tree import ProcessTimes, TreeTimes
from mlmeter.sampling.sources import Source

# Part of one core that reading may take: where it is dear, it is rarer.
CPU_RATIO = 0.005
# CPU times are told in ticks of 10 ms: closer readings would tell nothing more.
SHORTEST_PERIOD_SECONDS = 0.05
# Asking a driver for processes takes milliseconds and holds its lock.
GPU_PERIOD_SECONDS = 1.0
# A driver that hangs on the sampler's thread does not keep the metered program for longer.
LONGEST_WAIT_SECONDS = 1.0
# Rows kept from before a window, of which the interval that it begins in is made.
ROWS_BEFORE = 2

CONTAINER = (
    "the driver tells processes by the host's numbers, and this process is in a container: "
    "run it with --pid=host"
)
NOT_TOLD = "{} does not tell which processes use this GPU"
PARTITIONED = "it serves others too and cannot be split (MIG)"

logger = logging.getLogger("mlmeter")


class ProcessReader:
    """Keeps the rows of one session.

    Args:
        clock: the time.
        times: tells CPU times.
        sources: what the session reads; those with a method `gpu_uses` tell users of GPUs.
        period_seconds: time between readings.
        note: gets each text that users must know, again and again.
    """

    def __init__(
        self,
        clock: Clock,
        times: ProcessTimes,
        sources: Sequence[Source],
        period_seconds: float,
        note: Callable[[str], None],
    ) -> None:
        self._clock, self._times, self._note = clock, times, note
        self._sources = tuple(source for source in sources if any(map(_is_gpu, source.domains)))
        # Somewhat less, so that a tick that comes early is not left out.
        self._period_ns = round(max(period_seconds, SHORTEST_PERIOD_SECONDS) * 0.9e9)
        self._lock = threading.Lock()
        self._due_ns = self._gpu_due_ns = self._cost_ns = 0
        self._reason: str | None = None
        self._cpu = _empty(CPU_COLUMNS)
        self._gpus = {
            domain.name: _empty(GPU_COLUMNS)
            for source in self._sources
            for domain in source.domains
            if _is_gpu(domain)
        }
        self._gpu_reasons: dict[str, str] = {}
        # Readings that are no longer in the columns.
        self._forgotten = {id(columns): 0 for columns in (self._cpu, *self._gpus.values())}

    def waits_for(self, time_ns: int) -> bool:
        """Whether CPU times can be read and have not been since `time_ns`."""
        times = self._cpu["at_ns"]
        return self._reason is None and (not times or times[-1] < time_ns)

    def tick(self, *, edge: bool = False) -> None:
        """Read if a reading is due.

        Args:
            edge: the session begins or ends here: read in any case.
        """
        if not edge and self._clock.now_ns() < self._due_ns:
            return
        if not self._lock.acquire(timeout=LONGEST_WAIT_SECONDS if edge else 0):
            return
        begin_ns = time.thread_time_ns()
        try:
            self._read(edge=edge)
        except Exception as error:  # whatever the system or a driver raises, the metered program goes on
            self._fail(error)
        finally:
            # Looking for new processes is dear, and its own budget keeps it rare.
            before_ns, self._cost_ns = self._cost_ns, time.thread_time_ns() - begin_ns
            pause_ns = round(min(before_ns, self._cost_ns) / CPU_RATIO)
            self._due_ns = self._clock.now_ns() + max(self._period_ns, pause_ns)
            self._lock.release()

    def rows(self, since_ns: int) -> ProcessRows:
        """Return what has been read, from a little before `since_ns` on."""
        locked = self._lock.acquire(timeout=LONGEST_WAIT_SECONDS)
        try:
            return ProcessRows(
                **_since(self._cpu, since_ns),
                gpus={
                    name: GpuRows(**_since(columns, since_ns), reason=self._gpu_reasons.get(name))
                    for name, columns in self._gpus.items()
                },
                reason=self._reason,
            )
        finally:
            if locked:
                self._lock.release()

    def forget(self, time_ns: int) -> None:
        """Forget what was read before a time, but for the last readings before it."""
        if not self._lock.acquire(timeout=LONGEST_WAIT_SECONDS):
            return
        try:
            for columns in (self._cpu, *self._gpus.values()):
                first = max(0, bisect_right(columns["at_ns"], time_ns) - ROWS_BEFORE)
                self._forgotten[id(columns)] += first
                for column in columns.values():
                    del column[:first]
        finally:
            self._lock.release()

    def news(self, cpu: int, gpus: Mapping[str, int]) -> ProcessRows:
        """Return what has been read since there were so many readings, and of each GPU."""
        locked = self._lock.acquire(timeout=LONGEST_WAIT_SECONDS)
        try:
            return ProcessRows(
                **self._from(self._cpu, cpu),
                gpus={
                    name: GpuRows(
                        **self._from(columns, gpus.get(name, 0)), reason=self._gpu_reasons.get(name)
                    )
                    for name, columns in self._gpus.items()
                },
                reason=self._reason,
            )
        finally:
            if locked:
                self._lock.release()

    def _from(self, columns: dict[str, Any], first: int) -> dict[str, Any]:
        """Return the readings from a number on, which counts those that are forgotten, too."""
        return _from(columns, max(0, first - self._forgotten[id(columns)]))

    def _read(self, *, edge: bool) -> None:
        begin_ns = self._clock.now_ns()
        times = self._times.read()
        now = self._clock.now_ns()
        at_ns = begin_ns + (now - begin_ns) // 2
        values = (at_ns, times.process_ns, times.busy_ns, times.idle_ns, len(times.pids))
        for column, value in zip(self._cpu.values(), values, strict=True):
            column.append(value)
        self._reason = None
        for text in times.notes:
            self._note(text)
        if edge or now >= self._gpu_due_ns:
            self._gpu_due_ns = now + round(GPU_PERIOD_SECONDS * 1e9)
            for source in self._sources:
                self._read_gpus(source, times)

    def _fail(self, error: Exception) -> None:
        self._reason = f"CPU times cannot be read ({type(error).__name__}: {error})"
        self._note(self._reason)
        logger.info(self._reason)

    def _read_gpus(self, source: Source, times: TreeTimes) -> None:
        """Ask who uses the GPUs of a source, and note it."""
        answer = self._answer(source, host_pids=times.host_pids)
        not_told = NOT_TOLD.format(source.backend.name)
        now = self._clock.now_ns()
        for position, domain in enumerate(source.domains):
            if _is_gpu(domain):
                told = answer if isinstance(answer, str) else answer.get(position, not_told)
                self._add(domain.name, now, PARTITIONED if domain.shared else told, times.pids, not_told)

    def _answer(self, source: Source, *, host_pids: bool) -> Mapping[int, Any] | str:
        """Return the users of a source's GPUs by position of the domain, or why they are not known."""
        not_told = NOT_TOLD.format(source.backend.name)
        if getattr(source.backend, "gpu_uses", None) is None:
            return not_told
        if not host_pids:
            return CONTAINER
        try:
            return dict(source.ask("gpu_uses"))
        except Exception as error:  # as for the readings of a backend
            return f"{not_told} ({type(error).__name__}: {error})"

    def _add(self, name: str, now_ns: int, told: Any, pids: frozenset[int], not_told: str) -> None:
        try:
            state, own, everyone, reason = told_state(told, pids)
        except Exception as error:  # no processes, or what is no share of time
            state, own, everyone = UNKNOWN, 0.0, 0.0
            reason = f"{not_told} ({type(error).__name__}: {error})"
        if reason is not None:
            self._gpu_reasons[name] = reason
            self._note(f"{name} is not attributed: {reason}")
        for column, value in zip(self._gpus[name].values(), (now_ns, state, own, everyone), strict=True):
            column.append(value)


def told_state(told: str | Iterable[GpuUse], pids: frozenset[int]) -> tuple[int, float, float, str | None]:
    """Return what a driver's answer says: state, own and all time of kernels, and why it is unknown.

    Args:
        told: the processes on a GPU, or why they are not known.
        pids: those of the process tree.
    """
    if isinstance(told, str):
        return UNKNOWN, 0.0, 0.0, told
    uses = tuple(told)
    if all(use.pid in pids for use in uses):
        return (ALONE if uses else UNUSED), 0.0, 0.0, None
    if all(use.pid not in pids for use in uses):
        # Whatever runs there, nothing of it is ours; how busy they are tells what is idle.
        return SHARED, 0.0, _sum_of(uses) if _all_told(uses) else 1.0, None
    if not _all_told(uses):
        return UNKNOWN, 0.0, 0.0, "other processes use it, and the driver does not tell how much each does"
    own = _sum_of([use for use in uses if use.pid in pids])
    return SHARED, own, _sum_of(uses), None


def _all_told(uses: Iterable[GpuUse]) -> bool:
    return all(use.sm_share is not None and not math.isnan(use.sm_share) for use in uses)


def _sum_of(uses: Iterable[GpuUse]) -> float:
    return sum(min(max(use.sm_share or 0.0, 0.0), 1.0) for use in uses)


def _is_gpu(domain: Domain) -> bool:
    return domain.kind == "gpu"


def _empty(typecodes: Mapping[str, str]) -> dict[str, Any]:
    return {name: array(typecode) for name, typecode in typecodes.items()}


def _since(columns: Mapping[str, Any], since_ns: int) -> dict[str, Any]:
    return _from(columns, max(0, bisect_right(columns["at_ns"], since_ns) - ROWS_BEFORE))


def _from(columns: Mapping[str, Any], first: int) -> dict[str, Any]:
    # A reading that hangs may have filled some of the columns only.
    size = min(map(len, columns.values()))
    return {name: column[first:size] for name, column in columns.items()}
