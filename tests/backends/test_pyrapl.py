"""The optional backend that reads through pyRAPL's sensor, beside our own reader of the same tree."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlmeter.backends import registry
from mlmeter.backends.base import Backend
from mlmeter.backends.pyrapl import PyRaplBackend, _quietly
from mlmeter.backends.rapl import RaplBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Reading
from mlmeter.testing import FakeClock, advance, check_backend, fake_meter
from tests.backends import powercap_tree as trees
from tests.backends.powercap_tree import PowercapTree, Zone, build_tree

needs_pyrapl = pytest.mark.skipif(
    importlib.util.find_spec("pyRAPL") is None,
    reason="pyRAPL is not installed: pip install 'mlmeter[pyrapl]'",
)
MakeBackend = Callable[..., PyRaplBackend]


@pytest.fixture
def backend_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeBackend]:
    """Make backends whose pyRAPL finds a tree of the test where it looks for that of the machine."""
    made: list[PyRaplBackend] = []

    def here(path: str) -> str:
        assert path.startswith("/sys/"), path
        return str(tmp_path / path.removeprefix("/sys/"))

    def open_here(path: str, mode: str = "r") -> Any:
        return builtins.open(here(path), mode)  # noqa: PTH123

    def exists_here(path: str) -> bool:
        return Path(here(path)).exists()

    def make(tree: PowercapTree, sockets: Sequence[int] = (0, 1)) -> PyRaplBackend:
        cpus = tmp_path / "devices/system/cpu"
        for cpu, socket in enumerate(sockets):
            (cpus / f"cpu{cpu}/topology").mkdir(parents=True, exist_ok=True)
            (cpus / f"cpu{cpu}/topology/physical_package_id").write_text(f"{socket}\n")
        (cpus / "present").write_text(f"0-{len(sockets) - 1}\n" if len(sockets) > 1 else "0\n")
        made.append(PyRaplBackend(tree.class_root, cpuinfo=tree.cpuinfo))
        return made[-1]

    with _quietly():
        vendor = importlib.import_module("pyRAPL.device_api")
    monkeypatch.setattr(vendor, "open", open_here, raising=False)
    monkeypatch.setattr(vendor, "os", SimpleNamespace(path=SimpleNamespace(exists=exists_here)))
    yield make
    for backend in made:
        backend.close()


def facts(backend: Backend) -> dict[str, tuple[int, int | None, str | None, bool]]:
    """Return value, modulus, parent and id by domain."""
    domains = list(backend.open())
    return {
        domains[item.position].id: (
            item.value,
            domains[item.position].modulus,
            domains[item.position].parent,
            domains[item.position].counted,
        )
        for item in backend.read()
        if isinstance(item, Reading)
    }


# --- parity -----------------------------------------------------------------------------------


@needs_pyrapl
@pytest.mark.parametrize(
    ("zones", "sockets"),
    [
        (trees.CLIENT, (0, 0)),
        (trees.SERVER_TWO_SOCKETS, (0, 1)),
        (trees.AMD_TWO_SOCKETS, (0, 1)),
        (trees.REVERSED_ORDER, (0, 1)),
        (trees.SPARSE_PACKAGES, (0, 3)),
        (trees.PSYS_IN_THE_MIDDLE, (0, 1)),
        (trees.MMIO_DUPLICATE, (0,)),
        (trees.TEN_SOCKETS, tuple(range(11))),
    ],
    ids=["client", "server", "amd", "reversed", "sparse", "psys", "mmio", "eleven"],
)
def test_both_readers_give_the_same_of_the_same_tree(
    tmp_path: Path, backend_of: MakeBackend, zones: Sequence[Zone], sockets: Sequence[int]
) -> None:
    """Packages and DRAM have the same ids, counts and moduli; pyRAPL has no other domains."""
    tree = build_tree(tmp_path, zones)
    theirs = backend_of(tree, sockets)
    ours = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
    expected = {name: value for name, value in facts(ours).items() if value[-1]}
    assert facts(theirs) == expected
    ours.close()


@needs_pyrapl
def test_wraps_are_ours(tmp_path: Path, backend_of: MakeBackend) -> None:
    """Where pyRAPL loses one package or all, the session has every joule, as our reader's has."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    clock = FakeClock()
    totals = {}
    for name in ("pyrapl", "rapl"):
        counts = {"intel-rapl:0": trees.INTEL_RANGE - 200_000_000, "intel-rapl:1": 0}
        for label, count in counts.items():
            tree.energy_file(label).write_text(f"{count}\n")
        theirs, ours = backend_of(tree), RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo)
        backend = theirs if name == "pyrapl" else ours
        backend._now_ns = clock.now_ns
        meter = fake_meter(backend, clock=clock)
        with meter:
            for step in range(1, 51):
                for label, count in counts.items():
                    now = (count + step * 10_000_000) % 262143328911
                    tree.energy_file(label).write_text(f"{now}\n")
                advance(meter, 0.1, 0.1)
        totals[name] = meter.session.total(kind="cpu").energy_joules
    assert totals["pyrapl"] == pytest.approx(1000, rel=0.01)
    assert totals["pyrapl"] == pytest.approx(totals["rapl"], rel=1e-9)


