"""CPU, memory and machine energy without a counter: formulas of load, where nothing measures it.

The formulas and what they need are in `cpu_power`; this file reads busy times and clocks, and adds
up power over time. Three domains, each marked as estimated and with an interval of its own:

* ``cpu-estimate``: the processor packages, comparable with RAPL.
* ``dram-estimate``: the memory modules, which are not inside the packages; not in virtual machines.
* ``machine-estimate``: the whole server at the wall, without GPUs; it contains the other two and is
  never added to them.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mlmeter.backends.cpu_power.facts import Facts, clock_paths, core_threads, read_facts, read_ghz, read_text
from mlmeter.backends.cpu_power.host import SHARE_SPREAD, Host, describe
from mlmeter.backends.cpu_power.machine_model import MachineCurve, implied_tdp_watts, machine_curve
from mlmeter.backends.cpu_power.package_model import (
    RAM_SPREAD,
    SPREAD,
    UNKNOWN_FREQUENCY,
    busy_core_ratio,
    memory_watts,
    package_watts,
)
from mlmeter.backends.cpu_power.spreads import Spread
from mlmeter.backends.cpu_power.tables import coefficients
from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import JOULES_PER_MICROJOULE, SECONDS_PER_NANOSECOND

# The kernel counts CPU time in /proc/stat in units of 1/USER_HZ (proc_stat(5)): 10 ms.
UPDATE_PERIOD_SECONDS = 0.01

# Guest time is part of user and nice on Linux. Not busy: idle and iowait, and steal, the time
# in which the hypervisor ran somebody else. Elsewhere the missing fields are inside system.
BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq")
# Their places in a line of /proc/stat; 3, 4 and 7 are idle, iowait and steal.
_BUSY_COLUMNS = (0, 1, 2, 5, 6)

# A clock file costs tens of microseconds on a real machine, and clocks are wanted for a mean only.
MOST_CLOCKS = 8
CLOCK_PERIOD_SECONDS = 0.5

_REMEDY = "Repair the installation with: python -m pip install --force-reinstall psutil"


class CpuEstimateBackend:
    """Estimates the energy of packages, memory and the whole machine from the load.

    The figures are for the whole machine as the operating system sees it: CPU affinity and
    container limits are ignored; a virtual machine stands for its share of the threads of its
    host. They are estimates and must never be mixed with measured energy unmarked.

    Args:
        tdp_watts: thermal design power of one processor (socket); None: by its name.
        share: part of the host that this virtual machine stands for, above 0, at most 1; None: its
            threads / those of the host, as far as the processor's name tells them.
        now_ns: monotonic nanoseconds.
        root: folder that holds ``proc`` and ``sys``.

    Attributes:
        host: after `open`, what the estimates rest on.
        notes: after `open`, what was found and what was assumed, in words.

    Raises:
        ArgumentError: `tdp_watts` is not a positive finite number, or `share` is not in 0..1.

    Example:
        >>> backend = CpuEstimateBackend(tdp_watts=280)  # EPYC 7763
        >>> domains = backend.open()
        >>> domains[0].name, str(domains[0].provenance)
        ('cpu-estimate', 'estimated')
        >>> readings = backend.read()
        >>> backend.close()
    """

    name = "cpu_estimate"

    def __init__(
        self,
        *,
        tdp_watts: float | None = None,
        share: float | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        root: Path = Path("/"),
    ) -> None:
        if tdp_watts is not None and not (math.isfinite(tdp_watts) and tdp_watts > 0):
            raise ArgumentError(f"tdp_watts: expected a positive number, not {tdp_watts!r}")
        if share is not None and not 0 < share <= 1:
            raise ArgumentError(f"share: expected a number above 0 and at most 1, not {share!r}")
        self._tdp_watts = tdp_watts
        self._share = share
        self._now_ns = now_ns
        self._root = root
        self.host: Host | None = None
        self.notes: tuple[str, ...] = ()
        self._power: _Power | None = None

    def open(self) -> Sequence[Domain]:
        """Find out what the machine is and take the base of the counters, which start at 0.

        Raises:
            BackendUnavailableError: neither /proc/stat nor psutil tells CPU times or threads.
        """
        try:
            busy = read_busy_seconds(self._root)
        except ImportError as error:
            reason = f"psutil cannot be imported ({error})"
            raise BackendUnavailableError(self.name, reason, _REMEDY) from error
        except Exception as error:  # psutil raises many types, from OSError to plain RuntimeError
            reason = f"psutil cannot read CPU times ({type(error).__name__}: {error})"
            raise BackendUnavailableError(self.name, reason, "Check that /proc is mounted") from error
        if not busy:
            raise BackendUnavailableError(self.name, "the number of hardware threads is not known")
        facts = _with_threads(read_facts(self._root), len(busy))
        self.host = describe(facts, tdp_watts=self._tdp_watts, share=self._share)
        clocks = () if facts.virtual else clock_paths(self._root, MOST_CLOCKS)
        self._power = _Power(self.host, facts, self._root, clocks)
        self._domains = self._power.domains(self.name, facts.model_name or _platform_name())
        self._counts = [0] * len(self._domains)
        self._joules = [0.0] * len(self._domains)
        self._busy = busy
        self._last_ns = self._now_ns()
        self.notes = _notes(self.name, self.host, known_clock=bool(clocks))
        return self._domains

    def read(self) -> Sequence[Reading | Failure]:
        """Return microjoules since `open`, or failures that the next read may overcome."""
        if self._power is None:
            return ()
        begin_ns = self._now_ns()
        try:
            busy = read_busy_seconds(self._root)
        except Exception as error:  # psutil raises many types; the next read may succeed
            reason = f"psutil cannot read CPU times ({type(error).__name__}: {error})"
            return tuple(
                Failure(position, reason, lost=False, at_ns=begin_ns) for position in range(len(self._counts))
            )
        end_ns = self._now_ns()
        elapsed_seconds = (end_ns - self._last_ns) * SECONDS_PER_NANOSECOND
        # A shorter step holds one tick or none, which says nothing about the load.
        if elapsed_seconds >= UPDATE_PERIOD_SECONDS:
            self._add(busy, elapsed_seconds)
            self._busy, self._last_ns = busy, end_ns
        return tuple(
            Reading(position, count, begin_ns, end_ns) for position, count in enumerate(self._counts)
        )

    def close(self) -> None:
        """Stop reading; there is nothing to release."""
        self._power = None

    def _add(self, busy: dict[int, float], elapsed_seconds: float) -> None:
        """Add the energy of one step. Power is at least that of idling, so counters never fall."""
        assert self._power is not None
        ratios = {
            # CPU times go back, and threads go, when a CPU is taken offline.
            thread: min(max((seconds - self._busy.get(thread, seconds)) / elapsed_seconds, 0.0), 1.0)
            for thread, seconds in busy.items()
        }
        for position, watts in enumerate(self._power.watts(ratios, elapsed_seconds)):
            self._joules[position] += watts * elapsed_seconds
            self._counts[position] = math.floor(self._joules[position] / JOULES_PER_MICROJOULE)


class _Power:
    """The formulas with the numbers of one machine."""

    def __init__(self, host: Host, facts: Facts, root: Path, clocks: tuple[Path, ...]) -> None:
        self._cores = core_threads(root)
        self._host = host
        self._virtual = facts.virtual
        inputs, table = host.inputs, coefficients()
        tdp_watts, self._package_spread = inputs.tdp_watts, SPREAD.combined(host.spread)
        if tdp_watts is None:
            tdp_watts = implied_tdp_watts(inputs, table)
            self._package_spread = self._package_spread.combined(table.implied_tdp_spread)
        self._tdp_watts = host.share * inputs.sockets * tdp_watts
        self._curve: MachineCurve = machine_curve(inputs, table)
        # How much memory stands behind that of a virtual machine nobody tells; its machine's has it.
        apart = not (host.memory_in_package or facts.virtual)
        self._gigabytes = facts.memory_gigabytes if apart else None
        base_ghz = facts.base_ghz or inputs.base_ghz
        self._clocks = clocks if base_ghz else ()
        self._base_ghz = base_ghz or 1.0
        if not self._clocks:
            self._package_spread = self._package_spread.combined(UNKNOWN_FREQUENCY)
        self._clock_ratio, self._clock_age_seconds = 1.0, math.inf

    def watts(self, thread_busy: dict[int, float], elapsed_seconds: float) -> tuple[float, ...]:
        """Return the power of each domain while threads were busy for these shares of the time."""
        busy = self._busy_cores(thread_busy)
        return self._watts(busy, self._frequency_ratio(elapsed_seconds))

    def _watts(self, busy: float, frequency_ratio: float) -> tuple[float, ...]:
        package = package_watts(self._tdp_watts, busy, frequency_ratio)
        machine = self._host.share * self._curve.watts(busy)
        if self._gigabytes is None:
            return (package, machine)
        memory = memory_watts(self._gigabytes, busy)
        return (package, memory, machine)

    def _busy_cores(self, thread_busy: dict[int, float]) -> float:
        online = [[thread for thread in core if thread in thread_busy] for core in self._cores]
        online = [core for core in online if core]
        if sum(map(len, online)) == len(thread_busy):
            highest = max(thread_busy) + 1
            return busy_core_ratio([thread_busy.get(thread, 0.0) for thread in range(highest)], online)
        mean = sum(thread_busy.values()) / len(thread_busy)
        two = self._host.inputs.threads > self._host.inputs.cores and not self._virtual
        # Without a topology: threads in pairs, busy independently of each other.
        return 1 - (1 - mean) ** 2 if two else mean

    def _frequency_ratio(self, elapsed_seconds: float) -> float:
        self._clock_age_seconds += elapsed_seconds
        if self._clocks and self._clock_age_seconds >= CLOCK_PERIOD_SECONDS:
            ghz = read_ghz(self._clocks)
            self._clock_ratio = 1.0 if ghz is None else ghz / self._base_ghz
            self._clock_age_seconds = 0.0
        return self._clock_ratio

    def domains(self, source: str, model_name: str | None) -> tuple[Domain, ...]:
        machine = self._curve.spreads[0].around(*self._curve.spreads[1:]).combined(self._host.spread)
        shown = [("cpu-estimate", "cpu", self._package_spread)]
        if self._gigabytes is not None:
            shown.append(("dram-estimate", "dram", RAM_SPREAD))
        shown.append(("machine-estimate", "machine", machine))
        most = self._watts(1.0, math.inf)
        return tuple(
            _domain(name, kind, spread, source, model_name, max_watts)
            for (name, kind, spread), max_watts in zip(shown, most, strict=True)
        )


def _domain(
    name: str, kind: str, spread: Spread, source: str, model_name: str | None, max_watts: float
) -> Domain:
    return Domain(
        name=name,
        id=f"{source}:{'package' if kind == 'cpu' else kind}",
        kind=kind,
        source=source,
        provenance=Provenance.ESTIMATED,
        joules_per_count=JOULES_PER_MICROJOULE,
        update_period_seconds=UPDATE_PERIOD_SECONDS,
        model_name=model_name,
        max_power_watts=max_watts,
        interval_low_ratio=spread.low_95,
        interval_high_ratio=spread.high_95,
    )


def read_busy_seconds(root: Path) -> dict[int, float]:
    """Return the busy seconds of each hardware thread since the machine started.

    Raises:
        Exception: whatever psutil raises where there is no readable ``proc/stat``.
    """
    text = read_text(root / "proc/stat") or ""
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0].startswith("cpu") and fields[0][3:].isdigit():
            values = [int(value) if value.isdigit() else 0 for value in fields[1:8]]
            ticks = sum(values[column] for column in _BUSY_COLUMNS if column < len(values))
            found[int(fields[0][3:])] = ticks / os.sysconf("SC_CLK_TCK")
    if found:
        return found
    import psutil

    return {
        thread: math.fsum(getattr(times, field, 0.0) for field in BUSY_FIELDS)
        for thread, times in enumerate(psutil.cpu_times(percpu=True))
    }


def _with_threads(facts: Facts, threads: int) -> Facts:
    return facts if facts.threads else replace(facts, threads=threads)


def _notes(source: str, host: Host, *, known_clock: bool) -> tuple[str, ...]:
    assumed = [*host.assumed]
    if not known_clock:
        assumed.append("cores run at their base clock")
    found = f"found: {'; '.join(host.found)}. " if host.found else ""
    notes = [f"{source}: {found}assumed: {'; '.join(assumed)}"]
    if SHARE_SPREAD.high_95 <= host.spread.high_95 and host.share < 1:
        notes.append(f"{source}: give share= and tdp_watts= if you know the host; the interval gets narrower")
    return tuple(notes)


def _platform_name() -> str | None:
    return platform.processor() or platform.machine() or None
