"""Disks that are full, read-only or gone: no row is torn, and the run goes on in memory."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlmeter
from mlmeter.errors import NotWrittenWarning, RunFileError
from mlmeter.journal import JOURNAL
from mlmeter.meter import EnergyMeter
from mlmeter.report import runs_file
from mlmeter.report.runs_file import append_run
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter
from mlmeter.whole_files import replacing
from tests.output.disks import Disk, disk_of, mounted, read_only
from tests.soak.runs_file import soak


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["small tmpfs", "limit on the size of files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that can be filled. Which way was used stands in the name of the test."""
    with disk_of(request.param, tmp_path) as found:
        yield found


def meter_into(folder: Path, clock: FakeClock) -> EnergyMeter:
    return fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, output_dir=folder)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run_that_is_not_written(meter: EnergyMeter, clock: FakeClock, *words: str) -> None:
    """The program ends well, is told why there are no files, and has its numbers."""
    with pytest.warns(NotWrittenWarning, match="|".join(words)):
        with meter:
            clock.advance(1)
    assert meter.write_error is not None
    assert meter.session.total().energy_joules == pytest.approx(100, rel=1e-3)


# -- full ------------------------------------------------------------------------------------------


def test_full_disk_loses_the_files_and_not_the_run(disk: Disk, clock: FakeClock) -> None:
    """Nothing is raised; nothing half written stays; the next run is written."""
    output_dir = disk.folder / "runs"
    output_dir.mkdir()
    meter = meter_into(output_dir, clock)
    with disk.full():
        run_that_is_not_written(
            meter, clock, "No space left", "File too large", "disk is full", "disk I/O error"
        )
    assert not list(output_dir.rglob("*.tmp"))
    with meter:
        clock.advance(1)
    assert meter.run_directory is not None
    assert mlmeter.load(meter.run_directory).total() == meter.session.total()


def test_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, clock: FakeClock) -> None:
    """What is read meanwhile is in memory, and in the journal as soon as there is room."""
    with disk_of("small tmpfs", tmp_path / "disk") as disk:
        meter = meter_into(disk.folder / "runs", clock)
        with meter:
            advance(meter, 2)
            (journal,) = disk.folder.glob(f"runs/*/{JOURNAL}")
            with disk.full():
                for number in range(3_000):
                    with meter.window(f"meanwhile {number}"):
                        clock.advance(0.01)
                advance(meter, 2)
                told = meter.session.records("events")
            advance(meter, 600)
            # As if the program were killed now: SQLite's own log is part of it.
            copy = tmp_path / "killed"
            shutil.copytree(journal.parent, copy)
        assert any("cannot be written" in event["message"] for event in told)
        names = {row["name"] for row in mlmeter.load(copy).records("windows")}
        assert {f"meanwhile {number}" for number in range(3_000)} <= names


@pytest.mark.parametrize("begins", ["full", "with room"])
def test_disk_that_is_full_until_the_end_is_told_in_the_session(
    tmp_path: Path, clock: FakeClock, begins: str
) -> None:
    """The run is in memory with an event that says why there are no files; there is no traceback."""
    with disk_of("small tmpfs", tmp_path / "disk") as disk, contextlib.ExitStack() as stack:
        meter = meter_into(disk.folder / "runs", clock)
        if begins == "full":
            stack.enter_context(disk.full())
        with meter:
            advance(meter, 5)
            if begins == "with room":
                stack.enter_context(disk.full())
            with meter.window("last", samples=1):
                advance(meter, 5)
            with pytest.warns(NotWrittenWarning, match=r"disk is full|No space left"):
                meter.stop()
        assert meter.session.total().energy_joules == pytest.approx(1000, rel=1e-3)
        assert "last" in {row["name"] for row in meter.session.records("windows")}
        last = meter.session.records("events")[-1]
        assert (last["kind"], "could not be written" in last["message"]) == ("journal", True)
        stack.close()
        # There is room again: the session that is in memory can still be saved, also where it was to be.
        for folder in (tmp_path / "elsewhere", disk.folder / "runs" / meter.session.id):
            assert mlmeter.load(meter.session.save(folder)).total() == meter.session.total()


def test_log_of_an_older_journal_does_not_change_a_new_one(session: Session, tmp_path: Path) -> None:
    """A log that could not be tidied up on a full disk belongs to the file that is replaced."""
    folder = session.save(tmp_path / "run")
    connection = sqlite3.connect(folder / JOURNAL)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("DELETE FROM entries")
    connection.commit()
    for name in (JOURNAL, f"{JOURNAL}-wal"):
        shutil.copy(folder / name, tmp_path / name)
    connection.close()
    for name in (JOURNAL, f"{JOURNAL}-wal"):
        shutil.copy(tmp_path / name, folder / name)
    session.save(folder)
    assert {path.name for path in folder.glob(f"{JOURNAL}*")} == {JOURNAL}
    assert mlmeter.load(folder).total() == session.total()


