"""Systematic uncertainty of fitted phases: what the fit cannot know about itself.

A load whose period is near the counter's gives every interval the same occupancies. Drift, ramps
and errors of time are then read as differences between labels, with false confidence. Two terms
tell how far: how much leverage the occupancies give to errors of time, and how much the result
changes when the counter's lag does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.occupancy import Occupancy
from mlmeter.energy.phase_power import PhasePowerFit
from mlmeter.energy.stretches import FEW_BLOCKS, Stretches, excerpts, session_changes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# By how much power may trail the edge of a window: placeholders, seen on two boards.
SLOW_EDGE_SECONDS, FAST_EDGE_SECONDS = 1e-3, 20e-6
LARGEST_EDGE_RATIO = 0.1
TRAILING_RATIO = 0.02
# A label that has less of the time beside another one says nothing about its neighbourhood.
NEIGHBOUR_RATIO = 0.05
HULL_MARGIN_INTERVALS = 2
FEWEST_INTERVALS = 8
MOST_LAGS = 20
MOST_REPEATS = 20_000
PURE_LEVERAGE, ENOUGH_PURE_INTERVALS = 0.5, 10
# The lag is shifted by this at first, and by less while the counter contradicts it.
FIRST_SHIFT_SECONDS, FIRST_SHIFT_PERIODS = 3e-3, 0.03
LEAST_SHIFT_SECONDS = 0.25e-3
CONTRADICTED_LOG_LIKELIHOOD = 4.0
# How far power is tried to trail the edges.
TRAILING_SECONDS = (0.25e-3, 0.5e-3, 0.75e-3, 1e-3)


def systematic_sigmas(fit: PhasePowerFit, edge_seconds: float, *, refit: bool) -> Floats:
    """Return the systematic standard uncertainty of each label's energy, shape (labels,).

    It is never more than what lies between the limits of the power.

    Args:
        fit: the fit to judge.
        edge_seconds: by how much power may trail the edge of a window.
        refit: whether the lag of the counter may be wrong, as it may for a GPU.
    """
    parts, record = fit.occupancy, fit.occupancy.record
    # A long session is judged by some stretches of it.
    stretches = Stretches.of(parts, excerpts(parts))
    # Seen through a part of the time, an error of time is so much longer.
    edge_seconds /= record.sensed_ratio
    # Of a lag that was found, power that trails the edges may be a part.
    told = refit and record.lag_seconds == 0.0 and record.sensed_ratio == 1.0
    trailing = min(edge_seconds, trailing_seconds(fit, stretches)) if told else edge_seconds
    variance = leverage_sigmas(fit, stretches, edge_seconds, trailing) ** 2
    if refit:
        variance += lag_changes(fit, stretches) ** 2
    seconds = np.bincount(parts.segments.label, parts.segments.seconds, minlength=parts.labels)
    widest = (parts.record.max_watts - parts.record.min_watts) * seconds
    return np.asarray(np.minimum(np.sqrt(variance), widest), dtype=np.float64)


def trailing_seconds(fit: PhasePowerFit, stretches: Stretches) -> float:
    """Return by how much power can trail the edges of windows, so far as the counter tells.

    Power that trails all edges looks like a counter that lags: a lag that the counter
    contradicts is no trailing power either.
    """
    lag = fit.occupancy.record.lag_seconds
    candidates = [{"lag_seconds": lag + trailing} for trailing in (0.0, *TRAILING_SECONDS)]
    scores = stretches.log_likelihoods(fit.scatter, candidates)
    contradicted = np.array(scores[1:]) < max(scores) - CONTRADICTED_LOG_LIKELIHOOD
    # The limit is somewhere between the last that is allowed and the next: the safe side counts.
    allowed = int(np.flatnonzero(~contradicted).max(initial=-1)) + 1
    return TRAILING_SECONDS[min(allowed, len(TRAILING_SECONDS) - 1)]


def leverage_sigmas(
    fit: PhasePowerFit, stretches: Stretches, edge_seconds: float, trailing_seconds: float
) -> Floats:
    """Return what errors of time at the edges of windows can do to each label, in J.

    Args:
        fit: the fit to judge.
        stretches: by which a long session is judged.
        edge_seconds: errors that the shape of the power can cause, in step with the load.
        trailing_seconds: those that are alike at all edges.
    """
    parts, segments = fit.occupancy, fit.occupancy.segments
    few = [parts] if parts.blocks <= FEW_BLOCKS else stretches.changed()
    intervals = _Intervals.of(few, edge_seconds)
    excerpt_label = np.concatenate([some.segments.label for some in few])
    excerpt_seconds = np.concatenate([some.segments.seconds for some in few])
    label_seconds = np.bincount(segments.label, segments.seconds, minlength=segments.labels)
    at_edges = np.minimum(trailing_seconds, TRAILING_RATIO * segments.seconds)
    trailing = np.bincount(segments.label, at_edges, minlength=segments.labels)
    sigmas = np.zeros(segments.labels)
    for label in range(segments.labels):
        mixed = (intervals.share[:, label] > 0) & (intervals.share[:, label] < 1)
        beside = intervals.seconds_of_label[mixed].sum(axis=0)
        beside[label] = 0.0
        neighbours = beside > NEIGHBOUR_RATIO * beside.sum()
        if not neighbours.any():
            continue
        around_watts = np.average(fit.means.watts[neighbours], weights=beside[neighbours])
        contrast = abs(float(fit.means.watts[label] - around_watts))
        usual_seconds = float(np.median(excerpt_seconds[excerpt_label == label]))
        shortest = min(edge_seconds, LARGEST_EDGE_RATIO * usual_seconds)
        stands_for = max(float(label_seconds[label] / intervals.seconds_of_label[:, label].sum()), 1.0)
        lever = _lever(intervals, label, neighbours, shortest, stands_for)
        sigmas[label] = contrast * np.hypot(trailing[label], lever)
    return sigmas


def lag_changes(fit: PhasePowerFit, stretches: Stretches) -> Floats:
    """Return the largest change of each label's energy under lags that the counter allows, in J.

    A long session is refitted in some stretches; the changes there stand for the others.
    """
    parts = fit.occupancy
    fitted, shifted = stretches.refitted(fit.scatter), []
    for sign in (-1.0, 1.0):
        shift = max(FIRST_SHIFT_SECONDS, FIRST_SHIFT_PERIODS * parts.period_seconds)
        while True:
            lag = parts.record.lag_seconds + sign * shift
            found = stretches.refitted(fit.scatter, {"lag_seconds": lag})
            fall = fitted.log_likelihood - found.log_likelihood
            if fall <= CONTRADICTED_LOG_LIKELIHOOD or shift <= LEAST_SHIFT_SECONDS:
                break
            shift = max(shift / 2, LEAST_SHIFT_SECONDS)
        shifted.append(found)
    return session_changes(fit, fitted, shifted)


@dataclass(frozen=True, slots=True)
class _Intervals:
    """What is in each interval of the counter.

    `share` and `seconds_of_label` have the shape (intervals, labels); `pure` tells of each
    interval whether it lies within one segment with time to spare.
    """

    share: Floats
    seconds_of_label: Floats
    pure: NDArray[np.bool_]
    period_seconds: float

    @classmethod
    def of(cls, excerpt: Sequence[Occupancy], edge_seconds: float) -> _Intervals:
        seconds = np.concatenate([parts.occupied_seconds() for parts in excerpt])
        pure = np.concatenate([_pure(parts, 2 * edge_seconds) for parts in excerpt])
        # An interval of one label is full, whatever the rounding of its pieces says.
        share = np.where(
            np.count_nonzero(seconds, axis=1, keepdims=True) == 1,
            (seconds > 0).astype(np.float64),
            seconds / np.maximum(seconds.sum(axis=1, keepdims=True), np.finfo(float).tiny),
        )
        return cls(share, seconds, pure, float(np.mean([parts.period_seconds for parts in excerpt])))


def _pure(parts: Occupancy, spare_seconds: float) -> NDArray[np.bool_]:
    """Tell which intervals lie within one segment with time to spare on both sides."""
    first = np.searchsorted(parts.segments.edges, parts.instants[:-1] - spare_seconds)
    return np.asarray(first == np.searchsorted(parts.segments.edges, parts.instants[1:] + spare_seconds))


def _lever(
    intervals: _Intervals,
    label: int,
    neighbours: NDArray[np.bool_],
    edge_seconds: float,
    stands_for: float,
) -> float:
    """Return the seconds of one label that errors of time may take for another's.

    Args:
        intervals: all or some of the session.
        label, neighbours: what may be taken for what.
        edge_seconds: the errors of time.
        stands_for: how much more of the label the session has.
    """
    share = intervals.share[:, label]
    seconds = intervals.seconds_of_label.sum(axis=1)
    ambiguous_seconds = float((np.minimum(share, 1 - share) * seconds).sum())
    allowed = neighbours.copy()
    allowed[label] = True
    occupied = np.flatnonzero(share > 0)
    hull = np.zeros(len(share), dtype=np.bool_)
    hull[max(occupied[0] - HULL_MARGIN_INTERVALS, 0) : occupied[-1] + HULL_MARGIN_INTERVALS + 1] = True
    hull &= intervals.seconds_of_label[:, ~allowed].sum(axis=1) == 0
    inside, count = share[hull], int(hull.sum())
    spread = float(inside.std()) if count else 0.0
    edge_ratio = edge_seconds / intervals.period_seconds
    effective = 1.0
    if spread >= 2 * edge_ratio and count >= FEWEST_INTERVALS:
        repeat = _strongest_repeat(inside)
        effective = max(1.0, stands_for * count * (1 - repeat) / (1 + repeat))
    pure = min(1.0, int((hull & intervals.pure).sum()) / ENOUGH_PURE_INTERVALS)
    leverage = max(spread, PURE_LEVERAGE * pure) * np.sqrt(effective)
    # Without any leverage nothing is known; the limits of the power then cut the uncertainty.
    return float(stands_for * ambiguous_seconds * edge_ratio / max(leverage, np.finfo(float).eps))


def _strongest_repeat(shares: Floats) -> float:
    """Return the largest absolute autocorrelation: near 1 for a beat, small for chance."""
    # A beat shows in a part of a long session, too.
    middle = max(0, (len(shares) - MOST_REPEATS) // 2)
    shares = shares[middle : middle + MOST_REPEATS]
    deviations = shares - shares.mean()
    total = float(deviations @ deviations)
    lags = range(1, min(MOST_LAGS, len(shares) // 4) + 1)
    products = [abs(float(deviations[lag:] @ deviations[:-lag])) for lag in lags]
    return min(max(products) / total, 1.0)
