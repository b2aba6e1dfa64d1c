"""Finding the runs that a command is about."""

from __future__ import annotations

from pathlib import Path

import click

from mlmeter.journal import JOURNAL
from mlmeter.report.text import path_text


def latest_run(path: Path) -> Path:
    """Return the run that `path` names, or the latest one below it."""
    runs = run_directories(path)
    if len(runs) > 1 or runs != [path]:
        click.echo(f"the latest of {len(runs)} runs: {path_text(runs[-1])}", err=True)
    return runs[-1]


def run_directories(path: Path) -> list[Path]:
    """Return the run that a path names, or all runs directly below it, in order of their names."""
    if not path.is_dir() or (path / JOURNAL).exists():
        return [path]
    return sorted(journal.parent for journal in path.glob(f"*/{JOURNAL}")) or [path]
