"""Energy counter against integrated power: when they agree, when not, and when nothing can be said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlmeter.energy.cross_check import BothEnergies, CrossCheck, disagreement
from mlmeter.measurement import Domain, Reading
from mlmeter.testing import fake_domain

SECOND = 1_000_000_000


def gpu(**fields: object) -> Domain:
    """A millijoule counter that carries milliwatts, refreshed every 0.1 s."""
    settings = {"joules_per_count": 1e-3, "power_watts_per_count": 1e-3, "update_period_seconds": 0.1}
    return fake_domain(name="gpu-0", kind="gpu", **{**settings, **fields})


def checked(
    domain: Domain,
    seconds: float,
    counter_watts: float,
    power_watts: float | Callable[[float], float | None],
    step: float = 0.1,
) -> CrossCheck:
    """Readings every `step` of a counter that counts at one power and shows another."""
    check = CrossCheck(domain)
    for number in range(round(seconds / step) + 1):
        at = number * step
        watts = power_watts(at) if callable(power_watts) else power_watts
        at_ns = round(at * SECOND)
        counts = None if watts is None else round(watts * 1e3)
        value = round(counter_watts * at * 1e3) % (domain.modulus or 2**63)
        check.add(Reading(0, value, at_ns, at_ns, counts))
    return check


def test_counter_and_power_that_agree_are_not_mentioned() -> None:
    """300 W for 20 s are 6000 J both ways."""
    check = checked(gpu(), 20, 300, 300)
    assert check.both == pytest.approx(BothEnergies(20, 6000, 6000))
    assert disagreement(gpu(), check.both) is None


def test_counter_that_shows_half_is_told_with_both_figures() -> None:
    """The case of ml-energy/zeus issue 181: 187 J by the counter, 327 J by power."""
    check = checked(gpu(), 11, 187 / 11, 327 / 11)
    assert disagreement(gpu(), check.both) == (
        "gpu-0: its energy counter shows 187 J for 11 s in which its power adds up to 327 J: "
        "one of the two is wrong by more than 15 %"
    )


@pytest.mark.parametrize(
    ("ratio", "told"), [(0.84, True), (0.86, False), (1.14, False), (1.16, True), (0.0, True)]
)
def test_fifteen_per_cent_decide(ratio: float, told: bool) -> None:
    """A counter that stands still under load disagrees too."""
    check = checked(gpu(), 20, 100 * ratio, 100)
    assert (disagreement(gpu(), check.both) is not None) is told


@pytest.mark.parametrize(("seconds", "told"), [(9.5, False), (10.5, True)])
def test_short_sessions_have_no_verdict(seconds: float, told: bool) -> None:
    """In less than 10 s, or 100 updates, what a part-time sensor misses matters."""
    assert (disagreement(gpu(), checked(gpu(), seconds, 50, 100).both) is not None) is told
    slow = gpu(update_period_seconds=1.0)
    assert disagreement(slow, checked(slow, 90, 50, 100, step=1.0).both) is None


def test_sleeping_gpu_has_no_verdict() -> None:
    """Of 0.3 W against 0.7 W nothing is left but rounding."""
    assert disagreement(gpu(), checked(gpu(), 60, 0.3, 0.7).both) is None


def test_nothing_read_has_no_verdict() -> None:
    """Readings without power compare nothing."""
    check = checked(gpu(), 60, 50, lambda at: None)
    assert check.both is None
    assert disagreement(gpu(), check.both) is None


def test_time_without_power_counts_for_neither() -> None:
    """Power failed for 10 of 30 s: 20 s are compared."""
    check = checked(gpu(), 30, 100, lambda at: None if 9.95 < at < 19.95 else 100.0)
    assert check.both == pytest.approx(BothEnergies(19.9, 1990, 1990), rel=0.002)


def test_gap_counts_for_neither() -> None:
    """Between two readings 5 s apart the power may have been anything."""
    check = CrossCheck(gpu())
    for at, value in ((0, 0), (1, 100_000), (6, 5_000_000), (7, 5_100_000)):
        check.add(Reading(0, value, at * SECOND, at * SECOND, 100_000))
    assert check.both == pytest.approx(BothEnergies(2, 200, 200))


@pytest.mark.parametrize("value", [5, 2**40])
def test_counter_that_was_set_anew_counts_for_neither(value: int) -> None:
    """Neither a fall nor a jump beyond any power is energy."""
    check = CrossCheck(gpu())
    for at, count in ((0, 1_000_000), (1, 1_100_000), (2, value), (3, value + 100_000)):
        check.add(Reading(0, count, at * SECOND, at * SECOND, 100_000))
    assert check.both == pytest.approx(BothEnergies(2, 200, 200))


def test_wrap_is_no_reset() -> None:
    """A counter of 20 bits wraps six times in a minute and agrees all the same."""
    domain = gpu(modulus=2**20)
    assert checked(domain, 60, 100, 100).both == pytest.approx(BothEnergies(60, 6000, 6000))


def test_steps_of_a_slow_counter_are_plausible() -> None:
    """Polled every 10 ms, a refresh brings the energy of 100 ms in one step."""
    check = CrossCheck(gpu(max_power_watts=300.0))
    for tick in range(2001):
        at_ns = tick * SECOND // 100
        check.add(Reading(0, tick // 10 * 30_000, at_ns, at_ns, 300_000))
    assert check.both == pytest.approx(BothEnergies(20, 6000, 6000))


def test_state_since_the_start_of_a_session() -> None:
    """Meters share the sums of a source: each subtracts what was before it."""
    assert BothEnergies(30, 3000, 2900).since(BothEnergies(10, 1000, 900)) == BothEnergies(20, 2000, 2000)
