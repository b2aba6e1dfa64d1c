"""CPU time of this process and all its descendants, living or not, and of the machine.

Read from the files of Linux's /proc. What a process has worked stays countable when it ends: its
parent's time of waited-for children takes it over. It does not where the parent ended before,
or ignores the end of its children; then what was last read of it is kept.

Not seen is a process whose parent ended before either was seen: a daemon that forks twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from mlmeter.energy.process_rows import TICK_NS

PROC = Path("/proc")
# Of fields of /proc/PID/stat, from the third on (proc(5)).
PPID, UTIME, STIME, CUTIME, CSTIME, START = 1, 11, 12, 13, 14, 19
# Fields of the first line of /proc/stat after its name; guest time is inside user and nice, and
# in stolen time the hypervisor ran somebody else.
BUSY_FIELDS, IDLE_FIELDS = (0, 1, 2, 5, 6), (3, 4)
# Looking for new descendants reads a file of every process of the machine: part of one core.
LOOK_RATIO = 0.003
# Processes that end while the others are being read make a reading start again.
MOST_ROUNDS = 5
DENIED = "{} processes cannot be read (permission denied): descendants among them are not counted"
# Four times that are told in whole ticks.
ROUNDING_NS = 4 * TICK_NS
# Inode of the host's own namespace of process numbers (linux/proc_ns.h).
HOST_PID_NAMESPACE = "pid:[4026531836]"


class TreeTimes(NamedTuple):
    """One reading; times are nanoseconds of CPU time, of which only differences count.

    Attributes:
        process_ns: this process and its descendants, ended ones included.
        busy_ns, idle_ns: all hardware threads.
        pids: living processes of the tree.
        host_pids: whether `pids` are the numbers by which the host and its drivers know them.
        notes: what could not be read.
    """

    process_ns: int
    busy_ns: int
    idle_ns: int
    pids: frozenset[int]
    host_pids: bool = True
    notes: tuple[str, ...] = ()


class ProcessTimes(Protocol):
    """What tells CPU times."""

    def read(self) -> TreeTimes:
        """Return the times of now.

        Raises:
            OSError: the system does not tell them here.
        """


class ProcessFile(NamedTuple):
    """What one reading tells of one process.

    Attributes:
        parent: number of its parent.
        start: ticks since the machine started; tells it from a later process of its number.
        own_ns: its own CPU time.
        waited_ns: that of all descendants that ended and were waited for.
    """

    parent: int
    start: int
    own_ns: int
    waited_ns: int

    @property
    def total_ns(self) -> int:
        """All CPU time that it accounts for."""
        return self.own_ns + self.waited_ns


class ProcessTree:
    """Follows a process and its descendants through /proc.

    Args:
        root: where /proc is.
        pid: the process; None for this one.
        own_times: CPU time of the process itself and of the children that it has waited for, in
            nanoseconds; None for what the files tell.
    """

    def __init__(
        self,
        root: Path = PROC,
        pid: int | None = None,
        own_times: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._root = root
        self._pid = os.getpid() if pid is None else pid
        self._own_times = own_times
        # Parents stand before their children, and are read first.
        self._known: dict[int, ProcessFile] = {}
        # Time of ended processes that no living one accounts for.
        self._kept_ns = 0
        self._look_ns = 0
        self._denied: set[int] = set()

    @classmethod
    def of_this_process(cls) -> ProcessTree:
        """Follow this process, by the exact times that the system tells a process of itself."""
        return cls(own_times=_times_of_this_process)

    def read(self) -> TreeTimes:
        """Return the times of now.

        Raises:
            OSError: there is no /proc here, or it does not show this process.
        """
        if time.monotonic_ns() >= self._look_ns:
            self._look()
        self._follow()
        busy_ns, idle_ns = self._machine()
        return TreeTimes(
            self._kept_ns + sum(found.total_ns for found in self._known.values()),
            busy_ns,
            idle_ns,
            frozenset(self._known),
            self._sees_host_pids(),
            (DENIED.format(len(self._denied)),) if self._denied else (),
        )

    def _look(self) -> None:
        """Find descendants that are not known yet."""
        begin_ns = time.thread_time_ns()
        others = self._others()
        if self._pid not in self._known:
            own = self._file(self._pid)
            if own is None:
                raise OSError(f"{self._root} does not show this process")
            self._known[self._pid] = own
        new = [(pid, found) for pid, found in others.items() if pid not in self._known]
        while children := [(pid, found) for pid, found in new if found.parent in self._known]:
            self._known.update(children)
            new = [(pid, found) for pid, found in new if pid not in self._known]
        cost_ns = time.thread_time_ns() - begin_ns
        self._look_ns = time.monotonic_ns() + round(cost_ns / LOOK_RATIO)

    def _others(self) -> dict[int, ProcessFile]:
        """Return all processes that can be read."""
        pids = sorted(int(path.name) for path in self._root.iterdir() if path.name.isdecimal())
        found = {pid: self._file(pid) for pid in pids}
        return {pid: file for pid, file in found.items() if file is not None}

    def _follow(self) -> None:
        """Read the known processes again, and keep the time of those that have ended."""
        ended: dict[int, ProcessFile] = {}
        now: dict[int, ProcessFile] = {}
        for _ in range(MOST_ROUNDS):
            now = {}
            for pid, before in self._known.items():
                found = None if pid in ended else self._file(pid)
                if found is not None and found.start == before.start:
                    now[pid] = found
            gone = self._known.keys() - now.keys() - ended.keys()
            if not gone:
                break
            # Whoever waited for them has their time now, and may have been read before.
            ended.update((pid, before) for pid, before in self._known.items() if pid in gone)
        if self._pid not in now:
            raise OSError(f"{self._root} does not show this process")
        self._kept_ns += unclaimed_ns(self._known, now)
        self._known = now

    def _file(self, pid: int) -> ProcessFile | None:
        """Read what is told of a process; None if it has ended."""
        try:
            # For every process of the machine: a pathlib.Path would double the cost.
            with open(f"{self._root}/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
                text = file.read()
        except PermissionError:
            self._denied.add(pid)
            return None
        except OSError:
            return None
        # The name is in brackets and may hold any character.
        fields = text[text.rfind(b")") + 1 :].split()
        if len(fields) <= START:
            return None
        user, system, children_user, children_system = (
            int(fields[number]) * TICK_NS for number in (UTIME, STIME, CUTIME, CSTIME)
        )
        own_ns, waited_ns = user + system, children_user + children_system
        if pid == self._pid and self._own_times is not None:
            own_ns, waited_ns = self._own_times()
        return ProcessFile(int(fields[PPID]), int(fields[START]), own_ns, waited_ns)

    def _machine(self) -> tuple[int, int]:
        """Return busy and idle time of all hardware threads."""
        with (self._root / "stat").open("rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:]]
        busy, idle = (sum(ticks[number] for number in fields) for fields in (BUSY_FIELDS, IDLE_FIELDS))
        if not busy + idle:
            raise OSError(f"{self._root}/stat counts nothing here")
        return busy * TICK_NS, idle * TICK_NS

    def _sees_host_pids(self) -> bool:
        """Whether this process is not in a container with process numbers of its own."""
        try:
            return str((self._root / "self" / "ns" / "pid").readlink()) == HOST_PID_NAMESPACE
        except OSError:
            return False


def unclaimed_ns(before: Mapping[int, ProcessFile], now: Mapping[int, ProcessFile]) -> int:
    """Return the time of processes that ended in between and whose time no living one has taken over.

    Args:
        before: the processes of the tree at the last reading, parents before their children.
        now: those of them that live.
    """
    claims: dict[int, int] = {}
    unclaimed = 0
    for pid in reversed(tuple(before)):
        if pid in now:
            continue
        claim = before[pid].total_ns + claims.pop(pid, 0)
        parent = before[pid].parent
        if parent in before:
            claims[parent] = claims.get(parent, 0) + claim
        else:
            unclaimed += claim
    for parent, claim in claims.items():
        missing = claim - max(now[parent].waited_ns - before[parent].waited_ns, 0)
        unclaimed += missing if missing > ROUNDING_NS else 0
    return unclaimed


def _times_of_this_process() -> tuple[int, int]:
    import resource

    own, waited = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return _nanoseconds((own.ru_utime, own.ru_stime)), _nanoseconds((waited.ru_utime, waited.ru_stime))


def _nanoseconds(seconds: Iterable[float]) -> int:
    return sum(round(value * 1e9) for value in seconds)
