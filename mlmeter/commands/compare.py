"""`mlmeter compare`: runs of two variants or more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlmeter.commands.failures import told_failures
from mlmeter.commands.options import json_option


@click.command()
@click.argument(
    "paths", metavar="A B [...]", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option("--unit", help="Compare joules per this unit only, such as tokens; run for whole phases.")
@click.option("--quality", help="Metric beside the energy; by default the only one that all have.")
@click.option("--falling", is_flag=True, help="The quality is better the lower it is.")
@click.option(
    "--effect",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    help="Smallest difference that matters, for the repeats that are missing.",
)
@click.option("--paired", is_flag=True, help="The n-th runs of all were made one after the other.")
@json_option
def compare(
    paths: tuple[Path, ...],
    unit: str | None,
    quality: str | None,
    effect: float,
    *,
    falling: bool,
    paired: bool,
    as_json: bool,
) -> None:
    """Compare the energy of two variants or more; all with the first.

    Each is a run directory, a folder of runs of one variant, or a baseline file.
    """
    from mlmeter.analysis.compare import compare as compared
    from mlmeter.commands.baseline_files import figures_at

    if len(paths) < 2:
        raise click.UsageError("two variants or more are needed")
    if len({path.resolve() for path in paths}) < len(paths):
        raise click.UsageError("the same runs are given twice: a variant is compared with other ones")
    with told_failures():
        found = compared(
            {name: figures_at(path) for name, path in zip(_names(paths), paths, strict=True)},
            unit=unit,
            quality=quality,
            falling=falling,
            effect=effect,
            paired=paired,
        )
    click.echo(comparison_json(found) if as_json else str(found))


def comparison_json(found: Any, **more: Any) -> str:
    """Return a comparison as JSON."""
    document = {
        "variants": list(found.variants),
        "effect": found.effect,
        "differences": found.records(),
        "qualities": {
            name: {
                quality.metric: {"mean": quality.mean, "deviation": quality.deviation, "runs": quality.runs}
                for quality in qualities
            }
            for name, qualities in found.qualities.items()
        },
        "quality": found.quality,
        "front": None if found.front is None else list(found.front),
        "notes": list(found.notes),
        **more,
    }
    return json.dumps(document, indent=1, allow_nan=False)


def _names(paths: tuple[Path, ...]) -> list[str]:
    """Return the last parts of paths, or the paths themselves where these are not distinct."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
