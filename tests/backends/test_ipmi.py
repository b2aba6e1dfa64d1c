"""Power of a server from its controller: a fake tool and a frozen power meter of ACPI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlmeter.backends.ipmi import IpmiBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Reading
from mlmeter.testing import check_backend

OUTPUT = """
    Instantaneous power reading:                   220 Watts
    Minimum during sampling period:                 18 Watts
    Maximum during sampling period:                460 Watts
    Average power reading over sample period:      218 Watts
    IPMI timestamp:                           Thu Jan  1 00:00:00 1970
    Sampling period:                          00000010 Seconds.
    Power reading state is:                   activated
"""


def tool(tmp_path: Path, text: str = OUTPUT, statements: str = "") -> IpmiBackend:
    """Return a backend whose tool is a script."""
    script = tmp_path / "tool.py"
    script.write_text(f"import sys, time\n{statements}\nsys.stdout.write({text!r})\n")
    return IpmiBackend(command=(sys.executable, str(script)), hwmon_root=tmp_path, time_limit_seconds=20)


def test_reading_of_the_tool(tmp_path: Path) -> None:
    """Whole watts of the whole machine, never added to its parts."""
    backend = tool(tmp_path)
    (domain,) = backend.open()
    assert (domain.kind, domain.counted) == ("machine", False)
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.value == 220_000_000
    check_backend(backend)


def test_state_that_is_not_activated(tmp_path: Path) -> None:
    """A controller that does not measure shows numbers all the same."""
    with pytest.raises(BackendUnavailableError, match="deactivated"):
        tool(tmp_path, OUTPUT.replace("activated", "deactivated")).open()


def test_missing_permission_has_a_remedy(tmp_path: Path) -> None:
    """What the tool says is passed on, with what to do."""
    words = "Could not open device at /dev/ipmi0 or /dev/ipmi/0: Permission denied"
    with pytest.raises(BackendUnavailableError, match="Permission denied") as caught:
        tool(tmp_path, "", f"sys.stderr.write({words!r}); sys.exit(1)").open()
    assert "chgrp" in caught.value.remedy


def test_hanging_tool_is_killed(tmp_path: Path) -> None:
    """The limit passes, the process ends, and the next question is asked anew."""
    backend = tool(tmp_path)
    backend.open()
    backend._time_limit_seconds = 0.05
    (tmp_path / "tool.py").write_text("import time\ntime.sleep(600)\n")
    (failure,) = backend.read()
    assert isinstance(failure, Failure)
    assert "did not answer within 0.05 s" in failure.reason
    hanging = backend._abandoned
    assert hanging is not None
    hanging.wait(20)
    (tmp_path / "tool.py").write_text(f"print({OUTPUT!r})\n")
    backend._time_limit_seconds = 20
    assert isinstance(backend.read()[0], Reading)


def test_tool_that_cannot_be_killed_is_not_started_again(tmp_path: Path) -> None:
    """A process that hangs in a driver is left alone: one of them is enough."""

    class Unkillable:
        def poll(self) -> None:
            return None

    backend = tool(tmp_path)
    backend.open()
    backend._abandoned = Unkillable()  # type: ignore[assignment]
    (failure,) = backend.read()
    assert isinstance(failure, Failure)
    assert "cannot be killed" in failure.reason
    backend._abandoned = None


@pytest.mark.parametrize("text", ["", "\x00\xff nonsense", "Instantaneous power reading: many Watts"])
def test_nonsense_of_the_tool(tmp_path: Path, text: str) -> None:
    """No number is made up."""
    with pytest.raises(BackendUnavailableError, match="gave no power reading"):
        tool(tmp_path, text).open()


def test_kernel_meter_is_used_before_the_tool(tmp_path: Path) -> None:
    """No process is started where the kernel has the figure; meters of Grace's sockets are not the server."""
    for number, (info, microwatts) in enumerate({"CPU Power Socket 0": 50, "": 333_000_000}.items()):
        folder = tmp_path / f"hwmon{number}"
        folder.mkdir()
        (folder / "name").write_text("power_meter\n")
        (folder / "power1_oem_info").write_text(info)
        (folder / "power1_average").write_text(f"{microwatts}\n")
        (folder / "power1_average_interval").write_text("1000\n")
    backend = IpmiBackend(command=("no-such-tool",), hwmon_root=tmp_path)
    (domain,) = backend.open()
    assert domain.averaging_window_seconds == 1.0
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.value == 333_000_000
    check_backend(backend)
