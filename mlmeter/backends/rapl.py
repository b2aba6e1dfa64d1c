"""RAPL energy counters of Intel and AMD CPUs, read from Linux' powercap tree.

Kernel documentation: Documentation/power/powercap. Zones are called ``package-N`` (or
``package-N-die-M``), ``core``, ``uncore``, ``dram`` and ``psys``. A package contains core and
uncore; its DRAM lies outside although the folder is a child; psys contains everything.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading, Unavailable
from mlmeter.units import JOULES_PER_MICROJOULE, WATTS_PER_MICROWATT

DEFAULT_ROOT = "/sys/class/powercap"
# For containers, where the host's tree is mounted elsewhere.
ROOT_VARIABLE = "MLMETER_POWERCAP_ROOT"
CPU_INFO = "/proc/cpuinfo"
PREFIX = "intel-rapl"
TWIN_PREFIX = "intel-rapl-mmio"
UPDATE_PERIOD_SECONDS = 0.001
# Longer than any number that the kernel prints.
LONGEST_NUMBER = 32
# The power limit of a package is a mean over seconds; turbo peaks exceed it.
PEAK_POWER_RATIO = 2.0
# Two dies that mirror one counter differ by what is used between two reads of it.
MIRROR_TOLERANCE_MICROJOULES = 1_000_000
GONE = (errno.ENOENT, errno.ENODEV, errno.ESTALE, errno.ENXIO)
KINDS = {"package": "cpu", "core": "cpu", "uncore": "cpu", "dram": "dram", "psys": "psys"}

RECIPE = (
    "Give your group read access with a udev rule (see the how-to page read-rapl-without-root), "
    'or accept an estimate with backends=["cpu_estimate"]'
)
CONTAINER_RECIPE = (
    "The container hides the powercap devices: mount the host's /sys/devices/virtual/powercap read-only "
    f"and name the folder in {ROOT_VARIABLE}"
)


@dataclass(slots=True)
class _Zone:
    """One zone of the tree.

    `path` is its folder, `package` the number of its package as text (None for psys), `die`
    the number of the die where the name has one.
    """

    path: str
    type: str
    package: str | None
    die: str | None
    is_twin: bool
    descriptor: int | None = None

    @property
    def name(self) -> str:
        """Name of the domain: the type, the package and the die."""
        parts = [self.type, self.package, *(("die", self.die) if self.die else ())]
        return "-".join(part for part in parts if part is not None)


class RaplBackend:
    """Reads the energy counters of all packages of the machine.

    Args:
        root: powercap class folder; None for the environment variable
            ``MLMETER_POWERCAP_ROOT`` or else ``/sys/class/powercap``.
        cpuinfo: file with the CPU's vendor and model.
        now_ns: clock of the time stamps.

    Attributes:
        unreadable: zones that exist but could not be opened, and why.
    """

    name = "rapl"

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        cpuinfo: str | os.PathLike[str] = CPU_INFO,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._root = os.fspath(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)
        self._cpuinfo = os.fspath(cpuinfo)
        self._now_ns = now_ns
        self._zones: list[_Zone] = []
        self.unreadable: tuple[Unavailable, ...] = ()

    def open(self) -> Sequence[Domain]:
        """Find the zones and open their counters.

        Raises:
            BackendUnavailableError: there is no zone, or none can be read.
        """
        self.close()
        vendor, model = _cpu(self._cpuinfo)
        zones = _without_twins(list(_find_zones(self._root)))
        if not zones:
            raise self._nothing_found()
        refused: list[tuple[_Zone, OSError]] = []
        for zone in zones:
            try:
                zone.descriptor = os.open(os.path.join(zone.path, "energy_uj"), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                refused.append((zone, error))
        self.unreadable = tuple(_explain(zone, error) for zone, error in refused)
        opened = [zone for zone in zones if zone.descriptor is not None]
        if not opened:
            first = self.unreadable[0]
            raise BackendUnavailableError(self.name, first.reason, first.remedy)
        self._zones = _without_mirrors(opened) if vendor == "AuthenticAMD" else opened
        names = {zone.name for zone in self._zones}
        return tuple(_domain(zone, names, model) for zone in self._zones)

    def read(self) -> Sequence[Reading | Failure]:
        """Read every counter once, with a single system call each."""
        pread, now_ns = os.pread, self._now_ns
        results: list[Reading | Failure] = []
        for position, zone in enumerate(self._zones):
            begin_ns = now_ns()
            try:
                if zone.descriptor is None:
                    _reopen(zone)
                value = int(pread(zone.descriptor, LONGEST_NUMBER, 0))  # type: ignore[arg-type]  # reopened
                if value < 0:
                    raise ValueError(f"negative count {value}")
            except (OSError, ValueError) as error:
                results.append(_failure(position, zone, error, begin_ns))
                continue
            results.append(Reading(position, value, begin_ns, now_ns()))
        return results

    def close(self) -> None:
        """Close all counters."""
        zones, self._zones = self._zones, []
        for zone in zones:
            _close(zone)

    def _nothing_found(self) -> BackendUnavailableError:
        remedy = "On bare metal: modprobe intel_rapl_msr"
        if not os.path.isdir(self._root):
            reason = (
                f"there is no {self._root}: no Linux, no RAPL in this CPU or kernel, or a virtual machine"
            )
        elif any(entry.startswith(PREFIX) and ":" in entry for entry in _listing(self._root)):
            reason = f"{self._root} lists RAPL zones, but their folders are not there"
            remedy = CONTAINER_RECIPE
        else:
            reason = f"{self._root} lists no RAPL zone, as in most virtual machines"
        return BackendUnavailableError(self.name, reason, remedy)


def _find_zones(root: str) -> Iterator[_Zone]:
    """Yield the zones of the class folder (flat links) or of the device tree (nested folders), once each."""
    seen: set[str] = set()
    parents: dict[str, str | None] = {}
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop(0)
        for entry in sorted(_listing(folder), key=_zone_order):
            path = os.path.join(folder, entry)
            if entry in seen or not entry.startswith(PREFIX):
                continue
            if ":" in entry:
                seen.add(entry)
                zone = _zone(path, entry, parents)
                if zone is not None:
                    yield zone
            # A link of the class folder leads to a folder that holds the same zones again.
            if depth < 3 and not os.path.islink(path) and os.path.isdir(path):
                folders.append((path, depth + 1))


def _zone_order(entry: str) -> tuple[int, ...]:
    """Parents before children, and zone 10 after zone 9."""
    numbers = tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in entry.split(":")[1:])
    return (len(numbers), *numbers)


def _zone(path: str, entry: str, parents: dict[str, str | None]) -> _Zone | None:
    """Read a zone's name; None for one that is no zone of ours."""
    label = _text(os.path.join(path, "name"))
    kind, _, rest = (label or "").partition("-")
    if kind not in KINDS:
        return None
    package: str | None = None
    die: str | None = None
    if kind == "package":
        package, _, die_part = rest.partition("-die-")
        package, die = package or "0", die_part or None
        parents[entry] = f"{package}-die-{die}" if die else package
    elif kind != "psys":
        package = parents.get(entry.rpartition(":")[0]) or "0"
        package, _, die_part = package.partition("-die-")
        die = die_part or None
    return _Zone(path, kind, package, die, entry.startswith(TWIN_PREFIX))


