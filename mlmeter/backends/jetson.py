"""Power rails of NVIDIA Jetson modules, measured by INA3221, INA219 and INA238 chips on the board."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mlmeter.backends.sensor_files import (
    Sensor,
    folders_below,
    product,
    text_or_none,
    words,
)
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading, Unavailable
from mlmeter.units import WATTS_PER_MICROWATT

COMPATIBLE_FILE = "/proc/device-tree/compatible"
HWMON_ROOT = "/sys/class/hwmon"
IIO_ROOT = "/sys/bus/iio/devices"

# The rail that everything flows through, outermost first: the carrier board, then the module.
_WHOLE = ("VIN", "VDD_IN", "POM_5V_IN")
# What a rail feeds, by a part of its name; of a rail of CPU and GPU the GPU is the larger part.
_KINDS = (("GPU", "gpu"), ("CPU", "cpu"), ("DDR", "dram"), ("VDDQ", "dram"))
_CHIPS = ("ina219", "ina226", "ina238", "ina3221")
_NOT_CONNECTED = "NC"
# The chips average over some milliseconds and drivers ask them at every read.
_UPDATE_PERIOD_SECONDS = 0.1

_MODULE_REMEDY = "Load the driver of the power monitors: sudo modprobe ina3221"


class JetsonBackend:
    """Reads the power of the rails of a Jetson: volts times amperes of each.

    Domains have the names of the rails. ``VDD_IN`` (``POM_5V_IN`` on the Nano, ``VIN`` on
    carrier boards with a monitor of their own) is the whole module: kind ``machine``, shown
    and never added. Rails of GPU, CPU and memory are added; a rail that CPU and GPU share has
    the kind ``gpu``. All other rails are kind ``other``, parts of the module.

    Args:
        compatible_file: where the device tree says what machine this is.
        hwmon_root: where JetPack 5 and later show the monitors.
        iio_root: where JetPack 4 and earlier show them.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        unreadable: rails that are there but cannot be read, and why.

    Example:
        >>> try:
        ...     JetsonBackend(compatible_file="nowhere").open()
        ... except BackendUnavailableError as error:
        ...     print(error.reason)
        this is no NVIDIA Jetson
    """

    name = "jetson"

    def __init__(
        self,
        *,
        compatible_file: str | os.PathLike[str] = COMPATIBLE_FILE,
        hwmon_root: str | os.PathLike[str] = HWMON_ROOT,
        iio_root: str | os.PathLike[str] = IIO_ROOT,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._compatible_file = Path(compatible_file)
        self._hwmon_root, self._iio_root = Path(hwmon_root), Path(iio_root)
        self._now_ns = now_ns
        self._sensors: list[Sensor] = []
        self.unreadable: tuple[Unavailable, ...] = ()

    def open(self) -> Sequence[Domain]:
        """Find the rails, read each once and keep those that can be read.

        Raises:
            BackendUnavailableError: this is no Jetson, or none of its rails can be read.
        """
        self.close()
        if "nvidia,tegra" not in (text_or_none(self._compatible_file) or ""):
            raise BackendUnavailableError(self.name, "this is no NVIDIA Jetson")
        rails = {**_iio_rails(self._iio_root), **_hwmon_rails(self._hwmon_root)}
        readable: list[str] = []
        problems: dict[str, Exception] = {}
        for rail, (files, count) in rails.items():
            try:
                Sensor(_domain(rail), files, count).value()
            except (OSError, ValueError) as error:
                problems[rail] = error
            else:
                readable.append(rail)
        if not readable:
            found = [f"rail {rail} cannot be read ({words(error)})" for rail, error in problems.items()]
            reason = "; ".join(found) or "no power monitor shows a rail"
            raise BackendUnavailableError(self.name, reason, _MODULE_REMEDY)
        self._sensors = [Sensor(domain, *rails[domain.name]) for domain in _domains(readable)]
        self.unreadable = tuple(
            Unavailable(source=self.name, kinds=(_kind(rail),), reason=f"rail {rail}: {words(error)}")
            for rail, error in problems.items()
        )
        return [sensor.domain for sensor in self._sensors]

    def read(self) -> Sequence[Reading | Failure]:
        """Read every rail once; one that fails does not disturb the others."""
        return [sensor.read(position, self._now_ns) for position, sensor in enumerate(self._sensors)]

    def close(self) -> None:
        """Forget the rails; no file is kept open."""
        self._sensors = []
        self.unreadable = ()


# What a rail is read from: its files, and how they become microwatts.
_Source = tuple[tuple[str, ...], Callable[[Sequence[int]], int]]


def _hwmon_rails(root: Path) -> dict[str, _Source]:
    """Return the rails of hwmon: in1_label names the one whose volts and amperes are in1 and curr1."""
    rails: dict[str, _Source] = {}
    for folder in folders_below(root):
        chip = text_or_none(folder / "name")
        if chip not in _CHIPS:
            continue
        for label in sorted(folder.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = folder / f"in{number}_input", folder / f"curr{number}_input"
            rail = text_or_none(label)
            # Millivolts x milliamperes are microwatts. Channel 7 is a sum that has no current.
            if rail and rail != _NOT_CONNECTED and volts.exists() and amperes.exists():
                rails[rail] = (str(volts), str(amperes)), product
        power = folder / "power1_input"
        rail = text_or_none(folder / "label") or ("VIN" if chip == "ina238" else None)
        if rail and power.exists():
            rails[rail] = (str(power),), _only
    return rails


def _iio_rails(root: Path) -> dict[str, _Source]:
    """Return the rails of the iio tree: rail_name_0 with in_voltage0_input and in_current0_input."""
    rails: dict[str, _Source] = {}
    for folder in folders_below(root):
        for label in sorted(folder.glob("rail_name_*")):
            number = re.sub(r"\D", "", label.name)
            volts, amperes = folder / f"in_voltage{number}_input", folder / f"in_current{number}_input"
            rail = text_or_none(label)
            if rail and rail != _NOT_CONNECTED and volts.exists() and amperes.exists():
                rails[rail] = (str(volts), str(amperes)), product
    return rails


def _only(numbers: Sequence[int]) -> int:
    return max(0, numbers[0])


def _domains(rails: Sequence[str]) -> list[Domain]:
    """Return the domains: the outermost whole first, what is neither CPU, GPU nor memory inside it."""
    whole = [rail for rail in _WHOLE if rail in rails]
    ordered = [*whole, *sorted(rail for rail in rails if rail not in whole)]
    domains = []
    for rail in ordered:
        domain = _domain(rail)
        inside = domain.kind in ("machine", "other") and whole and rail != whole[0]
        domains.append(replace(domain, parent=whole[0]) if inside else domain)
    return domains


def _kind(rail: str) -> str:
    if rail in _WHOLE:
        return "machine"
    return next((kind for part, kind in _KINDS if part in rail.upper()), "other")


def _domain(rail: str) -> Domain:
    return Domain(
        name=rail,
        id=f"jetson:{rail}",
        kind=_kind(rail),
        source=JetsonBackend.name,
        provenance=Provenance.DERIVED,
        watts_per_count=WATTS_PER_MICROWATT,
        update_period_seconds=_UPDATE_PERIOD_SECONDS,
    )
