"""Finding the run that a command is about."""

from __future__ import annotations

from pathlib import Path

import click

from mlmeter.journal import JOURNAL


def latest_run(path: Path) -> Path:
    """Return the run that `path` names, or the latest one below it."""
    if not path.is_dir() or (path / JOURNAL).exists():
        return path
    runs = sorted(item.parent for item in path.glob(f"*/{JOURNAL}"))
    if not runs:
        return path
    click.echo(f"the latest of {len(runs)} runs: {runs[-1]}", err=True)
    return runs[-1]
