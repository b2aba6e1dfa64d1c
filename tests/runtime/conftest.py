"""A sampler with real threads, of which none is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mlmeter.sampling.sampler import Sampler
from tests.runtime.waiting import wait_until


@pytest.fixture
def sampler() -> Iterator[Sampler]:
    """A sampler that waits for a read for a tenth of a second only."""
    before = threading.active_count()
    yield Sampler(read_limit_seconds=0.1)
    wait_until(lambda: threading.active_count() <= before)
