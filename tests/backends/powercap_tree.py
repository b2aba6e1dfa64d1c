"""Powercap trees for tests: frozen copies of known machines, and one whose counters run.

`build_tree` makes both layouts that the kernel shows: nested folders under
``devices/virtual/powercap`` and the flat links to them in ``class/powercap``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.backends import live_powercap_process
from tests.backends.live_powercap_process import LATE_PERIODS, Schedule

INTEL_RANGE = 262143328850
AMD_RANGE = 65532610987
SERVER_DRAM_RANGE = 65712999613
JOULE_STEPS_RANGE = 4294967295000000

INTEL_CPUINFO = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i7-8550U CPU\n"
AMD_CPUINFO = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7543 32-Core Processor\n"


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone folder; a file whose value is None is left out."""

    label: str
    name: str | bytes | None
    energy_uj: int | str | bytes | None = 1_000_000
    range_uj: int | str | bytes | None = INTEL_RANGE
    limit_uw: int | str | bytes | None = None
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class PowercapTree:
    """A tree on disk.

    Attributes:
        class_root: flat folder of links, as ``/sys/class/powercap``.
        device_root: nested folders, as ``/sys/devices/virtual/powercap``.
        control_root: the folder of the control type, which some mount alone.
        cpuinfo: file like ``/proc/cpuinfo``.
    """

    class_root: Path
    device_root: Path
    cpuinfo: Path

    @property
    def control_root(self) -> Path:
        return self.device_root / "intel-rapl"

    def folder(self, label: str) -> Path:
        """Return the real folder of a zone."""
        return _device_folder(self.device_root, label)

    def energy_file(self, label: str) -> Path:
        return self.folder(label) / "energy_uj"

    def mask(self) -> None:
        """Hide the devices as container runtimes do: links stay, what they lead to is gone."""
        self.device_root.rename(self.device_root.with_name("hidden"))
        self.device_root.mkdir()


def build_tree(
    directory: Path,
    zones: Sequence[Zone],
    *,
    cpuinfo: str = INTEL_CPUINFO,
) -> PowercapTree:
    """Write the zones below a directory, with the links that a real tree has."""
    tree = PowercapTree(
        directory / "class/powercap", directory / "devices/virtual/powercap", directory / "cpuinfo"
    )
    tree.class_root.mkdir(parents=True)
    tree.device_root.mkdir(parents=True)
    tree.cpuinfo.write_text(cpuinfo)
    for zone in zones:
        folder = tree.folder(zone.label)
        for above in (folder, *folder.parents):
            if above != tree.device_root and tree.device_root in above.parents:
                _add_folder(tree, above)
        _write(folder / "name", zone.name)
        _write(folder / "energy_uj", zone.energy_uj)
        _write(folder / "max_energy_range_uj", zone.range_uj)
        _write(folder / "constraint_0_power_limit_uw", zone.limit_uw)
        if zone.energy_uj is not None:
            (folder / "energy_uj").chmod(zone.mode)
    return tree


def _device_folder(device_root: Path, label: str) -> Path:
    control, *numbers = label.split(":")
    folder = device_root / control
    for depth in range(1, len(numbers) + 1):
        folder /= ":".join([control, *numbers[:depth]])
    return folder


