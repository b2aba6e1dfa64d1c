"""Power gauges: integrated power, its gaps, and how uncertain it says that it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlmeter.energy.attribution import Attribution
from mlmeter.energy.gaps import Gaps
from mlmeter.energy.gauge_timeline import GaugeTimeline
from mlmeter.energy.integrate import GaugeRows
from mlmeter.energy.labels import LabelledWindows
from mlmeter.energy.timeline import timeline_of
from mlmeter.energy.windows import Windows, resolve_ownership
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.testing import fake_domain

Floats = NDArray[np.float64]

SECOND = 1_000_000_000
LIMIT_WATTS = 600.0


def gauge_domain(period: float = 0.1, window: float = 0.0) -> Domain:
    return fake_domain(
        joules_per_count=None,
        watts_per_count=1e-3,
        update_period_seconds=period,
        averaging_window_seconds=window,
        max_power_watts=LIMIT_WATTS,
    )


def timeline(
    times: Floats, watts: Floats, period: float = 0.1, window: float = 0.0, gaps: Gaps | None = None
) -> GaugeTimeline:
    return GaugeTimeline(
        times,
        watts,
        update_period_seconds=period,
        averaging_window_seconds=window,
        max_power_watts=LIMIT_WATTS,
        gaps=gaps,
    )


def windows_of(spans: list[tuple[float, float]], end: float) -> Windows:
    """Windows of one label, one after the other, in a session of `end` seconds."""
    count = len(spans)
    return Windows(
        parent=np.array([-1] + [0] * count),
        owner=np.arange(count + 1),
        start=np.array([0.0, *(span[0] for span in spans)]),
        end=np.array([end, *(span[1] for span in spans)]),
        label=np.array([-1] + [0] * count),
    )


def attributed(curve: GaugeTimeline, spans: list[tuple[float, float]], end: float) -> Attribution:
    """Energies of windows in phase 1; the rest is phase 0."""
    windows = windows_of(spans, end)
    phase = np.array([0] + [1] * len(spans))
    return Attribution(gauge_domain(), curve, LabelledWindows(windows, resolve_ownership(windows), phase))


def joules(curve: GaugeTimeline, start: float, end: float) -> float:
    first, last = curve.energy_at(np.array([start, end]))
    return float(last - first)


# The curve


@pytest.mark.parametrize("window", [0.025, 0.1, 1.0])
def test_readings_belong_to_the_middle_of_what_they_average(window: float) -> None:
    """A step seen through a mean of w begins to show at once and is complete w later; its middle counts."""
    times = np.arange(0, 10, 0.01)
    watts = 50 + 250 * np.clip((times - 5) / window, 0, 1)
    curve = timeline(times, watts, period=0.01, window=window)
    assert joules(curve, 3, 7) == pytest.approx(700, abs=2.5)


def test_gap_at_the_end_is_not_filled_with_the_last_value() -> None:
    """Power is held to the edge of the session only where readings are no further apart than usual."""
    curve = timeline(np.arange(0, 2.01, 0.1), np.full(21, 100.0), gaps=Gaps.of([(2.0, 10.0)]))
    assert joules(curve, 0, 10) == pytest.approx(200)
    assert joules(timeline(np.arange(0.3, 2, 0.1), np.full(17, 100.0)), 0, 2) == pytest.approx(200)


def test_energy_of_a_gap_is_in_the_upper_end_only() -> None:
    """In 5 of 15 s anything up to the limit may have been drawn: 1000 J at least, 4000 J at most."""
    times = np.concatenate([np.arange(0, 5.01, 0.1), np.arange(10, 15.01, 0.1)])
    curve = timeline(times, np.full(len(times), 100.0), window=0.1, gaps=Gaps.of([(5.0, 10.0)]))
    total = attributed(curve, [], 15).total
    assert total.joules[0] == pytest.approx(1000)
    assert (total.low[0], total.high[0]) == (pytest.approx(1000), pytest.approx(4000))
    assert total.coverage_ratio[0] == pytest.approx(2 / 3)
    assert not total.resolved[0]


def test_time_before_the_first_reading_is_a_gap() -> None:
    """A gauge that could not be read for 20 s tells nothing of them: they are not extrapolated."""
    rows = GaugeRows(gauge_domain())
    rows.fail(Failure(0, "busy", lost=False, at_ns=1))
    for tick in range(200, 301):
        rows.add(Reading(0, 100_000, tick * SECOND // 10, tick * SECOND // 10))
    curve = timeline_of(gauge_domain(), rows.snapshot(), 0)
    assert curve is not None
    first, last = curve.energy_at(np.array([0.0, 30.0]))
    assert last - first == pytest.approx(1000)
    assert float(curve.covered_seconds(np.zeros(1), np.array([30.0]))[0]) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(("failed", "expected"), [(False, True), (True, False)])
def test_gap_of_a_starved_sampler_tells_the_remedy(failed: bool, expected: bool) -> None:
    """The advice is for a sampler that was kept from reading, not for a device that did not answer."""
    rows = GaugeRows(gauge_domain(), remedy="ask for a process")
    rows.add(Reading(0, 1, 0, 0))
    if failed:
        rows.fail(Failure(0, "busy", lost=False, at_ns=SECOND))
    rows.add(Reading(0, 1, 3 * SECOND, 3 * SECOND))
    assert ("ask for a process" in rows.remarks[-1].message) is expected


def test_gauge_is_never_measured() -> None:
    """A backend that calls its power measured is corrected: the integral is derived."""
    assert gauge_domain().provenance is Provenance.DERIVED


# Uncertainty


@pytest.mark.parametrize(("window", "unseen"), [(0.025, 0.75), (0.05, 0.5), (0.1, 0.0)])
@pytest.mark.parametrize("polls", [1, 10])
def test_part_time_gauge_has_the_sigma_of_its_sampling(window: float, unseen: float, polls: int) -> None:
    """Duration x sd x sqrt((1 - f) / n), sd² half the mean squared difference of successive updates.

    However often each update is polled; plus what is not known between two polls (a uniform
    distribution over each step), which vanishes for dense ones.
    """
    n, period = 400, 0.1
    watts = np.random.default_rng(1).normal(200, 30, n)
    times = np.arange(n * polls) * period / polls
    curve = timeline(times, np.repeat(watts, polls), period, window)
    sd_squared = np.mean(np.diff(watts) ** 2) / 2
    steps = (n - 1) * period**2 * np.mean(np.diff(watts) ** 2) / polls**2 / 12
    expected = ((n - 1) * period) ** 2 * sd_squared * unseen / (n - 1) + steps
    found = curve.variances(np.array([-1.0]), np.array([50.0]))[0]
    assert found == pytest.approx(expected, rel=1e-9)


def test_variances_of_parts_add_up() -> None:
    """Two halves are as uncertain as the whole."""
    times = np.arange(0, 20, 0.1)
    curve = timeline(times, np.random.default_rng(2).normal(200, 30, len(times)), window=0.025)
    cuts = np.array([0.0, 3.3, 7.77, 20.0])
    parts = curve.variances(cuts[:-1], cuts[1:])
    assert parts.sum() == pytest.approx(curve.variances(cuts[:1], cuts[-1:])[0])


@pytest.mark.parametrize(("period", "window"), [(0.1, 0.025), (0.1, 1.0), (0.02, 0.01)])
def test_window_shorter_than_update_or_mean_is_unresolved(period: float, window: float) -> None:
    """Also under constant power: such a gauge cannot have seen the window by itself."""
    times = np.arange(0, 20, 0.01)
    curve = timeline(times, np.full(len(times), 300.0), period, window)
    shortest = max(period, window)
    found = attributed(curve, [(5, 5 + 0.9 * shortest), (10, 10 + 4 * shortest)], 20).inclusive
    assert found.resolved.tolist() == [True, False, True]
    assert found.joules[1] == pytest.approx(270 * shortest)
    assert found.low[1] < 0.5 * found.joules[1]
    assert found.high[1] > 1.5 * found.joules[1]


def test_many_short_windows_are_not_known_in_sum_either() -> None:
    """10 ms of A and 90 ms of B in turn look constant to a 100 ms gauge: nothing tells A's part."""
    times = np.arange(0, 20, 0.1)
    curve = timeline(times, np.full(len(times), 100.0), window=0.1)
    spans = [(start + 0.02, start + 0.03) for start in np.arange(0, 19.9, 0.1)]
    found = attributed(curve, spans, 20)
    assert not found.phases.resolved[1]
    assert found.phases.high[1] > 3 * found.phases.joules[1]
    assert found.total.resolved[0]