def _without_twins(zones: list[_Zone]) -> list[_Zone]:
    """Keep one zone of each name: the MSR's, not its repetition through memory-mapped I/O."""
    kept: dict[str, _Zone] = {}
    for zone in sorted(zones, key=lambda zone: zone.is_twin):
        kept.setdefault(zone.name, zone)
    return [zone for zone in zones if kept[zone.name] is zone]


def _without_mirrors(zones: list[_Zone]) -> list[_Zone]:
    """Drop dies that show the counter of their package's first die again (AMD Zen 1 and 2)."""
    first_of: dict[tuple[str, str | None], _Zone] = {}
    kept = []
    for zone in zones:
        first = first_of.setdefault((zone.type, zone.package), zone)
        if zone.die is not None and first is not zone and _same_counter(first, zone):
            _close(zone)
        else:
            kept.append(zone)
    return kept


def _same_counter(one: _Zone, other: _Zone) -> bool:
    """Whether two zones show nearly the same value twice."""
    for _ in range(2):
        values = [_number(os.path.join(zone.path, "energy_uj")) for zone in (one, other)]
        if None in values or abs(values[0] - values[1]) > MIRROR_TOLERANCE_MICROJOULES:  # type: ignore[operator]
            return False
    return True


def _domain(zone: _Zone, names: set[str], model_name: str | None) -> Domain:
    inside = zone.type in ("core", "uncore")
    package = _Zone(zone.path, "package", zone.package, zone.die, zone.is_twin).name
    limit = _number(os.path.join(zone.path, "constraint_0_power_limit_uw"))
    return Domain(
        name=zone.name,
        id=f"rapl:{zone.name}",
        kind=KINDS[zone.type],
        source=RaplBackend.name,
        provenance=Provenance.MEASURED,
        update_period_seconds=UPDATE_PERIOD_SECONDS,
        joules_per_count=JOULES_PER_MICROJOULE,
        modulus=modulus(_number(os.path.join(zone.path, "max_energy_range_uj"))),
        cheap_read=True,
        parent=package if inside and package in names else None,
        model_name=model_name,
        max_power_watts=PEAK_POWER_RATIO * limit * WATTS_PER_MICROWATT if limit else None,
    )