def _add_folder(tree: PowercapTree, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    link = tree.class_root / folder.name
    if link.is_symlink():
        return
    link.symlink_to(os.path.relpath(folder, tree.class_root))
    (folder / "subsystem").symlink_to(os.path.relpath(tree.class_root, folder))
    (folder / "power").mkdir()
    (folder / "uevent").write_text("")
    if folder.parent != tree.device_root:
        (folder / "device").symlink_to("..")


def _write(path: Path, content: int | str | bytes | None) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(f"{content}\n")


# --- machines (see the listings in powercap, powerjoular and thermald issues) -----------------

CLIENT = (
    Zone("intel-rapl:0", "package-0", 11_000_000, limit_uw=15_000_000),
    Zone("intel-rapl:0:0", "core", 12_000_000),
    Zone("intel-rapl:0:1", "uncore", 13_000_000),
    Zone("intel-rapl:0:2", "dram", 14_000_000),
    Zone("intel-rapl:1", "psys", 15_000_000),
)
SERVER_TWO_SOCKETS = (
    Zone("intel-rapl:0", "package-0", 21_000_000, limit_uw=270_000_000),
    Zone("intel-rapl:0:0", "dram", 22_000_000, range_uj=SERVER_DRAM_RANGE, limit_uw=0),
    Zone("intel-rapl:1", "package-1", 23_000_000, limit_uw=270_000_000),
    Zone("intel-rapl:1:0", "dram", 24_000_000, range_uj=SERVER_DRAM_RANGE, limit_uw=0),
)
AMD_TWO_SOCKETS = (
    Zone("intel-rapl:0", "package-0", 31_000_000, range_uj=AMD_RANGE),
    Zone("intel-rapl:0:0", "core", 32_000_000, range_uj=AMD_RANGE),
    Zone("intel-rapl:1", "package-1", 33_000_000, range_uj=AMD_RANGE),
    Zone("intel-rapl:1:0", "core", 34_000_000, range_uj=AMD_RANGE),
)
# The twin has an index of its own, so that only the name tells what it repeats.
MMIO_DUPLICATE = (
    *CLIENT,
    Zone("intel-rapl-mmio:1", "package-0", 11_000_100),
    Zone("intel-rapl-mmio:1:0", "dram", 14_000_100),
)
MMIO_ALONE = (
    Zone("intel-rapl-mmio:0", "package-0", 41_000_000),
    Zone("intel-rapl-mmio:0:0", "dram", 42_000_000),
)
MULTI_DIE_MIRRORED = (
    Zone("intel-rapl:0", "package-0-die-0", 51_000_000, range_uj=AMD_RANGE),
    Zone("intel-rapl:0:0", "core", 52_000_000, range_uj=AMD_RANGE),
    Zone("intel-rapl:1", "package-0-die-1", 51_000_900, range_uj=AMD_RANGE),
    Zone("intel-rapl:1:0", "core", 53_000_000, range_uj=AMD_RANGE),
)
MULTI_DIE_REAL = (
    Zone("intel-rapl:0", "package-0-die-0", 61_000_000),
    Zone("intel-rapl:0:0", "dram", 62_000_000),
    Zone("intel-rapl:1", "package-0-die-1", 9_063_000_000),
    Zone("intel-rapl:1:0", "dram", 64_000_000),
)
REVERSED_ORDER = (
    Zone("intel-rapl:0", "package-1", 71_000_000),
    Zone("intel-rapl:0:0", "dram", 72_000_000),
    Zone("intel-rapl:1", "package-0", 73_000_000),
    Zone("intel-rapl:1:0", "dram", 74_000_000),
)
SPARSE_PACKAGES = (
    Zone("intel-rapl:0", "package-0", 81_000_000),
    Zone("intel-rapl:1", "package-3", 82_000_000),
)
TEN_SOCKETS = tuple(Zone(f"intel-rapl:{n}", f"package-{n}", 91_000_000 + n) for n in range(11))
# Sapphire Rapids: psys stands between the packages and counts whole joules.
PSYS_IN_THE_MIDDLE = (
    Zone("intel-rapl:0", "package-0", 101_000_000),
    Zone("intel-rapl:0:0", "dram", 102_000_000),
    Zone("intel-rapl:1", "psys", 103_000_000, range_uj=JOULE_STEPS_RANGE),
    Zone("intel-rapl:2", "package-1", 104_000_000),
    Zone("intel-rapl:2:0", "dram", 105_000_000),
)
# The same with a kernel before October 2022, which counts DRAM in the unit of older servers.
WRONG_DRAM_UNIT = tuple(
    replace(zone, range_uj=SERVER_DRAM_RANGE) if zone.name == "dram" else zone for zone in PSYS_IN_THE_MIDDLE
)
# Each package but the first numbers its platform zone.
PSYS_PER_PACKAGE = (
    *PSYS_IN_THE_MIDDLE,
    Zone("intel-rapl:3", "psys-1", 106_000_000, range_uj=JOULE_STEPS_RANGE),
)
DRAM_BESIDE = (
    Zone("intel-rapl:0", "package-0", 111_000_000),
    Zone("intel-rapl:1", "dram", 112_000_000),
)
ALL_ZERO = tuple(replace(zone, energy_uj=0) for zone in SERVER_TWO_SOCKETS)
UNREADABLE = tuple(replace(zone, mode=0o400) for zone in SERVER_TWO_SOCKETS)
DRAM_ONLY_READABLE = tuple(
    zone if zone.name == "dram" else replace(zone, mode=0o400) for zone in SERVER_TWO_SOCKETS
)


# --- a tree whose counters run -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SquareWave:
    """Power that changes between two levels; the low half comes first."""

    low_watts: float
    high_watts: float
    half_period_seconds: float

    def pieces(self, start_ns: int) -> list[tuple[int, int, int, int]]:
        low, high = round(self.low_watts * 1e6), round(self.high_watts * 1e6)
        return [(start_ns, low, high, round(self.half_period_seconds * 1e9))]


class LivePowercapTree:
    """A tree whose counters follow a known power in real time, written by a process of its own.

    The counters of the tree are refreshed every `update_period_seconds`, later when the machine is busy:
    `largest_update_gap_seconds` tells by how much. Between refreshes they stand still, as in hardware.
    The truth is exact: both processes integrate the same schedule over the same monotonic clock.

    Args:
        directory: an existing folder; on a memory file system nothing reaches a disk.
        power: watts (constant or `SquareWave`) by domain name: ``package-N``, ``core-N``, ``uncore-N``,
            ``dram-N``, ``psys``.
        modulus_microjoules: counts after which every counter starts again; below 2**31 the
            file `max_energy_range_uj` shows the same number, above it what the kernel would.
        first_microjoules: value of every counter at the start.
        limit_watts: `constraint_0_power_limit_uw` of every zone; None for no such file.

    Example:
        >>> with LivePowercapTree(tmp_path, {"package-0": SquareWave(10, 210, 0.1)}) as tree:
        ...     backend = RaplBackend(tree.root)
    """

    def __init__(
        self,
        directory: Path,
        power: Mapping[str, float | SquareWave],
        *,
        modulus_microjoules: int = 262143328911,
        first_microjoules: int = 0,
        limit_watts: float | None = None,
        update_period_seconds: float = 0.001,
    ) -> None:
        limit_uw = None if limit_watts is None else round(limit_watts * 1e6)
        # The kernel shows one unit, 2**-32 of the modulus, less.
        range_uj = modulus_microjoules - round(modulus_microjoules / 2**32)
        zones = _live_zones(power)
        text = f"{first_microjoules:0{live_powercap_process.DIGITS}d}"
        self.modulus_microjoules = modulus_microjoules
        self.tree = build_tree(
            directory,
            [Zone(label, name, text, range_uj, limit_uw, 0o644) for label, name in zones.values()],
        )
        self.root = self.tree.class_root
        self._late_path = directory / "late_refreshes"
        self._late_path.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._power = {
            zone: watts if isinstance(watts, SquareWave) else SquareWave(watts, watts, 1.0)
            for zone, watts in power.items()
        }
        self._files = {zone: self.tree.energy_file(label) for zone, (label, _) in zones.items()}
        self._first_microjoules = first_microjoules
        self._period_ns = round(update_period_seconds * 1e9)
        self._schedules: dict[str, Any] = {}

    def __enter__(self) -> LivePowercapTree:
        start_ns = time.perf_counter_ns()
        pieces = {zone: wave.pieces(start_ns) for zone, wave in self._power.items()}
        self._schedules = {zone: Schedule(pieces[zone]) for zone in pieces}
        setup = {
            "counters": {
                zone: (str(path), self.modulus_microjoules, self._first_microjoules, pieces[zone])
                for zone, path in self._files.items()
            },
            "late_path": str(self._late_path),
            "period_ns": self._period_ns,
        }
        command = [sys.executable, "-I", "-S", str(live_powercap_process.__file__)]
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True
        )
        if self._ask(setup) != b"ready\n":
            self.__exit__(None, None, None)
            raise RuntimeError("the process that writes the live tree did not start")
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        # The end of its input is what the process waits for.
        process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    @property
    def largest_update_gap_seconds(self) -> float:
        """Longest time between two refreshes so far: what the machine's load did to the counters."""
        gaps_ns = [end - begin for begin, end in self.late_refreshes()]
        return max(gaps_ns, default=LATE_PERIODS * self._period_ns) / 1e9

    def late_refreshes(self) -> list[tuple[int, int]]:
        """Return begin and end of the times longer than `LATE_PERIODS` without a refresh."""
        lines = self._late_path.read_text().splitlines()
        return [(int(begin), int(end)) for begin, end in map(str.split, lines)]

    def true_joules(self, begin_ns: int, end_ns: int, zone: str) -> float:
        """Return the exact energy of a domain between two times of `time.perf_counter_ns`."""
        return float(self._schedules[zone].femtojoules(begin_ns, end_ns)) / 1e15

    def set_watts(self, zone: str, watts: float, *, at_ns: int | None = None) -> int:
        """Change the power of a domain and return the monotonic time from which it holds.

        Without `at_ns`, or if that time has passed, the power changes with the next refresh.
        """
        microwatts = round(watts * 1e6)
        start_ns = int(self._ask({"zone": zone, "microwatts": microwatts, "at_ns": at_ns or 0}))
        self._schedules[zone].change(start_ns, microwatts)
        return start_ns

    def _ask(self, message: dict[str, Any]) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        return self._process.stdout.readline()


def _live_zones(power: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Return folder label and zone name by domain name; packages stand where their number says."""
    zones: dict[str, tuple[str, str]] = {}
    children = ("core", "uncore", "dram")
    for domain in power:
        word, _, number = domain.partition("-")
        if word == "psys":
            zones[domain] = ("intel-rapl:99", word)
        elif word in children:
            zones[domain] = (f"intel-rapl:{number}:{children.index(word)}", word)
        else:
            zones[domain] = (f"intel-rapl:{number}", domain)
    return zones
