"""Fixtures of the tests of the NVML backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.backends.fake_nvml import FakeGpu, FakeNvml
from tests.backends.nvml.machine import Machine, ManualClock


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
