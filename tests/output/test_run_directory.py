"""The run directory: complete, loadable, never half written; runs.csv under many writers."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlmeter
from mlmeter.errors import RunFileError
from mlmeter.journal import JOURNAL
from mlmeter.recording import TABLES
from mlmeter.report.runs_file import append_run
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_meter


def test_loading_gives_the_same_tables(session: Session, tmp_path: Path) -> None:
    """Saving, loading and computing again changes nothing."""
    loaded = mlmeter.load(session.save(tmp_path / "run"))
    for name in TABLES:
        first, second = session._frame(name), loaded._frame(name)
        assert first.equals(second), name
    assert loaded.summary() == session.summary()


def test_directory_has_all_files(session: Session, tmp_path: Path) -> None:
    """Manifest, raw readings and one CSV per table."""
    directory = session.save(tmp_path / "run")
    assert {path.name for path in directory.iterdir()} == {
        "session.json",
        JOURNAL,
        *(f"{name}.csv" for name in TABLES),
    }


def test_meter_writes_its_directory_and_a_row(tmp_path: Path) -> None:
    """`output_dir` gets the run's directory and its row in runs.csv."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, output_dir=tmp_path / "new")
    with meter:
        clock.advance(1)
    assert meter.run_directory is not None
    assert mlmeter.load(meter.run_directory).total() == meter.session.total()
    with (tmp_path / "new" / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["session"] == meter.session.id
    assert float(row["energy_joules"]) == pytest.approx(100, rel=1e-3)
    assert row["gpu_energy_joules"] == ""


def test_directory_that_cannot_be_written_does_not_stop_the_program(tmp_path: Path) -> None:
    """A full disk loses the files, not the run."""
    blocked = tmp_path / "file"
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, output_dir=blocked / "deep")
    blocked.write_text("in the way")
    with meter:
        clock.advance(1)
    assert meter.run_directory is None
    assert meter.session.total().energy_joules == pytest.approx(100, rel=1e-3)


def test_manifest_names_what_metered_where(session: Session, tmp_path: Path) -> None:
    """The manifest has the schema version, the host, the software and the devices."""
    manifest = json.loads((session.save(tmp_path / "run") / "session.json").read_text())
    assert manifest["schema_version"] == 1
    assert {"host", "python", "mlmeter", "arguments", "sampler"} <= set(manifest["run"]["facts"])
    assert [domain["name"] for domain in manifest["domains"]] == ["package-0", "core-0", "dram-0", "gpu-0"]


def test_files_follow_the_umask(session: Session, tmp_path: Path) -> None:
    """Files are as readable as the user's other files."""
    old = os.umask(0o027)
    try:
        directory = session.save(tmp_path / "run")
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o640}


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"PK nonsense", "not a database"), (b"", "is empty")],
)
def test_file_that_is_no_journal_is_named(
    session: Session, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """The error names the file and what is wrong with it."""
    directory = session.save(tmp_path / "run")
    path = directory / JOURNAL
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RunFileError, match=f"{JOURNAL}.*{words}"):
        mlmeter.load(directory)


@pytest.mark.parametrize(
    ("entry", "path", "value"),
    [
        ("run", ("id",), [1]),
        ("run", ("base_phase",), None),
        ("run", ("end_ns",), -1),
        ("run", ("start_ns",), math.nan),
        ("domain", ("name",), 5),
        ("domain", ("interval_high_ratio",), [1]),
        ("event", ("time_seconds",), "x"),
        ("label", (0,), []),
        ("thread", (), 7),
        ("unit", (), ["x"]),
    ],
    ids=str,
)
def test_value_of_the_wrong_kind_is_told_when_it_is_loaded(
    session: Session, tmp_path: Path, entry: str, path: tuple[str | int, ...], value: object
) -> None:
    """Not by an odd exception of the first table."""
    directory = session.save(tmp_path / "run")
    with closing(sqlite3.connect(directory / JOURNAL, isolation_level=None)) as connection:
        query = "SELECT json FROM entries WHERE kind=? AND number=0"
        found = json.loads(connection.execute(query, (entry,)).fetchone()[0])
        if path:
            found[path[0]] = value
        text = json.dumps(found if path else value)
        connection.execute("UPDATE entries SET json=? WHERE kind=? AND number=0", (text, entry))
    with pytest.raises(RunFileError, match="damaged"):
        mlmeter.load(directory)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_byte_never_raises_anything_else(
    session: Session, tmp_path: Path, data: st.DataObject
) -> None:
    """A journal with one byte changed loads or gives a RunFileError."""
    directory = session.save(tmp_path / "run")
    path = directory / JOURNAL
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    with contextlib.suppress(RunFileError):
        mlmeter.load(directory)


def test_older_runs_file_is_widened(session: Session, tmp_path: Path) -> None:
    """A file with fewer columns keeps its rows and gets the new columns."""
    path = tmp_path / "runs.csv"
    path.write_text("session,energy_joules,note\nold,1.5,mine\n")
    append_run(session.recording, path)
    with path.open(newline="") as file:
        old, new = csv.DictReader(file)
    assert (old["session"], old["energy_joules"], old["note"], old["host"]) == ("old", "1.5", "mine", "")
    assert (new["session"], new["note"]) == (session.id, "")


def test_torn_last_row_does_not_swallow_the_next(session: Session, tmp_path: Path) -> None:
    """A row that another program left unfinished stays alone."""
    path = tmp_path / "runs.csv"
    append_run(session.recording, path)
    with path.open("a") as file:
        file.write("half a row")
    append_run(session.recording, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["session"] for row in rows] == [session.id, "half a row", session.id]
