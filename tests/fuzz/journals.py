"""Journals taken apart, changed at one place, and put together again."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import mlmeter
from mlmeter.errors import MLMeterError
from mlmeter.recording import TABLES
from mlmeter.report.text import record_lines
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_domain, fake_meter

JOURNAL = "journal.sqlite"
# Far from what it takes: what lasts longer hangs.
LONGEST_SECONDS = 60


def write_run(folder: Path) -> Path:
    """Write a run with counters, a gauge, nested and failed windows, units of work and events."""
    clock = FakeClock()
    domains = [
        fake_domain(name="package-0"),
        fake_domain(name="core-0", parent="package-0"),
        fake_domain(name="gpu-0", kind="gpu", update_period_seconds=0.1, uuid="GPU-1"),
        fake_domain(name="gpu-1", kind="gpu", joules_per_count=None, watts_per_count=1e-3),
    ]
    counts = [
        lambda now: now // 10,
        lambda now: now // 20,
        lambda now: now // 10**8 * 10**7,
        lambda now: 50_000 + now // 10**8,
    ]
    meter = fake_meter(FakeBackend(domains, counts, clock), clock=clock, name="fuzzed")
    with meter:
        for _ in range(3):
            with meter.window("epoch", samples=100):
                clock.advance(0.5)
                with meter.evaluation("validate", samples=10):
                    clock.advance(0.1)
                meter.recorder.remark("note", "something")
        with contextlib.suppress(ValueError), meter.inference("broken", requests=1):
            clock.advance(0.2)
            raise ValueError
    return meter.session.save(folder)


@dataclass(frozen=True)
class Content:
    """What is in a journal.

    Attributes:
        entries: kind, number and value.
        batches: numbers of each.
    """

    entries: list[tuple[Any, Any, Any]]
    batches: list[list[int]]

    @classmethod
    def of(cls, path: Path) -> Content:
        """Take a journal apart."""
        connection = sqlite3.connect(path)
        entries = [(k, n, json.loads(text)) for k, n, text in connection.execute("SELECT * FROM entries")]
        batches = []
        for (blob,) in connection.execute("SELECT numbers FROM batches ORDER BY number"):
            planes = np.frombuffer(zlib.decompress(blob), dtype=np.uint8).reshape(8, -1)
            batches.append(np.ascontiguousarray(planes.T).view("<i8").ravel().tolist())
        connection.close()
        return cls(entries, batches)

    def put(self, path: Path) -> None:
        """Replace the content of a journal."""
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("DELETE FROM entries")
            connection.execute("DELETE FROM batches")
            connection.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)",
                [(kind, number, json.dumps(value)) for kind, number, value in self.entries],
            )
            connection.executemany(
                "INSERT INTO batches VALUES (?, ?)",
                [(number, packed(batch)) for number, batch in enumerate(self.batches, 1)],
            )
        connection.close()


def packed(numbers: list[int]) -> bytes:
    """Return a batch as a journal has it."""
    raw = np.array([(n + (1 << 63)) % (1 << 64) - (1 << 63) for n in numbers], dtype="<i8").tobytes()
    return zlib.compress(b"".join(raw[plane::8] for plane in range(8)))


class HangError(Exception):
    """It took too long."""


@contextlib.contextmanager
def no_hang(seconds: int = LONGEST_SECONDS) -> Iterator[None]:
    """Raise `HangError` in a block that hangs."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_harmless(text: str) -> bool:
    """Tell whether a text cannot steer a terminal."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


def read_all(run: Path) -> MLMeterError | None:
    """Load a run and make all that is made of it; return the error that says why it is no run.

    Raises:
        HangError: it takes too long.
        Exception: anything else is a fault of mlmeter.
    """
    with no_hang(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            session = mlmeter.load(run)
        except MLMeterError as error:
            found = error
        else:
            _show_all(session)
            return None
    assert str(found).startswith(str(run))
    assert is_harmless(str(found))
    return found


def _show_all(session: Session) -> None:
    for name in TABLES:
        assert is_harmless(record_lines(session.records(name)))
    assert is_harmless(session.summary())
    assert "<script" not in session._repr_html_()
    json.loads(session.to_json())
