"""Which processes use a GPU."""

from __future__ import annotations

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import GpuUse
from tests.backends.fake_gpu import FakeProcess
from tests.backends.fake_nvml import FIELDS_CALL, FakeGpu
from tests.backends.nvml.machine import Machine, ManualClock, opened

COMPUTE_CALL = "nvmlDeviceGetComputeRunningProcesses_v3"
GRAPHICS_CALL = "nvmlDeviceGetGraphicsRunningProcesses_v3"
UTILIZATION_CALL = "nvmlDeviceGetProcessUtilization"
SECOND = 1_000_000


def uses_of(backend: NvmlBackend, position: int = 0) -> tuple[GpuUse, ...]:
    """Return who uses a GPU."""
    uses = backend.gpu_uses()[position]
    assert isinstance(uses, tuple)
    return uses


def shares(backend: NvmlBackend) -> dict[int, float | None]:
    """Return the utilisation by process on the first GPU."""
    return {use.pid: use.sm_share for use in uses_of(backend)}


def test_processes_of_both_lists_once_each(machine: Machine) -> None:
    """A program that computes and draws is one process."""
    machine(
        FakeGpu(
            compute_processes=(FakeProcess(pid=7), FakeProcess(pid=3)),
            graphics_processes=(FakeProcess(pid=7), FakeProcess(pid=9)),
        )
    )
    backend, _ = opened(NvmlBackend())
    assert [use.pid for use in uses_of(backend)] == [3, 7, 9]


def test_uses_of_a_session_of_one_process(machine: Machine) -> None:
    """What `scope="process"` asks for, by position: each process with its share."""
    machine(
        FakeGpu(
            compute_processes=(FakeProcess(pid=3), FakeProcess(pid=7)),
            utilization=((3, 10 * SECOND, 50),),
        )
    )
    backend, _ = opened(NvmlBackend())
    assert backend.gpu_uses() == {0: (GpuUse(3, 0.5), GpuUse(7, 0.0))}


def test_utilisation_is_the_mean_of_the_last_second(machine: Machine) -> None:
    """Older samples in the driver's buffer, and garbage in it, do not count; who has none was idle."""
    machine(
        FakeGpu(
            compute_processes=tuple(FakeProcess(pid=pid) for pid in (1, 2, 3)),
            utilization=(
                (1, 10 * SECOND, 40),
                (1, 10 * SECOND - 500_000, 60),
                (2, 7 * SECOND, 100),
                (3, 10 * SECOND, 2_000_000),
            ),
        )
    )
    backend, _ = opened(NvmlBackend())
    assert shares(backend) == {1: 0.5, 2: 0.0, 3: 0.0}


def test_next_question_is_about_the_time_since(machine: Machine, clock: ManualClock) -> None:
    """Samples that have been counted are not counted again; none since then is idle, not unknown."""
    nvml = machine(FakeGpu(compute_processes=(FakeProcess(pid=1),), utilization=((1, 10 * SECOND, 40),)))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    seen = [shares(backend)]
    nvml.gpus[0].utilization = ((1, 10 * SECOND, 40), (1, 13 * SECOND, 90))
    for _ in range(2):
        clock.advance(1.0)
        seen.append(shares(backend))
    assert seen == [{1: 0.4}, {1: 0.9}, {1: 0.0}]


@pytest.mark.parametrize("samples", [None, ()])
def test_utilisation_that_is_not_told_is_unknown(
    machine: Machine, samples: tuple[tuple[int, int, int], ...] | None
) -> None:
    """Not supported (MIG), or no sample yet: None, not 0."""
    machine(FakeGpu(compute_processes=(FakeProcess(pid=1),), utilization=samples))
    backend, _ = opened(NvmlBackend())
    assert shares(backend) == {1: None}


def test_driver_is_asked_once_a_second(machine: Machine, clock: ManualClock) -> None:
    """In 3 s of questions every 10 ms three answers of each GPU."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.calls.clear()
    for _ in range(300):
        backend.gpu_uses()
        clock.advance(0.01)
    assert nvml.calls[GRAPHICS_CALL] == 2 * 3


def test_reading_energy_asks_for_no_processes(machine: Machine) -> None:
    """Listing takes milliseconds under the driver's lock."""
    nvml = machine(FakeGpu(compute_processes=(FakeProcess(pid=1),)))
    backend, _ = opened(NvmlBackend())
    backend.read()
    assert not {COMPUTE_CALL, GRAPHICS_CALL, UTILIZATION_CALL} & set(nvml.calls)


def test_list_that_is_refused_is_unknown_with_the_reason(machine: Machine) -> None:
    """Nobody is not the same as not known."""
    machine(FakeGpu(compute_processes=None, graphics_processes=None))
    backend, _ = opened(NvmlBackend())
    uses = backend.gpu_uses()[0]
    assert isinstance(uses, str)
    assert "Not Supported" in uses


def test_one_list_is_enough(machine: Machine) -> None:
    """Boards without graphics have a list of compute processes only."""
    nvml = machine(FakeGpu(compute_processes=(FakeProcess(pid=1),)))
    nvml.fail(GRAPHICS_CALL, pynvml.NVML_ERROR_NOT_SUPPORTED)
    backend, _ = opened(NvmlBackend())
    assert [use.pid for use in uses_of(backend)] == [1]


def test_gpu_that_is_not_metered_or_lost_has_no_answer(machine: Machine, clock: ManualClock) -> None:
    """It is left out, and nothing is raised."""
    nvml = machine(FakeGpu(), FakeGpu())
    backend, _ = opened(NvmlBackend(visible_devices="0", now_ns=clock))
    assert set(backend.gpu_uses()) == {0}
    nvml.fail(FIELDS_CALL, pynvml.NVML_ERROR_GPU_IS_LOST)
    backend.read()
    assert backend.gpu_uses() == {}
    backend.close()
    assert backend.gpu_uses() == {}
