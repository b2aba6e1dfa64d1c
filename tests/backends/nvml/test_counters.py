"""The NVML backend on GPUs with an energy counter, a fake library beneath the real bindings."""

from __future__ import annotations

import subprocess
import sys

import pynvml
import pytest

from mlmeter.backends.base import Backend
from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Domain, Provenance, Reading
from tests.backends.fake_gpu import FIELD_ENERGY, FIELD_POWER_INSTANT
from tests.backends.fake_nvml import (
    FIELDS_CALL,
    FakeGpu,
    gpu_uuid,
)
from tests.backends.nvml.machine import Machine, ManualClock, only_domain, opened, reading


def test_backend_has_the_shape_of_a_backend() -> None:
    """The class offers what the protocol asks for."""
    assert isinstance(NvmlBackend(), Backend)


def test_import_does_not_load_the_bindings() -> None:
    """`pynvml` is imported by `open` only, so the meter costs nothing where it is not used."""
    program = "import sys, mlmeter.backends.nvml; sys.exit('pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_gpu_with_an_energy_counter_is_a_measured_domain(machine: Machine) -> None:
    """The counter is in millijoules, 64 bits wide (it never wraps), and is identified by UUID."""
    machine(FakeGpu(enforced_limit_watts=None, management_limit_watts=None))
    expected = Domain(
        name="gpu-0",
        id=gpu_uuid(0),
        kind="gpu",
        source="nvml",
        provenance=Provenance.MEASURED,
        update_period_seconds=0.1,
        joules_per_count=1e-3,
        power_watts_per_count=1e-3,
        modulus=None,
        cheap_read=False,
        uuid=gpu_uuid(0),
        model_name="NVIDIA H100 80GB HBM3",
    )
    assert expected == only_domain()


def test_reading_is_the_raw_counter(machine: Machine, clock: ManualClock) -> None:
    """`read` gives NVML's millijoules untouched: 300 W for 2 s more are 600,000 counts more.

    Beside them stand the milliwatts and the driver's time stamp, which comes in microseconds.
    """
    machine(FakeGpu(power_watts=300.0, energy_start_joules=1_000.0), wall_ns=lambda: 1_234_567)
    backend, _ = opened(NvmlBackend(now_ns=clock))
    assert backend.read() == [Reading(0, 1_000_000, clock(), clock(), 300_000, 1_234_000)]
    clock.advance(2.0)
    assert backend.read() == [Reading(0, 1_600_000, clock(), clock(), 300_000, 1_234_000)]


def test_counter_of_more_than_32_bits_is_read_whole(machine: Machine) -> None:
    """A month at 700 W is 1.8e12 mJ."""
    machine(FakeGpu(counter_millijoules=1_814_400_000_123))
    backend, _ = opened(NvmlBackend())
    assert reading(backend.read()[0]).value == 1_814_400_000_123


def test_counter_that_falls_is_passed_on(machine: Machine) -> None:
    """After a driver reload the counter starts anew; the backend reports it and judges nothing."""
    nvml = machine(FakeGpu(counter_millijoules=5_000))
    backend, _ = opened(NvmlBackend())
    nvml.gpus[0].counter_millijoules = 7
    assert reading(backend.read()[0]).value == 7


def test_counter_that_stands_still_is_passed_on(machine: Machine, clock: ManualClock) -> None:
    """Between two refreshes the counter shows the same value, with new times."""
    machine(FakeGpu(update_period_seconds=0.1))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    first = reading(backend.read()[0])
    clock.advance(0.05)
    second = reading(backend.read()[0])
    assert (second.value, second.begin_ns) == (first.value, first.begin_ns + 50_000_000)


def test_reading_carries_the_times_around_a_slow_call(machine: Machine, clock: ManualClock) -> None:
    """A call of 50 ms is bracketed by its stamps."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.on_call = lambda name: clock.advance(0.05)
    start_ns = clock()
    result = reading(backend.read()[0])
    assert (result.begin_ns, result.end_ns) == (start_ns, start_ns + 50_000_000)


def test_read_makes_one_call_for_each_gpu_and_no_other(machine: Machine) -> None:
    """Energy and power come in one; any other NVML call may hold the driver's lock for milliseconds."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend())
    nvml.calls.clear()
    backend.read()
    assert nvml.calls == {FIELDS_CALL: 2}


@pytest.mark.parametrize("field", [FIELD_ENERGY, FIELD_POWER_INSTANT])
def test_counter_without_one_of_the_fields_is_read_by_its_own_call(machine: Machine, field: int) -> None:
    """An old driver has the counter all the same: measured, without power and time stamp, no note."""
    machine(FakeGpu(counter_millijoules=7, fields=frozenset({FIELD_ENERGY, FIELD_POWER_INSTANT} - {field})))
    backend, (domain,) = opened(NvmlBackend())
    assert (domain.provenance, domain.power_watts_per_count) == (Provenance.MEASURED, None)
    result = reading(backend.read()[0])
    assert (result.value, result.power_counts, result.driver_time_ns) == (7, None, None)
    assert backend.notes == []


def test_power_that_fails_does_not_take_the_counter_with_it(machine: Machine) -> None:
    """Each field has its own return code: the energy is there, the power is absent, not 0."""
    nvml = machine(FakeGpu(counter_millijoules=7))
    backend, _ = opened(NvmlBackend())
    nvml.fail(f"field:{FIELD_POWER_INSTANT}", pynvml.NVML_ERROR_UNKNOWN)
    result = reading(backend.read()[0])
    assert (result.value, result.power_counts) == (7, None)


def test_driver_without_time_stamps_gives_none(machine: Machine) -> None:
    """A stamp of 0 is no time."""
    machine(FakeGpu(), wall_ns=lambda: 0)
    backend, _ = opened(NvmlBackend())
    assert reading(backend.read()[0]).driver_time_ns is None


def test_gpus_are_read_in_the_order_of_the_domains(machine: Machine) -> None:
    """Reading i belongs to domain i."""
    machine(*(FakeGpu(counter_millijoules=number) for number in (10, 20, 30)))
    backend, domains = opened(NvmlBackend())
    assert [domain.name for domain in domains] == ["gpu-0", "gpu-1", "gpu-2"]
    assert [reading(result)[:2] for result in backend.read()] == [(0, 10), (1, 20), (2, 30)]


def test_volta_counter_refreshes_five_times_as_often(machine: Machine) -> None:
    """The V100's counter was seen to refresh every 20 ms, later ones every 100 ms."""
    machine(FakeGpu(name="Tesla V100-SXM2-16GB", architecture=pynvml.NVML_DEVICE_ARCH_VOLTA))
    assert only_domain().update_period_seconds == 0.02


@pytest.mark.parametrize(
    ("enforced_watts", "management_watts", "expected_watts"),
    [(400.0, 700.0, 600.0), (None, 700.0, 1050.0), (None, None, None)],
)
def test_highest_power_is_one_and_a_half_times_the_limit(
    machine: Machine,
    enforced_watts: float | None,
    management_watts: float | None,
    expected_watts: float | None,
) -> None:
    """The enforced limit counts, else the management limit; without either the bound is unknown."""
    machine(FakeGpu(enforced_limit_watts=enforced_watts, management_limit_watts=management_watts))
    assert only_domain().max_power_watts == pytest.approx(expected_watts)
