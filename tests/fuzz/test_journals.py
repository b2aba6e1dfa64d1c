"""Journals of strangers: whatever is changed, a run is read or told to be none, and nothing hangs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlmeter
from mlmeter.errors import MLMeterError, RunFileError
from mlmeter.journal import encoding, opening
from mlmeter.journal.whole import write_whole
from tests.documents import places, replaced
from tests.fuzz.journals import JOURNAL, Content, packed, read_all, write_run

# What values of other kinds and sizes do to code that expects none of them.
ODD_VALUES = st.sampled_from(
    [
        *[None, True, 0, 1, -1, 2**31, 2**62, 2**63 - 1, -(2**63), 2**63, 2**70, 10**400],
        *[1e308, -1e308, 5e-324, 1e-300, 0.5, -0.5, 1e18],
        *["", "x", "\x1b[2J<script>=1", "measured", [], [1], [[1, 2]], {}, {"a": 1}, [None] * 3],
    ]
)
ODD_NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 100, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1])
fuzzing = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without fault."""
    return write_run(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def content(good: Path) -> Content:
    return Content.of(good / JOURNAL)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def copied(good: Path, work: Path) -> Path:
    for item in work.iterdir():
        item.unlink()
    return Path(shutil.copy(good / JOURNAL, work / JOURNAL))


def test_good_run_is_read(good: Path) -> None:
    """Otherwise the others here would test nothing."""
    assert read_all(good) is None


@fuzzing
@given(data=st.data())
def test_changed_value_is_read_or_told(good: Path, content: Content, work: Path, data: st.DataObject) -> None:
    """One value of an entry is another."""
    number = data.draw(st.integers(0, len(content.entries) - 1))
    kind, position, value = content.entries[number]
    place = data.draw(st.sampled_from(places(value)))
    changed = (kind, position, replaced(value, place, data.draw(ODD_VALUES)))
    entries = [*content.entries[:number], changed, *content.entries[number + 1 :]]
    Content(entries, content.batches).put(copied(good, work))
    read_all(work)


@fuzzing
@given(data=st.data())
def test_changed_number_is_read_or_told(
    good: Path, content: Content, work: Path, data: st.DataObject
) -> None:
    """One number of a batch is another: a time, a count, a length, the number of a parent."""
    (batch,) = content.batches
    position = data.draw(st.integers(0, len(batch) - 1))
    changed = [*batch[:position], data.draw(ODD_NUMBERS), *batch[position + 1 :]]
    Content(content.entries, [changed]).put(copied(good, work))
    read_all(work)


@fuzzing
@given(data=st.data())
def test_changed_bytes_are_read_or_told(good: Path, work: Path, data: st.DataObject) -> None:
    """The file is damaged somewhere, or cut off."""
    raw = bytearray((good / JOURNAL).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    copied(good, work).write_bytes(
        bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2, 5000, 1])) or 1])
    )
    read_all(work)


@pytest.mark.parametrize(
    ("entry", "key", "value", "words"),
    [
        ("domain 1", "update_period_seconds", "x", "entry domain 1"),
        ("domain 2", "provenance", "guessed", "entry domain 2"),
        ("domain 0", "joules_per_count", 1e300, "entry domain 0: the value of a count"),
        ("run 0", "start_ns", None, "entry run"),
        ("event 0", "kind", 5, "entry event"),
        ("label 0", 0, [], "entry label"),
    ],
)
def test_place_in_the_file_is_told(
    good: Path, content: Content, work: Path, entry: str, key: str | int, value: object, words: str
) -> None:
    """The error names the file, and the entry of the journal that does not fit."""
    kind, number = entry.split()
    entries = [
        (*item[:2], replaced(item[2], (key,), value) if item[:2] == (kind, int(number)) else item[2])
        for item in content.entries
    ]
    Content(entries, content.batches).put(copied(good, work))
    assert words in str(read_all(work))


