"""The journal of a session: complete at the end, and all of it up to a second before a crash."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.energy.counters import Remark
from mlmeter.errors import RunFileError
from mlmeter.journal import JOURNAL, live_journal
from mlmeter.journal.file import JournalFile
from mlmeter.measurement import Failure, Reading
from mlmeter.recording import TABLES
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.journal.copies import killed


def test_killed_run_has_everything_but_the_last_second(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """Windows that were open end at the last reading and are marked."""
    with meter:
        outer = meter.training("epoch", samples=7)
        outer.__enter__()
        for _ in range(40):
            with meter.inference("step", samples=2):
                advance(meter, 0.1)
        session = mlmeter.load(killed(meter, tmp_path))
        outer.__exit__(None, None, None)
    windows = session.records("windows")
    rows = [row for row in windows if row["domain"] == "fake-0" and row["scope"] == "inclusive"]
    (epoch,) = (row for row in rows if row["name"] == "epoch")
    assert epoch["unfinished"]
    assert epoch["samples"] == 7
    assert 3.0 <= epoch["duration_seconds"] <= 4.0
    steps = [row for row in rows if row["name"] == "step" and not row["unfinished"]]
    assert 30 <= len(steps) <= 40
    assert session.total().energy_joules == pytest.approx(100 * session.duration_seconds, rel=1e-3)
    assert not session.finished
    assert [event["kind"] for event in session.records("events")][-1] == "killed"


def test_metrics_and_late_work_of_a_killed_run_are_there(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """Of windows that are open and of closed ones; of several values of a metric the last one."""
    with meter:
        outer = meter.training("epoch", samples=7)
        outer.__enter__()
        with meter.evaluation("evaluation", samples=2) as inner:
            advance(meter, 1.0)
        outer.metric(loss=0.5)
        advance(meter, 1.5)
        outer.metric(loss=0.25)
        outer.add(samples=3)
        inner.add(samples=5, tokens=11)
        inner.metric(accuracy=0.75)
        advance(meter, 2.0)
        session = mlmeter.load(killed(meter, tmp_path))
        outer.__exit__(None, None, None)
    rows = {
        row["name"]: row
        for row in session.records("windows")
        if row["domain"] == "fake-0" and row["scope"] == "inclusive"
    }
    epoch, evaluation = rows["epoch"], rows["evaluation"]
    assert epoch["unfinished"]
    assert (epoch["samples"], epoch["metric_loss"], epoch["metric_accuracy"]) == (10, 0.25, None)
    assert (evaluation["samples"], evaluation["tokens"]) == (7, 11)
    assert (evaluation["metric_loss"], evaluation["metric_accuracy"]) == (None, 0.75)


def test_recovering_writes_the_files_of_a_run(meter: EnergyMeter, clock: FakeClock, tmp_path: Path) -> None:
    """Once; later calls only load."""
    with meter, meter.training("epoch"):
        advance(meter, 3)
        directory = killed(meter, tmp_path)
    session = mlmeter.recover(directory)
    assert session.finished
    names = {"session.json", JOURNAL, *(f"{name}.csv" for name in TABLES)}
    assert {path.name for path in directory.iterdir()} == names
    rows = (tmp_path / "runs.csv").read_text().splitlines()
    assert len(rows) == 2
    again = mlmeter.recover(directory)
    assert again.summary() == session.summary() == mlmeter.load(directory).summary()
    assert (tmp_path / "runs.csv").read_text().splitlines() == rows


def test_journal_of_an_ended_session_is_the_session(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """Written piece by piece while it ran, it gives the same tables."""
    with meter:
        for number in range(300):
            with meter.inference(f"step {number % 3}", samples=number):
                advance(meter, 0.05)
            if number == 100:
                meter.recorder.remark("note", "half of it")
    assert meter.run_directory is not None
    assert not list(meter.run_directory.glob("*-wal"))
    loaded = mlmeter.load(meter.run_directory)
    for name in TABLES:
        assert loaded.records(name) == meter.session.records(name), name
    assert loaded.recording.windows == meter.session.recording.windows
    whole = Session(loaded.recording).save(tmp_path / "again")
    for name in TABLES:
        assert mlmeter.load(whole).records(name) == meter.session.records(name), name


def test_windows_do_not_write(meter: EnergyMeter, clock: FakeClock, tmp_path: Path) -> None:
    """Nothing is on the disk before it is due, and the program's threads put nothing there."""
    with meter:
        assert not (tmp_path / "runs").exists()
        advance(meter, 1)
        (journal,) = tmp_path.glob(f"runs/*/{JOURNAL}")
        size = sum(path.stat().st_size for path in journal.parent.iterdir())
        for _ in range(1_000):
            with meter.window("step"):
                pass
        assert sum(path.stat().st_size for path in journal.parent.iterdir()) == size


