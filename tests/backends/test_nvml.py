"""The NVML backend against the real bindings, with a fake NVML library beneath them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pynvml
import pytest
from pytest_mock import MockerFixture

from mlmeter.backends.base import Backend
from mlmeter.backends.nvml import NvmlBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from tests.backends.fake_nvml import (
    ENERGY_CALL,
    ENERGY_FIELD,
    FIELD_ENERGY,
    FIELD_POWER_INSTANT,
    FIELDS_CALL,
    POWER_CALL,
    FakeGpu,
    FakeMigSlice,
    FakeNvml,
    gpu_uuid,
)

Machine = Callable[..., FakeNvml]


class ManualClock:
    """Monotonic nanoseconds that move only when told."""

    def __init__(self) -> None:
        self.time_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.time_ns

    def advance(self, seconds: float) -> None:
        self.time_ns += round(seconds * 1e9)


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands still."""
    return ManualClock()


@pytest.fixture
def machine(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Return a function that puts a fake NVML library in place for the rest of the test."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with ExitStack() as stack:

        def install(*gpus: FakeGpu, **settings: Any) -> FakeNvml:
            return stack.enter_context(FakeNvml(gpus, now_ns=clock, **settings))

        yield install


def opened(backend: NvmlBackend) -> tuple[NvmlBackend, Sequence[Domain]]:
    """Return a backend and what its `open` gave."""
    return backend, backend.open()


def only_domain(**settings: Any) -> Domain:
    """Return the one domain of a machine that is in place."""
    (domain,) = NvmlBackend(**settings).open()
    return domain


def refusal(backend: NvmlBackend) -> BackendUnavailableError:
    """Return why a backend cannot be opened."""
    with pytest.raises(BackendUnavailableError) as caught:
        backend.open()
    return caught.value


def reading(result: Reading | Failure) -> Reading:
    """Return a reading as such."""
    assert isinstance(result, Reading)
    return result


def failure(result: Reading | Failure) -> Failure:
    """Return a failure as such."""
    assert isinstance(result, Failure)
    return result


# What a GPU is


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


# Without an energy counter


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


def test_gpu_without_energy_and_power_is_listed_as_unreadable(machine: Machine) -> None:
    """Such a GPU is no domain, and it is said which, why and what to look at."""
    machine(FakeGpu(name="Tegra", has_energy_counter=False, has_power=False), FakeGpu())
    backend, domains = opened(NvmlBackend())
    assert [domain.name for domain in domains] == ["gpu-1"]
    (unavailable,) = backend.unreadable
    assert (unavailable.source, unavailable.kinds) == ("nvml", ("gpu",))
    assert unavailable.reason == (
        f"gpu-0 (Tegra, {gpu_uuid(0)}) gives neither energy nor power (Not Supported)"
    )
    assert "nvidia-smi" in unavailable.remedy


def test_refused_permission_has_its_remedy(machine: Machine) -> None:
    """NO_PERMISSION for one GPU leads to the container flags."""
    nvml = machine(FakeGpu(), FakeGpu())
    for call in (ENERGY_CALL, POWER_CALL, FIELDS_CALL):
        nvml.fail(call, pynvml.NVML_ERROR_NO_PERMISSION, gpu=0)
    backend, _ = opened(NvmlBackend())
    (unavailable,) = backend.unreadable
    assert "Insufficient Permissions" in unavailable.reason
    assert "NVIDIA_DRIVER_CAPABILITIES" in unavailable.remedy


def test_gpu_lost_before_the_start_is_listed_as_unreadable(machine: Machine) -> None:
    """A GPU that does not even tell its UUID does not keep the others from being metered."""
    nvml = machine(FakeGpu(), FakeGpu())
    nvml.fail("nvmlDeviceGetHandleByIndex_v2", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=0)
    backend, domains = opened(NvmlBackend())
    assert [domain.name for domain in domains] == ["gpu-1"]
    assert [unavailable.reason for unavailable in backend.unreadable] == [
        "gpu-0 (no UUID) gives neither energy nor power (GPU is lost)"
    ]


def test_no_readable_gpu_makes_the_backend_unavailable(machine: Machine) -> None:
    """With every GPU unreadable (Jetson: NVML starts, all queries are NOT_SUPPORTED) nothing is metered."""
    nvml = machine(FakeGpu(name="Orin", has_energy_counter=False, has_power=False))
    error = refusal(NvmlBackend())
    assert error.reason == f"gpu-0 (Orin, {gpu_uuid(0)}) gives neither energy nor power (Not Supported)"
    assert nvml.sessions == 0


# No NVML


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver is not loaded", "modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions", "Restart the machine"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission", "/dev/nvidiactl"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error", "dmesg"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost", "nvidia-smi"),
        # NOT_READY is not in the bindings' table: the words come from the library.
        (27, "fake error 27", "nvidia-smi"),
    ],
)
def test_failed_start_is_told_with_its_remedy(machine: Machine, code: int, reason: str, remedy: str) -> None:
    """Each way in which nvmlInit fails has its own words and its own advice."""
    machine(FakeGpu(), init_error=code)
    error = refusal(NvmlBackend())
    assert (error.backend, reason in error.reason, remedy in error.remedy) == ("nvml", True, True)


