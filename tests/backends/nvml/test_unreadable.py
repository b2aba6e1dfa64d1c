"""GPUs that give neither energy nor power, and machines without a working NVML: told, never 0."""

from __future__ import annotations

import sys

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Provenance
from tests.backends.fake_nvml import (
    ENERGY_CALL,
    FIELDS_CALL,
    POWER_CALL,
    FakeGpu,
    gpu_uuid,
)
from tests.backends.nvml.machine import Machine, only_domain, opened, reading, refusal


def test_gpu_without_energy_and_power_is_listed_as_unreadable(machine: Machine) -> None:
    """Such a GPU is no domain, and it is said which, why and what to look at."""
    machine(FakeGpu(name="Tesla K20", has_energy_counter=False, has_power=False), FakeGpu())
    backend, domains = opened(NvmlBackend())
    assert [domain.name for domain in domains] == ["gpu-1"]
    (unavailable,) = backend.unreadable
    assert (unavailable.source, unavailable.kinds) == ("nvml", ("gpu",))
    assert unavailable.reason == (
        f"gpu-0 (Tesla K20, {gpu_uuid(0)}) gives neither energy nor power (Not Supported)"
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
    """With every GPU unreadable nothing is metered, and NVML is left again."""
    nvml = machine(FakeGpu(name="Tesla K20", has_energy_counter=False, has_power=False))
    error = refusal(NvmlBackend())
    assert error.reason == f"gpu-0 (Tesla K20, {gpu_uuid(0)}) gives neither energy nor power (Not Supported)"
    assert nvml.sessions == 0


@pytest.mark.parametrize("name", ["Orin (nvgpu)", "NVIDIA Tegra X1", "Xavier"])
def test_jetson_is_sent_to_its_own_sensors(machine: Machine, name: str) -> None:
    """NVML starts on a Jetson and answers NOT_SUPPORTED to everything: never 0 J."""
    machine(FakeGpu(name=name, has_energy_counter=False, has_power=False))
    error = refusal(NvmlBackend())
    assert "Jetson" in error.reason
    assert "INA3221" in error.remedy


def test_virtual_gpu_without_sensors_is_sent_to_its_host(machine: Machine) -> None:
    """A vGPU has no counter of its own; the reason says that it is one."""
    machine(FakeGpu(virtualization=2, has_energy_counter=False, has_power=False))
    error = refusal(NvmlBackend())
    assert "virtual GPU (vGPU)" in error.reason
    assert "host" in error.remedy


def test_virtual_gpu_with_power_is_integrated_and_shared(machine: Machine) -> None:
    """A vGPU that shows power is metered by that, derived; it may be the power of the whole board."""
    machine(FakeGpu(virtualization=2, has_energy_counter=False))
    backend, (domain,) = opened(NvmlBackend())
    assert (domain.provenance, domain.shared) == (Provenance.DERIVED, True)
    assert any("Not Supported" in note for note in backend.notes)
    assert any("virtual GPU (vGPU)" in note for note in backend.notes)


def test_gpu_that_is_passed_through_is_a_whole_board(machine: Machine) -> None:
    """PCI passthrough gives the board to one machine alone."""
    machine(FakeGpu(virtualization=1))
    assert not only_domain().shared


def test_counter_that_shows_0_is_none(machine: Machine) -> None:
    """A counter of 0 since the driver was loaded is dead: power is integrated, with a note."""
    machine(FakeGpu(counter_millijoules=0, power_watts=250.0))
    backend, (domain,) = opened(NvmlBackend())
    assert domain.provenance is Provenance.DERIVED
    assert reading(backend.read()[0]).value == 250_000
    assert "gives no energy counter (shows 0)" in backend.notes[0]


def test_gpu_of_which_all_shows_0_is_unreadable(machine: Machine) -> None:
    """Neither 0 J nor 0 W is an answer."""
    machine(FakeGpu(counter_millijoules=0, power_watts=0.0))
    assert "gives neither energy nor power (shows 0)" in refusal(NvmlBackend()).reason


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver is not loaded", "modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions", "Restart the machine"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission", "/dev/nvidiactl"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error", "dmesg"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost", "nvidia-smi"),
        (pynvml.NVML_ERROR_TIMEOUT, "Timeout", "nvidia-smi"),
        (pynvml.NVML_ERROR_OPERATING_SYSTEM, "control group", "--gpus"),
        (pynvml.NVML_ERROR_INSUFFICIENT_POWER, "power cables", "Attach"),
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
