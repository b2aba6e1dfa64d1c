"""The run directory: everything that a session found, readable by people and by `load`."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlmeter.chapters.tables import build_table
from mlmeter.journal import JOURNAL
from mlmeter.journal.reader import read_journal
from mlmeter.journal.whole import write_whole
from mlmeter.recording import TABLES, Recording
from mlmeter.report.csv_tables import write_table
from mlmeter.whole_files import replacing

SCHEMA_VERSION = 1
MANIFEST = "session.json"


def write_run_directory(recording: Recording, directory: Path, *, journalled: bool = False) -> None:
    """Write manifest, raw readings and CSV tables into `directory`, made if need be.

    Args:
        recording: the session.
        directory: where.
        journalled: the journal there holds all of the session.

    Raises:
        OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not journalled:
        try:
            write_whole(recording, directory / JOURNAL)
        except sqlite3.Error as error:
            raise OSError(f"{directory / JOURNAL} cannot be written: {error}") from error
    for name in TABLES:
        with replacing(directory / f"{name}.csv") as file:
            write_table(build_table(recording, name), file)
    # The manifest comes last: a directory that has one is complete.
    with replacing(directory / MANIFEST) as file:
        json.dump(_manifest(recording), file, indent=1, allow_nan=False, default=str)


def read_run_directory(path: str | os.PathLike[str], *, everything: bool = False) -> Recording:
    """Read what `write_run_directory` wrote, or what a killed program has left.

    All that is needed is the journal: manifest and tables are made from it.

    Args:
        path: the run directory, its manifest or its journal.
        everything: read what a long session has told as sums, too.

    Raises:
        RunFileError: the journal is missing, damaged or of a newer version.
    """
    return read_journal(run_directory_of(Path(path)) / JOURNAL, everything=everything)


def run_directory_of(path: Path) -> Path:
    """Return the run directory of a manifest or a journal; any other path as it is."""
    return path.parent if path.name in (MANIFEST, JOURNAL) else path


def _manifest(recording: Recording) -> dict[str, Any]:
    windows = recording.windows
    return {
        "schema_version": SCHEMA_VERSION,
        "run": asdict(recording.run),
        "domains": [
            {
                **asdict(domain),
                "readings": rows.readings,
                "resets": rows.resets,
                "gaps_ns": rows.gaps_ns,
                "largest_mean_watts": rows.largest_mean_watts,
                "measured_period_seconds": rows.period_seconds,
            }
            for domain, rows in recording.domains
        ],
        "unavailable": [asdict(item) for item in recording.unavailable],
        "events": [asdict(event) for event in recording.events],
        "windows": len(windows),
        "chapters": len(recording.chapters),
        "units": list(windows.units),
        "devices": [{"number": number, "uuid": uuid} for number, uuid in recording.device.uuids.items()],
        "readings": JOURNAL,
    }
