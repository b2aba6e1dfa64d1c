"""Intervals of ratios and shares, and Student's t."""

from __future__ import annotations

import random

import pytest

from mlmeter.analysis.figure import Figure, added, unknown
from mlmeter.analysis.ratio import fieller, ratio, share_of
from mlmeter.analysis.student import student_probability, student_quantile


def figure(value: float, half: float) -> Figure:
    return Figure(value=value, low=value - half, high=value + half)


@pytest.mark.parametrize(
    ("degrees", "factor"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e6, 1.960)],
)
def test_quantiles_are_those_of_the_printed_tables(degrees: float, factor: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(factor, abs=5e-4)


def test_quantile_and_probability_are_inverse() -> None:
    for degrees in (0.7, 1, 4.5, 37, 1e4):
        for probability in (0.6, 0.8, 0.975, 0.9995):
            value = student_quantile(probability, degrees)
            assert student_probability(value, degrees) == pytest.approx(probability, abs=1e-10)
            assert student_probability(-value, degrees) == pytest.approx(1 - probability, abs=1e-10)


def test_fieller_of_a_break_even() -> None:
    """The worked figures of the design: 5.0e6 +- 5e4 J over 2.50 +- 0.05 J, and over 2.50 +- 0.5 J."""
    assert fieller(5.0e6, 5e4, 2.5, 0.05) == pytest.approx((1.915e6, 2.091e6), rel=3e-4)
    assert fieller(5.0e6, 5e4, 2.5, 0.5) == pytest.approx((1.436e6, 3.290e6), rel=3e-4)


def test_fieller_without_a_certain_divisor_is_bounded_below_only() -> None:
    """What cannot be told from 0 bounds no ratio from above."""
    low, high = fieller(5.0e6, 5e4, 2.5, 1.5)
    assert high is None
    assert 0 < low < 2e6
    assert fieller(1.0, 1.0, 2.5, 1.5) == (0.0, None)


def test_fieller_holds_the_truth_as_often_as_it_says() -> None:
    """Over 4,000 draws with a wide divisor (20 %), 95 % of the intervals hold the true ratio."""
    draw = random.Random(3)
    held = 0
    for _ in range(4_000):
        low, high = fieller(draw.gauss(100, 5), 5, draw.gauss(10, 2), 2)
        held += low <= 10 and (high is None or high >= 10)
    assert 0.94 < held / 4_000 < 0.96


def test_a_ratio_of_dependent_figures_spans_their_ends() -> None:
    found = ratio(figure(100, 10), figure(10, 2), independent=False)
    assert (found.value, found.low, found.high) == pytest.approx((10, 90 / 12, 110 / 8))
    assert ratio(figure(100, 10), figure(10, 10), independent=False).high is None


def test_a_share_is_between_0_and_1_and_falls_with_the_rest() -> None:
    share = share_of(figure(20, 2), figure(80, 8), independent=False)
    assert share.value == pytest.approx(0.2)
    assert (share.low, share.high) == pytest.approx((18 / (18 + 88), 22 / (22 + 72)))
    certain = share_of(figure(5, 0), figure(0, 0), independent=False)
    assert (certain.value, certain.low, certain.high) == (1, 1, 1)
    nothing = share_of(figure(0, 0), figure(5, 0), independent=False)
    assert (nothing.value, nothing.high) == (0, 0)


def test_what_is_not_known_stays_so() -> None:
    """An energy that could not be read makes sums and ratios not known, never smaller."""
    missing = unknown("no energy could be read")
    assert added([figure(5, 1), missing]) == missing
    assert ratio(missing, figure(5, 1), independent=True).reason == "no energy could be read"
    assert str(ratio(figure(5, 1), figure(0, 0), independent=True)).startswith("not known: ")
