"""What a backend says that cannot be opened."""

from __future__ import annotations

import pytest

from mlmeter.backends.base import Backend
from mlmeter.errors import BackendUnavailableError


def refused(backend: Backend, name: str) -> BackendUnavailableError:
    """Return why a backend of a name cannot be opened: it says so, and what to do."""
    with pytest.raises(BackendUnavailableError) as caught:
        backend.open()
    assert caught.value.backend == name
    assert caught.value.reason
    assert caught.value.remedy
    return caught.value
