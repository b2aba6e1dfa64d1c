"""`mlmeter bench`: two commands, interleaved until their difference is settled."""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlmeter.commands.compare import comparison_json
from mlmeter.commands.failures import told_failures
from mlmeter.commands.options import json_option

if TYPE_CHECKING:
    from mlmeter.bench import Bench

SEPARATOR = "--vs"


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="mlmeter-bench",
    show_default=True,
    help="Folder for the runs, in a new folder of its own.",
)
@click.option(
    "--effect",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    help="Smallest difference that matters: so many pairs are made that it is found in 80 % of cases.",
)
@click.option(
    "--pilot", type=click.IntRange(3), default=6, show_default=True, help="Pairs that tell how many."
)
@click.option("--limit", type=click.IntRange(3), default=60, show_default=True, help="Most pairs.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    help="Most time, warm-up included; no two pairs are begun that would probably end later.",
)
@click.option("--warm-up", type=click.IntRange(0), default=1, show_default=True, help="Pairs dropped first.")
@click.option("--unit", help="Compare joules per this unit, such as tokens; by default those of a run.")
@click.option("--quality", help="Metric beside the energy.")
@click.option("--scope", type=click.Choice(("machine", "process")), default="machine", show_default=True)
@click.option("--backends", help="Comma-separated sources, such as rapl,nvml; by default the best.")
@click.option("--seed", type=int, help="Of the order; by default another one each time.")
@json_option
@click.argument("commands", metavar="CMD_A --vs CMD_B", nargs=-1, required=True, type=click.UNPROCESSED)
def bench(
    output_dir: Path,
    effect: float,
    pilot: int,
    limit: int,
    max_seconds: float | None,
    warm_up: int,
    unit: str | None,
    quality: str | None,
    scope: str,
    backends: str | None,
    seed: int | None,
    commands: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Compare two commands: mlmeter bench -- python a.py --vs python b.py.

    Each is run again and again as by mlmeter run, in pairs of random order, after pairs to warm up.
    The first pairs tell how many are needed.
    """
    from mlmeter.analysis.blocks import Plan
    from mlmeter.bench import bench as benched
    from mlmeter.program import Program

    first, second = _split(commands)
    for command in (first, second):
        if Program.of(command).other_python:
            click.echo(f"{command[0]} is not the Python of mlmeter: metered from outside", err=True)
    seed = secrets.randbelow(10**6) if seed is None else seed
    directory = output_dir / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    options = ["--scope", scope, *(["--backends", backends] if backends else [])]
    with told_failures():
        plan = Plan(
            effect=effect, pilot=pilot, limit=limit, warm_up=warm_up, seed=seed, max_seconds=max_seconds
        )
        found = benched(
            (first, second),
            plan,
            directory,
            run_options=options,
            unit=unit,
            quality=quality,
            progress=_tell,
        )
    pairs = found.pairs
    if as_json:
        facts = {
            "pairs": len(pairs.runs[0]),
            "needed": pairs.needed,
            "early": pairs.early,
            "out_of_time": pairs.out_of_time,
            "seed": seed,
        }
        click.echo(comparison_json(found.comparison, **facts, runs=str(directory)))
        return
    click.echo(f"a: {' '.join(first)}\nb: {' '.join(second)}\n\n{found.comparison}\n{_ending(found)}")
    click.echo(f"runs: {directory}, order by --seed {seed}", err=True)


def _ending(found: Bench) -> str:
    """Say why no more pairs were made."""
    pairs = found.pairs
    made = len(pairs.runs[0])
    if pairs.early:
        return f"{made} pairs: the difference is too large to be chance (99.8 %)."
    if pairs.complete:
        return f"{made} pairs, as many as the pilot of {pairs.pilot} asked for."
    limit = "the LIMIT of time" if pairs.out_of_time else "the LIMIT"
    if made < pairs.pilot:
        missing = f"{pairs.missing} or more are missing"
        return f"{made} pairs, {limit}, before the pilot of {pairs.pilot} was done: {missing}."
    missing = f"{pairs.missing:,} are missing"
    return f"{made} pairs, {limit}; the pilot of {pairs.pilot} asked for {pairs.needed:,}: {missing}."


def _split(commands: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if commands.count(SEPARATOR) != 1:
        raise click.UsageError(f"expected two commands with one {SEPARATOR} between them")
    middle = commands.index(SEPARATOR)
    first, second = commands[:middle], commands[middle + 1 :]
    if not first or not second:
        raise click.UsageError(f"a command is missing beside {SEPARATOR}")
    return first, second


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True)
