"""Sessions of NVML: begun, ended, forked, taken away."""

from __future__ import annotations

import os

import pynvml
import pytest
from pytest_mock import MockerFixture

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Reading
from tests.backends.fake_nvml import (
    FIELDS_CALL,
    FakeGpu,
)
from tests.backends.nvml.machine import Machine, ManualClock, failure, opened, reading


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


def test_child_whose_session_fails_tries_again(
    machine: Machine, clock: ManualClock, mocker: MockerFixture
) -> None:
    """A child without a session gives failures, and readings as soon as it has one."""
    nvml = machine(FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    mocker.patch("os.getpid", return_value=os.getpid() + 1)
    nvml.init_error = pynvml.NVML_ERROR_UNKNOWN
    assert "Unknown Error" in failure(backend.read()[0]).reason
    nvml.init_error = pynvml.NVML_SUCCESS
    clock.advance(0.1)
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
