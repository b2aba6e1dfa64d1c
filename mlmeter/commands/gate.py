"""The gate of `mlmeter report`: options, verdict, exit code."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlmeter.commands.failures import told_failures

if TYPE_CHECKING:
    from mlmeter.analysis.gate import Outcome

Command = TypeVar("Command", bound=Callable[..., Any])

GATE_CLOSED = 4

_OPTIONS = (
    click.option(
        "--max-joules", type=click.FloatRange(0), help="Limit: exit with 4 if the energy is above it."
    ),
    click.option(
        "--against",
        type=click.Path(exists=True, path_type=Path),
        help="Baseline file, or runs: exit with 4 if more energy was used than there.",
    ),
    click.option(
        "--save-baseline",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write a baseline file for --against; keep it in version control.",
    ),
    click.option("--phase", help="Phase that limit and baseline are about; by default the whole session."),
    click.option("--unit", help="Unit that they are about, such as tokens: joules of one."),
    click.option(
        "--tolerance",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.05,
        show_default=True,
        help="With --against: how much more is accepted.",
    ),
)


def gate_options(command: Command) -> Command:
    """Add the options of the gate to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def judge(run_path: Path, options: dict[str, Any]) -> None:
    """Judge the runs at a path by the options given, all runs of a folder together.

    Ends the process with code 4 where they fail, with 1 where nobody can tell.
    """
    limit = options["max_joules"]
    if limit is None and options["against"] is None and options["save_baseline"] is None:
        if options["phase"] or options["unit"]:
            raise click.UsageError("--phase and --unit go with --max-joules or --against")
        return
    if limit is not None and math.isnan(limit):  # it is in every range
        raise click.UsageError("--max-joules is no number")
    with told_failures():
        outcomes = list(_outcomes(run_path, options))
    for outcome in outcomes:
        word = {True: "passed", False: "FAILED", None: "NOT JUDGED"}[outcome.passed]
        click.echo(f"{word}: {outcome.text}", err=True)
    if any(outcome.passed is False for outcome in outcomes):
        sys.exit(GATE_CLOSED)
    if any(outcome.passed is None for outcome in outcomes):
        sys.exit(1)


def _outcomes(run_path: Path, options: dict[str, Any]) -> Iterator[Outcome]:
    from mlmeter.analysis.gate import keeps_baseline, keeps_limit
    from mlmeter.commands.baseline_files import figures_at, write_baseline

    runs = figures_at(run_path)
    which = {"phase": options["phase"], "unit": options["unit"]}
    if options["max_joules"] is not None:
        yield keeps_limit(runs, options["max_joules"], **which)
    if options["against"] is not None:
        base = figures_at(options["against"])
        yield keeps_baseline(runs, base, tolerance=options["tolerance"], **which)
    if options["save_baseline"] is not None:
        write_baseline(options["save_baseline"], runs)
        click.echo(f"wrote {options['save_baseline']}", err=True)