def test_row_that_is_missing_is_told_and_the_run_is_there(
    tmp_path: Path, clock: FakeClock, victim: Path
) -> None:
    """Only its row in runs.csv could not be written."""
    output_dir = tmp_path / "runs"
    output_dir.mkdir()
    (output_dir / "runs.csv").symlink_to(victim)
    meter = meter_into(output_dir, clock)
    with pytest.warns(NotWrittenWarning, match="the row in runs.csv of the run"):
        with meter:
            clock.advance(1)
    assert meter.run_directory is not None
    assert mlmeter.load(meter.run_directory).total() == meter.session.total()
    assert victim.read_text() == "precious"


def test_ids_of_runs_differ_also_in_containers(clock: FakeClock) -> None:
    """Programs of one name and one process number that start in the same second."""
    from mlmeter.live import _run_id

    assert len({_run_id("train", 0).rsplit("-", 1)[1] for _ in range(50)}) > 45


def test_row_that_does_not_fit_is_not_there(session: Session, disk: Disk) -> None:
    """The system takes a part of the row: that part is taken back, and earlier rows are as they were."""
    path = disk.folder / "runs.csv"
    append_run(session.recording, path)
    # A row that crosses the end of the last page of the disk is taken in part.
    with path.open("ab") as file:
        file.write(b"filler," * 4 + b"x" * (4096 - 20 - path.stat().st_size - 28 - 1) + b"\n")
    before = path.read_bytes()
    with disk.full():
        with pytest.raises(OSError, match=r"No space left|File too large"):
            append_run(session.recording, path)
        assert path.read_bytes() == before
    append_run(session.recording, path)
    assert path.read_bytes().startswith(before)
    assert [row["session"] for row in rows_of(path)] == [session.id, "filler", session.id]


def test_table_that_does_not_fit_leaves_the_old_one(session: Session, disk: Disk) -> None:
    """A file is replaced whole or not at all."""
    path = disk.folder / "samples.csv"
    path.write_text("old")
    with disk.full(), pytest.raises(OSError, match=r"No space left|File too large"):
        session.to_csv(path, "samples")
    assert path.read_text() == "old"
    assert not list(disk.folder.glob("*.tmp"))


# -- closed, gone, in the way ------------------------------------------------------------------------


def test_read_only_disk_loses_the_files_and_not_the_run(tmp_path: Path, clock: FakeClock) -> None:
    """A disk that the system has made read-only, as after an error of its hardware."""
    meter = meter_into(tmp_path / "disk" / "runs", clock)
    with mounted(tmp_path / "disk", "size=1m"), read_only(tmp_path / "disk"):
        run_that_is_not_written(meter, clock, "Read-only file system")


def test_folder_without_permission_loses_the_files_and_not_the_run(tmp_path: Path, clock: FakeClock) -> None:
    """Somebody else's folder."""
    if os.geteuid() == 0:
        pytest.skip("root may write into any folder")
    tmp_path.chmod(0o500)
    run_that_is_not_written(meter_into(tmp_path / "runs", clock), clock, "Permission denied")


def test_file_in_the_way_loses_the_files_and_not_the_run(tmp_path: Path, clock: FakeClock) -> None:
    """A file that came after the meter was made."""
    meter = meter_into(tmp_path / "runs" / "deep", clock)
    (tmp_path / "runs").write_text("in the way")
    run_that_is_not_written(meter, clock, "Not a directory")


def test_folder_deleted_in_mid_run_is_made_again(tmp_path: Path, clock: FakeClock) -> None:
    """Somebody has tidied up."""
    output_dir = tmp_path / "runs"
    meter = meter_into(output_dir, clock)
    with meter:
        clock.advance(1)
    with meter:
        shutil.rmtree(output_dir)
        clock.advance(1)
    assert meter.run_directory is not None
    assert mlmeter.load(meter.run_directory).total() == meter.session.total()
    assert [row["session"] for row in rows_of(output_dir / "runs.csv")] == [meter.session.id]


