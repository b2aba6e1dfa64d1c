"""Copies of machines stand still on purpose: tests of the look at counters set how long it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlmeter.backends.rapl import RaplBackend
from mlmeter.measurement import Domain
from tests.backends.powercap_tree import PowercapTree
from tests.backends.rapl_on_a_tree import OpenBackend


@pytest.fixture(autouse=True)
def no_look_at_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RaplBackend, "look_seconds", 0.0)


@pytest.fixture
def open_backend(tmp_path: Path) -> Iterator[OpenBackend]:
    """Open a backend on a tree and close it after the test."""
    opened: list[RaplBackend] = []

    def open_tree(tree: PowercapTree, layout: str = "class_root") -> tuple[RaplBackend, list[Domain]]:
        backend = RaplBackend(getattr(tree, layout), cpuinfo=tree.cpuinfo)
        opened.append(backend)
        return backend, list(backend.open())

    yield open_tree
    for backend in opened:
        backend.close()
