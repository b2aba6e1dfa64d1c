"""The idle power of a domain, as a value that needs no NumPy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import hypot, inf
from numbers import Real


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Mean power of an idle domain and how far another idle span may be from it.

    Attributes:
        watts: mean over the baseline.
        scatter_watts: standard deviation from piece to piece of the baseline.
        systematic_watts: drift (half the difference between its first and its last half) and
            uncertainty of the readings.
        piece_seconds: length of a piece; shorter spans scatter more.

    Raises:
        ValueError: one of them is no number, negative or infinite.
    """

    watts: float
    scatter_watts: float = 0.0
    systematic_watts: float = 0.0
    piece_seconds: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < inf:
                raise ValueError(f"{field.name} is {value!r}: expected a number of 0 or more")
            # NumPy's numbers are no JSON.
            object.__setattr__(self, field.name, float(value))

    @property
    def sigma_watts(self) -> float:
        """Standard uncertainty of the power in a span of a piece's length."""
        return hypot(self.scatter_watts, self.systematic_watts)
