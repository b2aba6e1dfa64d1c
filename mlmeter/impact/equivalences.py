"""What an amount is as much as: a year of a household, km in a car."""

from __future__ import annotations

from dataclasses import dataclass

from mlmeter.impact.factors import Amount, Factor
from mlmeter.impact.grid import row_factor
from mlmeter.impact.tables import table
from mlmeter.units import GRAMS_PER_POUND


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

    def __str__(self) -> str:
        return f"{self.amount} ({self.factor.source}, {self.factor.year})"


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
        factor = row_factor(row["id"], value, "kWh" if of_energy else "gCO2e", row, row["name"])
        amount = (energy if of_energy else carbon).divided_by(value, row["name"])
        found.append(Equivalence(row["id"], row["name"], amount, factor))
    return tuple(found)
