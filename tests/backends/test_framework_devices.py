"""Which GPUs a framework says that it uses; fakes stand in for the frameworks."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlmeter.backends import framework_devices
from mlmeter.backends.framework_devices import UsedDevice, devices_in_use
from mlmeter.backends.nvml import NvmlBackend
from mlmeter.backends.visible_devices import Board, boards_in_use
from mlmeter.device_time import cuda
from tests.backends.fake_gpu import FakeMigSlice
from tests.backends.fake_nvml import FakeGpu, FakeNvml, gpu_uuid

UUIDS = tuple(gpu_uuid(number) for number in range(3))
BOARDS = tuple(
    Board(index=number, uuid=uuid, model_name=model, pci_address=(0, number + 1, 0))
    for number, (uuid, model) in enumerate(zip(UUIDS, ("RTX 4090", "RTX 2060", "A100"), strict=True))
)


@pytest.fixture(autouse=True)
def no_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """No framework is loaded but what a test puts there."""
    for name in ("torch", "cupy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(framework_devices, "device_uuid", lambda number: None)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


def torch_with(*devices: object, initialised: bool = True, hip: str | None = None) -> ModuleType:
    """Return a module like PyTorch that has these devices; asking too early would initialise CUDA."""

    def properties(number: int) -> object:
        assert initialised, "this would initialise CUDA"
        return devices[number]

    torch: Any = ModuleType("torch")
    torch.version = SimpleNamespace(hip=hip)
    torch.cuda = SimpleNamespace(
        is_initialized=lambda: initialised,
        device_count=lambda: len(devices),
        get_device_properties=properties,
    )
    return torch  # type: ignore[no-any-return]


def bare(number: int) -> str:
    """Return a UUID as PyTorch spells it, without the prefix."""
    return UUIDS[number].removeprefix("GPU-")


def test_torch_tells_uuids_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's device 0 is NVML's GPU 2 here."""
    devices = [SimpleNamespace(uuid=bare(2)), SimpleNamespace(uuid=bare(0).upper())]
    monkeypatch.setitem(sys.modules, "torch", torch_with(*devices))
    assert devices_in_use() == (UsedDevice(bare(2)), UsedDevice(bare(0)))


def test_old_torch_without_uuids_tells_pci_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions differ in what their properties have; zeros are no UUID."""
    device = SimpleNamespace(uuid="0" * 32, pci_domain_id=0, pci_bus_id=2, pci_device_id=0)
    monkeypatch.setitem(sys.modules, "torch", torch_with(device))
    assert devices_in_use() == (UsedDevice(None, (0, 2, 0)),)


def test_torch_that_has_not_initialised_cuda_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking would initialise it, in the wrong thread and before the program set its variables."""
    monkeypatch.setitem(sys.modules, "torch", torch_with(SimpleNamespace(uuid=bare(0)), initialised=False))
    assert devices_in_use() == ()


def test_torch_for_amd_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """ROCm goes by the name of CUDA."""
    monkeypatch.setitem(sys.modules, "torch", torch_with(SimpleNamespace(uuid=bare(0)), hip="6.2"))
    assert devices_in_use() == ()


def test_cupy_tells_uuids_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy gives the properties as a table."""
    raw = bytes.fromhex(bare(1).replace("-", ""))
    properties = {"uuid": raw, "pciDomainID": 0, "pciBusID": 2, "pciDeviceID": 0}
    cupy: Any = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(
        get_current_stream=lambda: None,
        runtime=SimpleNamespace(getDeviceCount=lambda: 1, getDeviceProperties=lambda number: properties),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda, "cuda_runs", lambda: True)
    assert devices_in_use() == (UsedDevice(bare(1), (0, 2, 0)),)


def test_driver_is_asked_where_no_framework_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX and others have loaded it; it knows nothing before one of them initialises it."""
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    known = {0: UUIDS[1]}
    monkeypatch.setattr(framework_devices, "device_uuid", known.get)
    assert devices_in_use() == (UsedDevice(bare(1)),)


def test_nothing_is_imported() -> None:
    """A program that uses neither framework does not load one because of the meter."""
    program = (
        "import sys; from mlmeter.backends.framework_devices import devices_in_use; found = devices_in_use();"
        "sys.exit(bool(found) or bool({'torch', 'cupy', 'jax', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_boards_of_a_framework_are_found_by_uuid_before_pci_address() -> None:
    """A container may renumber buses."""
    devices = [UsedDevice(bare(2), (0, 1, 0)), UsedDevice(None, (0, 2, 0))]
    visible = boards_in_use(BOARDS, devices)
    assert visible is not None
    assert [board.index for board in visible.boards] == [1, 2]


def test_framework_that_names_an_unknown_gpu_is_not_trusted() -> None:
    """Then the variable decides; so does it if no framework says anything."""
    unknown = UsedDevice("ffffffff-0000-0000-0000-000000000000")
    assert boards_in_use(BOARDS, [UsedDevice(bare(0)), unknown]) is None
    assert boards_in_use(BOARDS, []) is None


def metered(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu, **settings: str) -> tuple[list[str], list[str]]:
    """Return names of the domains, and notes, of a machine with these GPUs."""
    with FakeNvml(gpus):
        backend = NvmlBackend(**settings)
        names = [domain.name for domain in backend.open()]
        backend.close()
    return names, backend.notes


def test_framework_is_trusted_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices of different GPUs mean nothing to NVML; the framework knows that its first is gpu-1."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    gpus = [FakeGpu(name="RTX 2060"), FakeGpu(name="RTX 4090")]
    assert metered(monkeypatch, *gpus)[0] == ["gpu-0", "gpu-1"]
    monkeypatch.setitem(sys.modules, "torch", torch_with(SimpleNamespace(uuid=bare(1))))
    assert metered(monkeypatch, *gpus) == (["gpu-1"], [])


def test_argument_is_trusted_before_the_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names GPUs means them."""
    monkeypatch.setitem(sys.modules, "torch", torch_with(SimpleNamespace(uuid=bare(1))))
    assert metered(monkeypatch, FakeGpu(), FakeGpu(), visible_devices="0")[0] == ["gpu-0"]


def test_framework_on_a_slice_means_its_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """The UUID that a framework tells of a MIG slice can be the slice's own."""
    part = FakeMigSlice(uuid="MIG-11111111-2222-3333-4444-555555555555")
    monkeypatch.setitem(
        sys.modules, "torch", torch_with(SimpleNamespace(uuid="11111111-2222-3333-4444-555555555555"))
    )
    names, notes = metered(monkeypatch, FakeGpu(), FakeGpu(mig=(part,)))
    assert names == ["gpu-1"]
    assert notes[0] == f"{part.uuid} is a slice of gpu-1"
