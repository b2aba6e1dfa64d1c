"""Energy and power sensors that Linux shows in its hwmon folder: Intel and AMD GPUs, Grace, and others."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mlmeter.backends.sensor_files import (
    Sensor,
    folders_below,
    number_or_none,
    text_or_none,
    words,
)
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading, Unavailable
from mlmeter.units import JOULES_PER_MICROJOULE, WATTS_PER_MICROWATT

DEFAULT_ROOT = "/sys/class/hwmon"

_ENERGY = re.compile(r"energy(\d+)_input")
_POWER = re.compile(r"power(\d+)_(input|average)")
# Boards exceed their limit for tens of milliseconds.
_HIGHEST_POWER_PER_LIMIT = 1.5

# APUs whose driver shows a limit as for a board (PCI device numbers of MI300A and Van Gogh).
_APUS_WITH_LIMIT = ("0x74a0", "0x163f", "0x1435")

_INTEL_GPUS = ("i915", "xe")
# The firmware of Grace serves a power at most this often.
_GRACE_PERIOD_SECONDS = 0.05
_DEFAULT_PERIOD_SECONDS = 0.1
_INTEL_ENERGY_PERIOD_SECONDS = 0.01
_AMD_ENERGY_PERIOD_SECONDS = 0.001
_GRACE_METERS = re.compile(r"(Module|Grace|CPU|SysIO) Power Socket (\d+)", re.IGNORECASE)

_PERMISSION_REMEDY = (
    "Grant read access to the file with a udev rule, as for RAPL (docs: how-to/read-rapl-without-root)"
)


class _Chip(NamedTuple):
    """One hwmon folder: its driver's name and the device that it belongs to."""

    folder: Path
    driver: str

    @property
    def device(self) -> str:
        """Identity of the device, such as its PCI address; the folder's number changes at every boot."""
        try:
            return (self.folder / "device").resolve(strict=True).name
        except OSError:
            return self.folder.name

    def files(self) -> list[Path]:
        """Return the sensors' files; old drivers put them into the folder of the device."""
        found: list[Path] = []
        for folder in (self.folder, self.folder / "device"):
            try:
                found += [path for path in folder.iterdir() if _ENERGY.fullmatch(path.name)]
                found += [path for path in folder.iterdir() if _POWER.fullmatch(path.name)]
            except OSError:
                continue
        return sorted(found, key=lambda path: (len(path.name), path.name))


