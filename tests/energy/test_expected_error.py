"""What doctor expects of windows agrees with what the replays found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmeter.energy.expected_error import counter_error, gauge_error

seconds = st.floats(1e-4, 1e4)
periods = st.floats(1e-4, 1.0)


@pytest.mark.parametrize(
    ("window", "period", "single", "phase"),
    [
        # Rows of benchmarks/results/accuracy.txt: percent of one window, of a phase.
        (0.010, 0.1, 14.5, 2.0),
        (0.100, 0.1, 1.26, 0.15),
        (1.0, 0.1, 0.15, 0.07),
        (0.010, 0.02, 7.4, 0.62),
        (0.100, 0.02, 0.38, 0.07),
        (0.003, 0.001, 7.8, 0.62),
        (0.010, 0.001, 2.65, 0.27),
        (0.030, 0.001, 0.93, 0.19),
    ],
)
def test_agrees_with_the_replays(window: float, period: float, single: float, phase: float) -> None:
    """Within a third for the rows that are read between."""
    found = counter_error(window, period)
    assert 100 * (found.single or 0) == pytest.approx(single, rel=0.34)
    assert 100 * (found.phase or 0) == pytest.approx(phase, rel=0.6)


@given(seconds, seconds, periods)
def test_longer_windows_are_not_known_worse(one: float, other: float, period: float) -> None:
    """Errors fall with the length of the window."""
    short, long = sorted((one, other))
    first, second = counter_error(short, period), counter_error(long, period)
    assert second.single <= first.single * (1 + 1e-9)  # type: ignore[operator]
    assert second.phase <= first.phase * (1 + 1e-9)  # type: ignore[operator]


@given(seconds, periods, st.floats(1e-3, 1e3), st.floats(1e-6, 1.0))
def test_coarse_steps_never_help(window: float, period: float, watts: float, step: float) -> None:
    """A counter of whole joules is not better than one of microjoules."""
    fine = counter_error(window, period)
    coarse = counter_error(window, period, resolution_joules=step, watts=watts)
    assert coarse.single >= fine.single  # type: ignore[operator]


def test_whole_joules_at_ten_watts() -> None:
    """0.1 s of 10 W is 1 J: a counter of 1 J tells it to 41 % at best."""
    found = counter_error(0.1, 0.001, resolution_joules=1.0, watts=10.0)
    assert found.single == pytest.approx((1 / 6) ** 0.5, rel=0.01)


def test_power_of_a_span_shorter_than_the_sensor_averages_is_not_told() -> None:
    """Neither of one nor of many."""
    assert gauge_error(0.1, 0.02, averaging_seconds=1.0) == (None, None)
    told = gauge_error(10.0, 0.02, averaging_seconds=1.0)
    assert told.single == pytest.approx(0.041, abs=0.001)
