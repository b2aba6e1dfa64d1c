"""The journal of a session: complete at the end, and all of it up to a second before a crash."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.clock import MonotonicClock
from mlmeter.energy.counters import Remark
from mlmeter.errors import RunFileError
from mlmeter.journal import JOURNAL, live_journal
from mlmeter.journal.file import JournalFile
from mlmeter.measurement import Failure, Reading
from mlmeter.recording import TABLES
from mlmeter.sampling.sampler import Sampler
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.runtime.waiting import LONG_SECONDS, wait_until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start_ns=10**12)


@pytest.fixture
def meter(clock: FakeClock, tmp_path: Path) -> Iterator[EnergyMeter]:
    """A meter whose sampler works when the test says so."""
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, output_dir=tmp_path / "runs")
    yield meter
    meter.stop()


def killed(meter: EnergyMeter, to: Path) -> Path:
    """Copy what would be on the disk if the program were killed now."""
    (directory,) = (meter._output_dir or Path()).glob("*/")
    return Path(shutil.copytree(directory, to / directory.name))


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


def test_disk_that_hangs_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters are read meanwhile; at the end the program waits a limited time."""
    hangs, comes_back = threading.Event(), threading.Event()
    write = live_journal.JournalFile.write

    def slow(*args: Any, **options: Any) -> None:
        if threading.current_thread().name == "mlmeter-journal":
            hangs.set()
            assert comes_back.wait(LONG_SECONDS)
        write(*args, **options)

    monkeypatch.setattr(live_journal.JournalFile, "write", slow)
    monkeypatch.setattr(live_journal, "LONGEST_WAIT_SECONDS", 0.05)
    backend = FakeBackend.with_power(MonotonicClock(), watts=100)
    meter = EnergyMeter(backends=[backend], sampler=Sampler(), period_seconds=0.01, output_dir=tmp_path)
    with meter:
        assert hangs.wait(LONG_SECONDS)
        reads = meter.session.recording.domains[0][1].readings
        wait_until(lambda: meter.session.recording.domains[0][1].readings > reads + 5)
        with meter.window("meanwhile"):
            pass
    assert meter.session.finished
    assert "meanwhile" in {row["name"] for row in meter.session.records("windows")}
    comes_back.set()
    wait_until(lambda: not any(thread.name == "mlmeter-journal" for thread in threading.enumerate()))
    # What it had kept is written after all.
    (directory,) = tmp_path.glob("*/")
    loaded = mlmeter.load(directory)
    assert loaded.finished
    assert loaded.recording.windows == meter.session.recording.windows


