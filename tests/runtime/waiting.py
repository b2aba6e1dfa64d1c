"""Waiting for what other threads do; how long it takes is never a criterion."""

from __future__ import annotations

import time
from collections.abc import Callable

# Longer than anything needs on a busy machine; a test never passes because of it.
LONG_SECONDS = 60


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads are about to do."""
    deadline = time.monotonic() + LONG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
