"""What is asked of the CUDA driver itself, of a fake one."""

from __future__ import annotations

from typing import Any

import pytest

from mlmeter.device_time import cuda

RELAXED, GLOBAL = 2, 0
INVALID_DEVICE, NOT_INITIALISED = 101, 3


class FakeDriver:
    """The four functions, for devices with and without a context."""

    def __init__(self, *contexts: bool, initialised: bool = True) -> None:
        self.contexts, self.initialised = contexts, initialised
        self.mode = GLOBAL

    def cuDevicePrimaryCtxGetState(self, device: int, flags: Any, active: Any) -> int:  # noqa: N802
        if not self.initialised:
            return NOT_INITIALISED
        if device >= len(self.contexts):
            return INVALID_DEVICE
        active._obj.value = self.contexts[device]
        return 0

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # noqa: N802
        self.mode, mode._obj.value = mode._obj.value, self.mode
        return 0

    def cuDeviceGet(self, handle: Any, number: int) -> int:  # noqa: N802
        handle._obj.value = number
        return 0 if number < len(self.contexts) else INVALID_DEVICE

    def cuDeviceGetUuid(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        uuid[:] = bytes(range(handle.value, handle.value + 16))
        return 0


def use(monkeypatch: pytest.MonkeyPatch, *drivers: FakeDriver) -> None:
    monkeypatch.setattr(cuda, "_drivers", list(drivers))


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (FakeDriver(initialised=False), False),
        (FakeDriver(False, False), False),
        (FakeDriver(False, True), True),
    ],
)
def test_cuda_runs_where_a_device_has_a_context(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, expected: bool
) -> None:
    """Any device will do; asking makes no context."""
    use(monkeypatch, driver)
    assert cuda.cuda_runs() is expected


def test_uuid_is_spelled_as_nvml_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen bytes in five groups; none for a device that is not there."""
    use(monkeypatch, FakeDriver(True, True))
    assert cuda.device_uuid(1) == "GPU-01020304-0506-0708-090a-0b0c0d0e0f10"
    assert cuda.device_uuid(2) is None


def test_questions_beside_captures_restore_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread's mode is relaxed inside the block only, also if that fails."""
    driver = FakeDriver(True)
    use(monkeypatch, driver)
    with pytest.raises(ZeroDivisionError), cuda.beside_captures():
        assert driver.mode == RELAXED
        raise ZeroDivisionError
    assert driver.mode == GLOBAL


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA, or a program that has not loaded it: nothing is loaded for the question."""
    use(monkeypatch)
    monkeypatch.setattr(cuda, "_DRIVER", "libmlmeter-test-is-nowhere.so.1")
    assert not cuda.cuda_runs()
    assert cuda.device_uuid(0) is None
    with cuda.beside_captures():
        pass