def test_rows_that_are_taken_back_are_replaced(clock: FakeClock, tmp_path: Path) -> None:
    """A counter that stood still and then caught up: the power in its place is gone from the journal, too."""
    domain = fake_domain(kind="gpu", update_period_seconds=0.1, power_watts_per_count=1.0, cheap_read=False)
    stuck_ns = range(clock.now_ns() + 3 * 10**9, clock.now_ns() + 8 * 10**9)

    def count(now_ns: int) -> int:
        shown_ns = stuck_ns.start if now_ns in stuck_ns else now_ns
        return shown_ns // 10**8 * 10**7

    class Board(FakeBackend):
        def read(self) -> Sequence[Reading | Failure]:
            return [item._replace(power_counts=100) for item in super().read() if isinstance(item, Reading)]

    backend = Board([domain], [count], clock)
    meter = fake_meter(backend, clock=clock, output_dir=tmp_path / "runs")
    with meter:
        advance(meter, 12)
        live = meter.session.recording.domains[0][1]
        assert meter._live.collected.sources[0].rows[0].columns.revised
        session = mlmeter.load(killed(meter, tmp_path))
    rows = session.recording.domains[0][1]
    size = len(rows.counts)
    assert size > 50
    assert rows.counts == live.counts[:size]
    assert rows.before_ns == live.before_ns[:size]


def test_run_that_is_still_written_is_not_touched(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """Another process is told so, and the journal goes on."""
    with meter:
        advance(meter, 2)
        (journal,) = tmp_path.glob(f"runs/*/{JOURNAL}")
        code = "import sys, mlmeter; mlmeter.recover(sys.argv[1])"
        result = subprocess.run(
            [sys.executable, "-c", code, str(journal.parent)], capture_output=True, text=True, check=False
        )
        assert "RunFileError" in result.stderr
        assert "is being written" in result.stderr
        advance(meter, 2)
    assert meter.run_directory is not None
    assert mlmeter.load(meter.run_directory).total() == meter.session.total()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM entries WHERE kind='run'", "damaged"),
        ("UPDATE entries SET json='{' WHERE kind='run'", "no JSON"),
        ("UPDATE batches SET numbers=x'00'", "batch 1"),
        ("DROP TABLE batches", "other tables"),
        ("PRAGMA application_id=1", "no journal"),
        ("PRAGMA user_version=99", "version 99"),
    ],
)
def test_damaged_journal_is_named(meter: EnergyMeter, clock: FakeClock, sql: str, words: str) -> None:
    """With the file and what is wrong with it."""
    with meter:
        advance(meter, 2)
    assert meter.run_directory is not None
    with closing(sqlite3.connect(meter.run_directory / JOURNAL, isolation_level=None)) as connection:
        connection.execute(sql)
    with pytest.raises(RunFileError, match=f"{JOURNAL}.*{words}"):
        mlmeter.load(meter.run_directory)


@pytest.mark.parametrize("written", ["nothing", "tables"])
def test_a_program_killed_before_its_first_transaction(tmp_path: Path, written: str) -> None:
    """Its journal is called empty, not damaged."""
    path = tmp_path / JOURNAL
    path.touch()
    if written == "tables":
        path.unlink()
        JournalFile(path).close()
    with pytest.raises(RunFileError, match="is empty: its program ended before anything was written"):
        mlmeter.load(path)


@pytest.mark.parametrize("count", [np.int64(3), np.float32(3), Decimal(3), Fraction(3)], ids=repr)
def test_counts_of_any_kind_of_number_survive_a_kill(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path, count: float
) -> None:
    """In a window that is still open then."""
    with meter, meter.training("epoch", samples=count):
        advance(meter, 2)
        session = mlmeter.load(killed(meter, tmp_path))
    (row,) = (r for r in session.records() if r["phase"] == "training" and r["domain"] == "fake-0")
    assert row["samples"] == 3