def modulus(max_energy_range_uj: int | None) -> int | None:
    """Return the microjoules after which a zone's counter starts again.

    The kernel shows 2^32 - 1 units; the counter wraps after 2^32, one unit more. Without the
    range a fall of the counter is a reset: the energy between two readings is then unknown.
    """
    if not max_energy_range_uj:
        return None
    return round(max_energy_range_uj * 2**32 / (2**32 - 1))


def _reopen(zone: _Zone) -> None:
    zone.descriptor = os.open(os.path.join(zone.path, "energy_uj"), os.O_RDONLY | os.O_CLOEXEC)


def _failure(position: int, zone: _Zone, error: OSError | ValueError, at_ns: int) -> Failure:
    """Explain a failed read and have the file opened anew at the next one."""
    _close(zone)
    lost = isinstance(error, OSError) and error.errno in GONE
    words = error.strerror if isinstance(error, OSError) else "the file holds no number"
    return Failure(position, f"energy_uj of {zone.name} cannot be read: {words}", lost, at_ns)


def _explain(zone: _Zone, error: OSError) -> Unavailable:
    file = os.path.join(zone.path, "energy_uj")
    remedy = ""
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = f"cannot read {file} (permission denied; since Linux 5.10 only root may)"
        remedy = RECIPE
    elif error.errno in GONE:
        reason = f"{zone.name} is listed but {file} is not there"
        remedy = CONTAINER_RECIPE
    else:
        reason = f"cannot read {file}: {error.strerror or error}"
    return Unavailable(source=RaplBackend.name, kinds=(KINDS[zone.type],), reason=reason, remedy=remedy)


def _close(zone: _Zone) -> None:
    descriptor, zone.descriptor = zone.descriptor, None
    if descriptor is not None:
        try:
            os.close(descriptor)
        except OSError:
            # Closed by somebody else (a forked child that closes everything): nothing is lost.
            pass


def _cpu(path: str) -> tuple[str | None, str | None]:
    """Return vendor and model name of the CPU."""
    facts: dict[str, str] = {}
    for line in (_text(path) or "").splitlines()[:30]:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts.get("vendor_id"), facts.get("model name")


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65_536).strip()
    except OSError:
        return None


def _number(path: str) -> int | None:
    """Return a file's number; None if there is none of 0 or more."""
    text = _text(path)
    try:
        value = int(text) if text else -1
    except ValueError:
        return None
    return value if value >= 0 else None
