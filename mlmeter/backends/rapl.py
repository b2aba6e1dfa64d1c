"""Intel and AMD processors through RAPL, as Linux shows it in its powercap folder."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable
from functools import partial

from mlmeter.backends.powercap_zones import (
    DEFAULT_ROOT,
    ESTIMATE,
    KINDS,
    MASKED_REMEDY,
    PERMISSION_REMEDY,
    ROOT_VARIABLE,
    TWIN_PREFIX,
    UPDATE_PERIOD_SECONDS,
    Zone,
    identify,
    modulus,
    rapl_domain,
    read_number,
    unreadable,
    wrong_dram_unit,
    zone_folders,
)
from mlmeter.backends.processor import AMD_VENDORS, DEFAULT_CPUINFO, vendor_and_model
from mlmeter.backends.sensor_files import words
from mlmeter.backends.still_counters import (
    DEFAULT_DMI,
    LOOK_SECONDS,
    SLOW_PERIOD_SECONDS,
    Wait,
    is_refreshed_slowly,
    standing,
    standing_still,
    with_parts,
)
from mlmeter.backends.zone_counter import ZoneCounter
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Reading, Unavailable
from mlmeter.units import JOULES_PER_MICROJOULE, SECONDS_PER_NANOSECOND, WATTS_PER_MICROWATT

# What no die exceeds: two readings of one counter differ by at most this power times the time between them.
_MIRROR_WATTS = 1_000.0
# Power limits are means over seconds; short peaks exceed them.
_HIGHEST_POWER_PER_LIMIT = 2.0

_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESTALE)

_FOLDER_REMEDY = (
    "On real hardware load the driver (modprobe intel_rapl_msr; AMD needs Linux 5.11); most virtual machines "
    f"have no counters; in a container set {ROOT_VARIABLE} to the host's mounted folder; or {ESTIMATE}"
)


class RaplBackend:
    """Reads the energy counters of processors, their memory and the platform.

    Domains are named ``package-0`` (``package-0-die-1`` where the kernel counts dies), ``core-0``,
    ``uncore-0``, ``dram-0`` and ``psys``; the number is the package's, whatever the folder is called.
    Core and uncore are inside their package. DRAM is not, although its folder is. A zone that
    `intel-rapl-mmio` repeats is read once, and so is a counter that old AMD kernels show
    once per die.

    A zone without a usable `max_energy_range_uj` has no modulus: where its counter wraps, the
    energy between two readings is lost and reported as a reset.

    A package or memory whose counter does not move while `open` looks at it is unreadable, and so are its
    parts: some hypervisors show such counters for nothing. A guest of QEMU, whose counters may be refreshed
    once per second, keeps them unless they are 0.

    `read` costs one system call per zone on descriptors that are kept. A zone that fails is opened
    anew at the next `read`.

    Args:
        root: the powercap folder, flat (class) or nested (devices); None takes it from the environment
            variable MLMETER_POWERCAP_ROOT, else /sys/class/powercap.
        cpuinfo: where the processor's vendor and model are read.
        dmi: folder of the machine's names, which tell the hypervisor.
        now_ns: monotonic clock for the time stamps of the readings.
        wait: lets so many seconds pass while `open` looks whether counters move.

    Attributes:
        look_seconds: how long `open` waits for a counter to move, at most; 0 for no look.
        unreadable: zones that are there but cannot be read, and why.
        notes: texts that users of the figures must know.

    Example:
        >>> backend = RaplBackend()
        >>> try:
        ...     domains = backend.open()
        ... except BackendUnavailableError as error:
        ...     domains = []
        >>> len(backend.read()) == len(domains)
        True
        >>> backend.close()
    """

    name = "rapl"
    look_seconds = LOOK_SECONDS

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        cpuinfo: str | os.PathLike[str] = DEFAULT_CPUINFO,
        dmi: str | os.PathLike[str] = DEFAULT_DMI,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        wait: Wait = time.sleep,
    ) -> None:
        self._root = os.fspath(root if root is not None else os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)
        self._cpuinfo = os.fspath(cpuinfo)
        self._dmi = os.fspath(dmi)
        self._now_ns = now_ns
        self._wait = wait
        self._counters: list[ZoneCounter] = []
        self.unreadable: tuple[Unavailable, ...] = ()
        self.notes: tuple[str, ...] = ()

    def open(self) -> list[Domain]:
        """Find the zones, read each once and keep those that can be read.

        Raises:
            BackendUnavailableError: no zone can be read; reason and remedy say why.
        """
        self.close()
        notes: list[str] = []
        zones, problems = identify(self._folders(), notes)
        opened: dict[Zone, ZoneCounter] = {}
        first: dict[Zone, int] = {}
        for zone in sorted(zones, key=lambda zone: zone.order):
            if _has_twin(zone, opened):
                continue
            try:
                counter = ZoneCounter.of_folder(zone.path)
                first[zone] = counter.read(self._now_ns).value
            except (OSError, ValueError) as error:
                what = f"energy_uj of {zone.label} ({zone.name})"
                problems.setdefault(zone.name, unreadable(what, error, KINDS[zone.word]))
            else:
                opened[zone] = counter
        period_seconds = self._drop_still(opened, first, problems, notes)
        if not opened:
            raise self._nothing_readable(problems)
        vendor, model_name = vendor_and_model(self._cpuinfo)
        if vendor in AMD_VENDORS:
            _drop_mirrors(opened, self._now_ns, notes)
        notes += wrong_dram_unit(zones, self.name)
        domains = _domains(opened, model_name, period_seconds, notes)
        for position, counter in enumerate(opened.values()):
            counter.position = position
        metered = {domain.name for domain in domains}
        self.unreadable = tuple(problem for name, problem in problems.items() if name not in metered)
        self.notes = tuple(notes)
        self._counters = list(opened.values())
        return domains

    def read(self) -> list[Reading | Failure]:
        """Read every counter once; nothing before `open` and after `close`."""
        counters = self._counters
        return ZoneCounter.read_all(counters, self._now_ns, partial(self._recover, counters))

    def close(self) -> None:
        """Let go of the descriptors; a `read` under way in another thread ends unharmed."""
        self._counters = []
        self.unreadable = ()
        self.notes = ()

    def _recover(
        self, counters: list[ZoneCounter], counter: ZoneCounter, error: Exception
    ) -> Reading | Failure:
        """Close a counter that failed, or open anew one that was closed for this reason."""
        if counter.is_open:
            counters[counter.position] = counter.closed()
            return self._failure(counter, error)
        try:
            fresh = counter.reopened()
            reading = fresh.read(self._now_ns)
        except (OSError, ValueError) as again:
            return self._failure(counter, again)
        counters[counter.position] = fresh
        return reading

    def _failure(self, counter: ZoneCounter, error: Exception) -> Failure:
        lost = isinstance(error, OSError) and error.errno in _GONE
        reason = f"cannot read {counter.path}: {words(error)}"
        return Failure(counter.position, reason, lost, self._now_ns())

    def _drop_still(
        self,
        opened: dict[Zone, ZoneCounter],
        first: dict[Zone, int],
        problems: dict[str, Unavailable],
        notes: list[str],
    ) -> float:
        """Drop counters that do not move, and return the update period of the others in seconds."""
        still = standing_still(
            first,
            lambda zones: _counts({zone: opened[zone] for zone in zones}, self._now_ns),
            self._now_ns,
            seconds=self.look_seconds,
            wait=self._wait,
        )
        slow = {zone for zone in still if first[zone]}
        if slow and is_refreshed_slowly(self._dmi):
            notes.append(f"rapl: counters passed on by QEMU are refreshed every {SLOW_PERIOD_SECONDS:g} s")
            still -= slow
        else:
            slow.clear()
        for zone in with_parts(still, opened):
            what = f"energy_uj of {zone.label} ({zone.name})"
            problems.setdefault(zone.name, standing(self.name, zone, what, first[zone], self.look_seconds))
            del opened[zone]
        return SLOW_PERIOD_SECONDS if slow else UPDATE_PERIOD_SECONDS

    def _folders(self) -> dict[str, str]:
        """Return the zones' folders, or say that there is no powercap folder or no zone in it."""
        try:
            folders = zone_folders(self._root)
        except (OSError, ValueError) as error:
            if not sys.platform.startswith("linux"):
                reason = f"RAPL is read through Linux, and this is {sys.platform}"
                raise BackendUnavailableError(self.name, reason, f"You can {ESTIMATE}") from error
            reason = f"cannot list {self._root!a}: {words(error)}"
            if isinstance(error, FileNotFoundError):
                reason = f"there is no folder {self._root} (virtual machine, container or no driver)"
            raise BackendUnavailableError(self.name, reason, _FOLDER_REMEDY) from error
        if not folders:
            reason = f"{self._root} lists no RAPL zone (virtual machine, or processor without a driver)"
            raise BackendUnavailableError(self.name, reason, _FOLDER_REMEDY)
        return folders

    def _nothing_readable(self, problems: dict[str, Unavailable]) -> BackendUnavailableError:
        """Return the error for zones of which none can be read; a missing permission explains most."""
        if not problems:
            reason = f"no zone in {self._root} is called package-N, core, uncore, dram or psys"
            return BackendUnavailableError(self.name, reason, f"You can {ESTIMATE}")
        found = list(problems.values())
        by_remedy = {problem.remedy: problem for problem in reversed(found)}
        worst = by_remedy.get(PERMISSION_REMEDY) or by_remedy.get(MASKED_REMEDY) or found[0]
        reason = worst.reason
        if worst.remedy == MASKED_REMEDY:
            reason = f"zones are listed in {self._root}, but their files are hidden: {reason}"
        if len(problems) > 1:
            reason = f"{reason}; {len(problems)} zones in all cannot be read"
        return BackendUnavailableError(self.name, reason, worst.remedy or f"You can {ESTIMATE}")


