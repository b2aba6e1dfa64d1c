"""Figures worked out by hand: bounds, half-period correction, gauges, sharing, faults."""

from __future__ import annotations

import numpy as np
import pytest

from mlmeter.energy.counters import CounterRows
from mlmeter.energy.integrate import GaugeRows
from mlmeter.energy.knots import fast_curve
from mlmeter.energy.timeline import CounterTimeline, Gaps, timeline_of
from mlmeter.energy.windows import Windows, resolve_ownership
from mlmeter.measurement import Failure, Reading
from mlmeter.testing import fake_domain

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


@pytest.fixture
def timeline() -> CounterTimeline:
    """Four refreshes 0.1 s apart, each seen within 1 ms; power from 40 to 450 W."""
    rows = np.array([(0.099, 0.1, 10), (0.199, 0.2, 25), (0.299, 0.3, 40), (0.399, 0.4, 52)])
    return CounterTimeline(
        rows[:, 0],
        rows[:, 1],
        rows[:, 2],
        resolution_joules=0.001,
        period_seconds=0.1,
        min_power_watts=40,
        max_power_watts=450,
    )


@pytest.mark.parametrize(
    ("start", "end", "low", "high"),
    [(0.12, 0.18, 2.400, 13.441), (0.15, 0.35, 18.959, 38.041), (0.1995, 0.2005, 0.040, 0.450)],
)
def test_bounds_of_a_window(
    timeline: CounterTimeline, start: float, end: float, low: float, high: float
) -> None:
    """What four refreshes allow, computed by hand."""
    found = timeline.bounds(np.array([start]), np.array([end]))
    assert [round(float(value[0]), 3) for value in found] == [low, high]


@pytest.mark.parametrize(
    ("time", "low", "high"),
    [(0.12, 10.800, 19.451), (0.15, 12.000, 23.041), (0.1995, 24.775, 25.226), (0.2005, 25.020, 25.676)],
)
def test_bounds_of_the_curve(timeline: CounterTimeline, time: float, low: float, high: float) -> None:
    """The curve's own bounds at an instant."""
    at = np.array([time])
    lower, upper = timeline._limits(at)
    assert (round(float(lower[0]), 3), round(float(upper[0]), 3)) == (low, high)


def edge_energy(start: float, end: float) -> tuple[float, float]:
    """Corrected and plain energy of a 300 W window on 80 W, on a counter that refreshes at whole ms."""
    period = 0.001

    def energy(time: float) -> float:
        return 80 * time + 220 * float(np.clip(time - start, 0, end - start))

    reads = np.array([start - 0.1, start, end, end + 0.1])
    shown = np.array([energy(np.floor(read / period + 1e-9) * period) for read in reads])
    times, curve = fast_curve(reads - 1.2 * period, reads, shown, period)
    return float(np.interp(end, times, curve) - np.interp(start, times, curve)), float(shown[2] - shown[1])


def test_half_period_correction_of_one_window() -> None:
    """[10.4, 13.4] ms: the counter says 0.812 J, the corrected value is 0.9264 J (true: 0.900 J)."""
    corrected, plain = edge_energy(0.1104, 0.1134)
    assert (round(plain, 3), round(corrected, 4)) == (0.812, 0.9264)


def test_half_period_correction_is_right_on_average() -> None:
    """Over all phases of the refresh the plain difference is 0.790 J, the corrected value 0.900 J."""
    found = np.array(
        [edge_energy(0.11 + phase / 1e3, 0.113 + phase / 1e3) for phase in np.arange(0, 1, 1e-3)]
    )
    assert found.mean(axis=0) == pytest.approx([0.900, 0.790], abs=5e-4)


def test_located_refresh_mends_a_fall_of_power() -> None:
    """210 W, then 10 W from an edge on: the refresh just after it tells the energy at the edge to 10 mJ."""
    period, edge = 0.001, 1.0003

    def energy(time: float) -> float:
        return 210 * min(time, edge) + 10 * max(0.0, time - edge)

    def shown(read: float) -> float:
        return energy(np.floor(read / period + 1e-9) * period)

    reads = np.array([0.9, edge, 1.00105, 1.1])
    widths = np.array([0.0012, 0.0012, 0.0001, 0.0012])
    counts = np.array([shown(read) for read in reads])
    times, curve = fast_curve(reads - widths, reads, counts, period, np.array([edge]))
    assert np.interp(edge, times, curve) == pytest.approx(energy(edge), abs=0.01)
    blind_times, blind = fast_curve(reads[[0, 1, 3]] - 0.0012, reads[[0, 1, 3]], counts[[0, 1, 3]], period)
    assert abs(np.interp(edge, blind_times, blind) - energy(edge)) > 0.03