# -- traps -----------------------------------------------------------------------------------------------


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize(
    "statements",
    [
        [
            "DROP TABLE batches",
            f"CREATE VIEW batches AS {ENDLESS} SELECT x AS number, 0 AS numbers FROM c WHERE 0",
        ],
        ["ALTER TABLE entries ADD COLUMN more TEXT GENERATED ALWAYS AS (json || json) VIRTUAL"],
        ["CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM batches; END"],
        ["CREATE TABLE more (x)"],
        ["CREATE INDEX i ON batches (length(numbers))"],
    ],
    ids=lambda statements: statements[-1][:14],
)
def test_journal_with_anything_but_its_tables_is_refused(
    good: Path, work: Path, statements: list[str]
) -> None:
    """A view in the place of a table could go on for ever."""
    sql(copied(good, work), *statements)
    error = read_all(work)
    assert isinstance(error, RunFileError)
    assert "other tables" in error.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda blob: packed([0] * (encoding.MOST_NUMBERS + 8)), "longer than any"),
        (lambda blob: blob + b"more", "longer than any"),
        (lambda blob: blob[:-5], "cut off"),
        (lambda blob: b"", "cut off"),
        (lambda blob: bytes(opening.MOST_VALUE_BYTES + 1), "too big"),
    ],
    ids=["bomb", "longer", "shorter", "empty", "large"],
)
def test_batch_that_is_none_is_told(
    good: Path, work: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    """A few bytes that unpack to gigabytes are not unpacked."""
    connection = sqlite3.connect(copied(good, work))
    (blob,) = connection.execute("SELECT numbers FROM batches").fetchone()
    with connection:
        connection.execute("UPDATE batches SET numbers = ?", (change(blob),))
    connection.close()
    error = read_all(work)
    assert isinstance(error, RunFileError)
    assert words in error.reason


def test_windows_inside_each_other_are_told(good: Path, tmp_path: Path) -> None:
    """A window that is inside one that is inside it would be followed for ever."""
    recording = mlmeter.load(good).recording
    first, second, *rest = recording.windows.ids
    parents = array("q", [second, first, *rest])
    windows = replace(recording.windows, parent_ids=parents)
    write_whole(replace(recording, windows=windows), tmp_path / JOURNAL)
    assert "inside a later one" in str(read_all(tmp_path))


def super_journal(path: Path, victim: Path) -> bytes:
    """Return a rollback log that names a file, which SQLite removes when it rolls back."""
    magic, name, sector, page = bytes.fromhex("d9d505f920a163d7"), os.fsencode(victim), 512, 4096
    head = magic + struct.pack(">IIIII", 0, 0, path.stat().st_size // page, sector, page)
    tail = struct.pack(">I", (1 << 30) // page + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    return head.ljust(sector, b"\0") + tail


@pytest.mark.parametrize("read", [mlmeter.load, mlmeter.recover])
@pytest.mark.parametrize("log", ["-journal", "-wal"])
def test_planted_log_harms_no_other_file(
    good: Path, tmp_path: Path, log: str, read: Callable[[Path], object]
) -> None:
    """SQLite itself would remove the file that a rollback log names, and write through a link."""
    victim = tmp_path / "precious.txt"
    victim.write_text("precious\n")
    run = tmp_path / "run"
    run.mkdir()
    path = Path(shutil.copy(good / JOURNAL, run / JOURNAL))
    sql(
        path,
        "UPDATE entries SET json = replace(json, 'finished\":true', 'finished\":false') WHERE kind = 'run'",
    )
    if log == "-journal":
        path.with_name(f"{JOURNAL}-journal").write_bytes(super_journal(path, victim))
        path.with_name(f"{JOURNAL}-wal").touch()
    else:
        path.with_name(f"{JOURNAL}-wal").symlink_to(victim)
    with pytest.raises(MLMeterError, match=r"no plain file|names another file"):
        read(run)
    assert victim.read_text() == "precious\n"
    assert path.with_name(f"{JOURNAL}-wal").exists()


def test_journal_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe or a folder in its place."""
    os.mkfifo(tmp_path / JOURNAL)
    assert read_all(tmp_path) is not None
    (tmp_path / JOURNAL).unlink()
    (tmp_path / JOURNAL).mkdir()
    assert read_all(tmp_path) is not None
