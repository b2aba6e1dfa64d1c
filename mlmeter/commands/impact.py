"""``mlmeter impact``: emissions, money and water of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlmeter.commands.electricity import electricity_options, number_or_text
from mlmeter.commands.failures import told_failures
from mlmeter.commands.options import json_option
from mlmeter.commands.runs import latest_run
from mlmeter.errors import ArgumentError

if TYPE_CHECKING:
    from mlmeter.impact import Impact


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@electricity_options
@click.option("--grid-source", help="Who says so, if --grid is a number.")
@click.option(
    "--embodied",
    multiple=True,
    metavar="PIECE=COUNT",
    help="Hardware that the program had to itself, such as gpu_h100_sxm=8, or kg=1312; can be repeated.",
)
@click.option("--lifetime-years", type=float, help="Time over which its manufacture is spread; 4 by default.")
@click.option("--water", help="Litres per kWh, or us, aws ...")
@click.option(
    "--codecarbon",
    "codecarbon_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append a row to this file, with the columns of CodeCarbon's emissions.csv.",
)
@json_option
def impact(
    run_path: Path,
    grid: str | None,
    grid_source: str | None,
    pue: str | None,
    price: str | None,
    embodied: tuple[str, ...],
    lifetime_years: float | None,
    water: str | None,
    codecarbon_path: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print emissions, money and water of a run: its directory, or a folder of runs (the latest).

    Every factor is named with year and source. Grid, PUE and price that were named when the run was metered
    hold where they are not named here; without a grid emissions are a range over the world's grids.
    Nothing is asked on the network.
    """
    from mlmeter.impact.grid import given_intensity
    from mlmeter.session import load

    with told_failures():
        intensity = number_or_text(grid)
        if grid_source and not isinstance(intensity, float):
            raise ArgumentError("--grid-source goes with a number as --grid")
        found = load(latest_run(run_path)).impact(
            given_intensity(intensity, grid_source) if grid_source else intensity,
            pue=number_or_text(pue),
            price=price,
            embodied=_hardware(embodied, lifetime_years),
            water=number_or_text(water),
        )
        if codecarbon_path is not None:
            found.to_codecarbon_csv(codecarbon_path)
            click.echo(f"wrote {codecarbon_path}", err=True)
    click.echo(json.dumps(_document(found), indent=1) if as_json else found.summary())


def _document(impact: Impact) -> dict[str, Any]:
    return {
        "session": impact.session,
        "name": impact.name,
        "quantities": impact.records(),
        "factors": impact.factor_records(),
        "equivalences": impact.equivalence_records(),
        "notes": list(impact.notes),
    }


def _hardware(pieces: tuple[str, ...], lifetime_years: float | None) -> Any:
    """Return the hardware of ``PIECE=COUNT`` texts; None without any.

    Raises:
        ArgumentError: a text has another form, or there is a lifetime and no hardware.
    """
    from mlmeter.impact.embodied import DEFAULT_LIFETIME_YEARS, Embodied

    counts: dict[str, float] = {}
    for text in pieces:
        piece, _, count = text.partition("=")
        number = number_or_text(count or "1")
        if not isinstance(number, float):
            raise ArgumentError(f"--embodied {text}: expected a piece and a number, such as gpu_h100_sxm=8")
        counts[piece.strip()] = counts.get(piece.strip(), 0.0) + number
    if not counts:
        if lifetime_years is not None:
            raise ArgumentError("--lifetime-years goes with --embodied")
        return None
    kilograms = counts.pop("kg", None)
    if kilograms is not None and counts:
        raise ArgumentError("--embodied: kg= is the whole; it goes with no other piece")
    years = DEFAULT_LIFETIME_YEARS if lifetime_years is None else lifetime_years
    return Embodied(counts if kilograms is None else kilograms, lifetime_years=years)
