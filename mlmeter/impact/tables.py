"""The tables that ship with the package; read on first use, never at import."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

TABLES = (
    "grid_country",
    "grid_us_state",
    "grid_cloud",
    "price",
    "pue",
    "embodied",
    "water",
    "generation",
    "equivalences",
)


class Source(NamedTuple):
    """Where figures come from.

    Attributes:
        basis: how the source counts.
    """

    id: str
    title: str
    publisher: str
    licence: str
    url: str
    basis: str

    @property
    def text(self) -> str:
        """Publisher and title."""
        return f"{self.publisher}: {self.title}"


@cache
def table(name: str) -> Sequence[Mapping[str, str]]:
    """Return the rows of one of `TABLES`, all cells as text."""
    return tuple(csv.DictReader(_text(f"{name}.csv").splitlines()))


@cache
def sources() -> Mapping[str, Source]:
    """Return the sources of all rows, by id."""
    return {row["id"]: Source(**row) for row in csv.DictReader(_text("sources.csv").splitlines())}


def _text(name: str) -> str:
    return files("mlmeter.impact").joinpath("data", name).read_text(encoding="utf-8")
