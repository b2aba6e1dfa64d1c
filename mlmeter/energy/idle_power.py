"""The idle power of a domain, as a value that needs no NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Mean power of an idle domain and how far another idle span may be from it.

    Attributes:
        watts: mean over the baseline.
        scatter_watts: standard deviation from piece to piece of the baseline.
        systematic_watts: drift (half the difference between its first and its last half) and
            uncertainty of the readings.
        piece_seconds: length of a piece; shorter spans scatter more.
    """

    watts: float
    scatter_watts: float = 0.0
    systematic_watts: float = 0.0
    piece_seconds: float = 1.0

    @property
    def sigma_watts(self) -> float:
        """Standard uncertainty of the power in a span of a piece's length."""
        return hypot(self.scatter_watts, self.systematic_watts)
