"""The values of this package: factors with their source and year, and amounts with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from mlmeter.errors import ArgumentError
from mlmeter.units import JOULES_PER_KILOWATT_HOUR

GRAMS_PER_KWH = "gCO2e/kWh"
GRAMS = "gCO2e"
KWH = "kWh"
# More than any grid emits: a figure in milligrams, or of another quantity.
MOST_GRAMS_PER_KWH = 3_000.0
LARGEST_PUE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A number that turns energy into something else, and where it comes from.

    Attributes:
        name: what it is, such as ``"grid intensity"``.
        value: the number; None if only a range is known.
        low, high: the range; equal to `value` where the source gives none.
        unit: such as ``"gCO2e/kWh"``.
        place: what it is true of, such as ``"Germany"``.
        year: the time that it is true of, such as ``"2024"``; empty if nobody told.
        source: who says so; of a shipped figure a row of ``sources.csv``.
        basis: how the source counts, in words.
        licence: terms of the source's figures.
    """

    name: str
    value: float | None
    low: float
    high: float
    unit: str
    source: str
    place: str = ""
    year: str = ""
    basis: str = ""
    licence: str = ""

    def __str__(self) -> str:
        amount = f"{self.low:g} .. {self.high:g}" if self.value is None else f"{self.value:g}"
        about = ", ".join(part for part in (self.place, self.year, self.source) if part)
        return f"{self.name} {amount}{f' {self.unit}' if self.unit else ''} ({about})"


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity and the interval that holds it.

    Attributes:
        value: best value; None if only the interval is known, or nothing.
        low, high: interval; None if nothing is known.
        unit: such as ``"gCO2e"``, ``"kWh"`` or ``"EUR"``.
    """

    value: float | None
    low: float | None
    high: float | None
    unit: str

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return "unknown"
        best = "" if self.value is None else f"{self.value:.4g} {self.unit}, in "
        # Rounded outward, so that it holds what it held.
        low, high = _rounded(self.low, ROUND_FLOOR), _rounded(self.high, ROUND_CEILING)
        return f"{best}{low:g} .. {high:g} {self.unit}"

    def times(self, factor: Factor, unit: str) -> Amount:
        """Multiply by a factor; ends with ends, as neither can be negative."""
        return Amount(
            None if self.value is None or factor.value is None else self.value * factor.value,
            None if self.low is None else self.low * factor.low,
            None if self.high is None else self.high * factor.high,
            unit,
        )

    def plus(self, other: Amount) -> Amount:
        """Add an amount of the same unit.

        Raises:
            ArgumentError: the units differ, such as two currencies.
        """
        if other.unit != self.unit:
            raise ArgumentError(
                f"{self.unit} and {other.unit} cannot be added: prices must be in one currency"
            )
        pairs = ((self.value, other.value), (self.low, other.low), (self.high, other.high))
        value, low, high = (None if a is None or b is None else a + b for a, b in pairs)
        return Amount(value, low, high, self.unit)

    def divided_by(self, number: float, unit: str) -> Amount:
        """Divide by a positive number."""
        value, low, high = (
            None if part is None else part / number for part in (self.value, self.low, self.high)
        )
        return Amount(value, low, high, unit)


def _rounded(value: float, rounding: str) -> float:
    """Return a number with four significant digits."""
    return float(Context(prec=4, rounding=rounding).create_decimal(repr(float(value))))


def kilowatt_hours(joules: float | None, low: float | None, high: float | None) -> Amount:
    """Return energy in kWh: 3.6 MJ each."""
    value, least, most = (
        None if part is None else part / JOULES_PER_KILOWATT_HOUR for part in (joules, low, high)
    )
    return Amount(value, least, most, KWH)


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number that is no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_source(value: object) -> bool:
    """Tell whether a value is a text that can say who says so."""
    return isinstance(value, str) and value.strip() != ""


def checked_number(name: str, value: object, least: float, most: float, hint: str = "") -> float:
    """Return a factor's number.

    Raises:
        ArgumentError: it is no number, or not within `least` and `most`.
    """
    if is_number(value) and least <= value <= most:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    expected = f"expected a number from {least:g} to {most:g}" if most < math.inf else "expected a number"
    if most == math.inf:
        expected += f" of {least:g} or more"
    raise ArgumentError(f"{name}={value!r}: {expected}{f' ({hint})' if hint else ''}")


def checked_intensity(name: str, value: object) -> float:
    """Return grams of CO2e per kWh.

    Raises:
        ArgumentError: it is negative, more than any grid emits, or so small that it must be in kilograms.
    """
    number = checked_number(name, value, 0.0, MOST_GRAMS_PER_KWH, "grams of CO2e per kWh")
    if 0 < number < 1:
        raise ArgumentError(
            f"{name}={value!r}: expected grams of CO2e per kWh; "
            f"{number:g} looks like kilograms, which would be {1000 * number:g}"
        )
    return number
