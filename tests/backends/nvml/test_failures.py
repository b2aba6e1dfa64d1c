"""Reads that fail, and GPUs that come back."""

from __future__ import annotations

import pynvml
import pytest
from pytest_mock import MockerFixture

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Failure, Reading
from tests.backends.fake_gpu import FIELD_POWER_INSTANT
from tests.backends.fake_nvml import (
    ENERGY_FIELD,
    FIELDS_CALL,
    FakeGpu,
    gpu_uuid,
)
from tests.backends.nvml.machine import Machine, ManualClock, failure, opened, reading


@pytest.mark.parametrize(
    ("code", "words", "lost"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost", True),
        (pynvml.NVML_ERROR_TIMEOUT, "Timeout", False),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error", False),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported", False),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "GPU requires restart", False),
        (pynvml.NVML_ERROR_NOT_FOUND, "Not Found", True),
        (pynvml.NVML_ERROR_IRQ_ISSUE, "Interrupt Request Issue", False),
        (pynvml.NVML_ERROR_UNINITIALIZED, "Uninitialized", False),
    ],
)
def test_failed_read_gives_a_failure_in_nvml_words(
    machine: Machine, clock: ManualClock, code: int, words: str, lost: bool
) -> None:
    """GPU_IS_LOST and NOT_FOUND mean that the device is gone; anything else may pass."""
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


def test_refused_permission_is_told_with_its_remedy(machine: Machine) -> None:
    """A permission that is taken away while a session runs comes with what to do."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    nvml.fail(FIELDS_CALL, pynvml.NVML_ERROR_NO_PERMISSION)
    reason = failure(backend.read()[0]).reason
    assert "Insufficient Permissions" in reason
    assert "NVIDIA_DRIVER_CAPABILITIES" in reason


def read_every(
    seconds: float, times: int, backend: NvmlBackend, clock: ManualClock
) -> list[Reading | Failure]:
    """Return what the first domain gives at regular times."""
    results = []
    for _ in range(times):
        clock.advance(seconds)
        results.append(backend.read()[0])
    return results


def test_gpu_that_recovers_is_read_again(machine: Machine, clock: ManualClock) -> None:
    """After a passing error the counter goes on; the failures between are told one by one."""
    nvml = machine(FakeGpu(counter_millijoules=9))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(ENERGY_FIELD, pynvml.NVML_ERROR_TIMEOUT, after=1, times=2)
    results = read_every(0.5, 4, backend, clock)
    assert [type(result) for result in results] == [Reading, Failure, Failure, Reading]
    assert reading(results[3]).value == 9


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_TIMEOUT]
)
def test_gpu_that_fails_is_asked_at_longer_and_longer_intervals(
    machine: Machine, clock: ManualClock, code: int
) -> None:
    """In 60 s of reads every 10 ms it is asked after 0.1, 0.2, 0.4 ... and at last every 5 s: 17 times."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(ENERGY_FIELD, code, gpu=0)
    nvml.calls.clear()
    start_ns = clock()
    results = read_every(0.01, 6_000, backend, clock)
    assert {type(result) for result in results} == {Failure}
    assert [failure(result).at_ns - start_ns for result in results[:2]] == [10_000_000, 20_000_000]
    assert nvml.calls[FIELDS_CALL] - 6_000 == 17


