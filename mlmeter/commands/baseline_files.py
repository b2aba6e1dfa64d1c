"""What of runs is compared: of directories, of folders of them, and of baseline files."""

from __future__ import annotations

import json
from pathlib import Path

from mlmeter.analysis.run_figures import RunFigures, run_figures
from mlmeter.commands.runs import run_directories
from mlmeter.errors import RunFileError
from mlmeter.foreign_files import damaged, read_bytes
from mlmeter.report.run_directory import run_directory_of
from mlmeter.session import load
from mlmeter.whole_files import writing

BASELINE_VERSION = 1
# Thousands of runs.
MOST_BYTES = 1 << 26


def figures_at(path: Path) -> list[RunFigures]:
    """Return what is compared of the runs at a path, which may be a baseline file, too.

    Raises:
        RunFileError: a file is missing, damaged or of a newer version.
    """
    if path.is_file() and run_directory_of(path) == path:
        return read_baseline(path)
    return [run_figures(load(directory).recording) for directory in run_directories(path)]


def write_baseline(path: Path, runs: list[RunFigures]) -> None:
    """Write a baseline file: what of the runs later ones are compared with.

    Raises:
        OSError: the file cannot be written.
    """
    with writing(path) as file:
        json.dump(
            {"baseline_version": BASELINE_VERSION, "runs": [run.to_json() for run in runs]},
            file,
            indent=1,
        )


def read_baseline(path: Path) -> list[RunFigures]:
    """Read what `write_baseline` wrote.

    Raises:
        RunFileError: the file is something else, or of a newer version.
    """
    try:
        document = json.loads(read_bytes(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise damaged(path, "is no baseline of mlmeter", error) from error
    facts = document if isinstance(document, dict) else {}
    version, runs = facts.get("baseline_version"), facts.get("runs")
    if version != BASELINE_VERSION or not isinstance(runs, list) or not runs:
        raise RunFileError(str(path), "is no baseline of mlmeter, or of another version")
    return [RunFigures.from_json(item, str(path)) for item in runs]
