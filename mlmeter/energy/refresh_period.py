"""How often a counter is refreshed, from the brackets in which its refreshes were seen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

# Brackets up to this share of the period place a refresh; wider ones are used only where there
# are too few others.
NARROW_RATIO = 0.1
# Brackets that fill more of the time than this say more about the reads than about the counter.
MOST_FILLED_RATIO = 0.75
FEWEST_STEPS = 3
# To tell an irregular counter, more steps are needed, without a longer pause of the reads than this;
# by less than this ratio it is taken as regular.
FEWEST_SEEN_STEPS = 8
LONGEST_UNREAD_RATIO = 0.75
IRREGULAR_RATIO = 1.03
# Of a longer silence it is not known how many refreshes went unseen. The first estimate is rough.
MOST_PERIODS = (3, 8)
# By this share of its deviation each refresh moves the grid by which the next one is counted.
GRID_SHARE = 0.3


def refresh_period(after: Sequence[float], before: Sequence[float]) -> float | None:
    """Return the mean time between refreshes, or None if the brackets do not tell it.

    It is the total time from refresh to refresh, over the number of periods in it; refreshes that
    went unseen are counted as well.

    Args:
        after, before: the refresh happened in ``(after, before]``; ascending, of one length,
            in any unit of time.

    Example:
        >>> refresh_period([0.0, 99.0, 199.0, 399.0], [1.0, 100.0, 200.0, 400.0])
        99.75
    """
    middles = [(start + end) / 2 for start, end in zip(after, before, strict=True)]
    widths = [end - start for start, end in zip(after, before, strict=True)]
    if len(middles) <= FEWEST_STEPS or sum(widths[1:]) > MOST_FILLED_RATIO * (middles[-1] - middles[0]):
        return None
    period: float | None = median(later - earlier for earlier, later in pairwise(middles))
    for most_periods in MOST_PERIODS:
        if not period or period <= 0:
            return None
        narrow = [at for at, width in zip(middles, widths, strict=True) if width <= NARROW_RATIO * period]
        period = _mean(narrow if len(narrow) > FEWEST_STEPS else middles, period, most_periods)
    return period


def _mean(instants: Sequence[float], period: float, most_periods: int) -> float | None:
    """Return the mean of the steps between instants, each counted as so many whole periods."""
    total, periods, used = 0.0, 0, 0
    # Counted from where the grid of periods was, not from the instant before, whose own error
    # would be taken for a part of the step.
    grid = instants[0]
    for earlier, later in pairwise(instants):
        count = max(1, round((later - grid) / period))
        if count > most_periods:
            grid = later
            continue
        total += later - earlier
        periods += count
        used += 1
        grid += count * period
        grid += GRID_SHARE * (later - grid)
    return total / periods if used >= FEWEST_STEPS else None


def irregular_period(
    after: Sequence[float], before: Sequence[float], unread: Sequence[float], mean: float
) -> float:
    """Return the period of which a read finds half gone on average; of a regular counter its mean.

    A read falls into a long step more often than into a short one, so that the refresh that it
    shows is older than half the mean step: half of ``sum(steps^2) / sum(steps)``. A counter that
    leaves out a tenth of its refreshes shows energy that is a fifth older than it seems.

    Args:
        after, before: as for `refresh_period`.
        unread: longest time between two reads since the refresh before each.
        mean: from `refresh_period`.
    """
    middles = [(start + end) / 2 for start, end in zip(after, before, strict=True)]
    noise = [(end - start) ** 2 / 12 for start, end in zip(after, before, strict=True)]
    seen = [k for k in range(1, len(middles)) if unread[k] <= LONGEST_UNREAD_RATIO * mean]
    if len(seen) < FEWEST_SEEN_STEPS:
        return mean
    steps = [middles[k] - middles[k - 1] for k in seen]
    squares = sum(step**2 - noise[k] - noise[k - 1] for step, k in zip(steps, seen, strict=True))
    found = squares / sum(steps)
    return found if found > IRREGULAR_RATIO * mean else mean