@needs_pyrapl
def test_it_keeps_the_protocol(tmp_path: Path, backend_of: MakeBackend) -> None:
    """The conformance kit finds nothing."""
    backend = backend_of(build_tree(tmp_path, trees.SERVER_TWO_SOCKETS))
    assert isinstance(backend, Backend)
    check_backend(backend)


# --- faults -----------------------------------------------------------------------------------


@needs_pyrapl
@pytest.mark.parametrize(
    ("zones", "sockets"),
    [((), (0,)), (trees.MULTI_DIE_REAL, (0, 0)), (trees.SPARSE_PACKAGES, (0, 1, 3))],
    ids=["no zone", "dies", "a socket without zone"],
)
def test_what_pyrapl_cannot_read_is_refused_with_a_way_out(
    tmp_path: Path, backend_of: MakeBackend, zones: Sequence[Zone], sockets: Sequence[int]
) -> None:
    """Its errors become a reason, and the remedy is our own reader."""
    with pytest.raises(BackendUnavailableError, match="PyRAPLCantRecordEnergyConsumption") as caught:
        backend_of(build_tree(tmp_path, zones), sockets).open()
    assert 'backends=["rapl"]' in caught.value.remedy


@needs_pyrapl
def test_permission_denied(tmp_path: Path, backend_of: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only root may read, the remedy is the udev rule."""
    backend = backend_of(build_tree(tmp_path, trees.SERVER_TWO_SOCKETS))
    vendor = sys.modules["pyRAPL.device_api"]
    real_open = vendor.open  # type: ignore[attr-defined]

    def denied(path: str, mode: str = "r") -> Any:
        if path.endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, mode)

    monkeypatch.setattr(vendor, "open", denied)
    with pytest.raises(BackendUnavailableError, match="Permission denied") as caught:
        backend.open()
    assert "udev rule" in caught.value.remedy


@needs_pyrapl
# Filters are not changed from the sampler's thread: pyRAPL's open files are pointed out to who asks for it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failed_read_is_a_failure_and_the_sensor_is_made_anew(
    tmp_path: Path, backend_of: MakeBackend
) -> None:
    """A file without a number fails all domains for the moment; afterwards they are read again."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    backend = backend_of(tree)
    backend.open()
    tree.energy_file("intel-rapl:0").write_bytes(b"")
    for _ in range(2):
        items = backend.read()
        assert [(type(item), item.position) for item in items] == [(Failure, n) for n in range(4)]
        assert not any(item.lost for item in items)
    tree.energy_file("intel-rapl:0").write_bytes(b"25000000\n")
    assert [item.value for item in backend.read()] == [25_000_000, 22_000_000, 23_000_000, 24_000_000]


@needs_pyrapl
def test_a_range_that_is_not_told_is_noted(tmp_path: Path, backend_of: MakeBackend) -> None:
    """Without the range a wrap is a reset, and this is said."""
    zones = [replace(zone, range_uj=None) for zone in trees.SPARSE_PACKAGES[:1]]
    backend = backend_of(build_tree(tmp_path, zones), (0,))
    (domain,) = backend.open()
    assert domain.modulus is None
    assert "does not say where it wraps" in backend.notes[0]


@needs_pyrapl
def test_close_leaves_no_file_open(tmp_path: Path, backend_of: MakeBackend) -> None:
    """The files that pyRAPL never closes are closed."""
    tree = build_tree(tmp_path, trees.SERVER_TWO_SOCKETS)
    backend = backend_of(tree)
    backend.open()
    backend.close()
    backend.close()
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [link for link in links if link.startswith(str(tmp_path.resolve()))]
    assert backend.read() == []


# --- the import -------------------------------------------------------------------------------

_IMPORT = """
import logging, sys
from mlmeter.backends.pyrapl import PyRaplBackend
from mlmeter.errors import BackendUnavailableError
assert "pyRAPL" not in sys.modules
try:
    PyRaplBackend().open()
except BackendUnavailableError as error:
    assert "cannot be imported" not in str(error), error
assert "pyRAPL" in sys.modules
assert logging.getLogger().handlers == [] and logging.getLogger().filters == []
"""


@needs_pyrapl
def test_the_import_leaves_no_trace() -> None:
    """Neither a handler of the root logger nor a line of output nor a warning, even as errors."""
    result = subprocess.run(
        [
            sys.executable,
            "-B",
            "-W",
            "error::SyntaxWarning",
            "-W",
            "error::DeprecationWarning",
            "-c",
            _IMPORT,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_without_pyrapl_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is unavailable, says how to get it, and that it is not needed."""
    monkeypatch.setitem(sys.modules, "pyRAPL", None)
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(BackendUnavailableError, match="cannot be imported") as caught:
        PyRaplBackend().open()
    assert "mlmeter[pyrapl]" in caught.value.remedy
    assert 'backends=["rapl"]' in caught.value.remedy
    assert logging.getLogger().handlers == handlers


def test_it_is_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be asked for, and is tried then only."""
    monkeypatch.setitem(sys.modules, "pyRAPL", None)
    assert registry.check_selection(["pyrapl"]) == ("pyrapl",)
    assert [item.source for item in registry.probe(["pyrapl"]).unavailable] == ["pyrapl"]
    found = registry.probe(None)
    assert "pyrapl" not in {item.source for item in found.unavailable}
    for item in found.opened:
        item.backend.close()
