"""Zones of Linux' powercap tree: what there is, and what each folder counts.

A zone is a folder with a `name`, a counter `energy_uj` and a `max_energy_range_uj`. Folders
are found by name, never by index: psys can stand between two packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from mlmeter.backends.sensor_files import words
from mlmeter.measurement import Domain, Provenance, Unavailable

ROOT_VARIABLE = "MLMETER_POWERCAP_ROOT"
DEFAULT_ROOT = "/sys/class/powercap"
SOURCE = "rapl"
_PREFIX = "intel-rapl"  # on AMD, too
# The same counters through another register interface.
TWIN_PREFIX = "intel-rapl-mmio"

# Kinds of the zones, in the order in which the domains of a package are listed.
KINDS = {"package": "cpu", "core": "cpu", "uncore": "cpu", "dram": "dram", "psys": "psys"}

_INSIDE_PACKAGE = ("core", "uncore")

# The processor adds to its counters about once per millisecond.
UPDATE_PERIOD_SECONDS = 0.001
# Shorter ranges would wrap within milliseconds: no register does, so the file is wrong.
_SMALLEST_RANGE_MICROJOULES = 1_000_000

# max_energy_range_uj of counters in steps of 1 J, and of those in steps of 15.3 microjoules.
_PSYS_OF_JOULES = 4294967295000000
_OLD_SERVER_DRAM = 65712999613

LARGEST_COUNT = 2**63 - 1
# A named pipe in a made-up tree must not block the metered program.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)

ESTIMATE = 'accept an estimate with backends=["cpu_estimate"]'
PERMISSION_REMEDY = (
    "Grant read access to a group with a udev rule (docs: how-to/read-rapl-without-root), or " + ESTIMATE
)
MASKED_REMEDY = (
    "Container runtimes hide the counters: mount the host's powercap folders elsewhere and set "
    f"{ROOT_VARIABLE} (docs: how-to/read-rapl-without-root), or {ESTIMATE}"
)


class Zone(NamedTuple):
    """One folder of the powercap tree; `package` and `die` are those that it belongs to."""

    label: str
    path: str
    word: str
    package: int | None
    die: int | None

    @property
    def suffix(self) -> str:
        """What sets zones of other packages and dies apart."""
        package = "" if self.package is None else f"-{self.package}"
        return package if self.die is None else f"{package}-die-{self.die}"

    @property
    def name(self) -> str:
        """Name of the domain."""
        return self.word + self.suffix

    @property
    def order(self) -> tuple[bool, int, int, int, bool, str]:
        """By package and die, psys and the unknown last, twins behind what they repeat."""
        rank = list(KINDS).index(self.word)
        package, die = self.package or 0, self.die or 0
        return (
            self.package is None or self.word == "psys",
            package,
            die,
            rank,
            self.label.startswith(TWIN_PREFIX),
            self.label,
        )


def zone_folders(root: str) -> dict[str, str]:
    """Return the path of every zone by its folder's name, which the kernel uses once only.

    The class folder is flat, its links lead to nested folders that hold the same zones again,
    and a link may lead nowhere: such a zone is returned, too.
    """
    found: dict[str, str] = {}
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                labels = sorted(entry.name for entry in entries if entry.name.startswith(_PREFIX))
        except OSError:
            if folder == root:
                raise
            continue
        new = {label: f"{folder}/{label}" for label in labels if label.isascii() and label not in found}
        found.update(new)
        pending.extend(new.values())
    return {label: path for label, path in found.items() if ":" in label}


def identify(folders: dict[str, str], notes: list[str]) -> tuple[list[Zone], dict[str, Unavailable]]:
    """Read the names of the zones: what each counts, and of which package."""
    names: dict[str, str] = {}
    problems: dict[str, Unavailable] = {}
    for label, path in folders.items():
        try:
            names[label] = read_text(f"{path}/name")
        except OSError as error:
            problems[label] = unreadable(f"name of {label}", error)
    zones: list[Zone] = []
    for label, name in names.items():
        package = _package(name)
        if package is not None:
            zones.append(Zone(label, folders[label], "package", *package))
        elif (platform := _platform(name)) is not None:
            zones.append(Zone(label, folders[label], "psys", *platform))
        elif name in KINDS and name != "package":
            parent = _package(names.get(label.rpartition(":")[0], "")) or (None, None)
            zones.append(Zone(label, folders[label], name, *parent))
        else:
            notes.append(f"rapl: zone {label} has the unknown name {name!a} and is not metered")
    return zones, problems


def _package(name: str) -> tuple[int | None, int | None] | None:
    """Return package and die of ``package-N`` and ``package-N-die-M``; None for another name."""
    words = name.split("-")
    numbers = words[1::2]
    if words[::2] not in (["package"], ["package", "die"]) or len(words) % 2:
        return None
    if not all(number.isdecimal() for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else None


def _platform(name: str) -> tuple[int | None, None] | None:
    """Return package (and no die) of ``psys`` and ``psys-N``; None for another name."""
    word, dash, number = name.partition("-")
    if word != "psys" or (dash and not number.isdecimal()):
        return None
    return (int(number) if dash else None), None


def modulus(range_microjoules: int | None) -> int | None:
    """Return after how many microjoules a counter starts again; None if its range makes no sense.

    The file holds 2**32 - 1 units of the hardware; the counter has 2**32 values.
    """
    if range_microjoules is None or range_microjoules < _SMALLEST_RANGE_MICROJOULES:
        return None
    last_unit = 2**32 - 1
    return (range_microjoules * 2**32 + last_unit // 2) // last_unit


def wrong_dram_unit(zones: Iterable[Zone], source: str) -> list[str]:
    """Return a note on kernels that count the DRAM of Sapphire Rapids in the unit of older servers.

    Only since Sapphire Rapids does psys count whole joules, and only before it did DRAM count in
    15.3 µJ: both together are a kernel without the correction of October 2022.
    """
    ranges = {zone: read_number(f"{zone.path}/max_energy_range_uj") for zone in zones}
    if (_PSYS_OF_JOULES, "psys") not in {(value, zone.word) for zone, value in ranges.items()}:
        return []
    wrong = [zone.name for zone, value in ranges.items() if (value, zone.word) == (_OLD_SERVER_DRAM, "dram")]
    if not wrong:
        return []
    text = f"{source}: {', '.join(wrong)}: this kernel counts DRAM in units of 15.3 instead of 61 microjoules"
    return [f"{text}: its energy is about 4 times too low. Update Linux (stable of October 2022 or later)"]


def rapl_domain(
    zone: Zone,
    name: str,
    source: str,
    *,
    joules_per_count: float,
    wrap: int | None,
    model_name: str | None,
    max_power_watts: float | None = None,
    update_period_seconds: float = UPDATE_PERIOD_SECONDS,
) -> Domain:
    """Describe a zone; its id is the same whoever reads it, so that it is never added twice.

    Args:
        zone: what is counted.
        name: of the domain; that of the zone, unless another one has it already.
        source: name of the backend.
        joules_per_count: one count.
        wrap: counts after which the counter starts again.
        model_name: of the processor.
        max_power_watts: what the zone cannot exceed, if that is known.
        update_period_seconds: time between refreshes.
    """
    kind = KINDS[zone.word]
    return Domain(
        name=name,
        id=f"{SOURCE}:{name}",
        kind=kind,
        source=source,
        provenance=Provenance.MEASURED,
        joules_per_count=joules_per_count,
        modulus=wrap,
        update_period_seconds=update_period_seconds,
        cheap_read=True,
        parent=f"package{zone.suffix}" if zone.word in _INSIDE_PACKAGE else None,
        model_name=model_name if kind == "cpu" else None,
        max_power_watts=max_power_watts,
    )


def read_text(path: str, length: int = 128) -> str:
    """Return the beginning of a file; raise OSError."""
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        return os.read(descriptor, length).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def read_number(path: str) -> int | None:
    """Return the number in a file if there is one that a register can hold."""
    try:
        value = int(read_text(path))
    except (OSError, ValueError):
        return None
    return value if 0 <= value <= LARGEST_COUNT else None


def unreadable(what: str, error: Exception, *kinds: str) -> Unavailable:
    """Explain why something of the tree cannot be read, and what would help."""
    remedy = ""
    if isinstance(error, PermissionError):
        remedy = PERMISSION_REMEDY
    elif isinstance(error, FileNotFoundError):
        remedy = MASKED_REMEDY
    reason = f"cannot read {what}: {words(error)}"
    return Unavailable(source=SOURCE, kinds=kinds, reason=reason, remedy=remedy)