def test_failures_that_pass_begin_again_with_short_waits(machine: Machine, clock: ManualClock) -> None:
    """A GPU that has worked in between is asked again after 0.1 s."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    for _ in range(5):
        nvml.fail(ENERGY_FIELD, pynvml.NVML_ERROR_TIMEOUT, times=1)
        results = read_every(0.1, 2, backend, clock)
        assert [type(result) for result in results] == [Failure, Reading]


def test_counter_that_shows_0_for_a_moment_is_a_failure(machine: Machine, clock: ManualClock) -> None:
    """Some drivers give 0 in between (zeus pull request 186): no reading, so no reset."""
    nvml = machine(FakeGpu(counter_millijoules=5_000))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.gpus[0].counter_millijoules = 0
    result = failure(backend.read()[0])
    assert (result.lost, "energy counter: shows 0" in result.reason) == (False, True)
    nvml.gpus[0].counter_millijoules = 5_100
    clock.advance(0.1)
    assert reading(backend.read()[0]).value == 5_100


def test_power_of_0_beside_a_counter_is_left_out(machine: Machine) -> None:
    """It would make the counter look wrong."""
    nvml = machine(FakeGpu(counter_millijoules=7))
    backend, _ = opened(NvmlBackend())
    nvml.gpus[0].power_watts = 0.0
    result = reading(backend.read()[0])
    assert (result.value, result.power_counts) == (7, None)


def test_new_handle_is_fetched_after_a_failure(machine: Machine, clock: ManualClock) -> None:
    """A reset makes handles stale: the next attempt asks for the GPU by UUID and goes on."""
    nvml = machine(FakeGpu(counter_millijoules=9))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.replace_handles(0)
    assert failure(backend.read()[0]).lost
    clock.advance(0.1)
    nvml.calls.clear()
    assert reading(backend.read()[0]).value == 9
    assert nvml.calls == {"nvmlDeviceGetHandleByUUID": 1, FIELDS_CALL: 1}


def test_time_of_fetching_a_handle_is_not_part_of_the_reading(machine: Machine, clock: ManualClock) -> None:
    """Attaching to a GPU may take 1.5 s; the stamps enclose the energy call alone."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.replace_handles(0)
    backend.read()
    clock.advance(0.1)
    nvml.on_call = lambda name: clock.advance(1.5 if name == "nvmlDeviceGetHandleByUUID" else 0.0)
    result = reading(backend.read()[0])
    assert result.end_ns == result.begin_ns


def test_gpu_that_has_disappeared_stays_lost(machine: Machine) -> None:
    """A GPU whose UUID NVML no longer knows is gone."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend())
    nvml.gpus.clear()
    assert [failure(backend.read()[0]).lost for _ in range(2)] == [True, True]


def test_session_ended_by_others_is_begun_again(machine: Machine, clock: ManualClock) -> None:
    """A library that calls nvmlShutdown once too often costs one reading of one GPU, not the run."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    pynvml.nvmlShutdown()
    assert [type(result) for result in backend.read()] == [Failure, Reading]
    clock.advance(0.1)
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


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH]
)
def test_driver_that_is_reloaded_gets_a_new_session(machine: Machine, clock: ManualClock, code: int) -> None:
    """While the driver is away NVML cannot be started; afterwards the counter, set anew, is read again."""
    nvml = machine(FakeGpu(counter_millijoules=900_000))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(FIELDS_CALL, code)
    nvml.init_error = code
    assert {type(result) for result in read_every(0.5, 6, backend, clock)} == {Failure}
    assert nvml.sessions == 0
    nvml.clear_faults()
    nvml.init_error = pynvml.NVML_SUCCESS
    nvml.gpus[0].counter_millijoules = 40
    assert reading(read_every(6.0, 1, backend, clock)[0]).value == 40
    backend.close()
    assert nvml.sessions == 0


def test_session_in_which_nothing_answers_any_more_is_begun_anew(
    machine: Machine, clock: ManualClock
) -> None:
    """After three failures of every GPU NVML is ended and started for the next attempt."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(FIELDS_CALL, pynvml.NVML_ERROR_UNKNOWN)
    read_every(1.0, 2, backend, clock)
    assert nvml.calls["nvmlShutdown"] == 0
    read_every(1.0, 1, backend, clock)
    assert (nvml.calls["nvmlShutdown"], nvml.sessions) == (1, 0)
    nvml.clear_faults()
    assert isinstance(read_every(6.0, 1, backend, clock)[0], Reading)
    assert nvml.sessions == 1


def test_session_in_which_one_gpu_answers_is_kept(machine: Machine, clock: ManualClock) -> None:
    """A GPU that is gone for good does not disturb the others with new sessions."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(FIELDS_CALL, pynvml.NVML_ERROR_GPU_IS_LOST, gpu=0)
    read_every(1.0, 20, backend, clock)
    assert nvml.calls["nvmlShutdown"] == 0