def test_journal_is_written_while_a_read_hangs(tmp_path: Path) -> None:
    """The sampler's thread asks for it as a rule; what has been closed meanwhile is not lost with it."""
    hangs, comes_back = threading.Event(), threading.Event()

    class Hanging(FakeBackend):
        def read(self) -> Sequence[Reading | Failure]:
            if self.reads > 3:
                hangs.set()
                assert comes_back.wait(LONG_SECONDS)
            return super().read()

    # Not read at the edges of windows.
    domain = fake_domain(update_period_seconds=0.1, cheap_read=False)
    backend = Hanging([domain], [lambda now: now // 10], MonotonicClock())
    sampler = Sampler(read_limit_seconds=LONG_SECONDS)
    meter = EnergyMeter(backends=[backend], sampler=sampler, period_seconds=0.01, output_dir=tmp_path)
    with meter:
        assert hangs.wait(LONG_SECONDS)
        with meter.window("meanwhile"):
            pass
        journal = meter.recorder._journal  # type: ignore[attr-defined]
        wait_until(lambda: journal.windows == 1)
        comes_back.set()


def test_removed_directory_is_told_and_made_again(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path
) -> None:
    """The run goes on, and all of it is written."""
    with meter:
        advance(meter, 2)
        shutil.rmtree(tmp_path / "runs")
        advance(meter, 2)
        with meter.window("late"):
            advance(meter, 1)
    assert meter.run_directory is not None
    loaded = mlmeter.load(meter.run_directory)
    assert loaded.total() == meter.session.total()
    assert any("removed" in event["message"] for event in loaded.records("events"))


def full(*args: object) -> None:
    """Take the place of writing on a disk that has no room."""
    raise sqlite3.OperationalError("database or disk is full")


def test_disk_that_fails_is_tried_again(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is in memory, and on the disk as soon as it can be."""
    write = live_journal.JournalFile.write
    with meter:
        advance(meter, 2)
        monkeypatch.setattr(live_journal.JournalFile, "write", full)
        with meter.window("meanwhile"):
            advance(meter, 3)
        monkeypatch.setattr(live_journal.JournalFile, "write", write)
        advance(meter, 20)
        session = mlmeter.load(killed(meter, tmp_path))
    assert session.duration_seconds > 24
    names = {row["name"] for row in session.records("windows")}
    assert "meanwhile" in names
    texts = [event["message"] for event in session.records("events")]
    assert sum("disk is full" in text for text in texts) == 1


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


def test_files_that_cannot_be_opened_for_a_while(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a program has too many open: the next attempt finds nothing in its way."""
    connect = sqlite3.connect

    def failing(*args: Any, **options: Any) -> Any:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", failing)
    with meter:
        before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
        for _ in range(3):
            advance(meter, 30)
        if before:
            assert len(list(Path("/proc/self/fd").iterdir())) <= before
        monkeypatch.setattr(sqlite3, "connect", connect)
        advance(meter, 300)
        session = mlmeter.load(killed(meter, tmp_path))
    assert session.duration_seconds > 380


def test_what_is_read_while_the_disk_takes_its_time_lies_before_a_boundary(
    meter: EnergyMeter, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins to read there must miss nothing that is newer than its time."""
    gather = live_journal.news

    def slow(session: Any, *arguments: Any) -> Any:
        clock.advance(20)
        sampler = session.sampler
        sampler._read_and_observe(session.sources[0], clock.now_ns(), polling=False)
        return gather(session, *arguments)

    monkeypatch.setattr("mlmeter.journal.file.MERGED_BATCHES", 1)
    with meter:
        advance(meter, 2)
        monkeypatch.setattr(live_journal, "news", slow)
        advance(meter, 2)
        journal = meter.recorder._journal
        assert journal is not None
        newest_ns = meter.recorder.collected.sources[0].rows[0].columns.before_ns[-1]
        monkeypatch.undo()
        assert newest_ns <= journal._boundaries[-1][0]


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


def threaded(tmp_path: Path) -> EnergyMeter:
    backend = FakeBackend.with_power(MonotonicClock(), watts=100)
    return EnergyMeter(backends=[backend], sampler=Sampler(), period_seconds=0.01, output_dir=tmp_path)


@pytest.mark.parametrize("place", ["news", "JournalFile.write"])
def test_meter_that_is_stopped_on_the_thread_of_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """By the finalizer of an object of the program's, which runs on any thread."""
    owner: Any = live_journal if place == "news" else live_journal.JournalFile
    name = place.rpartition(".")[2]
    whole, errors, done = getattr(owner, name), [], threading.Event()

    def finalized(*args: Any, **options: Any) -> Any:
        if threading.current_thread().name == "mlmeter-journal":
            monkeypatch.undo()
            try:
                meter.stop()
            except BaseException as error:
                errors.append(error)
            done.set()
        return whole(*args, **options)

    meter = threaded(tmp_path)
    monkeypatch.setattr(owner, name, finalized)
    with meter:
        assert done.wait(LONG_SECONDS)
    assert not errors
    assert meter.write_error is None
    assert meter.run_directory is not None
    loaded = mlmeter.load(meter.run_directory)
    assert loaded.finished
    assert loaded.total() == meter.session.total()


@pytest.mark.parametrize("end", ["never began", "died"])
def test_journal_without_a_thread_gets_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """As where a program has too many threads for a while, or a debugger has ended this one."""
    start = live_journal.start_thread

    def failing(*args: Any) -> Any:
        monkeypatch.undo()
        if end == "died":
            return start("mlmeter-journal", lambda: None)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(live_journal, "start_thread", failing)
    with threaded(tmp_path):
        wait_until(lambda: any(tmp_path.glob(f"*/{JOURNAL}")))


def test_logging_that_fails_does_not_end_the_journal(
    meter: EnergyMeter, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own filters and handlers run where an event is noted."""
    write = live_journal.JournalFile.write

    def broken(record: logging.LogRecord) -> bool:
        raise MemoryError

    monkeypatch.setattr(live_journal.JournalFile, "write", full)
    logger = logging.getLogger("mlmeter")
    logger.addFilter(broken)
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    try:
        with meter:
            advance(meter, 2)
            monkeypatch.setattr(live_journal.JournalFile, "write", write)
            advance(meter, 20)
            assert mlmeter.load(killed(meter, tmp_path)).duration_seconds > 20
    finally:
        logger.removeFilter(broken)


def test_ctrl_c_while_a_fork_waits_leaves_no_journal_locked(
    meter: EnergyMeter, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was locked by then is let go."""

    class Interrupted:
        def acquire(self, timeout: float) -> bool:
            raise KeyboardInterrupt

    def free() -> bool:
        answers: list[bool] = []

        def take() -> None:
            answers.append(lock.acquire(blocking=False))
            if answers[0]:
                lock.release()

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return answers[0]

    with meter:
        assert meter.recorder._journal is not None
        lock = meter.recorder._journal._lock
        later = live_journal.LiveJournal(Path(), meter.recorder.collected)
        monkeypatch.setattr(later, "_lock", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            live_journal._before_fork()
        assert not free()
        live_journal._after_fork()
        assert free()
