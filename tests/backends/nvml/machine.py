"""What tests of the NVML backend share: a clock, a machine, and looks at what the backend gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Reading
from tests.backends.fake_nvml import FakeNvml

Machine = Callable[..., FakeNvml]


class ManualClock:
    """Monotonic nanoseconds that move only when told."""

    def __init__(self) -> None:
        self.time_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.time_ns

    def advance(self, seconds: float) -> None:
        self.time_ns += round(seconds * 1e9)


def opened(backend: NvmlBackend) -> tuple[NvmlBackend, Sequence[Domain]]:
    """Return a backend and what its `open` gave."""
    return backend, backend.open()


def only_domain(**settings: Any) -> Domain:
    """Return the one domain of a machine that is in place."""
    (domain,) = NvmlBackend(**settings).open()
    return domain


def refusal(backend: NvmlBackend) -> BackendUnavailableError:
    """Return why a backend cannot be opened."""
    with pytest.raises(BackendUnavailableError) as caught:
        backend.open()
    return caught.value


def reading(result: Reading | Failure) -> Reading:
    """Return a reading as such."""
    assert isinstance(result, Reading)
    return result


def failure(result: Reading | Failure) -> Failure:
    """Return a failure as such."""
    assert isinstance(result, Failure)
    return result
