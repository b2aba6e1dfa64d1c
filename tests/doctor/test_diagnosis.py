"""The whole report, on machines that are files and backends that misbehave."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlmeter.backends import powercap_zones, registry
from mlmeter.backends.rapl import RaplBackend
from mlmeter.backends.registry import BUILTINS, Builtin
from mlmeter.backends.still_counters import LOOK_SECONDS
from mlmeter.doctor import diagnosis
from mlmeter.doctor.diagnosis import diagnose
from mlmeter.doctor.surroundings import surroundings_of
from mlmeter.doctor.text import report_text
from mlmeter.measurement import Domain
from mlmeter.testing import FakeBackend, FakeClock
from tests.backends.powercap_tree import CLIENT, MMIO_DUPLICATE, UNREADABLE, LivePowercapTree, Zone
from tests.doctor.machines import GUEST, INTEL, with_zones, write

# At most this many seconds of reads; counters of files change never or every millisecond.
LOOK = 0.3


@pytest.fixture(autouse=True)
def two_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's counters and its estimate: what this machine has besides must not matter."""
    chosen = tuple(entry for entry in BUILTINS if entry.name in ("rapl", "cpu_estimate"))
    monkeypatch.setattr(registry, "BUILTINS", chosen)
    # Copies of machines stand still on purpose, and a live tree is written late on a busy machine.
    monkeypatch.setattr(RaplBackend, "look_seconds", 0.0)


def examined(root: Path, monkeypatch: pytest.MonkeyPatch, powercap: Path | None = None) -> dict[str, Any]:
    """Diagnose the machine below a root folder, and check what holds of every report."""
    folder = str(powercap or root / "sys/class/powercap")
    monkeypatch.setenv("MLMETER_POWERCAP_ROOT", folder)
    environment = {"USER": "ada", "MLMETER_POWERCAP_ROOT": folder}
    around = surroundings_of(root, environment=environment, system="linux", is_root=False)
    found = diagnose(around, look_seconds=LOOK)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for everything in (False, True):
        assert max(map(len, report_text(found, everything=everything).splitlines())) <= 80
    return found


def source(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in found["sources"] if item["source"] == name)


def test_a_machine_with_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters that run: measured kinds, a period, expected errors; psys and core are not added."""
    power = {"package-0": 40.0, "core-0": 20.0, "dram-0": 5.0, "psys": 60.0}
    with LivePowercapTree(tmp_path, power) as tree:
        found = examined(write(tmp_path, {"proc/cpuinfo": INTEL}), monkeypatch, tree.root)
    assert found["verdict"]["measured"] == ["cpu", "dram"]
    assert source(found, "rapl")["status"] == "works"
    domains = {facts["domain"]: facts for facts in found["domains"]}
    package = domains["package-0"]
    assert package["moves"]
    assert package["used"]
    # A busy machine refreshes the files late, and reads them late.
    assert package["measured_period_seconds"] is None or 0.0003 < package["measured_period_seconds"] < 0.1
    assert [item["window_seconds"] for item in package["expected_error"]] == [0.01, 0.1, 10.0]
    assert package["wrap_horizon_seconds"] > 60
    assert domains["psys"]["ignored_because"] == "contains the others"
    assert domains["core-0"]["ignored_because"] == "inside package-0"
    assert domains["cpu-estimate"]["ignored_because"] == "rapl is used"
    first = report_text(found).splitlines()[:6]
    assert "MEASURED" in first[2]
    assert "cpu, dram" in first[2]


def test_closed_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0400: no permission, an estimate meanwhile, and the one command within the first lines."""
    with_zones(tmp_path, UNREADABLE)
    _deny_counters(monkeypatch)
    found = examined(tmp_path, monkeypatch)
    assert source(found, "rapl")["status"] == "no permission"
    assert found["verdict"]["estimated"] == ["cpu"]
    first = report_text(found).splitlines()[:8]
    assert any("ESTIMATED" in line for line in first)
    assert any("FOR MORE" in line and "doctor --apply" in line for line in first)


def _deny_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse counters as the kernel does for users: root ignores modes."""
    real_open = powercap_zones.os.open

    def guarded(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if str(path).endswith("energy_uj"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, flags, mode, **options)

    monkeypatch.setattr("mlmeter.backends.rapl.os.open", guarded)


def test_masked_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's links to nowhere: hidden, and the mounts as advice."""
    tree = with_zones(tmp_path, CLIENT, {".dockerenv": ""})
    tree.mask()
    found = examined(tmp_path, monkeypatch)
    assert source(found, "rapl")["status"] == "hidden"
    assert [item["name"] for item in found["advice"]] == ["container-mounts"]
    # What is copied to a shell starts at the left edge.
    assert "\ndocker run \\\n" in report_text(found)


