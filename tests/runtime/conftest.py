"""A clock that a test moves, a GPU on it, and a sampler with real threads, of which none is left behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeClock
from tests.runtime.fake_cuda import FakeGpu, fake_torch
from tests.runtime.waiting import wait_until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gpu(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A GPU behind a PyTorch that the program has imported."""
    gpu = FakeGpu(clock)
    monkeypatch.setitem(sys.modules, "torch", fake_torch(gpu))
    return gpu


@pytest.fixture
def sampler() -> Iterator[Sampler]:
    """A sampler that waits for a read for a tenth of a second only."""
    before = threading.active_count()
    yield Sampler(read_limit_seconds=0.1)
    wait_until(lambda: threading.active_count() <= before)
