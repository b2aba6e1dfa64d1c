"""`runs.csv`: one row per run, appended under a file lock by any number of processes."""

from __future__ import annotations

import csv
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlmeter.errors import RunFileError
from mlmeter.measurement import COUNTED_KINDS
from mlmeter.recording import TOTAL, Recording
from mlmeter.report.csv_tables import cells, replacing

RUNS = "runs.csv"
LOCK_TIMEOUT_SECONDS = 10.0


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


def append_run(recording: Recording, path: Path) -> None:
    """Append the run to `path`; earlier rows are never lost or torn.

    Raises:
        OSError: the file cannot be written.
        RunFileError: another process held the lock for too long, or the file is something else.
    """
    from filelock import FileLock, Timeout

    row = run_row(recording)
    try:
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_SECONDS):
            header = _header_of(path)
            if header is not None and not set(row) <= set(header):
                header = _widen(path, header, list(row))
            _append(path, header, row)
    except Timeout as error:
        reason = f"another process has held its lock for {LOCK_TIMEOUT_SECONDS:.0f} s"
        raise RunFileError(str(path), reason) from error


def _header_of(path: Path) -> list[str] | None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), None)
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunFileError(str(path), f"is no CSV file in UTF-8: {error}") from error
    if header is not None and header[:1] != ["session"]:
        raise RunFileError(str(path), "is no table of runs of mlmeter: its first column is not session")
    return header


def _widen(path: Path, header: list[str], columns: list[str]) -> list[str]:
    """Add columns that a newer version writes to a file of an older one."""
    wider = [*header, *(column for column in columns if column not in header)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(wider)
        writer.writerows([*old, *[""] * (len(wider) - len(old))] for old in rows)
    return wider


def _append(path: Path, header: list[str] | None, row: dict[str, Any]) -> None:
    """Write the row, after the header of a new file, with a single call of the system."""
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header is None:
        writer.writerow(row)
    writer.writerow(cells(tuple(row.get(column) for column in header or row)))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = ("\n" if torn else "") + text.getvalue()
        os.write(descriptor, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(descriptor)