@pytest.mark.parametrize(("look_seconds", "estimated"), [(0.0, []), (LOOK_SECONDS, ["cpu"])])
def test_counters_that_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_seconds: float, estimated: list[str]
) -> None:
    """A virtual machine's counters tell nothing: not called measured, whoever notices it."""
    monkeypatch.setattr(RaplBackend, "look_seconds", look_seconds)
    with_zones(tmp_path, CLIENT, {"proc/cpuinfo": INTEL + GUEST})
    found = examined(tmp_path, monkeypatch)
    assert source(found, "rapl")["status"] == "stands still"
    assert found["verdict"]["measured"] == []
    assert found["verdict"]["estimated"] == estimated
    text = report_text(found)
    assert ("STUCK" in text) is not bool(estimated)
    assert "rapl: stands still" in text
    assert found["advice"][0]["name"] == "virtual-machine"


def test_a_machine_without_powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not found, with the reason and the remedy that the backend gives."""
    found = examined(write(tmp_path, {"proc/cpuinfo": INTEL}), monkeypatch)
    rapl = source(found, "rapl")
    assert rapl["status"] == "not found"
    assert rapl["reason"]
    assert rapl["remedy"]
    assert found["verdict"]["estimated"] == ["cpu"]


def test_the_twin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other interface to the same counter is named as not read."""
    with_zones(tmp_path, MMIO_DUPLICATE)
    found = examined(tmp_path, monkeypatch)
    assert [domain["domain"] for domain in found["domains"]].count("package-0") == 1
    assert any("intel-rapl-mmio:1 (package-0)" in note for note in found["notes"])


def test_a_part_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone with nonsense in its counter has a reason of its own."""
    with_zones(tmp_path, (CLIENT[0], Zone("intel-rapl:0:2", "dram", "nonsense")))
    found = examined(tmp_path, monkeypatch)
    assert any("dram" in item["reason"] for item in found["unavailable"])


# -- backends that misbehave ---------------------------------------------------------------------


class Odd(FakeBackend):
    """A backend of the registry whose behaviour a test sets."""

    behaviour = "raises"
    release = threading.Event()

    def __init__(self) -> None:
        made = FakeBackend.with_power(FakeClock(), watts=1.0)
        super().__init__(made.domains, made.counts, FakeClock())

    def open(self) -> Sequence[Domain]:
        if self.behaviour == "hangs at open":
            self.release.wait(60)
        if self.behaviour == "raises":
            raise ZeroDivisionError("oddly")
        return super().open()

    def read(self) -> Any:
        if self.behaviour == "hangs at read":
            self.release.wait(60)
        if self.behaviour == "raises at read":
            raise RuntimeError("no more")
        return ()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("raises", "opening it raised ZeroDivisionError: oddly"),
        ("hangs at open", "opening it took longer"),
        ("hangs at read", "a read took longer"),
        ("raises at read", "read() raised RuntimeError: no more"),
        ("says nothing", "it gave no reading"),
    ],
)
def test_a_backend_that_misbehaves_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, reason: str
) -> None:
    """Whatever it does, doctor ends, with its reason and with the other sources."""
    monkeypatch.setattr(Odd, "behaviour", behaviour)
    monkeypatch.setattr(Odd, "release", threading.Event())
    monkeypatch.setattr(diagnosis, "OPEN_SECONDS", 0.2)
    odd = Builtin("odd", "tests.doctor.test_diagnosis:Odd", ("gpu",))
    monkeypatch.setattr(registry, "BUILTINS", (odd, *registry.BUILTINS))
    monkeypatch.setattr(registry, "load_backend", _load_with_odd(registry.load_backend))
    try:
        found = examined(write(tmp_path, {"proc/cpuinfo": INTEL}), monkeypatch)
    finally:
        Odd.release.set()
    told = [item["reason"] for item in found["unavailable"]] + [d["failure"] or "" for d in found["domains"]]
    assert any(reason in text for text in told)
    assert source(found, "cpu_estimate")["status"] == "works"


def _load_with_odd(load: Any) -> Any:
    return lambda name: Odd() if name == "odd" else load(name)
