"""Copies of machines stand still on purpose: tests of the look at counters set how long it takes."""

from __future__ import annotations

import pytest

from mlmeter.backends.rapl import RaplBackend


@pytest.fixture(autouse=True)
def no_look_at_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RaplBackend, "look_seconds", 0.0)
