"""Power gauges read by a process of our own, which no busy extension keeps from reading.

A thread does not run while other code holds the interpreter's lock, and what a gauge showed
then is gone: a counter is read later, a gauge has a gap. A process has a lock of its own.
It is started only if a meter was asked for it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlmeter.backends.base import Backend
from mlmeter.backends.registry import Opened
from mlmeter.energy.trapezoids import longest_step_seconds
from mlmeter.measurement import Domain, Failure, Reading
from mlmeter.sampling.power_child import ChildSpec
from mlmeter.sampling.read_cost import CALL_RATIO

if TYPE_CHECKING:
    import subprocess

THREAD, PROCESS = "thread", "process"
POWER_SAMPLINGS = (THREAD, PROCESS)
# Told with a gap that a thread has left.
REMEDY = (
    'a thread cannot read while other code holds the interpreter; power_sampling="process" reads the power '
    "in a process of its own"
)

SHORTEST_PERIOD_SECONDS, LONGEST_PERIOD_SECONDS = 0.005, 0.25
# A process that has not reported for this part of what makes a gap is helped out.
SILENCE_RATIO = 0.5
READ_BYTES = 1 << 16
END_TIMEOUT_SECONDS = 1.0

_running: weakref.WeakSet[PowerProcess] = weakref.WeakSet()
_hooked = False


class PowerProcess:
    """An opened backend whose gauges are read by a child process, its counters by the caller.

    Both use the same clock: on Linux `time.perf_counter_ns` is CLOCK_MONOTONIC in every process.
    Until the child reports, when it stays silent and after it has ended, the caller reads the
    gauges as well. In a forked child of the program only the backend itself is used.

    Args:
        backend: the backend, opened.
        domains: what its `open` gave.
        registry_name: the name by which the child can open it too.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, backend: Backend, domains: Sequence[Domain], registry_name: str) -> None:
        self.name = backend.name
        self._backend = backend
        self._domains = tuple(domains)
        gauges = {position: domain for position, domain in enumerate(domains) if _is_gauge(domain)}
        self._gauges = frozenset(gauges)
        self._silence_ns = round(SILENCE_RATIO * 1e9 * min(map(longest_step_seconds, gauges.values())))
        self._lock = threading.Lock()
        self._pending = b""
        self._heard_ns = -self._silence_ns
        self.call_seconds: float = getattr(backend, "call_seconds", 0.0)
        half_period = min(domain.update_period_seconds for domain in gauges.values()) / 2
        shortest = max(SHORTEST_PERIOD_SECONDS, self.call_seconds / CALL_RATIO)
        spec = ChildSpec(
            registry_name,
            {domain.id: position for position, domain in gauges.items()},
            min(max(half_period, shortest), LONGEST_PERIOD_SECONDS),
            os.getpid(),
        )
        self._process: subprocess.Popen[bytes] | None = _start(spec)
        assert self._process.stdout is not None
        self._output_fd = self._process.stdout.fileno()
        os.set_blocking(self._output_fd, False)
        _watch(self)

    @property
    def process_id(self) -> int | None:
        """Of the child process; None after it has ended."""
        return None if self._process is None else self._process.pid

    @property
    def gpu_uses(self) -> Callable[[], Mapping[int, object]] | None:
        """The backend's own method, None if it has none: asking is rare and stays with the caller."""
        return getattr(self._backend, "gpu_uses", None)

    def open(self) -> Sequence[Domain]:
        """Return the domains: the backend is open already."""
        return self._domains

    def read(self) -> Sequence[Reading | Failure]:
        """Return what the child has read since, and what it does not read."""
        with self._lock:
            items = self._received()
            silent = self._process is None or time.perf_counter_ns() - self._heard_ns > self._silence_ns
        if silent:
            return [*items, *self._backend.read()]
        if len(self._gauges) < len(self._domains):
            items += [item for item in self._backend.read() if item.position not in self._gauges]
        return items

    def close(self) -> None:
        """End the child, wait for it, and close the backend."""
        atexit.unregister(self._end_at_exit)
        self._end_at_exit()
        self._backend.close()

    def device_states(self) -> Sequence[Mapping[str, Any]]:
        """Return what the backend tells of its devices; nothing if it cannot."""
        ask = getattr(self._backend, "device_states", None)
        return [{} for _ in self._domains] if ask is None else ask()

    def forget_after_fork(self) -> None:
        """In a forked child: the process and its pipe are the parent's."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            _close_pipes(process)
            # Only the parent can wait for it.
            process.returncode = 0

    def _end_at_exit(self) -> None:
        with self._lock:
            self._end()

    def _received(self) -> list[Reading | Failure]:
        """Take everything out of the pipe, without waiting."""
        items: list[Reading | Failure] = []
        while self._process is not None:
            try:
                data = os.read(self._output_fd, READ_BYTES)
            except BlockingIOError:
                break
            *lines, self._pending = (self._pending + data).split(b"\n")
            try:
                items.extend([_item(json.loads(line)) for line in lines])
            except (ValueError, TypeError) as error:
                return [*items, *self._ended(f"gave up: {error}")]
            if not data:
                return [*items, *self._ended("has ended")]
        self._heard_ns = max([self._heard_ns, *(item.end_ns for item in items if isinstance(item, Reading))])
        return items

    def _ended(self, what: str) -> list[Failure]:
        """Give the child up and say so."""
        status = self._end()
        reason = f"the process that reads its power {what} (exit status {status}); a thread goes on"
        now_ns = time.perf_counter_ns()
        return [Failure(position, reason, False, now_ns) for position in sorted(self._gauges)]

    def _end(self) -> int | None:
        """Close the pipes, which ends the child; kill it if it does not; return its exit status."""
        import subprocess

        process, self._process = self._process, None
        if process is None:
            return None
        _close_pipes(process)
        try:
            return process.wait(END_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A process that hangs in a driver cannot even be killed: it is left behind.
            return process.wait(END_TIMEOUT_SECONDS)
        return None


def with_power_process(opened: Opened) -> tuple[Backend, str | None]:
    """Let a process read the gauges of an opened backend, if it has any.

    Returns:
        the backend to use, and why a thread has to read the gauges all the same, or None.
    """
    import subprocess

    gauges = [domain.name for domain in opened.domains if _is_gauge(domain)]
    # A backend that blocks has a thread of its own and must not be asked several times per second.
    if not gauges or getattr(opened.backend, "blocking", False) is True:
        return opened.backend, None
    reason = _unsupported() if opened.registry_name else "the backend was given as an object, not by its name"
    if reason is None:
        try:
            return PowerProcess(opened.backend, opened.domains, opened.registry_name or ""), None
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = f"it cannot be started ({error})"
    return opened.backend, f"{', '.join(gauges)}: no process reads the power, but a thread: {reason}"


def _is_gauge(domain: Domain) -> bool:
    return domain.watts_per_count is not None


def _unsupported() -> str | None:
    """Say why there can be no such process here; None if there can."""
    if "CLOCK_MONOTONIC" not in time.get_clock_info("perf_counter").implementation:
        return "processes have no common clock on this system"
    # An application with Python inside would start itself once more.
    if getattr(sys, "frozen", False) or not Path(sys.executable or "").name.startswith(("python", "pypy")):
        return "the program is not run by a Python interpreter that could be started again"
    return None


def _start(spec: ChildSpec) -> subprocess.Popen[bytes]:
    import subprocess

    environment = {name: text for name, text in os.environ.items() if name != "PYTHONINSPECT"}
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    return subprocess.Popen(
        # -P: what lies in the working directory is not imported.
        [sys.executable, "-P", "-m", "mlmeter.sampling.power_child", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        env=environment,
        # Ctrl-C and the hang-up of a terminal are the program's.
        start_new_session=True,
    )


def _import_path() -> list[str]:
    """Return where the child finds mlmeter and other packages, but not the program's own folder."""
    first_is_program = not getattr(sys.flags, "safe_path", False)
    folders = [*sys.path[first_is_program:], str(Path(__file__).parents[1])]
    # A path in the variable cannot hold the separator.
    absolute = (str(Path(folder).absolute()) for folder in folders if folder)
    return [folder for folder in dict.fromkeys(absolute) if os.pathsep not in folder]


def _item(fields: Any) -> Reading | Failure:
    """Return what one line of the child says.

    Raises:
        ValueError: the child tells why it cannot work.
    """
    if len(fields) == 1:
        raise ValueError(str(fields[0]))
    position, second, third, fourth, *driver_time_ns = fields
    if driver_time_ns:
        return Reading(position, second, third, fourth, driver_time_ns=driver_time_ns[0])
    return Failure(position, second, third, fourth)


def _watch(process: PowerProcess) -> None:
    """See to it that the child ends with the program, and that forked children leave it alone."""
    global _hooked
    _running.add(process)
    atexit.register(process._end_at_exit)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for process in list(_running):
        process.forget_after_fork()
    _running.clear()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
