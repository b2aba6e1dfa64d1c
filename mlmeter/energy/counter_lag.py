"""How far a counter lags behind the power, and which part of the time it watches.

Some GPUs sample their power for a quarter of each update period, and show it later. Both are
found by the likelihood of the fit: a wrong lag or a wrong share makes the energies of intervals
contradict the windows in them. A counter that is found neither late nor part-time is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlmeter.energy.label_power import Scatter, find_scatter
from mlmeter.energy.occupancy import Occupancy, occupancy
from mlmeter.energy.stretches import UNCHANGED, Stretches, excerpts

# The lag and the share are the same all the time: less tells them, and many are tried.
KERNEL_BLOCKS = 4
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


def with_kernel(parts: Occupancy, scatter: Scatter) -> tuple[Occupancy, Scatter]:
    """Return the session with the lag and the sensed share that explain the counter best, and its scatter.

    Args:
        parts: the session, with a counter that neither lags nor is part-time.
        scatter: found for it.
    """
    spans = _inner(parts)
    if len(parts.joules) < FEWEST_INTERVALS or not spans:
        return parts, scatter
    stretches = Stretches.of(parts, spans)
    best, (plain_score,) = (parts, scatter), stretches.log_likelihoods(scatter, [UNCHANGED])
    best_score = plain_score + DECISIVE_LOG_LIKELIHOOD
    steps = range(round(LONGEST_LAG_PERIODS / COARSE_STEP_PERIODS))
    coarse = [step * COARSE_STEP_PERIODS * parts.period_seconds for step in steps]
    for ratio in SENSED_RATIOS:
        score, lag = _likeliest_lag(stretches, scatter, coarse, ratio)
        if (lag == 0.0 and ratio == 1.0) or score < plain_score - HOPELESS_LOG_LIKELIHOOD:
            continue
        # Scatter that was found with a wrong lag hides which lag is right.
        _, own = _moved(parts, lag, ratio)
        fine = [lag + step * FINE_STEP_PERIODS * parts.period_seconds for step in range(-5, 6)]
        score, lag = _likeliest_lag(stretches, own, [near for near in fine if near >= 0.0], ratio)
        if lag < SHORTEST_LAG_SECONDS:
            score, lag = _likeliest_lag(stretches, own, [0.0], ratio)
        # A load that the windows do not describe is noise whatever the lag, and tells nothing of it.
        if score > best_score and own.noise_ratio <= MOST_NOISE_RATIO:
            best, best_score = _moved(parts, lag, ratio), score + SIMPLER_LOG_LIKELIHOOD
    return best


def _likeliest_lag(
    stretches: Stretches, scatter: Scatter, lags: Sequence[float], sensed_ratio: float
) -> tuple[float, float]:
    """Return the best log-likelihood of some lags in seconds, and the lag that has it."""
    candidates = [{"lag_seconds": lag, "sensed_ratio": sensed_ratio} for lag in lags]
    return max(zip(stretches.log_likelihoods(scatter, candidates), lags, strict=True))


def _moved(parts: Occupancy, lag_seconds: float, sensed_ratio: float) -> tuple[Occupancy, Scatter]:
    """Return the session with another lag and sensed share, and the scatter found for it."""
    changed = replace(parts.record, lag_seconds=lag_seconds, sensed_ratio=sensed_ratio)
    moved = occupancy(changed, parts.segments)
    return moved, find_scatter(moved)


def _inner(parts: Occupancy) -> list[tuple[float, float]]:
    """Return excerpts without their beginnings, of which a late counter tells nothing."""
    late = LONGEST_LAG_PERIODS * parts.period_seconds
    return [(start + late, end) for start, end in excerpts(parts, KERNEL_BLOCKS) if end - start > 2 * late]