def test_missing_library_is_told_with_its_remedy(machine: Machine) -> None:
    """Without libnvidia-ml.so.1 the advice is the driver, or the container toolkit."""
    machine(load_error=OSError("libnvidia-ml.so.1: cannot open shared object file"))
    error = refusal(NvmlBackend())
    assert "libnvidia-ml.so.1" in error.reason
    assert "Install the NVIDIA driver" in error.remedy


def test_library_that_is_too_old_is_told(machine: Machine) -> None:
    """A library without nvmlInitWithFlags asks for a newer driver."""
    machine(FakeGpu()).remove("nvmlInitWithFlags")
    assert "Update the NVIDIA driver" in refusal(NvmlBackend()).remedy


def test_any_exception_of_the_start_is_contained(machine: Machine) -> None:
    """Whatever the bindings raise, the program gets a BackendUnavailableError with its words."""
    machine(load_error=RuntimeError("boom"))
    assert refusal(NvmlBackend()).reason == "NVML did not start (RuntimeError: boom)"


def test_missing_bindings_are_told_with_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvidia-ml-py the advice is to install it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    error = refusal(NvmlBackend())
    assert "bindings cannot be imported" in error.reason
    assert error.remedy == "Install them with: pip install nvidia-ml-py"


def test_gpus_that_cannot_be_counted_make_the_backend_unavailable(machine: Machine) -> None:
    """An error after the start ends the session and is contained too."""
    nvml = machine(FakeGpu())
    nvml.fail("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_UNKNOWN)
    assert "cannot be listed (Unknown Error)" in refusal(NvmlBackend()).reason
    assert nvml.sessions == 0


def test_no_gpu_is_told(machine: Machine) -> None:
    """A driver without GPUs is not a broken driver."""
    nvml = machine()
    assert refusal(NvmlBackend()).reason == "the NVIDIA driver works but lists no GPU"
    assert nvml.sessions == 0


def test_backend_that_was_unavailable_can_be_opened_later(machine: Machine) -> None:
    """A driver that was loaded in the meantime is found."""
    nvml = machine(FakeGpu(), init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    backend = NvmlBackend()
    refusal(backend)
    nvml.init_error = pynvml.NVML_SUCCESS
    assert [domain.name for domain in backend.open()] == ["gpu-0"]


# Which GPUs


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


# MIG


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


def test_board_beside_a_mig_board_is_not_shared(machine: Machine) -> None:
    """MIG mode belongs to one board."""
    machine(divided(), FakeGpu())
    assert [domain.shared for domain in NvmlBackend().open()] == [True, False]


# Failures while reading


@pytest.mark.parametrize(
    ("code", "words", "lost"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost", True),
        (pynvml.NVML_ERROR_TIMEOUT, "Timeout", False),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error", False),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported", False),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "GPU requires restart", False),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions", False),
        (pynvml.NVML_ERROR_UNINITIALIZED, "Uninitialized", False),
    ],
)
def test_failed_read_gives_a_failure_in_nvml_words(
    machine: Machine, clock: ManualClock, code: int, words: str, lost: bool
) -> None:
    """Only GPU_IS_LOST means that the device is gone; anything else may pass."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(FIELDS_CALL, code)
    reason = f"gpu-0 (NVIDIA H100 80GB HBM3, {gpu_uuid(0)}): energy counter: {words}"
    assert backend.read() == [Failure(0, reason, lost, clock())]


def test_one_failed_gpu_does_not_disturb_the_others(machine: Machine) -> None:
    """The reading of the healthy GPU is there, with its own index."""
    nvml = machine(FakeGpu(), FakeGpu(counter_millijoules=42))
    backend, _ = opened(NvmlBackend())
    nvml.fail(ENERGY_FIELD, pynvml.NVML_ERROR_GPU_IS_LOST, gpu=0)
    lost, healthy = backend.read()
    assert (failure(lost).position, reading(healthy)[:2]) == (0, (1, 42))


def test_failed_field_value_gives_a_failure(machine: Machine) -> None:
    """A gauge's own return code counts, although its call succeeds."""
    nvml = machine(FakeGpu(has_energy_counter=False))
    backend, _ = opened(NvmlBackend())
    nvml.fail(f"field:{FIELD_POWER_INSTANT}", pynvml.NVML_ERROR_GPU_IS_LOST)
    result = failure(backend.read()[0])
    assert (result.lost, "instant power: GPU is lost" in result.reason) == (True, True)


