"""The fake NVML library itself."""

from __future__ import annotations

import pynvml
import pytest

from tests.backends.fake_nvml import (
    ENERGY_CALL,
    FakeGpu,
    FakeNvml,
)


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
