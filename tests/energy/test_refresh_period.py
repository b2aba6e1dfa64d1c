"""The period finder: how often a counter is refreshed, from brackets of its refreshes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.energy.refresh_period import irregular_period, refresh_period


def brackets(refreshes: np.ndarray, polls: np.ndarray) -> tuple[list[float], list[float]]:
    """Return the brackets in which polls see a counter change."""
    shown = np.searchsorted(refreshes, polls, side="right")
    rows = np.flatnonzero(np.diff(shown))
    return polls[rows].tolist(), polls[rows + 1].tolist()


def refreshes_of(period: float, jitter: float, seed: int, count: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, period) + np.arange(count) * period + rng.normal(0, jitter, count))


@pytest.mark.parametrize("period", [20.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_period_is_found_to_one_percent(period: float, seed: int) -> None:
    """Polls every twentieth of a period and jitter of a hundredth."""
    polls = np.arange(0, 60 * period, period / 20)
    after, before = brackets(refreshes_of(period, period / 100, seed), polls)
    assert refresh_period(after, before) == pytest.approx(period, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_refreshes_that_went_unseen_are_counted(seed: int) -> None:
    """A quarter of the updates is missing: the period is not a third longer."""
    refreshes = refreshes_of(100.0, 1.0, seed)
    kept = refreshes[np.random.default_rng(seed).random(len(refreshes)) > 0.25]
    after, before = brackets(kept, np.arange(0, 6000, 5.0))
    assert refresh_period(after, before) == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_wide_brackets_have_to_do_where_there_are_no_others(seed: int) -> None:
    """A power sensor of 19.9 ms polled every 8 to 14 ms: no bracket is narrow, none is biased."""
    rng = np.random.default_rng(seed)
    polls = np.cumsum(rng.choice([7.0, 8.0, 8.0, 11.0, 14.0], 2000))
    after, before = brackets(refreshes_of(19.9, 1.0, seed, 900), polls)
    assert refresh_period(after, before) == pytest.approx(19.9, rel=0.01)


def test_long_silence_is_left_out() -> None:
    """How many refreshes were in it is not known."""
    after, before = brackets(refreshes_of(100.0, 1.0, 0), np.arange(0, 6000, 5.0))
    later = [time + 987_654.0 for time in after], [time + 987_654.0 for time in before]
    assert refresh_period(after + later[0], before + later[1]) == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize("polls", [np.arange(0.0, 500.0, 5.0), np.arange(0.0, 500.0, 0.9)])
def test_counter_that_changes_at_every_poll_tells_nothing(polls: np.ndarray) -> None:
    """Then the polls are slower than the counter, and their interval is no period."""
    assert refresh_period(*brackets(np.arange(0.05, 500, 1.0), polls)) is None


@pytest.mark.parametrize("changes", range(4))
def test_few_changes_tell_nothing(changes: int) -> None:
    """Two steps have no median."""
    after = [100.0 * k for k in range(changes)]
    assert refresh_period(after, [time + 1 for time in after]) is None


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), max_size=30))
def test_any_brackets_give_a_positive_period_or_none(steps: list[tuple[float, float]]) -> None:
    """Whatever was read, nothing is raised and no period is 0 or negative."""
    now, after, before = 0.0, [], []
    for pause, width in steps:
        after.append(now + pause)
        now += pause + width
        before.append(now)
    period = refresh_period(after, before)
    assert period is None or period > 0


def test_irregular_steps_are_older_than_half_their_mean() -> None:
    """Steps of 1 and 3 in turn: a read finds (1 + 9) / (1 + 3) = 2.5 half gone, not 2."""
    times = [float(at) for pair in range(10) for at in (4 * pair, 4 * pair + 1)]
    found = irregular_period(times, times, [0.1] * len(times), 2.0)
    # The last step is a short one, so the mean of so few is a little less.
    assert found == pytest.approx(2.5, rel=0.03)


def test_steps_that_reads_may_have_missed_tell_nothing() -> None:
    """A thread without a processor sees long steps of a regular counter: its mean stays."""
    times = [float(at) for pair in range(10) for at in (4 * pair, 4 * pair + 1)]
    assert irregular_period(times, times, [3.0] * len(times), 2.0) == 2.0