def test_gpu_that_recovers_is_read_again(machine: Machine) -> None:
    """After a passing error the counter goes on; the failures between are told one by one."""
    nvml = machine(FakeGpu(counter_millijoules=9))
    backend, _ = opened(NvmlBackend())
    nvml.fail(ENERGY_FIELD, pynvml.NVML_ERROR_TIMEOUT, after=1, times=2)
    results = [backend.read()[0] for _ in range(4)]
    assert [type(result) for result in results] == [Reading, Failure, Failure, Reading]
    assert reading(results[3]).value == 9


def test_new_handle_is_fetched_after_a_failure(machine: Machine) -> None:
    """A reset makes handles stale: the next read asks for the GPU by UUID and goes on."""
    nvml = machine(FakeGpu(counter_millijoules=9))
    backend, _ = opened(NvmlBackend())
    nvml.replace_handles(0)
    assert failure(backend.read()[0]).lost
    nvml.calls.clear()
    assert reading(backend.read()[0]).value == 9
    assert nvml.calls == {"nvmlDeviceGetHandleByUUID": 1, FIELDS_CALL: 1}


def test_time_of_fetching_a_handle_is_not_part_of_the_reading(machine: Machine, clock: ManualClock) -> None:
    """Attaching to a GPU may take 1.5 s; the stamps enclose the energy call alone."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.replace_handles(0)
    backend.read()
    nvml.on_call = lambda name: clock.advance(1.5 if name == "nvmlDeviceGetHandleByUUID" else 0.0)
    result = reading(backend.read()[0])
    assert result.end_ns == result.begin_ns


def test_gpu_that_has_disappeared_stays_lost(machine: Machine) -> None:
    """A GPU whose UUID NVML no longer knows is gone."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    nvml.gpus.clear()
    assert [failure(backend.read()[0]).lost for _ in range(2)] == [True, True]


def test_session_ended_by_others_is_begun_again(machine: Machine) -> None:
    """A library that calls nvmlShutdown once too often costs one reading, not the run."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend())
    pynvml.nvmlShutdown()
    assert [type(result) for result in backend.read()] == [Failure, Failure]
    assert [type(result) for result in backend.read()] == [Reading, Reading]
    backend.close()
    assert nvml.sessions == 0


def test_exception_that_is_not_nvml_s_gives_a_failure(machine: Machine, mocker: MockerFixture) -> None:
    """Whatever the bindings raise for one GPU, `read` does not."""
    machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    mocker.patch.object(pynvml, FIELDS_CALL, side_effect=OSError("access violation"))
    result = failure(backend.read()[0])
    assert (result.lost, "OSError: access violation" in result.reason) == (False, True)


# Sessions


def test_close_ends_the_session_once(machine: Machine) -> None:
    """A second close does nothing, and a session of the program's own stays."""
    nvml = machine(FakeGpu())
    pynvml.nvmlInit()
    backend, _ = opened(NvmlBackend())
    assert nvml.sessions == 2
    backend.close()
    backend.close()
    assert nvml.sessions == 1


def test_close_before_open_is_harmless() -> None:
    """A backend that was never opened has nothing to release."""
    NvmlBackend().close()


