"""Whether a counter's lag changes during a session, and what that does to the energies of labels.

One lag is fitted to a whole session. Where the lag changes on the way, as after a driver has gone
into another mode, no single one is right: the windows of some part of the session get the energy
of their neighbours, and nothing else of the fit says so. Each stretch of the session is therefore
asked for its own lag; where they contradict each other, the session is fitted again with those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.counter_lag import (
    COARSE_STEP_PERIODS,
    FEWEST_INTERVALS,
    FINE_STEP_PERIODS,
    SHORTEST_LAG_SECONDS,
)
from mlmeter.energy.phase_power import PhasePowerFit, solve_together
from mlmeter.energy.stretches import Stretches, excerpts, session_changes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.occupancy import Occupancy

    Floats = NDArray[np.float64]

MOST_STRETCHES = 6
# So much likelier than that of the session must be the lag of a stretch.
CONTRARY_LOG_LIKELIHOOD = 10.0
# Of a long stretch so many intervals tell its lag.
SEARCHED_INTERVALS = 100
LONGEST_LAG_PERIODS = 2.0
# A fast counter that lags by many periods: lags are tried in parts of a usual segment.
LONGEST_FAST_LAG_SECONDS = 0.04
FAST_STEP_SEGMENTS, SHORTEST_FAST_STEP_SECONDS = 0.5, 0.5e-3
# A fast counter is suspected only where the fit finds more scatter than usual.
SUSPECT_NOISE_RATIO, SUSPECT_SCATTER_RATIO = 5.0, 0.45


@dataclass(frozen=True, slots=True)
class WanderingLag:
    """What lags of their own do to a fitted session.

    Attributes:
        shortest_seconds, longest_seconds: of the lags that stretches of the session have.
        changes_joules: by how much each label's energy differs if each stretch has its own lag,
            shape (labels,); 0 where one lag is right for all.
    """

    shortest_seconds: float
    longest_seconds: float
    changes_joules: Floats

    @property
    def wanders(self) -> bool:
        """Whether one lag is not right for the whole session."""
        return self.longest_seconds > self.shortest_seconds


def wandering_lag(fit: PhasePowerFit, *, fast: bool) -> WanderingLag:
    """Find the lags of stretches of a session and what they change.

    Args:
        fit: the session with one lag.
        fast: whether the counter is read at the edges of windows, and late in unlikely cases only.
    """
    parts, fitted = fit.occupancy, fit.occupancy.record.lag_seconds
    steady = WanderingLag(fitted, fitted, np.zeros(parts.labels))
    lags = _tried_lags(fit, fast=fast)
    stretches = _stretches(parts)
    if not len(lags) or len(stretches) < 2:
        return steady
    own = [_own_lag(fit, stretch, lags) for stretch in stretches]
    if all(lag == fitted for lag in own):
        return steady
    changes = _changes(fit, stretches, own)
    return WanderingLag(min(*own, fitted), max(*own, fitted), changes)


def _tried_lags(fit: PhasePowerFit, *, fast: bool) -> Floats:
    """Return the lags to try, in seconds; none where there is no reason to doubt the fitted one."""
    parts = fit.occupancy
    if not fast:
        steps = np.arange(round(LONGEST_LAG_PERIODS / COARSE_STEP_PERIODS) + 1)
        return np.asarray(steps * COARSE_STEP_PERIODS * parts.period_seconds)
    scattered = float(np.max(fit.scatter.ratios)) >= SUSPECT_SCATTER_RATIO
    if not scattered or fit.scatter.noise_ratio < SUSPECT_NOISE_RATIO:
        return np.zeros(0)
    usual = float(np.median(parts.segments.seconds))
    step = max(FAST_STEP_SEGMENTS * usual, SHORTEST_FAST_STEP_SECONDS)
    return np.arange(0.0, LONGEST_FAST_LAG_SECONDS + step, step)


def _stretches(parts: Occupancy) -> list[tuple[float, float]]:
    """Return parts of the session, or of its excerpts, each long enough to have a lag."""
    found = []
    for start, end in excerpts(parts):
        inside = int(np.searchsorted(parts.instants, end) - np.searchsorted(parts.instants, start))
        count = min(MOST_STRETCHES, inside // FEWEST_INTERVALS)
        cuts = np.linspace(start, end, count + 1).tolist() if count else []
        found += list(pairwise(cuts))
    # A long session is asked in a few places, evenly spread.
    chosen = np.linspace(0, len(found) - 1, min(MOST_STRETCHES, len(found))).round().astype(int)
    return [found[k] for k in chosen]


def _own_lag(fit: PhasePowerFit, stretch: tuple[float, float], lags: Floats) -> float:
    """Return the lag of one stretch; that of the session unless another one is decisively likelier."""
    parts, fitted = fit.occupancy, fit.occupancy.record.lag_seconds
    first, last = np.searchsorted(parts.instants, stretch)
    rows = slice(int(first), int(min(last, first + SEARCHED_INTERVALS)) + 1)
    record = parts.record
    chosen = replace(record, after=record.after[rows], before=record.before[rows], joules=record.joules[rows])
    # The same rows for all lags, and all the windows that they can be about.
    ends = chosen.after[0] - 2 * float(lags[-1]), chosen.before[-1] + float(lags[-1])
    cut = Stretches(parts, ((chosen, parts.segments.about(*ends)),))

    def likeliest(tried: list[float]) -> tuple[float, float]:
        scores = cut.log_likelihoods(fit.scatter, [{"lag_seconds": lag} for lag in tried])
        return max(zip(scores, tried, strict=True))

    decisive = likeliest([fitted])[0] + CONTRARY_LOG_LIKELIHOOD
    found, coarse = likeliest(lags.tolist())
    if found < decisive:
        return fitted
    step = float(lags[1] - lags[0])
    fine_steps = round(COARSE_STEP_PERIODS / FINE_STEP_PERIODS)
    fine = [coarse + step * k / fine_steps for k in range(1 - fine_steps, fine_steps)]
    found, lag = likeliest([lag for lag in fine if lag >= 0.0])
    shortest = min(SHORTEST_LAG_SECONDS, parts.period_seconds)
    return fitted if found < decisive or abs(lag - fitted) < shortest else lag


def _changes(fit: PhasePowerFit, stretches: Sequence[tuple[float, float]], own: Sequence[float]) -> Floats:
    """Return by how much labels have other energies if each stretch has its own lag, in J."""
    cut = [Stretches.of(fit.occupancy, [stretch]) for stretch in stretches]
    as_fitted = [part for one in cut for part in one.changed()]
    changed = [part for one, lag in zip(cut, own, strict=True) for part in one.changed({"lag_seconds": lag})]
    before, after = (solve_together(pieces, fit.scatter) for pieces in (as_fitted, changed))
    return session_changes(fit, before, [after])
