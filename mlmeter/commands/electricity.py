"""The options that name where the electricity comes from, what is lost on the way and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--grid",
        help="Where the electricity comes from: DE, US-CA, aws:eu-west-1, or grams of CO2e per kWh.",
    ),
    click.option(
        "--pue", help="Energy of the data centre / energy of its computers: a number, world, aws ..."
    ),
    click.option("--price", help="Of a kWh: 0.30EUR, or a place with a known price such as DE or US-CA."),
)


def electricity_options(command: Command) -> Command:
    """Add ``--grid``, ``--pue`` and ``--price`` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def number_or_text(text: str | None) -> float | str | None:
    """Return what an option says: a number if it is one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
