"""Numbers of the page: in units that people read, with intervals and a word on their worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlmeter.report.text import interval as interval_text
from mlmeter.report.text import number, percent

SECONDS_PER_HOUR = 3600.0
# From here on minutes are read more easily.
MANY_SECONDS = 120.0
PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9))
ABSENT = "–"
UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True)
class Scale:
    """A unit with a prefix, so that numbers have one to four digits before the point."""

    unit: str
    factor: float

    @classmethod
    def of(cls, largest: float | None, unit: str) -> Scale:
        """Return the scale for values up to `largest`; without a prefix if there is none."""
        size = abs(largest) if known(largest) and largest is not None else 1.0
        if not size > 0 or size == float("inf"):
            return cls(unit, 1.0)
        prefix, factor = next(((p, f) for p, f in PREFIXES if size >= f), PREFIXES[-1])
        return cls(prefix + unit, factor)

    def number(self, value: float | None) -> str:
        """Return the value without its unit."""
        return number(value / self.factor) if known(value) and value is not None else ABSENT

    def interval(self, low: float | None, high: float | None) -> str:
        """Return ``low to high`` without unit, rounded outward; an empty text if there is none."""
        if not (known(low) and known(high)) or low is None or high is None:
            return ""
        return interval_text(low / self.factor, high / self.factor).replace(" .. ", " to ")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of the page.

    Attributes:
        value: in words, without unit.
        interval: ``low to high`` in the same unit; empty if there is none.
        unit: of both.
        provenance: ``measured``, ``derived``, ``estimated``, or empty.
    """

    value: str
    interval: str
    unit: str
    provenance: str = ""


def known(value: float | None) -> bool:
    """Whether there is a number: neither None nor NaN."""
    return value is not None and value == value


def largest(values: Iterable[float | None]) -> float | None:
    """Return the largest size of the numbers among `values`, None if there is none."""
    return max((abs(value) for value in values if known(value) and value is not None), default=None)


def energy(record: Mapping[str, Any], scale: Scale | None = None, divisor: float = 1.0) -> Quantity:
    """Return the energy of a row of a table.

    Args:
        record: with the columns of energies.
        scale: the unit; None for the best one of this value.
        divisor: a count of work, for energy per unit.
    """
    value, low, high = (record[name] / divisor for name in ("energy_joules", "low_joules", "high_joules"))
    provenance = record["provenance"] or ""
    scale = scale or Scale.of(value if record["resolved"] else high, "J")
    if not provenance:
        # Nothing was read: what the sum's unread parts may have used is no value.
        return Quantity(ABSENT, "", scale.unit)
    text = scale.number(value) if record["resolved"] else UNRESOLVED
    return Quantity(text, scale.interval(low, high), scale.unit, provenance)


def power(record: Mapping[str, Any], seconds: float, scale: Scale | None = None) -> Quantity:
    """Return the mean power of a row of a table over its `seconds`."""
    if not seconds > 0:
        return Quantity(ABSENT, "", "W")
    watts = [record[name] / seconds for name in ("energy_joules", "low_joules", "high_joules")]
    scale = scale or Scale.of(watts[0] if record["resolved"] else watts[2], "W")
    if not (record["provenance"] and record["resolved"]):
        return Quantity(ABSENT, "", scale.unit)
    return Quantity(scale.number(watts[0]), scale.interval(*watts[1:]), scale.unit, record["provenance"])


def share(ratio: float | None) -> str:
    """Return a share in percent."""
    return percent(ratio) if known(ratio) else ABSENT


def watt_hours(record: Mapping[str, Any]) -> str:
    """Return an energy in watt hours, the unit of bills; empty if there is none."""
    value = record["energy_joules"]
    if not (record["provenance"] and record["resolved"] and known(value)):
        return ""
    scale = Scale.of(value / SECONDS_PER_HOUR, "Wh")
    return f"{scale.number(value / SECONDS_PER_HOUR)} {scale.unit}"


def about(seconds: float) -> str:
    """Return a length of time that is known roughly."""
    scale = Scale.of(seconds, "s")
    return f"{seconds / scale.factor:.3g} {scale.unit}"


def duration(seconds: float) -> str:
    """Return a length of time in the units that people use for it."""
    if seconds < MANY_SECONDS:
        scale = Scale.of(seconds, "s") if seconds < 1 else Scale("s", 1.0)
        return f"{scale.number(seconds)} {scale.unit}"
    whole = round(seconds)
    if whole < SECONDS_PER_HOUR:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
