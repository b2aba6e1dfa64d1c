"""CPU energy without a counter: a formula of busy time, for machines where nothing measures it.

The power of all CPU packages is taken as a share of their thermal design power (TDP)::

    P = S * (0.12 + 0.76 * u)        S = hardware threads * watts per thread

with ``u`` the share of the threads' time that is busy. The shape is the fit of this project
to package power measured with RAPL on 11 CPUs of the codecarbon (MIT) and Teads (Apache-2.0)
load sweeps, made linear: energy is then a sum of elapsed and busy time, whatever happened
between two readings.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import JOULES_PER_MICROJOULE, SECONDS_PER_NANOSECOND

IDLE_RATIO = 0.12
BUSY_RATIO = 0.76

# Published SPECpower_ssj2008 results, servers of 2017 and later: median 3.7 W at the wall per
# hardware thread at full load (68 %: 1.8 to 4.5 W); about 80 % of it goes to the packages,
# 3.0 W. The RAPL sweeps named above: 3.2 to 9.8 W per thread at full load. 3.8 W lies so
# that the interval below holds as much of the one as of the other.
WATTS_PER_THREAD = 3.8

# Package power per thread differs by family (Turin 1, Skylake 3.3, Xeon 8252C 9.8 W at full
# load) and rises faster than linearly at low load. The truth lies within a factor of 3 in
# 94 % of the 114 RAPL points and in 94 % of the loads (idle, half, full) of 502 SPECpower
# servers of 2017 and later. Desktops and laptops were not checked.
INTERVAL_LOW_RATIO = 1 / 3
INTERVAL_HIGH_RATIO = 3.0

# The kernel counts CPU time in /proc/stat in units of 1/USER_HZ (proc_stat(5)): 10 ms.
UPDATE_PERIOD_SECONDS = 0.01

# Guest time is part of user and nice on Linux. Not busy: idle and iowait, and steal, the time
# in which the hypervisor ran somebody else. Elsewhere the missing fields are inside system.
BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq")

_REMEDY = "Repair the installation with: python -m pip install --force-reinstall psutil"


class CpuEstimateBackend:
    """Estimates the energy of all CPU packages from the CPU times of the operating system.

    The figure is for the whole machine as the operating system sees it: CPU affinity and
    container limits are ignored, a virtual machine counts its own threads only. Its counter
    is an estimate to a factor of 3 and must never be mixed with measured energy unmarked.

    Args:
        watts_per_thread: share of TDP of one hardware thread. Give the TDP of the processor
            divided by its threads if it is known.
        now_ns: monotonic nanoseconds.
        cpuinfo_path: where Linux tells the processor's name.

    Raises:
        ArgumentError: `watts_per_thread` is not a positive finite number.

    Example:
        >>> backend = CpuEstimateBackend(watts_per_thread=280 / 128)  # EPYC 7763
        >>> [domain] = backend.open()
        >>> domain.provenance
        <Provenance.ESTIMATED: 'estimated'>
        >>> [reading] = backend.read()
        >>> backend.close()
    """

    name = "cpu_estimate"

    def __init__(
        self,
        *,
        watts_per_thread: float = WATTS_PER_THREAD,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        cpuinfo_path: Path = Path("/proc/cpuinfo"),
    ) -> None:
        if not (math.isfinite(watts_per_thread) and watts_per_thread > 0):
            raise ArgumentError(f"watts_per_thread: expected a positive number, not {watts_per_thread!r}")
        self._watts_per_thread = float(watts_per_thread)
        self._now_ns = now_ns
        self._cpuinfo_path = cpuinfo_path
        self._open = False
        self._threads = 0
        self._base_busy_seconds = 0.0
        self._base_ns = self._last_ns = 0
        self._last_count = 0

    def open(self) -> Sequence[Domain]:
        """Take the base of the counter, which starts at 0.

        Raises:
            BackendUnavailableError: psutil is missing or cannot tell CPU times or threads.
        """
        try:
            threads = _hardware_threads()
            base_busy_seconds = _busy_seconds()
        except ImportError as error:
            reason = f"psutil cannot be imported ({error})"
            raise BackendUnavailableError(self.name, reason, _REMEDY) from error
        except Exception as error:  # psutil raises many types, from OSError to plain RuntimeError
            reason = f"psutil cannot read CPU times ({type(error).__name__}: {error})"
            raise BackendUnavailableError(self.name, reason, "Check that /proc is mounted") from error
        if not threads:
            raise BackendUnavailableError(self.name, "the number of hardware threads is not known")
        self._threads = threads
        self._base_busy_seconds = base_busy_seconds
        self._base_ns = self._last_ns = self._now_ns()
        self._last_count = 0
        self._open = True
        return (self._domain(),)

    def read(self) -> Sequence[Reading | Failure]:
        """Return microjoules since `open`, or a failure that the next read may overcome."""
        if not self._open:
            return ()
        begin_ns = self._now_ns()
        try:
            busy_seconds = _busy_seconds() - self._base_busy_seconds
        except Exception as error:  # psutil raises many types; the next read may succeed
            reason = f"psutil cannot read CPU times ({type(error).__name__}: {error})"
            return (Failure(0, reason, lost=False, at_ns=begin_ns),)
        end_ns = self._now_ns()
        elapsed_seconds = (end_ns - self._base_ns) * SECONDS_PER_NANOSECOND
        count = math.floor(self._energy_joules(elapsed_seconds, busy_seconds) / JOULES_PER_MICROJOULE)
        # A paused virtual machine gets its CPU times in one lump: the counter follows at full power.
        step_seconds = (end_ns - self._last_ns) * SECONDS_PER_NANOSECOND + UPDATE_PERIOD_SECONDS
        most = self._last_count + math.ceil(self._full_watts * step_seconds / JOULES_PER_MICROJOULE)
        # CPU times go back when a CPU is taken offline; the counter waits for them.
        self._last_count = max(self._last_count, min(count, most))
        self._last_ns = end_ns
        return (Reading(0, self._last_count, begin_ns, end_ns),)

    def close(self) -> None:
        """Stop reading; there is nothing to release."""
        self._open = False

    @property
    def _full_watts(self) -> float:
        """Power of the formula with all threads busy."""
        return self._threads * self._watts_per_thread * (IDLE_RATIO + BUSY_RATIO)

    def _energy_joules(self, elapsed_seconds: float, busy_seconds: float) -> float:
        """Return the integral of the formula since `open`."""
        thread_seconds = self._threads * elapsed_seconds
        # Ticks are booked late and whole, so the share can leave 0..1 by a little.
        busy_thread_seconds = min(max(busy_seconds, 0.0), thread_seconds)
        return self._watts_per_thread * (IDLE_RATIO * thread_seconds + BUSY_RATIO * busy_thread_seconds)

    def _domain(self) -> Domain:
        return Domain(
            name="cpu-estimate",
            id="cpu_estimate:machine",
            kind="cpu",
            source=self.name,
            provenance=Provenance.ESTIMATED,
            joules_per_count=JOULES_PER_MICROJOULE,
            update_period_seconds=UPDATE_PERIOD_SECONDS,
            model_name=_model_name(self._cpuinfo_path),
            max_power_watts=self._full_watts,
            interval_low_ratio=INTERVAL_LOW_RATIO,
            interval_high_ratio=INTERVAL_HIGH_RATIO,
        )


def _hardware_threads() -> int | None:
    import psutil

    return psutil.cpu_count(logical=True)


def _busy_seconds() -> float:
    """Return the busy seconds of all hardware threads since the machine started."""
    import psutil

    times = psutil.cpu_times()
    return math.fsum(getattr(times, field, 0.0) for field in BUSY_FIELDS)


def _model_name(cpuinfo_path: Path) -> str | None:
    """Return the processor's name; None if neither /proc/cpuinfo nor the platform tells it."""
    try:
        lines = cpuinfo_path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or None
