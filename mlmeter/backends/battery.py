"""What a laptop draws from its batteries: the whole machine, while it is not plugged in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlmeter.backends.sensor_files import folders_below, number_or_none, text_or_none
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import WATTS_PER_MICROWATT

DEFAULT_ROOT = "/sys/class/power_supply"
# The kernel asks the controller of a battery once per second at most.
_UPDATE_PERIOD_SECONDS = 1.0
_MICRO = 1_000_000


class BatteryBackend:
    """Reads the power of all batteries that are being discharged, as one domain ``battery``.

    It is a domain of kind ``machine``: screen, disks and radio are in it. It holds CPU and GPU
    and is never added to them. While the machine is plugged in, its batteries do not tell what
    it draws: every read then fails with this reason, and that time is a gap.

    Asking a battery's controller takes milliseconds, so it is metered only where it is named,
    on a thread of its own.

    Args:
        root: the folder of power supplies.
        now_ns: monotonic clock for the time stamps of the readings.

    Example:
        >>> try:
        ...     BatteryBackend("nowhere").open()
        ... except BackendUnavailableError as error:
        ...     print(error.reason)
        there is no battery in nowhere
    """

    name = "battery"
    blocking = True

    def __init__(
        self,
        root: str | os.PathLike[str] = DEFAULT_ROOT,
        *,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._root = Path(root)
        self._now_ns = now_ns
        self._batteries: list[Path] = []

    def open(self) -> Sequence[Domain]:
        """Find the batteries of the machine; those of mice and headsets are none.

        Raises:
            BackendUnavailableError: there is no battery, it does not tell its power, or the
                machine is plugged in.
        """
        self._batteries = []
        batteries = [folder for folder in folders_below(self._root) if _is_battery(folder)]
        if not batteries:
            raise BackendUnavailableError(self.name, f"there is no battery in {self._root}")
        statuses = {text_or_none(folder / "status") for folder in batteries}
        if "Discharging" not in statuses:
            states = ", ".join(sorted(status or "unknown" for status in statuses))
            reason = f"the machine is plugged in (battery: {states})"
            raise BackendUnavailableError(self.name, reason, "Unplug it to meter its battery")
        try:
            _discharge_microwatts(batteries)
        except ValueError as error:
            raise BackendUnavailableError(self.name, str(error)) from error
        self._batteries = batteries
        models = [text_or_none(folder / "model_name") for folder in batteries]
        return (
            Domain(
                name="battery",
                id="battery:machine",
                kind="machine",
                source=self.name,
                provenance=Provenance.DERIVED,
                watts_per_count=WATTS_PER_MICROWATT,
                update_period_seconds=_UPDATE_PERIOD_SECONDS,
                model_name=models[0],
            ),
        )

    def read(self) -> Sequence[Reading | Failure]:
        """Read the power of all batteries once."""
        if not self._batteries:
            return ()
        begin_ns = self._now_ns()
        try:
            value = _discharge_microwatts(self._batteries)
        except ValueError as error:
            lost = not any(folder.exists() for folder in self._batteries)
            return (Failure(0, str(error), lost, begin_ns),)
        return (Reading(0, value, begin_ns, self._now_ns()),)

    def close(self) -> None:
        """Forget the batteries; no file is kept open."""
        self._batteries = []


def _is_battery(folder: Path) -> bool:
    return text_or_none(folder / "type") == "Battery" and text_or_none(folder / "scope") != "Device"


def _discharge_microwatts(batteries: Sequence[Path]) -> int:
    """Return the sum over batteries that are being discharged.

    Raises:
        ValueError: none is, or one of those does not tell its power.
    """
    discharging = [folder for folder in batteries if text_or_none(folder / "status") == "Discharging"]
    if not discharging:
        raise ValueError("the battery is not being discharged: the machine is plugged in")
    return sum(_microwatts(folder) for folder in discharging)


def _microwatts(folder: Path) -> int:
    """Return power_now, or current times voltage; some controllers give discharge a minus sign."""
    power = number_or_none(folder / "power_now")
    if power is not None:
        return abs(power)
    microamperes, microvolts = number_or_none(folder / "current_now"), number_or_none(folder / "voltage_now")
    if microamperes is None or microvolts is None:
        raise ValueError(f"{folder.name} tells neither power_now nor current_now and voltage_now")
    return abs(microamperes) * microvolts // _MICRO
