"""Which GPUs the NVML backend meters."""

from __future__ import annotations

import pytest

from mlmeter.backends.nvml import NvmlBackend
from tests.backends.fake_nvml import (
    FIELDS_CALL,
    FakeGpu,
    gpu_uuid,
)
from tests.backends.nvml.machine import Machine, only_domain, opened, refusal


def test_hidden_gpus_are_not_metered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES decides, and a GPU keeps NVML's number in its name."""
    machine(FakeGpu(), FakeGpu(), FakeGpu())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert [domain.name for domain in NvmlBackend().open()] == ["gpu-0", "gpu-2"]


def test_hidden_gpus_are_not_touched(machine: Machine) -> None:
    """No energy call goes to a GPU that belongs to others."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(visible_devices="1"))
    nvml.calls.clear()
    backend.read()
    assert nvml.calls == {FIELDS_CALL: 1}


def test_variable_is_read_by_open(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may set CUDA_VISIBLE_DEVICES after it made the backend."""
    machine(FakeGpu(), FakeGpu())
    backend = NvmlBackend()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu_uuid(1))
    assert [domain.name for domain in backend.open()] == ["gpu-1"]


def test_argument_wins_over_the_variable(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`visible_devices` stands in for the environment."""
    machine(FakeGpu(), FakeGpu())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert only_domain(visible_devices="GPU-0000").name == "gpu-0"


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_hiding_every_gpu_is_told(machine: Machine, value: str) -> None:
    """The reason names the variable and its value, and NVML is left again."""
    nvml = machine(FakeGpu())
    assert refusal(NvmlBackend(visible_devices=value)).reason == (
        f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU"
    )
    assert nvml.sessions == 0


def test_different_gpus_by_index_are_all_metered_with_a_note(machine: Machine) -> None:
    """CUDA's order is not known for different models, so none is left out."""
    machine(FakeGpu(name="RTX 4090"), FakeGpu(name="RTX 2060"))
    backend, domains = opened(NvmlBackend(visible_devices="0"))
    assert [domain.name for domain in domains] == ["gpu-0", "gpu-1"]
    assert "fastest first" in backend.notes[0]


def test_index_is_a_place_in_the_order_of_pci_addresses(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML promises no order of its own: with PCI_BUS_ID index 0 is the lowest bus, here gpu-1."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    machine(FakeGpu(name="RTX 4090", pci_bus=0x41), FakeGpu(name="RTX 2060", pci_bus=0x01))
    assert only_domain(visible_devices="0").name == "gpu-1"