def gauge(watts: list[tuple[float, int]]) -> GaugeRows:
    """Rows of a gauge in milliwatts, polled at the given seconds."""
    domain = fake_domain(joules_per_count=None, watts_per_count=1e-3, update_period_seconds=0.1)
    rows = GaugeRows(domain)
    for seconds, power in watts:
        at_ns = round(seconds * SECOND)
        rows.add(Reading(0, power * 1000, at_ns, at_ns))
    return rows


def gauge_joules(rows: GaugeRows, end: float) -> float:
    """Energy from 0 to `end`."""
    domain = fake_domain(joules_per_count=None, watts_per_count=1e-3, update_period_seconds=0.1)
    curve = timeline_of(domain, rows.snapshot(), 0)
    assert curve is not None
    first, last = curve.energy_at(np.array([0.0, end]))
    return float(last - first)


@pytest.mark.parametrize("phase", [0.0, 0.025, 0.05, 0.099])
def test_gauge_step(phase: float) -> None:
    """50 W for 5 s, then 300 W for 5 s, polled every 0.1 s: 1737.5 to 1762.5 J (true: 1750 J)."""
    polls = np.arange(phase, 10, 0.1)
    rows = gauge([(poll, 50 if poll < 5 else 300) for poll in polls])
    assert 1737.5 - 1e-9 <= gauge_joules(rows, 10) <= 1762.5 + 1e-9


def test_gauge_that_repeats_its_value_counts_on() -> None:
    """Constant 300 W for 10 s are 3000 J: a value that does not change is still a reading."""
    assert gauge_joules(gauge([(tick / 10, 300) for tick in range(101)]), 10) == pytest.approx(3000)


def test_gauge_gap_is_no_ramp() -> None:
    """5 s without a reading contribute nothing and are told."""
    rows = gauge([(0.0, 100), (0.1, 100), (5.1, 100), (5.2, 100)])
    assert gauge_joules(rows, 5.2) == pytest.approx(20)
    assert [remark.kind for remark in rows.remarks] == ["gap"]


