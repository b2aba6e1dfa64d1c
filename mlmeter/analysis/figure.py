"""A figure made from energies: its best value, its 95 % interval, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mlmeter.measurement import Energy, Provenance

# Two-sided 95 % point of the normal distribution.
NORMAL_FACTOR = 1.96
_FROM_BEST_TO_WORST = tuple(Provenance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that is not negative and is known within limits, such as joules per inference.

    Attributes:
        value: best value; None if there is none.
        low, high: 95 % interval; `high` is None if nothing bounds it, both are None without a value.
        resolved: False if only the interval is known well enough to be told.
        provenance: the worst of what it was made from; None if nothing could be read.
        reason: why the value or an end of the interval is not known; else an empty text.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    resolved: bool = True
    provenance: Provenance | None = None
    reason: str = ""

    @classmethod
    def of_energy(cls, energy: Energy) -> Figure:
        """Return an energy in joules as a figure."""
        if energy.energy_joules is None:
            return unknown("no energy could be read")
        return cls(
            value=energy.energy_joules,
            low=energy.low_joules,
            high=energy.high_joules,
            resolved=energy.resolved,
            provenance=energy.provenance,
            reason="" if energy.resolved else "the time is too short for the sensor",
        )

    @property
    def half_width(self) -> float:
        """The wider side of the interval; infinite if nothing bounds it."""
        if self.value is None or self.low is None or self.high is None:
            return math.inf
        return max(self.value - self.low, self.high - self.value)

    def times(self, factor: float) -> Figure:
        """Return the figure multiplied by an exact number of 0 or more."""
        value, low, high = (
            None if number is None else number * factor for number in (self.value, self.low, self.high)
        )
        return replace(self, value=value, low=low, high=high)

    def widened(self, half_width: float) -> Figure:
        """Return the figure with a further, independent uncertainty of this 95 % half width."""
        if self.value is None or self.low is None:
            return self
        low = max(0.0, self.value - math.hypot(self.value - self.low, half_width))
        high = None if self.high is None else self.value + math.hypot(self.high - self.value, half_width)
        return replace(self, low=low, high=high)

    def __str__(self) -> str:
        from mlmeter.report.text import interval, number

        if self.value is None:
            return f"not known: {self.reason}"
        limits = interval(self.low, self.high) if self.high is not None else f"at least {number(self.low, 3)}"
        worth = f" ({self.provenance})" if self.provenance else ""
        return f"{number(self.value)} in {limits}{worth}" if self.resolved else f"unresolved, {limits}{worth}"


def unknown(reason: str) -> Figure:
    """Return the figure of which nothing is known."""
    return Figure(value=None, resolved=False, reason=reason)


def added(figures: Iterable[Figure]) -> Figure:
    """Add figures.

    The ends of their intervals are added, too, which is right however their errors go together. What could
    not be read makes the sum not known.
    """
    parts = tuple(figures)
    for part in parts:
        if part.value is None:
            return part
    unbounded = any(part.high is None for part in parts)
    return Figure(
        value=sum(part.value or 0.0 for part in parts),
        low=sum(part.low or 0.0 for part in parts),
        high=None if unbounded else sum(part.high or 0.0 for part in parts),
        resolved=all(part.resolved for part in parts),
        provenance=worst(parts),
        reason=first_reason(parts),
    )


def worst(figures: Iterable[Figure]) -> Provenance | None:
    """Return the worst provenance; None if there is none."""
    found = [figure.provenance for figure in figures if figure.provenance is not None]
    return max(found, key=_FROM_BEST_TO_WORST.index, default=None)


def first_reason(figures: Iterable[Figure]) -> str:
    """Return why something is not known of the first figure that says so."""
    return next((figure.reason for figure in figures if figure.reason), "")
