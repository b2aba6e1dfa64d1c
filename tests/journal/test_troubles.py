"""The journal where disks, threads and hooks make trouble: nothing waits, nothing is lost."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.clock import MonotonicClock
from mlmeter.journal import JOURNAL, live_journal
from mlmeter.measurement import Failure, Reading
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain
from tests.journal.copies import killed
from tests.runtime.waiting import LONG_SECONDS, wait_until


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
