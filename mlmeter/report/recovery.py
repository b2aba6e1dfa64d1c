"""Finishes the files of a run whose program was killed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mlmeter.journal import JOURNAL
from mlmeter.journal.reader import read_journal
from mlmeter.journal.whole import mark_finished
from mlmeter.recording import Recording
from mlmeter.report.run_directory import MANIFEST, run_directory_of, write_run_directory
from mlmeter.report.runs_file import RUNS, append_run


def recover_run(path: str | os.PathLike[str]) -> Recording:
    """Return a run; if its program was killed, finish its journal and write what `stop` would have.

    Called again, it does what is still missing, if anything.

    Args:
        path: the run directory, or its journal.

    Raises:
        RunFileError: the journal is missing, damaged, or still being written.
        OSError: a file cannot be written.
    """
    directory = run_directory_of(Path(path))
    recording = read_journal(directory / JOURNAL)
    if not recording.run.finished:
        facts = {**recording.run.facts, "killed": True}
        recording = recording.with_run(replace(recording.run, finished=True, facts=facts))
        mark_finished(recording, directory / JOURNAL)
    append_run(recording, directory.absolute().parent / RUNS, once=True)
    # The manifest comes last: where it is missing, there is something left to do.
    if not (directory / MANIFEST).exists():
        write_run_directory(recording, directory, journalled=True)
    return recording


def unfinished_runs(path: Path) -> list[Path]:
    """Return the run directories below `path`, or `path` itself, that have a journal but no manifest."""
    if (path / JOURNAL).exists() or run_directory_of(path) != path:
        return [path]
    journals = sorted(path.glob(f"*/{JOURNAL}"))
    return [journal.parent for journal in journals if not (journal.parent / MANIFEST).exists()]
