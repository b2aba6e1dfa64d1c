"""`mlmeter report`: the tables of a run, as text, files or a page, and the gate for its energy."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlmeter.commands.electricity import electricity_options, number_or_text
from mlmeter.commands.failures import told_failures
from mlmeter.commands.gate import gate_options, judge
from mlmeter.commands.options import json_option
from mlmeter.commands.runs import latest_run
from mlmeter.recording import TABLES

if TYPE_CHECKING:
    from mlmeter.session import Session


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--table", type=click.Choice(TABLES), help="Print one table.")
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write it as CSV; - for standard output.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report page: one HTML file.",
)
@electricity_options
@gate_options
@json_option
def report(
    run_path: Path,
    table: str | None,
    csv_path: Path | None,
    html_path: Path | None,
    grid: str | None,
    pue: str | None,
    price: str | None,
    *,
    as_json: bool,
    **gate: Any,
) -> None:
    """Print the tables of a run: its directory, or a folder of runs (the latest is taken).

    With --html and --grid, --pue or --price the page has emissions and cost, too; a run that was metered with
    them has anyhow. With --max-joules and --against it is a gate for CI: all runs of a folder are judged, by
    their mean.
    """
    from mlmeter.report.text import record_lines
    from mlmeter.session import load

    factors = {"grid": number_or_text(grid), "pue": number_or_text(pue), "price": price}
    named = {name: value for name, value in factors.items() if value is not None}
    if named and html_path is None:
        raise click.UsageError("--grid, --pue and --price go with --html; mlmeter impact prints emissions")
    with told_failures():
        try:
            session = load(latest_run(run_path))
            if html_path is not None:
                _write_page(session, html_path, named)
            if csv_path is not None:
                _write_csv(session, csv_path, table or "phases")
            elif as_json:
                click.echo(session.to_json())
            elif table is not None:
                click.echo(record_lines(session.records(table)))
            elif html_path is None:
                click.echo(session.summary())
        except BrokenPipeError:
            # Whoever read the output has seen enough; what is still buffered goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    judge(run_path, gate)


def _write_page(session: Session, path: Path, named: dict[str, Any]) -> None:
    """Write the page, with the factors that are named; without any, with those of the meter."""
    session.to_html(path, impact=session.impact(**named) if named else None)
    click.echo(f"wrote {path}", err=True)


def _write_csv(session: Session, path: Path, table: str) -> None:
    if str(path) == "-":
        session.to_csv(sys.stdout, table)
        return
    session.to_csv(path, table)
    click.echo(f"wrote {path}", err=True)