class HwmonBackend:
    """Reads the sensors of /sys/class/hwmon that know energy or power.

    By itself it meters what nothing else does and what belongs into a total:

    - discrete Intel GPUs (drivers i915 and xe): ``intel-gpu-N``, an energy counter. The package
      that xe counts, too, is inside the card.
    - discrete AMD GPUs (amdgpu): ``amd-gpu-N``, a power gauge. Where `amdsmi` meters the same
      board, this one is shown and not added. The gauge of an APU is inside its CPU package.
    - the processor sockets that `amd_energy` counts: ``package-N``; the same as RAPL's.
    - NVIDIA Grace: ``grace-N``; its parts ``grace-N-cpu`` and ``grace-N-sysio`` inside it, and
      ``module-N``, which holds CPU and GPU and is never added.

    Args:
        root: the hwmon folder.
        every_sensor: show all other sensors as well, as kind ``other``: they can contain each
            other and what is metered elsewhere, so they are never added. Each costs a read.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        unreadable: sensors that are there but cannot be read, and why.

    Example:
        >>> backend = HwmonBackend(every_sensor=True)
        >>> try:
        ...     domains = backend.open()
        ... except BackendUnavailableError as error:
        ...     print(error.backend)
        ... else:
        ...     print("hwmon")
        hwmon
    """

    name = "hwmon"

    def __init__(
        self,
        root: str | os.PathLike[str] = DEFAULT_ROOT,
        *,
        every_sensor: bool = False,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._root = Path(root)
        self._every_sensor = every_sensor
        self._now_ns = now_ns
        self._sensors: list[Sensor] = []
        self.unreadable: tuple[Unavailable, ...] = ()

    def open(self) -> Sequence[Domain]:
        """Find the sensors, read each once and keep those that can be read.

        Raises:
            BackendUnavailableError: there is none; reason and remedy say why.
        """
        self.close()
        chips = [
            _Chip(folder, driver)
            for folder in folders_below(self._root)
            if (driver := text_or_none(folder / "name")) is not None
        ]
        found = _intel_gpus(chips) + _amd_gpus(chips) + _amd_sockets(chips) + _grace(chips)
        if self._every_sensor:
            found += _others(chips, {file for sensor in found for file in sensor.files})
        readable, problems = _readable(found)
        if not readable:
            if problems:
                raise BackendUnavailableError(self.name, problems[0].reason, problems[0].remedy)
            reason = f"no sensor in {self._root} belongs to an Intel or AMD GPU, amd_energy or Grace"
            raise BackendUnavailableError(self.name, reason)
        self._sensors = readable
        self.unreadable = tuple(problems)
        return [sensor.domain for sensor in readable]

    def read(self) -> Sequence[Reading | Failure]:
        """Read every sensor once; one that fails does not disturb the others."""
        return [sensor.read(position, self._now_ns) for position, sensor in enumerate(self._sensors)]

    def close(self) -> None:
        """Forget the sensors; no file is kept open."""
        self._sensors = []
        self.unreadable = ()


def _readable(found: list[Sensor]) -> tuple[list[Sensor], list[Unavailable]]:
    """Return the sensors that give a value now, and why the others give none."""
    readable: list[Sensor] = []
    problems: list[Unavailable] = []
    for sensor in found:
        try:
            sensor.value()
        except (OSError, ValueError) as error:
            remedy = _PERMISSION_REMEDY if isinstance(error, PermissionError) else ""
            reason = f"cannot read {sensor.files[0]}: {words(error)}"
            kinds = (sensor.domain.kind,)
            problems.append(Unavailable(source=HwmonBackend.name, kinds=kinds, reason=reason, remedy=remedy))
        else:
            readable.append(sensor)
    names = {sensor.domain.name for sensor in readable}
    # A part whose whole cannot be read is the best there is.
    return [
        sensor
        if sensor.domain.parent in (None, *names)
        else sensor._replace(domain=replace(sensor.domain, parent=None))
        for sensor in readable
    ], problems


def _intel_gpus(chips: list[_Chip]) -> list[Sensor]:
    """Return the counters of the cards. Only discrete GPUs have one: the others are in the CPU package."""
    sensors: list[Sensor] = []
    cards = [chip for chip in chips if chip.driver in _INTEL_GPUS]
    for number, chip in enumerate(cards):
        counters = [path for path in chip.files() if _ENERGY.fullmatch(path.name)]
        # xe: energy1 "card", energy2 "pkg"; where only the package has a counter, it is the best there is.
        counters.sort(key=lambda path: _label(path) != "card")
        for place, path in enumerate(counters):
            inside = f"-{_label(path) or path.name.split('_')[0]}" if place else ""
            sensors.append(
                _sensor(
                    path,
                    name=f"intel-gpu-{number}{inside}",
                    id=f"{chip.driver}:{chip.device}{inside}",
                    kind="gpu",
                    period_seconds=_INTEL_ENERGY_PERIOD_SECONDS,
                    parent=f"intel-gpu-{number}" if place else None,
                    limit=number_or_none(chip.folder / "power1_max"),
                )
            )
    return sensors


def _amd_gpus(chips: list[_Chip]) -> list[Sensor]:
    """Return the power gauges of discrete boards: only these have a limit that can be set."""
    sensors: list[Sensor] = []
    for chip in chips:
        limit = number_or_none(chip.folder / "power1_cap") if chip.driver == "amdgpu" else None
        in_processor = text_or_none(chip.folder / "device" / "device") in _APUS_WITH_LIMIT
        is_board = limit and not in_processor
        gauges = [path for path in chip.files() if _POWER.fullmatch(path.name)] if is_board else []
        if gauges:
            number = len(sensors)
            name, identity = f"amd-gpu-{number}", f"amdgpu:{chip.device}"
            sensors.append(_sensor(gauges[0], name=name, id=identity, kind="gpu", limit=limit))
    return sensors


def _amd_sockets(chips: list[_Chip]) -> list[Sensor]:
    """Return the sockets that amd_energy counts; it adds up 64 bits, so that nothing wraps.

    They have RAPL's ids, because they are the same registers; cores are left out.
    """
    return [
        _sensor(
            path,
            name=f"package-{label.group(1)}",
            id=f"rapl:package-{label.group(1)}",
            kind="cpu",
            period_seconds=_AMD_ENERGY_PERIOD_SECONDS,
        )
        for chip in chips
        if chip.driver == "amd_energy"
        for path in chip.files()
        if _ENERGY.fullmatch(path.name)
        and (label := re.fullmatch(r"Esocket(\d+)", _label(path) or "")) is not None
    ]


def _grace(chips: list[_Chip]) -> list[Sensor]:
    """Return the power meters of Grace's sockets: the socket is added, the module around it never."""
    meters: dict[tuple[str, str], Path] = {}
    for chip in chips:
        for path in chip.files() if chip.driver == "power_meter" else ():
            info = text_or_none(path.with_name("power1_oem_info")) or _label(path) or ""
            meter = _GRACE_METERS.search(info)
            if meter is not None:
                meters.setdefault((meter.group(2), meter.group(1).lower()), path)
    sensors = []
    for (socket, part), path in sorted(meters.items()):
        whole = f"grace-{socket}" if (socket, "grace") in meters else None
        name = {"grace": f"grace-{socket}", "module": f"module-{socket}"}.get(part, f"grace-{socket}-{part}")
        sensors.append(
            _sensor(
                path,
                name=name,
                id=f"hwmon:{name}",
                kind="cpu" if part in ("grace", "cpu") else "other",
                parent=whole if part in ("cpu", "sysio") else None,
                period_seconds=_GRACE_PERIOD_SECONDS,
            )
        )
    return sensors


def _others(chips: list[_Chip], taken: set[str]) -> list[Sensor]:
    """Return every sensor that is left, of which nobody knows what else contains it."""
    sensors: list[Sensor] = []
    names: set[str] = set()
    for chip in chips:
        for path in chip.files():
            if str(path) in taken:
                continue
            name = base = f"{chip.driver}-{_label(path) or path.name.split('_')[0]}".replace(" ", "-")
            while name in names:
                name = f"{base}-{sum(other.startswith(base) for other in names) + 1}"
            names.add(name)
            identity = f"hwmon:{chip.device}:{path.name}"
            sensors.append(_sensor(path, name=name, id=identity, kind="other"))
    return sensors


def _label(path: Path) -> str | None:
    """Return the label beside a sensor, such as ``card`` of energy1_label."""
    return text_or_none(path.with_name(f"{path.name.split('_')[0]}_label"))


def _sensor(
    path: Path,
    *,
    name: str,
    id: str,  # noqa: A002  the domain's word
    kind: str,
    period_seconds: float = _DEFAULT_PERIOD_SECONDS,
    parent: str | None = None,
    limit: int | None = None,
) -> Sensor:
    """Return a counter in microjoules or a gauge in microwatts.

    The driver sees to it that a counter does not wrap; over how many milliseconds a gauge averages
    the chip may tell.
    """
    counts = bool(_ENERGY.fullmatch(path.name))
    window_milliseconds = number_or_none(f"{path}_interval") if path.name.endswith("average") else 0
    domain = Domain(
        name=name,
        id=id,
        kind=kind,
        source=HwmonBackend.name,
        provenance=Provenance.MEASURED if counts else Provenance.DERIVED,
        joules_per_count=JOULES_PER_MICROJOULE if counts else None,
        watts_per_count=None if counts else WATTS_PER_MICROWATT,
        update_period_seconds=period_seconds,
        averaging_window_seconds=(window_milliseconds or 0) / 1000,
        parent=parent,
        max_power_watts=_HIGHEST_POWER_PER_LIMIT * limit * WATTS_PER_MICROWATT if limit else None,
    )
    return Sensor(domain, (str(path),))
