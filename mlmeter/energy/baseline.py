"""Idle power of a domain, and what a span used above it.

dynamic = energy - idle power x seconds. The idle power of another hour is not that of the baseline:
its scatter from piece to piece and its drift are part of the uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.idle_power import IdlePower
from mlmeter.energy.uncertainty import UNIFORM_SIGMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Joules = NDArray[np.float64]
    Seconds = NDArray[np.float64]

# Standard uncertainties of idle power on either side of an interval: 95 %.
IDLE_SIGMAS = 2.0
FEWEST_PIECES = 4


def idle_sigma_joules(idle: IdlePower, seconds: Seconds) -> Joules:
    """Return the standard uncertainty of the idle energy of spans of these lengths.

    Scatter counts in full for long spans, too: idle power wanders over hours, and a baseline
    of a minute cannot tell how far. In shorter spans than a piece it is larger, as that of noise.
    """
    spans = np.maximum(seconds, 0.0)
    scatter = idle.scatter_watts * np.sqrt(spans * np.maximum(spans, idle.piece_seconds))
    return np.asarray(np.hypot(scatter, idle.systematic_watts * spans))


@dataclass(frozen=True, slots=True)
class DynamicEnergies:
    """Energies above idle as columns of shape (spans,); NaN where one is not known.

    Attributes:
        idle: what the domain would have used in the metered time.
        idle_sigma: its standard uncertainty.
        joules, low, high: best value and the interval that holds the truth; may be negative.
        sigma: standard uncertainty.
    """

    idle: Joules
    idle_sigma: Joules
    joules: Joules
    low: Joules
    high: Joules
    sigma: Joules

    @property
    def above_idle(self) -> NDArray[np.bool_]:
        """Whether the whole interval lies above 0; what is not known does not."""
        return np.asarray(self.low > 0)


def idle_power(
    joules: Sequence[float] | Joules, piece_seconds: float, *, interval_joules: float = 0.0
) -> IdlePower:
    """Return the idle power of a baseline that was cut into pieces of equal length.

    Args:
        joules: cumulative energy at the ends of the pieces, shape (pieces + 1,).
        piece_seconds: length of each.
        interval_joules: width of the bounds of the whole.

    Raises:
        ValueError: there are less than four pieces, or they have no length.

    Example:
        >>> idle_power([0, 10, 20, 30, 40], 1.0).watts
        10.0
    """
    watts = np.diff(np.asarray(joules, dtype=np.float64)) / piece_seconds
    if len(watts) < FEWEST_PIECES or not piece_seconds > 0:
        raise ValueError(f"a baseline needs {FEWEST_PIECES} pieces of some length")
    half = len(watts) // 2
    drift = abs(float(watts[:half].mean() - watts[-half:].mean())) / 2
    reading = interval_joules * UNIFORM_SIGMA / (len(watts) * piece_seconds)
    return IdlePower(
        watts=float(watts.mean()),
        scatter_watts=float(watts.std(ddof=1)),
        systematic_watts=float(np.hypot(drift, reading)),
        piece_seconds=piece_seconds,
    )


def above_idle(
    energy: tuple[Joules, Joules, Joules], sigma: Joules, seconds: tuple[Seconds, Seconds], idle: IdlePower
) -> DynamicEnergies:
    """Take the idle energy off the energies of spans.

    The ends of both intervals are added, so that the result holds the truth wherever both do.
    In time that was not metered there is no energy in the value, and no idle energy is taken off.

    Args:
        energy: value, low and high, each of shape (spans,).
        sigma: their standard uncertainty.
        seconds: metered and whole length of the spans.
        idle: of the domain.
    """
    (value, low, high), (metered, whole) = energy, seconds
    idle_joules = idle.watts * metered
    idle_sigma = idle_sigma_joules(idle, whole)
    margin = IDLE_SIGMAS * idle_sigma
    return DynamicEnergies(
        idle=np.where(np.isnan(value), np.nan, idle_joules),
        idle_sigma=idle_sigma,
        joules=value - idle_joules,
        # Least of all if the time that was not metered was idle.
        low=low - idle_joules - margin,
        high=high - idle_joules + margin,
        sigma=np.hypot(sigma, idle_sigma),
    )


def sum_above_idle(
    parts: Sequence[DynamicEnergies], energy: tuple[Joules, Joules, Joules], sigma: Joules
) -> DynamicEnergies:
    """Return the sum of domains beside the total of their energies.

    Idle powers of one machine drift together (temperature, background work): what is uncertain
    of them is added, not squared.

    Args:
        parts: of all domains of the total.
        energy: value, low and high of the total, which know what is not in the parts.
        sigma: standard uncertainty of that.
    """
    value, low, high = energy
    idle = np.sum([part.idle for part in parts], axis=0)
    idle_sigma = np.sum([part.idle_sigma for part in parts], axis=0)
    return DynamicEnergies(
        idle=idle,
        idle_sigma=idle_sigma,
        joules=value - idle,
        low=low - idle - IDLE_SIGMAS * idle_sigma,
        high=high - idle + IDLE_SIGMAS * idle_sigma,
        sigma=np.hypot(sigma, idle_sigma),
    )
