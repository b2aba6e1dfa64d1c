"""The factors that turn joules into grams of CO2e, money and water."""

from __future__ import annotations

from dataclasses import dataclass

from mlmeter.errors import ArgumentError
from mlmeter.impact.embodied import embodied_of
from mlmeter.impact.factors import LARGEST_PUE, Factor, checked_number, is_number, is_source
from mlmeter.impact.grid import given_intensity, grid_factor, pue_factor, row_factor, world_range
from mlmeter.impact.money import currency_of, price_factor
from mlmeter.impact.tables import table
from mlmeter.units import JOULES_PER_KILOWATT_HOUR

WATER = "water"
PER_COMPUTERS, PER_FACILITY = "l/kWh of computers", "l/kWh of the data centre"
# On-site cooling of the thirstiest surveyed site takes about 9.
MOST_LITRES_PER_KWH = 20.0


@dataclass(frozen=True, slots=True)
class ImpactFactors:
    """Factors of an impact; those that were not given are None.

    Attributes:
        grid: carbon intensity of electricity; always there, a range where no place was named.
        pue: power usage effectiveness of the data centre.
        price: of a kWh.
        embodied: emissions of manufacture for each second.
        water: litres for each kWh.
    """

    grid: Factor
    pue: Factor | None = None
    price: Factor | None = None
    embodied: Factor | None = None
    water: Factor | None = None

    @property
    def all(self) -> tuple[Factor, ...]:
        """Those that are there."""
        every = (self.grid, self.pue, self.price, self.embodied, self.water)
        return tuple(factor for factor in every if factor is not None)

    @property
    def grams_per_joule(self) -> float | None:
        """Grams of CO2e of a metered joule, PUE included; None if the grid is only a range."""
        if self.grid.value is None:
            return None
        return self._with_pue(self.grid.value) / JOULES_PER_KILOWATT_HOUR

    @property
    def grams_per_joule_range(self) -> tuple[float, float]:
        """Least and most grams of CO2e of a metered joule, PUE included."""
        low, high = self._with_pue(self.grid.low), self._with_pue(self.grid.high)
        return low / JOULES_PER_KILOWATT_HOUR, high / JOULES_PER_KILOWATT_HOUR

    @property
    def money_per_joule(self) -> float | None:
        """Price of a metered joule in `currency`, PUE included; None without a price."""
        if self.price is None or self.price.value is None:
            return None
        return self._with_pue(self.price.value) / JOULES_PER_KILOWATT_HOUR

    @property
    def currency(self) -> str | None:
        """Currency of the price, such as ``"EUR"``."""
        return None if self.price is None else currency_of(self.price)

    def _with_pue(self, value: float) -> float:
        return value if self.pue is None or self.pue.value is None else value * self.pue.value


def impact_factors(
    grid: object = None,
    *,
    pue: object = None,
    price: object = None,
    embodied: object = None,
    water: object = None,
) -> ImpactFactors:
    """Return factors by what a user names: see `Session.impact`, which takes the same.

    Example:
        >>> from mlmeter.impact import impact_factors
        >>> factors = impact_factors("DE", pue=1.2, price="0.30 EUR")
        >>> factors.grid.value, factors.grid.year
        (342.06, '2024')

    Raises:
        ArgumentError: a place is not known, or a factor is negative or absurd.
    """
    return ImpactFactors(
        grid=static_grid(grid),
        pue=None if pue is None else pue_factor(pue, LARGEST_PUE),
        price=_price(price),
        embodied=None if embodied is None else embodied_of(embodied).factor(),
        water=None if water is None else _water(water),
    )


def static_grid(grid: object) -> Factor:
    """Return an intensity that does not change with time.

    Raises:
        ArgumentError: it is no place, number or factor.
    """
    if grid is None:
        return world_range()
    if isinstance(grid, Factor):
        return _checked(grid, "gCO2e/kWh")
    if isinstance(grid, str):
        return grid_factor(grid)
    if not is_number(grid):
        raise ArgumentError(
            f"grid={grid!r}: expected a place, grams per kWh, a Factor, an IntensitySeries or a provider"
        )
    return given_intensity(grid)


def _price(price: object) -> Factor | None:
    if price is None:
        return None
    return _checked(price, "/kWh") if isinstance(price, Factor) else price_factor(price)


def _water(water: object) -> Factor:
    if isinstance(water, str):
        rows = {row["id"]: row for row in table("water")}
        row = rows.get(water.strip().casefold())
        if row is None:
            raise ArgumentError(f"water={water!r}: expected litres per kWh, or one of {', '.join(rows)}")
        unit = PER_COMPUTERS if row["per"] == "it" else PER_FACILITY
        return row_factor(WATER, float(row["litres_per_kwh"]), unit, row, row["name"])
    value = checked_number("water", water, 0.0, MOST_LITRES_PER_KWH, "litres per kWh of computers")
    return Factor(
        name=WATER, value=value, low=value, high=value, unit=PER_COMPUTERS, source="given by the user"
    )


def _checked(factor: Factor, unit: str) -> Factor:
    """Return a factor that a user made, if it can be used."""
    if not factor.unit.endswith(unit):
        raise ArgumentError(f"{factor}: expected a unit that ends in {unit}")
    if not is_source(factor.source):
        raise ArgumentError(f"{factor}: expected a source: who says so")
    numbers = (factor.low, factor.low if factor.value is None else factor.value, factor.high)
    if not all(is_number(number) for number in numbers) or not 0 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise ArgumentError(f"{factor}: expected 0 <= low <= value <= high")
    return factor
