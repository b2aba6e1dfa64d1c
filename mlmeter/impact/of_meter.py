"""What a meter was told about its electricity: checked when it is made, and kept with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlmeter.errors import ArgumentError, RunFileError
from mlmeter.foreign_files import visible
from mlmeter.impact.conversion import ImpactFactors, impact_factors, static_grid
from mlmeter.impact.factors import LARGEST_PUE, Factor, is_number
from mlmeter.impact.grid import PLACES
from mlmeter.recording import ELECTRICITY

NAMES = ("grid", "pue", "price")
TEXTS = ("name", "unit", "source", "place", "year", "basis", "licence")
# Grids and prices from 0; a data centre uses no less than its computers.
_UNITS_AND_LEAST = {"grid": ("gCO2e/kWh", 0.0), "pue": ("", 1.0), "price": ("/kWh", 0.0)}


@dataclass(frozen=True, slots=True)
class MeterFactors:
    """Factors named at a meter; None where one was not.

    They are kept with their values, so that a run means the same when the tables of a later version differ.

    Attributes:
        grid: carbon intensity of electricity.
        pue: power usage effectiveness of the data centre.
        price: of a kWh.
        place: the grid as the user named it; empty if by a number or a `Factor`.
    """

    grid: Factor | None = None
    pue: Factor | None = None
    price: Factor | None = None
    place: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        """Names of those that are there."""
        return tuple(name for name in NAMES if getattr(self, name) is not None)

    @property
    def factors(self) -> ImpactFactors:
        """The same with the range over the world's grids where no place was named."""
        grid = static_grid(None) if self.grid is None else self.grid
        return ImpactFactors(grid=grid, pue=self.pue, price=self.price)

    def facts(self) -> dict[str, Any]:
        """Return what `factors_of_facts` reads."""
        facts: dict[str, Any] = {name: asdict(getattr(self, name)) for name in self.named}
        return {**facts, "place": self.place}


def meter_factors(grid: object = None, pue: object = None, price: object = None) -> MeterFactors:
    """Return factors by what a user names when making a meter.

    Raises:
        ArgumentError: a place is not known, or a factor is negative or absurd.
    """
    if grid is not None and not isinstance(grid, (str, Factor)) and not is_number(grid):
        raise ArgumentError(
            f"grid={grid!r}: expected {PLACES}, or a Factor; intensity over time goes to Session.impact"
        )
    found = impact_factors(grid, pue=pue, price=price)
    named = MeterFactors(
        grid=None if grid is None else found.grid,
        pue=found.pue,
        price=found.price,
        place=grid.strip() if isinstance(grid, str) else "",
    )
    try:
        # A Factor of the user's may hold anything: what could not be read again is not kept.
        return factors_of_facts({ELECTRICITY: named.facts()})
    except RunFileError as error:
        raise ArgumentError(f"grid={grid!r}, price={price!r}: {error.reason}") from error


def factors_of_facts(facts: Mapping[str, Any]) -> MeterFactors:
    """Return the factors that a run's facts hold; all None where there are none.

    Raises:
        RunFileError: somebody has written something else there.
    """
    found = facts.get(ELECTRICITY)
    if found is None:
        return MeterFactors()
    try:
        read = {name: _factor(name, found[name]) for name in NAMES if name in found}
        return MeterFactors(**read, place=_text(found["place"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFileError("facts of the run", f"{ELECTRICITY}: {error}") from error


def _factor(of: str, fields: Mapping[str, Any]) -> Factor:
    texts = {name: _text(fields[name]) for name in TEXTS}
    low, high = _number(fields["low"]), _number(fields["high"])
    value = None if fields["value"] is None else _number(fields["value"])
    unit, least = _UNITS_AND_LEAST[of]
    ordered = least <= low <= (low if value is None else value) <= high
    most = LARGEST_PUE if of == "pue" else high
    if not ordered or high > most or not texts["unit"].endswith(unit):
        raise ValueError(f"{of} is no such factor")
    return Factor(value=value, low=low, high=high, **texts)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return visible(value)


def _number(value: object) -> float:
    if not is_number(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)  # type: ignore[arg-type]