def _counts(counters: dict[Zone, ZoneCounter], now_ns: Callable[[], int]) -> dict[Zone, int]:
    """Read counters once; those that fail are left out."""
    found = {}
    for zone, counter in counters.items():
        with contextlib.suppress(OSError, ValueError):
            found[zone] = counter.read(now_ns).value
    return found


def _has_twin(zone: Zone, opened: dict[Zone, ZoneCounter]) -> bool:
    """Return whether a zone repeats one that is read already; dies may be counted differently."""
    return zone.label.startswith(TWIN_PREFIX) and any(
        (other.word, other.package) == (zone.word, zone.package) and not other.label.startswith(TWIN_PREFIX)
        for other in opened
    )


def _drop_mirrors(opened: dict[Zone, ZoneCounter], now_ns: Callable[[], int], notes: list[str]) -> None:
    """Drop dies whose zones are one counter shown again (Zen 1 and 2), with their children.

    Energy would be counted once per die (codecarbon issue 1274).
    """
    packages = [zone for zone in opened if zone.word == "package"]
    for index, zone in enumerate(packages):
        for first in packages[:index]:
            if first.package != zone.package or first not in opened or zone not in opened:
                continue
            if _same_counter(opened[first], opened[zone], now_ns):
                notes.append(f"rapl: {zone.name} shows the counter of {first.name} again and is not metered")
                for mirror in [z for z in opened if z == zone or z.label.startswith(f"{zone.label}:")]:
                    del opened[mirror]
                break