# -- file servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EBUSY, errno.EIO, errno.EACCES, errno.ENOENT])
def test_rename_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The old file stays, the new one is taken away, the reason is told."""
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=os.strerror(number)), replacing(path) as file:
        file.write("new")
    assert [item.read_text() for item in tmp_path.iterdir()] == ["old"]


def test_rename_whose_answer_got_lost_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is asked a second time says that there is no such file: it has been renamed."""
    replace = os.replace

    def twice(source: str, target: str) -> None:
        replace(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", twice)
    path = tmp_path / "table.csv"
    with replacing(path) as file:
        file.write("new")
    assert [item.read_text() for item in tmp_path.iterdir()] == ["new"]


def test_rename_that_fails_loses_the_files_and_not_the_run(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file server that has just restarted."""

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "replace", fail)
    run_that_is_not_written(meter_into(tmp_path, clock), clock, "Stale file handle")


def test_disk_that_fails_twice_tells_its_first_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be tidied up does not hide why."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left")


# -- many writers ----------------------------------------------------------------------------------------


def test_many_processes_append_and_none_is_lost_or_torn(tmp_path: Path) -> None:
    """Eight processes write sessions at once, others are killed; `make soak-runs-file` is the long form."""
    found = soak(tmp_path, processes=8, sessions=5, victims=2, seed=1)
    assert found.failures == []
    assert (found.lost, found.doubled, found.torn) == (0, 0, 0)
    assert found.rows >= found.acknowledged >= 8 * 5 + 2 * 2


@contextlib.contextmanager
def lock_held(path: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, f"{path}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_lock_of_a_killed_process_is_free(session: Session, tmp_path: Path) -> None:
    """The system lets go what a process held; the file that stays locks nothing."""
    path = tmp_path / "runs.csv"
    with lock_held(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    append_run(session.recording, path)
    assert len(rows_of(path)) == 1


def test_lock_that_stays_held_is_told(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped in the middle cannot stop the others for longer than the time limit."""
    monkeypatch.setattr(runs_file, "LOCK_TIMEOUT_SECONDS", 0.01)
    with lock_held(tmp_path / "runs.csv"), pytest.raises(RunFileError, match="held its lock"):
        append_run(session.recording, tmp_path / "runs.csv")


def test_crash_inside_quotes_does_not_swallow_the_next_row(session: Session, tmp_path: Path) -> None:
    """A computer that lost its power left a quotation mark open."""
    path = tmp_path / "runs.csv"
    append_run(session.recording, path)
    with path.open("a") as file:
        file.write('torn,"a name\nof two')
    append_run(session.recording, path)
    assert [row["session"] for row in rows_of(path)] == [session.id, "torn", session.id]


def test_runs_file_that_a_spreadsheet_has_saved_is_continued(session: Session, tmp_path: Path) -> None:
    """With a mark of its encoding and other line ends; its columns are still known."""
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\xef\xbb\xbfsession,note\r\nold,mine\r\n")
    append_run(session.recording, path)
    old, new = rows_of(path)
    assert (old["session"], old["note"], new["session"]) == ("old", "mine", session.id)


# -- what others have put there ----------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("name", ["runs.csv", "runs.csv.lock"])
def test_planted_link_is_not_followed(session: Session, tmp_path: Path, victim: Path, name: str) -> None:
    """In a folder that others can write to, a link must not lead to a file of the user's."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with pytest.raises((RunFileError, OSError), match="symbolic link"):
        append_run(session.recording, folder / "runs.csv")
    assert victim.read_text() == "precious"


def plant_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def plant_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


@pytest.mark.parametrize("plant", [plant_pipe, plant_link])
def test_planted_runs_file_is_refused_at_once(
    session: Session, tmp_path: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    """A pipe is not waited for."""
    plant(tmp_path / "runs.csv", victim)
    run = session.save(tmp_path / "run")
    for attempt in (
        lambda: append_run(session.recording, tmp_path / "runs.csv"),
        lambda: mlmeter.recover(run),
    ):
        with pytest.raises(RunFileError, match=r"is no plain file|is a symbolic link"):
            attempt()


@pytest.mark.parametrize("plant", [plant_pipe, plant_link])
def test_planted_table_is_replaced(
    session: Session, tmp_path: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    """A run directory is written file by file in place of what is there, not through it."""
    folder = tmp_path / "run"
    folder.mkdir()
    plant(folder / "phases.csv", victim)
    session.save(folder)
    assert victim.read_text() == "precious"
    assert (folder / "phases.csv").read_text().startswith("session,")
    assert not (folder / "phases.csv").is_symlink()


def test_folder_given_as_a_link_is_the_users_own(tmp_path: Path, clock: FakeClock) -> None:
    """Results on another disk, by a link of the user's."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    meter = meter_into(tmp_path / "runs", clock)
    with meter:
        clock.advance(1)
    assert [row["session"] for row in rows_of(tmp_path / "disk" / "runs.csv")] == [meter.session.id]


def test_names_of_new_files_are_not_foreseen(tmp_path: Path, victim: Path) -> None:
    """What a killed process of the same number left, or somebody has put there, is in nobody's way."""
    for name in (".table.csv", f".table.csv.{os.getpid()}.tmp", f".mlmeter-{os.getpid()}-.tmp"):
        (tmp_path / name).symlink_to(victim)
    with replacing(tmp_path / "table.csv") as file:
        file.write("new")
    assert (tmp_path / "table.csv").read_text() == "new"
    assert victim.read_text() == "precious"
