"""How far a counter lags behind the power, and which part of the time it watches.

Some GPUs sample their power for a quarter of each update period, and show it later. Both are
found by the likelihood of the fit: a wrong lag or a wrong share makes the energies of intervals
contradict the windows in them. A counter that is found neither late nor part-time is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.label_power import Scatter, find_scatter, search_blocks
from mlmeter.energy.occupancy import Occupancy, occupancy
from mlmeter.energy.phase_power import (
    CommonFit,
    PhasePowerFit,
    common_means,
    label_joules,
    solve_together,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# With fewer blocks than this there is no need to look at a part of the session only.
FEW_BLOCKS = 12
# The lag and the share are the same all the time: less tells them, and many are tried.
KERNEL_BLOCKS = 4
# Where very many windows are in each block, fewer blocks tell as much.
LEAST_BLOCKS, MOST_PIECES = 3, 20_000
# Lags that are tried, in periods; then around the best one, in finer steps.
LONGEST_LAG_PERIODS = 1.5
COARSE_STEP_PERIODS, FINE_STEP_PERIODS = 0.1, 0.02
SENSED_RATIOS = (1.0, 0.5, 0.25)
# A shorter lag is power that trails the edges of windows.
SHORTEST_LAG_SECONDS = 3e-3
# So much likelier than a counter in step and watching all the time; then than a simpler one. On
# metered loads the right one gained 40 to 860, a wrong one up to 17 unless the load was in step.
DECISIVE_LOG_LIKELIHOOD, SIMPLER_LOG_LIKELIHOOD = 40.0, 10.0
# With the scatter of another one, the right one was worse by up to 43, wrong ones by up to 545.
HOPELESS_LOG_LIKELIHOOD = 60.0
FEWEST_INTERVALS = 30
MOST_NOISE_RATIO = 30.0


def excerpts(parts: Occupancy, most_blocks: int = FEW_BLOCKS) -> list[tuple[float, float]]:
    """Return stretches of the session, all of it if it is short, that stand for it.

    Each label is in one of them; together they do not grow with the session.

    Args:
        parts: the session.
        most_blocks: of a session that counts as short.
    """
    most_blocks = min(
        most_blocks, max(LEAST_BLOCKS, MOST_PIECES * parts.blocks // max(len(parts.piece_part), 1))
    )
    if parts.blocks <= most_blocks:
        return [(float(parts.segments.edges[0]), float(parts.segments.edges[-1]))]
    chosen = search_blocks(parts, most_blocks)
    breaks = np.flatnonzero(np.diff(chosen) > 1)
    first, last = np.append(chosen[:1], chosen[breaks + 1]), np.append(chosen[breaks], chosen[-1:])
    ends = np.minimum((last + 1) * parts.size, len(parts.joules))
    return list(zip(parts.instants[first * parts.size].tolist(), parts.instants[ends].tolist(), strict=True))


def changed_parts(
    parts: Occupancy, stretches: Sequence[tuple[float, float]], **changes: Any
) -> list[Occupancy]:
    """Return the same rows of stretches of a session with another lag or sensed share.

    Args:
        parts: the session.
        stretches: from `excerpts`.
        changes: fields of the counter's record.
    """
    return [
        replace(
            occupancy(replace(parts.record.about(start, end), **changes), parts.segments.about(start, end)),
            mean_watts=parts.mean_watts,
        )
        for start, end in stretches
    ]


def refitted(
    parts: Occupancy, scatter: Scatter, stretches: Sequence[tuple[float, float]], **changes: Any
) -> CommonFit:
    """Fit stretches of a session again; see `changed_parts`."""
    return solve_together(changed_parts(parts, stretches, **changes), scatter)


def session_changes(fit: PhasePowerFit, before: CommonFit, after: Sequence[CommonFit]) -> Floats:
    """Return the largest change of each label's energy in the session, in J, shape (labels,).

    Args:
        fit: the session.
        before: what stretches of it say as they are; their changes stand for the others.
        after: what they say when something is changed.
    """
    whole, part = label_joules(fit.occupancy.segments, fit.energies_joules), before.label_joules
    scale = np.divide(whole, part, out=np.ones_like(whole), where=part > 0)
    largest = np.max([np.abs(changed.label_joules - part) for changed in after], axis=0)
    return np.asarray(largest * np.maximum(scale, 1.0), dtype=np.float64)


def log_likelihood(
    parts: Occupancy, scatter: Scatter, stretches: Sequence[tuple[float, float]], **changes: Any
) -> float:
    """Return the log-likelihood of a changed record; comparable for the same stretches."""
    return common_means(changed_parts(parts, stretches, **changes), scatter).log_likelihood


def with_kernel(parts: Occupancy, scatter: Scatter) -> tuple[Occupancy, Scatter]:
    """Return the session with the lag and the sensed share that explain the counter best, and its scatter.

    Args:
        parts: the session, with a counter that neither lags nor is part-time.
        scatter: found for it.
    """
    stretches = _inner(parts)
    if len(parts.joules) < FEWEST_INTERVALS or not stretches:
        return parts, scatter
    best, plain_score = (parts, scatter), log_likelihood(parts, scatter, stretches)
    best_score = plain_score + DECISIVE_LOG_LIKELIHOOD
    steps = range(round(LONGEST_LAG_PERIODS / COARSE_STEP_PERIODS))
    coarse = [step * COARSE_STEP_PERIODS * parts.period_seconds for step in steps]
    for ratio in SENSED_RATIOS:
        score, lag = _likeliest_lag(parts, scatter, stretches, coarse, ratio)
        if (lag == 0.0 and ratio == 1.0) or score < plain_score - HOPELESS_LOG_LIKELIHOOD:
            continue
        # Scatter that was found with a wrong lag hides which lag is right.
        _, own = _moved(parts, lag, ratio)
        fine = [lag + step * FINE_STEP_PERIODS * parts.period_seconds for step in range(-5, 6)]
        score, lag = _likeliest_lag(parts, own, stretches, [near for near in fine if near >= 0.0], ratio)
        if lag < SHORTEST_LAG_SECONDS:
            score, lag = _likeliest_lag(parts, own, stretches, [0.0], ratio)
        # A load that the windows do not describe is noise whatever the lag, and tells nothing of it.
        if score > best_score and own.noise_ratio <= MOST_NOISE_RATIO:
            best, best_score = _moved(parts, lag, ratio), score + SIMPLER_LOG_LIKELIHOOD
    return best


def _likeliest_lag(
    parts: Occupancy,
    scatter: Scatter,
    stretches: Sequence[tuple[float, float]],
    lags: Sequence[float],
    sensed_ratio: float,
) -> tuple[float, float]:
    """Return the best log-likelihood of some lags in seconds, and the lag that has it."""
    return max(
        (log_likelihood(parts, scatter, stretches, lag_seconds=lag, sensed_ratio=sensed_ratio), lag)
        for lag in lags
    )


def _moved(parts: Occupancy, lag_seconds: float, sensed_ratio: float) -> tuple[Occupancy, Scatter]:
    """Return the session with another lag and sensed share, and the scatter found for it."""
    changed = replace(parts.record, lag_seconds=lag_seconds, sensed_ratio=sensed_ratio)
    moved = occupancy(changed, parts.segments)
    return moved, find_scatter(moved)


def _inner(parts: Occupancy) -> list[tuple[float, float]]:
    """Return excerpts without their beginnings, of which a late counter tells nothing."""
    late = LONGEST_LAG_PERIODS * parts.period_seconds
    return [(start + late, end) for start, end in excerpts(parts, KERNEL_BLOCKS) if end - start > 2 * late]
