"""What an amount is as much as: a year of a household, km in a car."""

from __future__ import annotations

from dataclasses import dataclass

from mlmeter.impact.factors import GRAMS, KWH, Amount, Factor
from mlmeter.impact.grid import row_factor
from mlmeter.impact.tables import table
from mlmeter.units import GRAMS_PER_POUND

SHOWN_IN_KILOGRAMS = 10_000


@dataclass(frozen=True, slots=True)
class Equivalence:
    """An everyday quantity.

    Attributes:
        id: of the row of the shipped table.
        name: such as ``"km in a European car"``.
        amount: how many of them.
        factor: grams of CO2e or kWh of one, with year and source.
    """

    id: str
    name: str
    amount: Amount
    factor: Factor

    @property
    def each(self) -> str:
        """What one of them is, such as ``"175 gCO2e"``; many grams in kilograms."""
        value, unit = self.factor.value or 0.0, self.factor.unit
        if unit == GRAMS and value >= SHOWN_IN_KILOGRAMS:
            return f"{value / 1000:,.6g} kgCO2e"
        return f"{value:,.6g} {unit}"

    def __str__(self) -> str:
        return f"{self.amount} ({self.each}, {self.factor.year}, {self.factor.source})"


def equivalences(carbon: Amount, energy: Amount) -> tuple[Equivalence, ...]:
    """Return all equivalences of the shipped table.

    Args:
        carbon: in gCO2e.
        energy: in kWh.
    """
    found = []
    for row in table("equivalences"):
        value = float(row["value"])
        if row["quantity"] == "pounds_co2e":
            value *= GRAMS_PER_POUND
        of_energy = row["quantity"] == "kwh"
        factor = row_factor(row["id"], value, KWH if of_energy else GRAMS, row, row["name"])
        amount = (energy if of_energy else carbon).divided_by(value, row["name"])
        found.append(Equivalence(row["id"], row["name"], amount, factor))
    return tuple(found)
