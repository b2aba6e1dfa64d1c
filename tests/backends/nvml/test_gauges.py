"""The NVML backend on GPUs that show their power only."""

from __future__ import annotations

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Provenance
from tests.backends.fake_gpu import FIELD_ENERGY, FIELD_POWER_INSTANT
from tests.backends.fake_nvml import (
    ENERGY_CALL,
    FIELDS_CALL,
    FakeGpu,
    gpu_uuid,
)
from tests.backends.nvml.machine import Machine, only_domain, opened, reading


def test_gpu_without_energy_counter_is_metered_by_instant_power(machine: Machine) -> None:
    """NOT_SUPPORTED makes a power gauge, derived, in milliwatts: never 0 J."""
    machine(FakeGpu(has_energy_counter=False, power_watts=250.0, average_power_watts=100.0))
    backend, (domain,) = opened(NvmlBackend())
    assert domain.provenance is Provenance.DERIVED
    assert (domain.joules_per_count, domain.watts_per_count) == (None, 1e-3)
    assert reading(backend.read()[0]).value == 250_000


def test_degraded_gpu_is_noted(machine: Machine) -> None:
    """A note says which GPU, why, and what is done instead."""
    machine(FakeGpu(has_energy_counter=False))
    backend, _ = opened(NvmlBackend())
    (note,) = backend.notes
    gpu = f"gpu-0 (NVIDIA H100 80GB HBM3, {gpu_uuid(0)})"
    assert note == f"{gpu} gives no energy counter (Not Supported): its instant power is integrated"


def test_healthy_gpu_needs_no_note(machine: Machine) -> None:
    """Nothing is noted where nothing was assumed."""
    machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    assert backend.notes == []


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT])
def test_unknown_instant_power_field_leads_to_power_usage(machine: Machine, code: int) -> None:
    """A field has its own return code: the call succeeds although the old driver lacks field 186."""
    nvml = machine(FakeGpu(has_energy_counter=False, power_watts=250.0, average_power_watts=100.0))
    nvml.fail(f"field:{FIELD_POWER_INSTANT}", code)
    backend, _ = opened(NvmlBackend())
    assert reading(backend.read()[0]).value == 100_000


def test_driver_without_field_values_leads_to_power_usage(machine: Machine) -> None:
    """A library that lacks the energy and field functions altogether still has power."""
    nvml = machine(FakeGpu(average_power_watts=100.0))
    nvml.remove(ENERGY_CALL)
    nvml.remove(FIELDS_CALL)
    backend, (domain,) = opened(NvmlBackend())
    assert (domain.provenance, reading(backend.read()[0]).value) == (Provenance.DERIVED, 100_000)


def test_read_of_a_power_gauge_makes_one_call(machine: Machine) -> None:
    """A gauge costs one call too."""
    nvml = machine(FakeGpu(has_energy_counter=False))
    backend, _ = opened(NvmlBackend())
    nvml.calls.clear()
    backend.read()
    assert nvml.calls == {FIELDS_CALL: 1}


@pytest.mark.parametrize(
    ("name", "architecture", "driver", "instant_seconds", "usage_seconds", "update_seconds"),
    [
        ("NVIDIA H100 80GB HBM3", 9, "570.86.15", 0.025, 1.0, 0.1),
        ("NVIDIA RTX 4000 Ada", 8, "570.86.15", 0.1, 1.0, 0.1),
        ("NVIDIA RTX 4000 Ada", 8, "530.30.02", 0.1, 0.1, 0.1),
        ("NVIDIA GeForce RTX 3090", 7, "525.60.13", 0.1, 1.0, 0.1),
        ("NVIDIA GeForce RTX 3090", 7, "530.30.02", 0.1, 0.1, 0.1),
        ("NVIDIA A100-SXM4-80GB", 7, "530.30.02", 0.025, 0.025, 0.1),
        ("NVIDIA GeForce RTX 2080 Ti", 6, "570.86.15", 0.1, 0.1, 0.1),
        ("Tesla V100-SXM2-16GB", 5, "570.86.15", 0.01, 0.01, 0.02),
        ("Tesla P100-PCIE-16GB", 4, "570.86.15", 0.01, 0.01, 0.02),
        ("NVIDIA B200", 10, "570.86.15", 0.1, 1.0, 0.1),
        ("Something else", None, "570.86.15", 0.1, 1.0, 0.1),
    ],
)
def test_power_gauge_has_the_averaging_window_of_its_generation(
    machine: Machine,
    name: str,
    architecture: int | None,
    driver: str,
    instant_seconds: float,
    usage_seconds: float,
    update_seconds: float,
) -> None:
    """Windows and periods are those found on more than 70 boards (arXiv 2312.02741)."""
    nvml = machine(FakeGpu(name=name, architecture=architecture, has_energy_counter=False))
    nvml.driver_version = driver
    instant = only_domain()
    nvml.gpus[0].fields = frozenset({FIELD_ENERGY})
    usage = only_domain()
    assert (instant.averaging_window_seconds, usage.averaging_window_seconds) == (
        instant_seconds,
        usage_seconds,
    )
    assert (instant.update_period_seconds, usage.update_period_seconds) == (update_seconds, update_seconds)
