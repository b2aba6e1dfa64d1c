"""Power of a whole server as its management controller measures it: ACPI power meter or IPMI DCMI."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlmeter.backends.sensor_files import Sensor, folders_below, number_or_none, text_or_none, words
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import WATTS_PER_MICROWATT

HWMON_ROOT = "/sys/class/hwmon"
COMMAND = ("ipmitool", "dcmi", "power", "reading")
TIME_LIMIT_SECONDS = 2.0
# Controllers refresh their reading about once per second, and each question takes some 100 ms.
_UPDATE_PERIOD_SECONDS = 1.0
_MICROWATTS_PER_WATT = 1_000_000
# The tool writes some hundred bytes.
_MOST_BYTES = 65_536

_READING = re.compile(r"Instantaneous power reading\s*:\s*(\d+)\s*Watts", re.IGNORECASE)
_STATE = re.compile(r"Power reading state is\s*:\s*(\w+)", re.IGNORECASE)
# The sockets of NVIDIA Grace have power meters, too; those belong to `hwmon`.
_SOCKET = re.compile(r"Power Socket \d", re.IGNORECASE)

_TOOL_REMEDY = "Install ipmitool and load the driver (modprobe ipmi_si ipmi_devintf)"
_RIGHTS_REMEDY = (
    "Give this user access to /dev/ipmi0 (sudo chgrp GROUP /dev/ipmi0 && sudo chmod g+rw /dev/ipmi0), "
    "or name the command with sudo: IpmiBackend(command=...)"
)


class IpmiBackend:
    """Reads the power of the whole machine from its management controller, in watts.

    The kernel's ACPI power meter (``/sys/class/hwmon``) is used where there is one, else the tool
    `ipmitool`, which needs access to /dev/ipmi0. It is a domain of kind ``machine``: fans, disks
    and power supplies are in it; it holds CPU and GPU and is never added to them.

    Either takes up to a second, so it is metered only where it is named, once per second, on a
    thread of its own. A tool that does not answer is killed, and left alone if it cannot be.

    Args:
        command: what prints a DCMI power reading; ``("sudo", "-n", "ipmitool", "dcmi", "power",
            "reading")`` where sudo asks no password.
        time_limit_seconds: after which the command is killed.
        hwmon_root: the hwmon folder.
        now_ns: monotonic clock for the time stamps of the readings.

    Example:
        >>> try:
        ...     IpmiBackend(command=("no-such-tool",), hwmon_root="nowhere").open()
        ... except BackendUnavailableError as error:
        ...     print(error.reason)
        no-such-tool cannot be started (No such file or directory)
    """

    name = "ipmi"
    blocking = True

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        hwmon_root: str | os.PathLike[str] = HWMON_ROOT,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._command = tuple(command)
        self._time_limit_seconds = time_limit_seconds
        self._hwmon_root = Path(hwmon_root)
        self._now_ns = now_ns
        self._meter: Sensor | None = None
        self._open = False
        # A killed process that has not ended yet.
        self._abandoned: subprocess.Popen[bytes] | None = None

    def open(self) -> Sequence[Domain]:
        """Find a power meter and read it once.

        Raises:
            BackendUnavailableError: there is none, or no permission; reason and remedy say why.
        """
        self.close()
        domain, meter = self._kernel_meter()
        if meter is None:
            domain = self._domain(0.0)
            try:
                self._ask_tool()
            except ValueError as error:
                text = str(error)
                remedy = _RIGHTS_REMEDY if "ermission" in text or "/dev/ipmi" in text else _TOOL_REMEDY
                raise BackendUnavailableError(self.name, text, remedy) from error
        self._meter, self._open = meter, True
        return (domain,)

    def read(self) -> Sequence[Reading | Failure]:
        """Ask once; this takes up to the time limit."""
        if not self._open:
            return ()
        if self._meter is not None:
            return (self._meter.read(0, self._now_ns),)
        begin_ns = self._now_ns()
        try:
            value = self._ask_tool()
        except ValueError as error:
            return (Failure(0, str(error), False, begin_ns),)
        return (Reading(0, value, begin_ns, self._now_ns()),)

    def close(self) -> None:
        """Ask no more."""
        self._meter, self._open = None, False

    def _kernel_meter(self) -> tuple[Domain, Sensor | None]:
        """Return the ACPI power meter that can be read, if there is one."""
        for folder in folders_below(self._hwmon_root):
            if text_or_none(folder / "name") != "power_meter":
                continue
            for place in (folder, folder / "device"):
                info = text_or_none(place / "power1_oem_info") or ""
                window_milliseconds = number_or_none(place / "power1_average_interval") or 0
                domain = self._domain(window_milliseconds / 1000)
                meter = Sensor(domain, (str(place / "power1_average"),))
                with contextlib.suppress(OSError, ValueError):
                    meter.value()
                    if not _SOCKET.search(info):
                        return domain, meter
        return self._domain(0.0), None

    def _domain(self, window_seconds: float) -> Domain:
        return Domain(
            name="server",
            id="ipmi:machine",
            kind="machine",
            source=self.name,
            provenance=Provenance.DERIVED,
            watts_per_count=WATTS_PER_MICROWATT,
            update_period_seconds=_UPDATE_PERIOD_SECONDS,
            averaging_window_seconds=window_seconds,
        )

    def _ask_tool(self) -> int:
        """Run the command and return microwatts.

        Raises:
            ValueError: it did not start, end in time or print a reading; the message says which.
        """
        if self._abandoned is not None and self._abandoned.poll() is None:
            raise ValueError(f"{self._command[0]} hangs and cannot be killed")
        self._abandoned = None
        output, errors = self._run()
        found = _READING.search(output)
        state = _STATE.search(output)
        if found is None:
            said = " ".join((errors or output).split())[:200] or "nothing"
            raise ValueError(f"{self._command[0]} gave no power reading; it said: {said}")
        if state is not None and state.group(1).lower() != "activated":
            raise ValueError(f"the controller's power reading is {state.group(1)}")
        return int(found.group(1)) * _MICROWATTS_PER_WATT

    def _run(self) -> tuple[str, str]:
        """Return what the command printed, without ever waiting for longer than the limit."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                # Ctrl-C is the program's.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._command[0]} cannot be started ({words(error)})") from error
        try:
            output, errors = process.communicate(timeout=self._time_limit_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            # What hangs in a driver cannot even be killed: it is left behind, not waited for.
            self._abandoned = process
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            limit = f"{self._time_limit_seconds:g} s"
            raise ValueError(f"{self._command[0]} did not answer within {limit}") from None
        return (
            output[:_MOST_BYTES].decode("utf-8", "replace"),
            errors[:_MOST_BYTES].decode("utf-8", "replace"),
        )