def test_windows_that_follow_each_other_are_one_run_of_their_phase() -> None:
    """Edges inside a phase do not make it uncertain."""
    times = np.arange(0, 20, 0.1)
    curve = timeline(times, np.full(len(times), 100.0), window=0.1)
    edges = np.linspace(5, 15, 1001)
    found = attributed(curve, list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)), 20)
    assert found.phases.resolved[1]
    assert found.phases.joules[1] == pytest.approx(1000)


class Replay:
    """A random load seen through a gauge, and its windows.

    Windows of about `length` at 300 W alternate with gaps at 80 W; each segment scatters by
    10 %, and every 5 ms of it by 15 %.
    """

    def __init__(self, period: float, window: float, spacing: float, length: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        edges, watts, self.spans, now = [0.0], [], [], 0.0
        while now < 40:
            for level, seconds in (
                (80, length * (0.5 + rng.exponential(0.5))),
                (300, length * np.exp(rng.normal(0, 0.2))),
            ):
                pieces = max(1, int(seconds / 0.005))
                edges += [*np.sort(rng.uniform(now, now + seconds, pieces - 1)).tolist(), now + seconds]
                scatter = 1 + rng.normal(0, 0.15, pieces)
                watts += np.clip(level * (1 + rng.normal(0, 0.1)) * scatter, 40, 450).tolist()
                if level == 300:
                    self.spans.append((now, now + seconds))
                now += seconds
        self.end = now
        self._edges = np.array(edges)
        self._totals = np.concatenate(([0.0], np.cumsum(np.array(watts) * np.diff(edges))))
        updates = rng.uniform(0, period) + np.arange(int(now / period)) * period
        shown = (self.energy_at(updates) - self.energy_at(updates - window)) / window
        polls = np.cumsum(spacing * rng.uniform(0.9, 1.1, int(now / spacing)))
        polls = polls[(polls > updates[0]) & (polls < now)]
        values = shown[np.searchsorted(updates, polls, side="right") - 1]
        self.energies = attributed(timeline(polls, values, period, window), self.spans, now)

    def energy_at(self, times: Floats) -> Floats:
        return np.interp(times, self._edges, self._totals)

    @property
    def true_joules(self) -> Floats:
        """Of the session and each window."""
        spans = np.array([(0.0, self.end), *self.spans])
        return np.asarray(self.energy_at(spans[:, 1]) - self.energy_at(spans[:, 0]))


@pytest.mark.parametrize("length", [0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("spacing", [0.02, 0.1])
@pytest.mark.parametrize(("period", "window"), [(0.1, 0.025), (0.1, 0.1), (0.1, 1.0), (0.02, 0.01)])
def test_intervals_hold_the_truth(period: float, window: float, spacing: float, length: float) -> None:
    """Of random loads: at least 90 % of windows in each case, and every phase sum.

    An error is of the size that is claimed for it: RMS of error / sigma at most 1.3. The sigma
    is not idle either: where windows are resolved, their errors reach a third of it.
    """
    inside, phases, errors, resolved = [], [], [], []
    for seed in range(3):
        replay = Replay(period, window, spacing, length, seed)
        truth, found = replay.true_joules, replay.energies.inclusive
        assert found.sigma_statistical is not None
        assert found.sigma_systematic is not None
        sigma = np.hypot(found.sigma_statistical, found.sigma_systematic)
        # The last windows have no readings after them.
        inside.extend(((found.low <= truth) & (truth <= found.high))[1:-2])
        errors.extend(((found.joules - truth) / sigma)[1:-2])
        resolved.extend(found.resolved[1:-2])
        sums, total = replay.energies.phases, truth[1:].sum()
        phases.append(sums.low[1] <= total <= sums.high[1])
    assert np.mean(inside) >= 0.9
    assert all(phases)
    rms = float(np.sqrt(np.mean(np.square(errors))))
    assert rms <= 1.3
    if np.mean(resolved) > 0.5:
        assert rms >= 1 / 3


def test_long_windows_are_resolved_and_sharp() -> None:
    """3 s at T = 100 ms and a quarter of the time seen: known to 10 %, in truth within 3 %."""
    replay = Replay(0.1, 0.025, 0.1, 3.0, seed=5)
    found, truth = replay.energies.inclusive, replay.true_joules
    assert found.resolved[1:-2].all()
    errors = (found.joules / truth - 1)[1:-2]
    assert float(np.sqrt(np.mean(errors**2))) < 0.04


# Laws


@st.composite
def curves(draw: st.DrawFn) -> GaugeTimeline:
    """Any gauge, read at any times, with gaps where nothing was read for a second."""
    steps = draw(st.lists(st.sampled_from([0.01, 0.1, 0.3, 2.5]), min_size=1, max_size=30))
    times = draw(st.floats(-1, 1)) + np.concatenate(([0.0], np.cumsum(steps)))
    watts = draw(st.lists(st.floats(0, LIMIT_WATTS), min_size=len(times), max_size=len(times)))
    lost = [(float(a), float(b)) for a, b in pairwise(times) if b - a > 1]
    window = draw(st.sampled_from([0.0, 0.025, 0.1, 1.0]))
    return timeline(times, np.array(watts), draw(st.sampled_from([0.02, 0.1])), window, Gaps.of(lost))


spans = st.lists(st.floats(-2, 80), min_size=2, max_size=8).map(sorted)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(curve=curves(), edges=spans)
def test_energies_add_up_and_stay_within_the_power(curve: GaugeTimeline, edges: list[float]) -> None:
    """Parts sum to the whole; none is negative or more than the largest power for its metered time."""
    cuts = np.array(edges)
    parts = np.diff(curve.energy_at(cuts))
    assert parts.sum() == pytest.approx(joules(curve, edges[0], edges[-1]), abs=1e-6)
    assert (parts >= -1e-9).all()
    metered = curve.covered_seconds(cuts[:-1], cuts[1:])
    assert (parts <= curve.watts.max() * metered + 1e-6).all()
    low, high = curve.bounds(cuts[:-1], cuts[1:])
    assert (low <= parts + 1e-6).all()
    assert (parts <= high + 1e-6).all()


@settings(deadline=None, derandomize=True, max_examples=150)
@given(curve=curves(), edges=spans)
def test_intervals_are_in_order(curve: GaugeTimeline, edges: list[float]) -> None:
    """0 <= low <= value <= high; a value above the limit's energy cannot be; sigmas are numbers."""
    inner = [edge for edge in edges if 0 < edge < 60]
    chosen = list(zip(inner[::2], inner[1::2], strict=False))
    found = attributed(curve, chosen, 60.0)
    for energies in (found.exclusive, found.inclusive, found.phases, found.total):
        assert energies.sigma_statistical is not None
        assert energies.sigma_systematic is not None
        assert (energies.low >= 0).all()
        assert (energies.low <= energies.joules).all()
        assert (energies.joules <= energies.high).all()
        assert (energies.high <= LIMIT_WATTS * energies.duration_seconds + 1e-6).all()
        assert np.isfinite(np.hypot(energies.sigma_statistical, energies.sigma_systematic)).all()
    exclusive, whole = found.exclusive.joules.sum(), found.total.joules[0]
    assert exclusive == pytest.approx(whole, abs=1e-6)
    assert found.phases.joules.sum() == pytest.approx(whole, abs=1e-6)
