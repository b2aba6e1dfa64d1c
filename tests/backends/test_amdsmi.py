"""AMD GPUs through a fake of the module `amdsmi`."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path

import pytest

from mlmeter.backends import amdsmi
from mlmeter.backends.amdsmi import AmdSmiBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Provenance, Reading
from mlmeter.testing import FakeClock, check_backend
from tests.backends.fake_amdsmi import (
    NO_PERMISSION,
    NOT_FOUND,
    AmdSmiLibraryException,
    FakeAmdSmi,
    FakeBoard,
)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A machine with the driver."""
    (tmp_path / "amdgpu").mkdir()
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, *boards: FakeBoard) -> FakeAmdSmi:
    """Install the fake with a library that loads."""
    fake = FakeAmdSmi(*boards)
    spec = importlib.machinery.ModuleSpec("amdsmi", None, origin="/nowhere/amdsmi/__init__.py")
    fake.__spec__ = spec
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    monkeypatch.setattr(amdsmi, "_library_loads", lambda folders: True)
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return fake


def test_accumulator_times_resolution_is_energy(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    """The raw count is reported; its worth is in the domain, in joules."""
    fake = installed(monkeypatch, FakeBoard())
    backend = AmdSmiBackend(module_root=modules)
    (domain,) = backend.open()
    assert domain.joules_per_count == pytest.approx(15.259e-6)
    assert (domain.name, domain.kind, domain.id) == ("amd-gpu-0", "gpu", "amdgpu:0000:03:00.0")
    assert domain.provenance is Provenance.MEASURED
    assert domain.max_power_watts == pytest.approx(450)
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.value == 1_000_000
    check_backend(backend)
    assert fake.sessions == 0


def test_key_of_old_bindings(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    """Before ROCm 6 the accumulator was called power."""
    installed(monkeypatch, FakeBoard(energy_key="power", energy=77))
    backend = AmdSmiBackend(module_root=modules)
    backend.open()
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.value == 77
    backend.close()


def test_power_beside_the_counter_is_asked_for_now_and_then(
    monkeypatch: pytest.MonkeyPatch, modules: Path
) -> None:
    """The cross-check needs ten powers a second, not one per poll."""
    fake = installed(monkeypatch, FakeBoard())
    clock = FakeClock(start_ns=10**9)
    backend = AmdSmiBackend(module_root=modules, now_ns=clock.now_ns)
    backend.open()
    fake.calls.clear()
    powers = []
    for _ in range(20):
        (reading,) = backend.read()
        assert isinstance(reading, Reading)
        powers.append(reading.power_counts)
        clock.advance(0.01)
    assert powers.count(120) == 2
    assert fake.calls.count("energy") == 20
    backend.close()


@pytest.mark.parametrize("energy", [None, 0], ids=["not supported", "stands at 0"])
def test_power_is_integrated_without_a_counter(
    monkeypatch: pytest.MonkeyPatch, modules: Path, energy: int | None
) -> None:
    """What is derived says so."""
    installed(monkeypatch, FakeBoard(energy=energy))
    backend = AmdSmiBackend(module_root=modules)
    (domain,) = backend.open()
    assert domain.provenance is Provenance.DERIVED
    assert domain.watts_per_count == 1.0
    assert "its power is integrated" in backend.notes[0]
    check_backend(backend)


def test_board_that_tells_nothing_is_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, modules: Path
) -> None:
    """Never 0 W: the other board goes on."""
    installed(
        monkeypatch,
        FakeBoard(bdf="0000:03:00.0"),
        FakeBoard(bdf="0000:83:00.0", energy=None, power={"average_socket_power": "N/A"}),
    )
    backend = AmdSmiBackend(module_root=modules)
    assert [domain.name for domain in backend.open()] == ["amd-gpu-0"]
    assert "amd-gpu-1 (0000:83:00.0) gives neither" in backend.unreadable[0].reason
    backend.close()


def test_partitions_are_one_board(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    """CPX shows eight devices of one board: one accumulator, counted once, marked as shared."""
    installed(monkeypatch, *(FakeBoard(bdf=f"0000:05:00.{part}", vram_type=4) for part in range(8)))
    backend = AmdSmiBackend(module_root=modules)
    (domain,) = backend.open()
    assert domain.shared
    assert any("8 partitions" in note for note in backend.notes)
    backend.close()


@pytest.mark.parametrize(
    "board", [FakeBoard(vram_type=12), FakeBoard(name="AMD Instinct MI300A", vram_type=4)]
)
def test_gpu_inside_a_processor_is_not_added(
    monkeypatch: pytest.MonkeyPatch, modules: Path, board: FakeBoard
) -> None:
    """Its socket power holds CPU cores that RAPL counts."""
    installed(monkeypatch, board)
    backend = AmdSmiBackend(module_root=modules)
    (domain,) = backend.open()
    assert not domain.counted
    backend.close()


def test_failures_at_a_read_are_contained(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    """A board that is gone is lost; one that answers nonsense may come back."""
    fake = installed(monkeypatch, FakeBoard(), FakeBoard(bdf="0000:83:00.0"))
    backend = AmdSmiBackend(module_root=modules)
    backend.open()
    fake.boards[0].error = AmdSmiLibraryException(NOT_FOUND)
    fake.boards[1].energy_key = "surprise"
    gone, odd = backend.read()
    assert isinstance(gone, Failure)
    assert gone.lost
    assert isinstance(odd, Failure)
    assert not odd.lost
    backend.close()


def test_no_permission_names_the_groups(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    """The remedy is what a user can type."""
    installed(monkeypatch).init_error = AmdSmiLibraryException(NO_PERMISSION)
    with pytest.raises(BackendUnavailableError) as caught:
        AmdSmiBackend(module_root=modules).open()
    assert "render" in caught.value.remedy


def test_without_the_driver_nothing_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bindings print and raise KeyError where their library is missing: they are not touched."""
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(BackendUnavailableError, match="driver amdgpu is not loaded"):
        AmdSmiBackend(module_root=tmp_path).open()


def test_without_the_library_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch, modules: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A package that would print and fail is not run."""
    package = modules / "site" / "amdsmi"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "print('Unable to find libamd_smi.so')\nraise KeyError('libamd_smi.so')\n"
    )
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(BackendUnavailableError, match=r"libamd_smi\.so cannot be loaded"):
        AmdSmiBackend(module_root=modules, library_folders=[modules]).open()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("statement", ["raise KeyError('libamd_smi.so')", "import sys; sys.exit(1)"])
def test_odd_errors_of_the_import_are_contained(
    monkeypatch: pytest.MonkeyPatch, modules: Path, statement: str
) -> None:
    """Whatever the bindings do when they are imported, the meter goes on."""
    package = modules / "site" / "amdsmi"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(statement)
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(amdsmi, "_library_loads", lambda folders: True)
    with pytest.raises(BackendUnavailableError, match="cannot be imported"):
        AmdSmiBackend(module_root=modules).open()