def _same_counter(one: ZoneCounter, other: ZoneCounter, now_ns: Callable[[], int]) -> bool:
    """Return whether two counters are nearly equal twice; two true ones meet by chance only."""
    for _ in range(2):
        try:
            first, second = one.read(now_ns), other.read(now_ns)
        except (OSError, ValueError):
            return False
        elapsed_seconds = (second.end_ns - first.begin_ns) * SECONDS_PER_NANOSECOND
        tolerance_joules = _MIRROR_WATTS * (elapsed_seconds + 2 * UPDATE_PERIOD_SECONDS)
        if abs(second.value - first.value) * JOULES_PER_MICROJOULE > tolerance_joules:
            return False
    return True


def _domains(
    zones: dict[Zone, ZoneCounter], model_name: str | None, period_seconds: float, notes: list[str]
) -> list[Domain]:
    """Return the domains of the zones, with names that differ whatever the tree holds."""
    domains: list[Domain] = []
    taken: set[str] = set()
    for zone in zones:
        name, copy = zone.name, 1
        while name in taken:
            copy += 1
            name = f"{zone.name}-{copy}"
        taken.add(name)
        wrap = modulus(read_number(f"{zone.path}/max_energy_range_uj"))
        if wrap is None:
            notes.append(f"rapl: {name} does not say where it wraps; energy around a wrap is lost as a reset")
        limit_microwatts = read_number(f"{zone.path}/constraint_0_power_limit_uw")
        max_power_watts = _HIGHEST_POWER_PER_LIMIT * (limit_microwatts or 0) * WATTS_PER_MICROWATT
        domains.append(
            rapl_domain(
                zone,
                name,
                RaplBackend.name,
                joules_per_count=JOULES_PER_MICROJOULE,
                wrap=wrap,
                model_name=model_name,
                max_power_watts=max_power_watts or None,
                update_period_seconds=period_seconds,
            )
        )
    return domains
