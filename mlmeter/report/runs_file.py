"""`runs.csv`: one row per run, appended under a file lock by any number of processes."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlmeter.errors import RunFileError
from mlmeter.measurement import COUNTED_KINDS
from mlmeter.recording import TOTAL, Recording
from mlmeter.report.csv_tables import cells
from mlmeter.whole_files import replacing

RUNS = "runs.csv"
LOCK_TIMEOUT_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.01
LONGEST_HEADER_BYTES = 1 << 16


def run_row(recording: Recording) -> dict[str, Any]:
    """Return the row of one run; the columns are the same for every run."""
    from mlmeter.chapters.whole import results
    from mlmeter.energy.columns import energy_value

    run, resolution = recording.run, results(recording)
    total = energy_value(resolution.total(TOTAL), 0)
    kinds = {
        f"{kind}_energy_joules": energy_value(resolution.total(TOTAL, kind), 0).energy_joules
        for kind in COUNTED_KINDS
    }
    phases = resolution.total("phases")["energy_joules"]
    known = dict(zip(resolution.phases, phases.tolist(), strict=True))
    start = datetime.fromtimestamp(run.start_wall_ns / 1e9, UTC)
    return {
        "session": run.id,
        "name": run.name,
        "start_time_utc": start.isoformat(timespec="milliseconds"),
        "duration_seconds": run.duration_seconds,
        "energy_joules": total.energy_joules,
        "low_joules": total.low_joules,
        "high_joules": total.high_joules,
        "provenance": total.provenance,
        "resolved": total.resolved,
        "coverage_ratio": total.coverage_ratio,
        **kinds,
        "training_energy_joules": known.get("training"),
        "inference_energy_joules": known.get("inference"),
        "windows": len(recording.windows) + sum(chapter.windows for chapter in recording.chapters),
        "host": run.facts.get("host"),
        "scope": run.facts.get("scope"),
    }


def append_run(recording: Recording, path: Path, *, once: bool = False) -> None:
    """Append the run to `path`; earlier rows are never lost or torn, whoever else appends.

    Args:
        recording: the run.
        path: the file.
        once: only if it has no row yet.

    Raises:
        OSError: the file cannot be written; it is as it was.
        RunFileError: another process held the lock for too long, or the file is something else.
    """
    from filelock import FileLock, Timeout

    row = run_row(recording)
    # It stays when all is done: a lock file that one process removes is locked by two.
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=LOCK_TIMEOUT_SECONDS, poll_interval=LOCK_POLL_SECONDS)
    except Timeout as error:
        reason = f"another process has held its lock for {LOCK_TIMEOUT_SECONDS:.0f} s"
        raise RunFileError(str(path), reason) from error
    try:
        if once and recording.run.id in sessions(path):
            return
        header = _header_of(path)
        if header is not None and not set(row) <= set(header):
            header = _widen(path, header, list(row))
        _append(path, header, row)
    finally:
        lock.release()


def sessions(path: Path) -> set[str]:
    """Return the runs that the file has rows of; none if it is not there.

    Raises:
        OSError: the file cannot be read.
        RunFileError: it is something else.
    """
    try:
        with _opened(path, os.O_RDONLY) as raw:
            rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""))
            return {row[0] for row in rows if row}
    except FileNotFoundError:
        return set()
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunFileError(str(path), f"is no CSV file in UTF-8: {error}") from error


def _header_of(path: Path) -> list[str] | None:
    """Return the columns of the file; None if it is not there or empty."""
    try:
        with _opened(path, os.O_RDONLY) as file:
            text = file.read(LONGEST_HEADER_BYTES)
    except FileNotFoundError:
        return None
    try:
        header = next(csv.reader(io.StringIO(text.decode("utf-8-sig", "ignore"), newline="")), None)
    except csv.Error as error:
        raise RunFileError(str(path), f"is no CSV file: {error}") from error
    if header is not None and header[:1] != ["session"]:
        raise RunFileError(str(path), "is no table of runs of mlmeter: its first column is not session")
    if len(text) == LONGEST_HEADER_BYTES and b"\n" not in text:
        raise RunFileError(str(path), f"its header is longer than {LONGEST_HEADER_BYTES:,} bytes")
    return header


def _widen(path: Path, header: list[str], columns: list[str]) -> list[str]:
    """Add columns that a newer version writes to a file of an older one."""
    wider = [*header, *(column for column in columns if column not in header)]
    try:
        with _opened(path, os.O_RDONLY) as raw, replacing(path, durable=True) as file:
            rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""))
            next(rows)
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(wider)
            writer.writerows([*old, *[""] * (len(wider) - len(old))] for old in rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunFileError(str(path), f"is no CSV file in UTF-8: {error}") from error
    return wider


def _append(path: Path, header: list[str] | None, row: dict[str, Any]) -> None:
    """Write the row, after the header of a new file, or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header is None:
        writer.writerow(row)
    writer.writerow(cells(row.get(column) for column in header or row))
    with _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
        size = file.seek(0, os.SEEK_END)
        data = _end_of_torn_row(file, size) + text.getvalue().encode("utf-8", "backslashreplace")
        written = 0
        try:
            while written < len(data):
                # A disk that is almost full takes a part.
                written += file.write(data[written:])
        except BaseException:
            with contextlib.suppress(OSError):
                # Where locks do not work, on some file servers, somebody else may have gone on.
                if file.seek(0, os.SEEK_END) == size + written:
                    file.truncate(size)
            raise


def _end_of_torn_row(file: io.FileIO, size: int) -> bytes:
    """Return what keeps a row that a crash has left unfinished from swallowing the next one."""
    if size == 0 or os.pread(file.fileno(), 1, size - 1) == b"\n":
        return b""
    file.seek(0)
    quotes = sum(chunk.count(b'"') for chunk in iter(lambda: file.read(1 << 20), b""))
    return b'"\n' if quotes % 2 else b"\n"


def _opened(path: Path, flags: int) -> io.FileIO:
    """Open the file, and nothing that somebody has put in its place: a link, a pipe, a device."""
    if path.is_symlink():
        raise RunFileError(str(path), "is a symbolic link: rows are appended to plain files only")

    def opener(name: str, _flags: int) -> int:
        # A pipe would be waited for.
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)

    file = io.FileIO(path, "r+" if flags & os.O_RDWR else "r", opener=opener)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RunFileError(str(path), "is no plain file")
    return file
