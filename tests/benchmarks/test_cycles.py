"""Nothing is left of a session: no thread, descriptor, process, file, object or growing memory."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator

import cycles
import pytest

# Long enough to tell a session that is kept (20 kB each) from caches that are still filling.
CYCLES = 4
MOST_BYTES_PER_CYCLE = 8_000


@pytest.fixture(autouse=True)
def own_temporary_folder() -> Iterator[None]:
    """Other programs' temporary files do not count."""
    with cycles.own_temporary_folder():
        yield


@pytest.fixture(autouse=True)
def few_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting garbage takes longer than most cycles."""
    monkeypatch.setattr(cycles, "PARTS", 2)


@pytest.mark.parametrize("name", cycles.SCENARIOS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_is_left(name: str) -> None:
    """After four sessions there is what there was before."""
    with cycles.SCENARIOS[name]() as cycle:
        left, growth = cycles.soak(cycle, CYCLES)
    assert left.is_nothing(CYCLES), left
    # A tracer, such as that of coverage, keeps what it sees.
    if sys.gettrace() is None:
        assert growth < MOST_BYTES_PER_CYCLE


class Leaks:
    """What one cycle of each leaves behind, and what undoes it."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self.end = threading.Event()
        self.kept: list[object] = []

    def descriptor(self) -> None:
        self.files.append(os.open(os.devnull, os.O_RDONLY))

    def thread(self) -> None:
        threading.Thread(target=self.end.wait, daemon=True).start()

    def file(self) -> None:
        descriptor, _ = tempfile.mkstemp()
        os.close(descriptor)

    def object(self) -> None:
        from mlmeter import EnergyMeter

        self.kept.append(EnergyMeter())


@pytest.fixture
def leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leaks]:
    monkeypatch.setattr(cycles, "PATIENCE_SECONDS", 0.05)
    made = Leaks()
    yield made
    made.end.set()
    for file in made.files:
        os.close(file)


@pytest.mark.parametrize(
    ("kind", "field"),
    [("descriptor", "descriptors"), ("thread", "threads"), ("file", "files"), ("object", "objects")],
)
def test_leaks_are_seen(leaks: Leaks, kind: str, field: str) -> None:
    """What leaks once per cycle is counted once per cycle, or more where it is made of several."""
    left, _ = cycles.soak(getattr(leaks, kind), 4)
    assert getattr(left, field) >= 4
    assert not left.is_nothing(4)


def test_growing_memory_is_seen() -> None:
    """A list that grows by 10 kB a cycle is told as that."""
    kept: list[bytes] = []
    _, growth = cycles.soak(lambda: kept.append(bytes(10_000)), 10)
    assert growth == pytest.approx(10_000, rel=0.1)
