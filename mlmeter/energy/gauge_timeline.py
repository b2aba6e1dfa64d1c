"""Cumulative joules over time of a domain that shows its power only, and how well they are known.

A gauge shows every *update period* the mean power of the *averaging window* before that. What
happened outside these windows it does not tell, and when an update happened neither.
All times are float64 seconds since the session started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.gaps import Gaps
from mlmeter.energy.uncertainty import UNIFORM_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Next to a step, a centred mean over w takes this share of w from one side for the other.
SMEAR_RATIO = 1 / 8
# The readings about a shorter span do not show how large the steps at its edges are.
SHORT_RESOLUTIONS = 3


class GaugeTimeline:
    """The curve of a power gauge: trapezoids over its readings.

    Its bounds take the power between two readings to lie between their values. That is no law:
    a load in step with the gauge can exceed it, which is why such energies are `derived`.

    Args:
        times: middle of each read in seconds, ascending, shape (readings,).
        watts: what was shown, shape (readings,).
        update_period_seconds: mean time between two updates of the value.
        averaging_window_seconds: time over which the gauge averages.
        max_power_watts: what the domain cannot exceed; None for the largest value shown.
        gaps: spans without readings.
    """

    method = "integrated_power"

    def __init__(
        self,
        times: Floats,
        watts: Floats,
        *,
        update_period_seconds: float,
        averaging_window_seconds: float,
        max_power_watts: float | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        self.watts = watts
        self.max_power_watts = float(watts.max(initial=0.0)) if max_power_watts is None else max_power_watts
        self._read_times = times
        self._window_seconds = averaging_window_seconds
        # A value is the mean of the time before it: it belongs to the middle of that.
        self.times = times - averaging_window_seconds / 2
        self.gaps = _earlier(gaps or Gaps.of([]), averaging_window_seconds / 2, times)
        steps = np.diff(self.times)
        # A gap is not a ramp: it contributes nothing and is told as lost coverage.
        lost = self.gaps.between(self.times[:-1], self.times[1:]) > steps / 2
        metered = np.where(lost, 0.0, steps)
        pairs = np.stack([watts[:-1], watts[1:]]) if len(watts) > 1 else np.zeros((2, 0))
        self._value, self._low, self._high = (
            _running(power * metered) for power in (pairs.mean(axis=0), pairs.min(axis=0), pairs.max(axis=0))
        )
        spacing = float(np.median(steps[~lost])) if not lost.all() else update_period_seconds
        self._update_seconds = max(update_period_seconds, spacing)
        self._squares = _running(np.where(lost, 0.0, np.diff(watts) ** 2))
        self._variance = _running(
            np.where(lost, 0.0, self._step_variances(steps, np.diff(watts), update_period_seconds))
        )

    @property
    def known(self) -> bool:
        """Whether power was read at least twice."""
        return len(self.watts) > 1

    @property
    def resolution_seconds(self) -> float:
        """The shortest span that can be told from its neighbourhood: an update, or what it averages."""
        return max(self._update_seconds, self._window_seconds)

    def energy_at(self, times: Floats) -> Floats:
        """Return cumulative joules at `times`; the end values are held beyond the readings."""
        return self._curve(self._value, times)

    def bounds(self, starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
        """Return the energy of each span with the lower, and with the higher, of neighbouring readings."""
        low = self._curve(self._low, ends) - self._curve(self._low, starts)
        high = self._curve(self._high, ends) - self._curve(self._high, starts)
        return np.maximum(low, 0.0), high + self.max_power_watts * self.gaps.between(starts, ends)

    def bounds_between(self, edges: Floats, first: Indices, last: Indices) -> tuple[Floats, Floats]:
        """Return the same of spans from edge to edge."""
        return self.bounds(edges[first], edges[last])

    def share_bounds(self, edges: Floats, weights: Floats) -> tuple[float, float]:
        """Return the least and the greatest energy of a part of the session's time."""
        low, high = self.bounds(edges[:-1], edges[1:])
        return float((low * weights).sum()), float((high * weights).sum())

    def covered_seconds(self, starts: Floats, ends: Floats) -> Floats:
        """Return the metered time in each span."""
        return np.maximum(ends - starts - self.gaps.between(starts, ends), 0.0)

    def release(self) -> None:
        """Do nothing: readings of power are few."""

    def variances(self, starts: Floats, ends: Floats) -> Floats:
        """Return the variance of each span's energy by what the gauge did not see, in J².

        Variances of spans that do not overlap add up.
        """
        upto = np.interp(ends, self.times, self._variance) - np.interp(starts, self.times, self._variance)
        return np.asarray(upto, dtype=np.float64)

    def systematic_joules(self, starts: Floats, ends: Floats) -> Floats:
        """Return the standard uncertainty of each span's energy by its edges.

        A long span has them wrong by the age of the readings, and smeared by what they average,
        both in proportion to the step of power there. Of a span too short to be told from its
        neighbourhood only the limits of the power are known.
        """
        (level_before, at_start), (level_after, at_end) = self._edges(starts), self._edges(ends)
        late = (level_after - level_before) * self._update_seconds / 2
        scattered = np.hypot(at_start, at_end) * self._update_seconds * UNIFORM_SIGMA
        delayed = np.hypot(late, scattered)
        smeared = (at_start + at_end) * self._window_seconds * SMEAR_RATIO
        seconds, spare = ends - starts, self.resolution_seconds
        joules = self.energy_at(ends + spare / 2) - self.energy_at(starts - spare / 2)
        most = np.minimum(self.max_power_watts * seconds, joules)
        least = np.maximum(joules - self.max_power_watts * spare, 0.0)
        short = np.maximum(most - least, 0.0) * UNIFORM_SIGMA
        is_short = seconds < SHORT_RESOLUTIONS * self.resolution_seconds
        return np.asarray(np.where(is_short, short, delayed + smeared), dtype=np.float64)

    def updates(self, starts: Floats, ends: Floats) -> Floats:
        """Return how many values of the gauge each span has."""
        return self.covered_seconds(starts, ends) / self._update_seconds

    def _step_variances(self, steps: Floats, changes: Floats, period_seconds: float) -> Floats:
        """Variance of the energy of each step from reading to reading, shape (readings - 1,).

        Of the time that a value stands for, the gauge averages the share f. The rest differs
        from it as much as successive values do: duration x sd x sqrt((1 - f) / n) over n values,
        with half their mean squared difference for sd². Where in the step the power changed is
        not known either.
        """
        stands_for = np.maximum(steps, period_seconds)
        unseen = 1 - np.minimum(self._window_seconds / np.maximum(stands_for, 1e-12), 1.0)
        variances = changes**2 * (stands_for**2 * unseen / 2 + (steps * UNIFORM_SIGMA) ** 2)
        return np.asarray(variances, dtype=np.float64)

    def _edges(self, times: Floats) -> tuple[Floats, Floats]:
        """Return the power at each instant, and its change while the gauge takes notice, in W."""
        notice = self._window_seconds + self._update_seconds
        before = np.maximum(np.searchsorted(self._read_times, times, side="right") - 1, 0)
        level = self.watts[before]
        # What happened last can only be judged by what was shown just before.
        times = np.minimum(times, self._read_times[-1] - notice)
        before = np.maximum(np.searchsorted(self._read_times, times, side="right") - 1, 0)
        after = np.minimum(np.searchsorted(self._read_times, times + notice), len(self.watts) - 1)
        wandered = np.sqrt(np.maximum(self._squares[after] - self._squares[before], 0.0))
        return level, np.maximum(np.abs(self.watts[after] - self.watts[before]), wandered)

    def _curve(self, values: Floats, times: Floats) -> Floats:
        inside = np.interp(times, self.times, values)
        # The clock of metered time stands still in gaps, also in those at the ends.
        metered, ends = self.gaps.metered(times), self.gaps.metered(self.times[[0, -1]])
        early = np.minimum(metered - ends[0], 0.0) * self.watts[0]
        late = np.maximum(metered - ends[1], 0.0) * self.watts[-1]
        return np.asarray(inside + early + late, dtype=np.float64)


def _running(steps: Floats) -> Floats:
    """Return the sums of the steps up to each reading, from 0."""
    return np.concatenate(([0.0], np.cumsum(steps)))


def _earlier(gaps: Gaps, seconds: float, times: Floats) -> Gaps:
    """Move gaps between readings as the readings are moved; what lies outside of them stays."""
    first, last = (times[0], times[-1]) if len(times) else (0.0, 0.0)
    return Gaps.of(
        [
            (start - seconds if start >= first else start, max(start, end - seconds if end <= last else end))
            for start, end in zip(gaps.starts.tolist(), gaps.ends.tolist(), strict=True)
        ]
    )