def test_times_of_a_driver_may_begin_late(clock: FakeClock, tmp_path: Path) -> None:
    """A driver that has no time at first."""

    class Late(FakeBackend):
        def read(self) -> Sequence[Reading | Failure]:
            items = [item for item in super().read() if isinstance(item, Reading)]
            late = clock.now_ns() > 10**12 + 10 * 10**9
            return [item._replace(driver_time_ns=item.end_ns if late else None) for item in items]

    domain = fake_domain(kind="gpu", update_period_seconds=0.1, cheap_read=False)
    backend = Late([domain], [lambda now: now // 10**8 * 10**7], clock)
    meter = fake_meter(backend, clock=clock, output_dir=tmp_path / "runs")
    with meter:
        advance(meter, 20)
        live = meter.session.recording.domains[0][1]
        rows = mlmeter.load(killed(meter, tmp_path)).recording.domains[0][1]
    assert rows.driver_ns is not None
    assert rows.driver_ns == live.driver_ns[: len(rows.driver_ns)]  # type: ignore[index]


def test_events_of_the_session_and_of_domains_survive_a_kill(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """Each once, in order of time, whichever came first."""
    with meter:
        (rows,) = meter._live.collected.sources[0].rows
        for number in range(3):
            rows.remarks.append(Remark(clock.now_ns(), "gap", f"gap {number}"))
            advance(meter, 1)
            meter.recorder.remark("note", f"note {number}")
            advance(meter, 1)
        session = mlmeter.load(killed(meter, tmp_path))
    texts = [event["message"] for event in session.records("events")]
    assert texts[:-1] == ["gap 0", "note 0", "gap 1", "note 1", "gap 2", "note 2"]


def test_events_of_several_domains_survive_a_kill(clock: FakeClock, tmp_path: Path) -> None:
    """Those of one domain come between those of another: none is lost, none is there twice."""
    domains = [fake_domain(name=f"fake-{number}") for number in range(3)]
    backend = FakeBackend(domains, [lambda now: now // 10] * 3, clock)
    meter = fake_meter(backend, clock=clock, output_dir=tmp_path / "runs")
    with meter:
        for number in range(6):
            rows = meter._live.collected.sources[0].rows[(2, 0, 1)[number % 3]]
            rows.remarks.append(Remark(clock.now_ns(), "gap", f"gap {number}"))
            advance(meter, 1)
        session = mlmeter.load(killed(meter, tmp_path))
    texts = [event["message"] for event in session.records("events")]
    assert texts[:-1] == [f"gap {number}" for number in range(6)]


def test_program_that_reads_its_own_journal_keeps_its_lock(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """As when it copies its output folder: nobody else can complete the journal meanwhile."""
    with meter:
        advance(meter, 2)
        (journal,) = tmp_path.glob(f"runs/*/{JOURNAL}")
        journal.read_bytes()
        code = "import sys, mlmeter; mlmeter.load(sys.argv[1])"
        result = subprocess.run(
            [sys.executable, "-c", code, str(journal.parent)], capture_output=True, text=True, check=False
        )
        assert "is being written" in result.stderr
        assert journal.with_name(f"{JOURNAL}-wal").exists()


def test_long_names_fit_into_a_journal(meter: EnergyMeter, clock: FakeClock) -> None:
    """However many there are."""
    with meter:
        for number in range(9_000):
            with meter.window(f"{number} " + 50_000 * "x"):
                pass
        advance(meter, 2)
    assert meter.run_directory is not None
    assert len(mlmeter.load(meter.run_directory).recording.windows) == 9_000


@pytest.mark.parametrize("moment", ["before", "after"])
def test_windows_that_were_being_put_away_when_the_meter_was_stopped(
    meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """By a signal's handler on the same thread: the file has them as the session has."""
    with meter:
        advance(meter, 2)
        for number in range(3):
            with meter.training(f"step {number}", samples=number):
                advance(meter, 0.05)
        extend = meter.recorder.log._extend

        def interrupted(*arguments: Any) -> None:
            monkeypatch.undo()
            if moment == "after":
                extend(*arguments)
            meter.stop()
            if moment == "before":
                extend(*arguments)

        monkeypatch.setattr(meter.recorder.log, "_extend", interrupted)
        with meter.training("last", samples=7):
            pass
        meter.recorder.log.relieve()
    assert meter.run_directory is not None
    loaded = mlmeter.load(meter.run_directory)
    assert loaded.recording.windows == meter.session.recording.windows
    assert not any(row["unfinished"] for row in loaded.records("windows"))


def test_event_that_comes_when_the_session_has_ended_takes_no_other_ones_place(
    meter: EnergyMeter, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is in the file, once."""
    finish = live_journal.LiveJournal.finish

    def late(self: Any, recording: Any) -> bool:
        meter.recorder.remark("note", "late")
        return finish(self, recording)

    monkeypatch.setattr(live_journal.LiveJournal, "finish", late)
    with meter:
        advance(meter, 2)
        (rows,) = meter.recorder.collected.sources[0].rows
        rows.remarks.append(Remark(clock.now_ns(), "gap", "gap"))
    assert meter.run_directory is not None
    loaded = [event["message"] for event in mlmeter.load(meter.run_directory).records("events")]
    assert loaded == [*(event["message"] for event in meter.session.records("events")), "late"]
