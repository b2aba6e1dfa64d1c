"""Energies of windows, phases and bursts from a fit, with intervals that hold the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.group_variances import group_variances
from mlmeter.energy.membership import Membership
from mlmeter.energy.uncertainty import RESOLVED_RATIO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.phase_power import PhasePowerFit

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Two-sided 95 % points of Student's t (0.975 quantile), and those of the normal distribution.
STUDENT_DEGREES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)
STUDENT_FACTORS = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.306, 2.228, 2.131, 2.086, 2.042)
NORMAL_FACTOR = 1.960


@dataclass(frozen=True, slots=True)
class GroupEnergies:
    """Energies of groups of segments, as columns of shape (groups,)."""

    joules: Floats
    sigma_statistical_joules: Floats
    sigma_systematic_joules: Floats

    @property
    def sigma_joules(self) -> Floats:
        """Both uncertainties together."""
        return np.hypot(self.sigma_statistical_joules, self.sigma_systematic_joules)

    def interval(self, degrees: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Return the 95 % interval of each group, within hard bounds as far as the value itself is.

        Args:
            degrees: degrees of freedom, see `degrees_of_freedom`.
            low, high: hard bounds of each group's energy in joules.
        """
        half = student_factor(degrees) * self.sigma_joules
        least = np.minimum(np.clip(self.joules - half, low, high), self.joules)
        most = np.maximum(np.clip(self.joules + half, low, high), self.joules)
        return least, most

    def resolved(self, refreshed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which groups are known to 10 % or better.

        Args:
            refreshed: whether the counter changed in a group's time or one period after.
        """
        return np.asarray(refreshed & (self.sigma_joules < RESOLVED_RATIO * self.joules))


def group_energies(fit: PhasePowerFit, systematic_joules: Floats, members: Membership) -> GroupEnergies:
    """Add up energies and uncertainties of groups.

    Args:
        fit: the fitted session.
        systematic_joules: of each label as a whole, which its segments inherit in proportion to
            their energy, shape (labels,).
        members: the groups.
    """
    segments = fit.occupancy.segments
    label_joules = np.bincount(segments.label, fit.energies_joules, minlength=segments.labels)
    ratio = np.divide(systematic_joules, label_joules, out=np.zeros(segments.labels), where=label_joules > 0)
    energies = fit.energies_joules[members.segment] * members.weight
    systematic = energies * ratio[segments.label[members.segment]]
    variance = group_variances(fit, members)
    return GroupEnergies(
        joules=np.bincount(members.group, energies, minlength=members.groups).astype(np.float64),
        sigma_statistical_joules=np.sqrt(variance),
        sigma_systematic_joules=np.bincount(members.group, systematic, minlength=members.groups).astype(
            np.float64
        ),
    )


def degrees_of_freedom(label: Indices, labels: int) -> Floats:
    """Return those of each label: its segments without two for its power and scatter, at least 1."""
    return np.asarray(np.maximum(np.bincount(label, minlength=labels) - 2.0, 1.0))


def student_factor(degrees: Floats) -> Floats:
    """Return the 0.975 quantile of Student's t, from a table; it errs by less than 0.4 % from 3 degrees."""
    inverse = np.append(0.0, 1 / np.array(STUDENT_DEGREES[::-1], dtype=np.float64))
    factors = np.append(NORMAL_FACTOR, STUDENT_FACTORS[::-1])
    return np.asarray(np.interp(1 / np.maximum(degrees, 1.0), inverse, factors), dtype=np.float64)


def refreshed(instants: Floats, starts: Floats, ends: Floats, period_seconds: float) -> NDArray[np.bool_]:
    """Tell of each span whether the counter changed in it or one period after it."""
    first = np.searchsorted(instants, starts)
    return np.asarray(np.searchsorted(instants, ends + period_seconds, side="right") > first)