def test_error_of_the_shutdown_is_swallowed(machine: Machine) -> None:
    """At the end of a run a broken driver is nobody's business any more."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    nvml.fail("nvmlShutdown", pynvml.NVML_ERROR_UNKNOWN)
    backend.close()
    assert nvml.calls["nvmlShutdown"] == 1


def test_closed_backend_has_no_domain_to_read(machine: Machine) -> None:
    """After close nothing is open, so a read gives nothing."""
    machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    backend.close()
    assert backend.read() == []


def test_closed_backend_can_be_opened_again(machine: Machine) -> None:
    """Notes and unreadable GPUs are those of the last open."""
    nvml = machine(FakeGpu(has_energy_counter=False))
    backend, _ = opened(NvmlBackend())
    backend.close()
    nvml.gpus[0].has_energy_counter = True
    backend.open()
    assert (backend.notes, nvml.sessions) == ([], 1)


def test_child_gets_a_session_and_handles_of_its_own(machine: Machine, mocker: MockerFixture) -> None:
    """The first read in another process begins a session and fetches the handle, later ones do not."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    mocker.patch("os.getpid", return_value=os.getpid() + 1)
    nvml.calls.clear()
    backend.read()
    assert nvml.calls == {"nvmlInitWithFlags": 1, "nvmlDeviceGetHandleByUUID": 1, FIELDS_CALL: 1}
    backend.read()
    assert nvml.calls["nvmlInitWithFlags"] == 1


def test_child_whose_session_fails_tries_again(machine: Machine, mocker: MockerFixture) -> None:
    """A child without a session gives failures, and readings as soon as it has one."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    mocker.patch("os.getpid", return_value=os.getpid() + 1)
    nvml.init_error = pynvml.NVML_ERROR_UNKNOWN
    assert "Unknown Error" in failure(backend.read()[0]).reason
    nvml.init_error = pynvml.NVML_SUCCESS
    assert isinstance(backend.read()[0], Reading)


def test_child_that_never_read_does_not_end_the_session_of_its_parent(
    machine: Machine, mocker: MockerFixture
) -> None:
    """Closing the inherited backend leaves NVML alone."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    mocker.patch("os.getpid", return_value=os.getpid() + 1)
    backend.close()
    assert nvml.calls["nvmlShutdown"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_both_sides_of_a_fork_read_on(machine: Machine) -> None:
    """After a real fork the child has its second session and the parent its first."""
    nvml = machine(FakeGpu(counter_millijoules=77))
    backend, _ = opened(NvmlBackend())
    child = os.fork()
    if child == 0:
        # 0 means: the counter was read, in a session that the child had begun.
        right = backend.read()[0][1] == 77 and nvml.sessions == 2
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (reading(backend.read()[0]).value, nvml.sessions) == (77, 1)


# The fake itself


def test_fake_leaves_the_bindings_as_they_were() -> None:
    """After the block the bindings have their loader, no library and no cached function."""
    before = (pynvml.CDLL, pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache))
    with FakeNvml([FakeGpu()]):
        pynvml.nvmlInit()
        pynvml.nvmlDeviceGetHandleByIndex(0)
    assert (pynvml.CDLL, pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)) == before


def test_fake_before_the_start_is_uninitialised() -> None:
    """As in the real library, every call needs a session."""
    with FakeNvml([FakeGpu()]):
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()


def test_fake_counts_its_faults_by_call() -> None:
    """A fault strikes after so many calls, so many times, on its GPU only."""
    with FakeNvml([FakeGpu(counter_millijoules=1), FakeGpu(counter_millijoules=2)]) as nvml:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]
        nvml.fail(ENERGY_CALL, pynvml.NVML_ERROR_TIMEOUT, gpu=1, after=1, times=1)
        seen: list[int | str] = []
        for handle in (*handles, *handles, *handles):
            try:
                seen.append(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
            except pynvml.NVMLError as error:
                seen.append(str(error))
    assert seen == [1, 2, 1, "Timeout", 1, 2]


def test_fake_tells_its_own_mistakes() -> None:
    """An exception inside the fake is not lost in C."""
    nvml = FakeNvml([FakeGpu(power_watts=lambda seconds: 1.0)])
    nvml.__enter__()
    pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))
    with pytest.raises(AssertionError, match="broken"):
        nvml.__exit__(None, None, None)