def test_gauge_failures_are_told_once() -> None:
    """An outage is one event, and the end without readings is a gap."""
    rows = gauge([(0.0, 100), (0.1, 100)])
    for tick in range(2, 6):
        rows.fail(Failure(0, "no power reading", lost=False, at_ns=tick * SECOND // 10))
    rows.close(5 * SECOND)
    assert [remark.kind for remark in rows.remarks] == ["gap", "gap"]
    assert rows.snapshot().gaps_ns == ((SECOND // 10, 5 * SECOND),)


def test_two_threads_share_their_time() -> None:
    """100 W, X [0, 10] and Y [4, 6] on another thread: 9 and 1 s, thus 900 and 100 J."""
    windows = Windows(
        parent=np.array([-1, 0, 0]),
        owner=np.array([0, 1, 2]),
        start=np.array([0.0, 0.0, 4.0]),
        end=np.array([10.0, 10.0, 6.0]),
        label=np.array([-1, 0, 1]),
    )
    ownership = resolve_ownership(windows)
    seconds = np.bincount(ownership.owner, weights=ownership.share_out(np.diff(ownership.edges)))
    assert seconds.tolist() == [0.0, 9.0, 1.0]
    assert ownership.concurrent.tolist() == [False, True, True]


def test_reset_is_not_a_wrap() -> None:
    """200,000 J to 5 J within 1 s is a reset: as a wrap it would be 62,148 J."""
    rows = CounterRows(fake_domain(modulus=262_143_328_911, max_power_watts=300.0))
    rows.add(Reading(0, 200_000_000_000, 0, 0))
    rows.add(Reading(0, 5_000_000, SECOND, SECOND))
    found = rows.snapshot()
    assert (found.resets, found.counts[-1], found.gaps_ns) == (1, 0, ((0, SECOND),))


def test_wrap_is_one_modulus() -> None:
    """262,143.0 J to 0.5 J is 0.828911 J: the modulus is one unit more than the largest value."""
    rows = CounterRows(fake_domain(modulus=262_143_328_911, max_power_watts=300.0))
    rows.add(Reading(0, 262_143_000_000, 0, 0))
    rows.add(Reading(0, 500_000, SECOND // 100, SECOND // 100))
    assert rows.snapshot().counts[-1] == 828_911


def test_unknown_number_of_wraps_is_a_gap() -> None:
    """A counter not read for longer than it takes to wrap says nothing of that time."""
    rows = CounterRows(fake_domain(modulus=1_000_000, max_power_watts=100.0))
    rows.add(Reading(0, 10, 0, 0))
    rows.add(Reading(0, 20, SECOND, SECOND))
    assert rows.snapshot().gaps_ns == ((0, SECOND),)
    assert rows.snapshot().counts[-1] == 0


def test_outage_is_covered_by_the_counter() -> None:
    """A counter that counted on through an outage has lost nothing."""
    rows = CounterRows(fake_domain())
    rows.add(Reading(0, 0, 0, 0))
    rows.fail(Failure(0, "EIO", lost=False, at_ns=SECOND))
    rows.fail(Failure(0, "EIO", lost=False, at_ns=2 * SECOND))
    rows.add(Reading(0, 300_000_000, 3 * SECOND, 3 * SECOND))
    found = rows.snapshot()
    assert (found.counts[-1], found.gaps_ns) == (300_000_000, ())
    assert [remark.kind for remark in rows.remarks] == ["gap", "gap"]


def test_overlapping_reads_cannot_make_a_wrap() -> None:
    """Two threads read at once; the one that stamps later may hold the older value."""
    rows = CounterRows(fake_domain(modulus=1_000_000_000))
    rows.add(Reading(0, 500, 0, 10))
    rows.add(Reading(0, 900, MILLISECOND, 2 * MILLISECOND))
    rows.add(Reading(0, 700, 10, 3 * MILLISECOND))
    assert (rows.snapshot().counts[-1], rows.resets) == (400, 0)


def test_gaps_are_added_up() -> None:
    """Cumulative gap time between two instants."""
    gaps = Gaps.of([(4.0, 6.0), (1.0, 2.0)])
    assert gaps.between(np.array([0.0, 1.5, 0.0]), np.array([3.0, 5.0, 10.0])).tolist() == [1.0, 1.5, 3.0]


def test_deep_nesting_and_many_overlaps_resolve() -> None:
    """5,000 windows inside each other, and 20,000 that all overlap, are no problem."""
    depth = 5_000
    nested = Windows(
        parent=np.arange(-1, depth - 1),
        owner=np.arange(depth),
        start=np.linspace(0, 1, depth),
        end=np.linspace(10, 9, depth),
        label=np.zeros(depth, dtype=np.int64),
    )
    ownership = resolve_ownership(nested)
    assert ownership.share_out(np.diff(ownership.edges)).sum() == pytest.approx(10)
    many = 20_000
    overlapping = Windows(
        parent=np.concatenate(([-1], np.zeros(many, dtype=np.int64))),
        owner=np.arange(many + 1),
        start=np.concatenate(([0.0], np.linspace(0, 4, many))),
        end=np.concatenate(([10.0], np.linspace(5, 10, many))),
        label=np.zeros(many + 1, dtype=np.int64),
    )
    ownership = resolve_ownership(overlapping)
    assert ownership.share_out(np.diff(ownership.edges)).sum() == pytest.approx(10)


def test_edge_read_by_the_sampler_just_after_an_edge() -> None:
    """A read that overlaps the edge, after a late refresh: the located refresh behind it decides."""
    after = np.array([-0.0812, -5.686e-3, -4.045e-3, -1.147e-3, 5.3e-5, 0.0989])
    before = np.array([-0.0800, -4.466e-3, -9.8e-5, 5.4e-5, 3.21e-4, 0.1001])
    joules = np.array([120.0, 136.0329, 136.2414, 136.8723, 137.0261, 138.0261])
    times, curve = fast_curve(after, before, joules, 0.001, np.array([0.0, 0.1]))
    # 10 W since the edge: 137.0261 J less what was used up to the middle of the bracket.
    assert float(np.interp(0.0, times, curve)) == pytest.approx(137.0243, abs=0.01)
