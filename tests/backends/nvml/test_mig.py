"""Boards that are divided into slices."""

from __future__ import annotations

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Provenance
from tests.backends.fake_gpu import FakeMigSlice
from tests.backends.fake_nvml import (
    ENERGY_CALL,
    FIELDS_CALL,
    POWER_CALL,
    FakeGpu,
    gpu_uuid,
)
from tests.backends.nvml.machine import Machine, opened, reading, refusal


def divided() -> FakeGpu:
    """Return a board with two MIG slices."""
    slices = (
        FakeMigSlice(uuid="MIG-aaaa-1", gpu_instance=1),
        FakeMigSlice(uuid="MIG-bbbb-2", gpu_instance=2),
    )
    return FakeGpu(name="NVIDIA A100-SXM4-80GB", architecture=7, mig=slices, counter_millijoules=123)


@pytest.mark.parametrize(
    "value", [None, "0", "MIG-aaaa-1", "MIG-b", "MIG-aaaa-1,MIG-bbbb-2", f"MIG-{gpu_uuid(0)}/2/0"]
)
def test_mig_board_is_metered_once_as_shared(machine: Machine, value: str | None) -> None:
    """Slices have no counter: the board's energy is given once and marked as shared."""
    machine(divided())
    backend, (domain,) = opened(NvmlBackend(visible_devices=value))
    assert (domain.id, domain.shared) == (gpu_uuid(0), True)
    assert reading(backend.read()[0]).value == 123


def test_mig_slice_is_named_in_a_note(machine: Machine) -> None:
    """The slice that the program uses is told beside the board that is metered."""
    machine(divided())
    backend, _ = opened(NvmlBackend(visible_devices="MIG-bbbb-2"))
    assert backend.notes[0] == "MIG-bbbb-2 is a slice of gpu-0"
    assert "MIG mode" in backend.notes[1]


def test_mig_board_without_a_counter_is_integrated_once(machine: Machine) -> None:
    """Its power is the board's too: derived, shared, once, whatever slices the program has."""
    board = divided()
    board.has_energy_counter = False
    machine(board)
    (domain,) = NvmlBackend(visible_devices="MIG-aaaa-1,MIG-bbbb-2").open()
    assert (domain.provenance, domain.shared) == (Provenance.DERIVED, True)


def test_slices_are_never_asked_for_energy(machine: Machine) -> None:
    """Two slices of two boards are two domains, those of the boards; one call each."""
    second = divided()
    second.mig = (FakeMigSlice(uuid="MIG-cccc-3"),)
    nvml = machine(divided(), second)
    backend, domains = opened(NvmlBackend(visible_devices="MIG-cccc-3,MIG-aaaa-1"))
    assert [domain.id for domain in domains] == [gpu_uuid(0), gpu_uuid(1)]
    nvml.calls.clear()
    assert len(backend.read()) == 2
    assert nvml.calls == {FIELDS_CALL: 2}


def test_mig_board_that_refuses_its_power_is_unreadable(machine: Machine) -> None:
    """In a container with a slice only the board can be closed: said, with the remedy, never 0."""
    nvml = machine(divided())
    for call in (ENERGY_CALL, POWER_CALL, FIELDS_CALL):
        nvml.fail(call, pynvml.NVML_ERROR_NO_PERMISSION)
    error = refusal(NvmlBackend())
    assert "Insufficient Permissions" in error.reason
    assert "NVIDIA_DRIVER_CAPABILITIES" in error.remedy


def test_board_beside_a_mig_board_is_not_shared(machine: Machine) -> None:
    """MIG mode belongs to one board."""
    machine(divided(), FakeGpu())
    assert [domain.shared for domain in NvmlBackend().open()] == [True, False]
