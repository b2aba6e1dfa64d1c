"""The fit of labels' powers: published figures, laws, and what it says when it cannot know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlmeter.energy import group_variances as group_variances_module
from mlmeter.energy import label_power
from mlmeter.energy.banded import factorise
from mlmeter.energy.group_variances import group_variances
from mlmeter.energy.groups import (
    GroupEnergies,
    degrees_of_freedom,
    group_energies,
    refreshed,
    student_factor,
)
from mlmeter.energy.guards import SLOW_EDGE_SECONDS, lag_changes, leverage_sigmas, systematic_sigmas
from mlmeter.energy.label_power import SEARCH_BLOCKS, Design, Scatter, find_scatter, search_blocks
from mlmeter.energy.labels import gap_labels, merge_rare_labels
from mlmeter.energy.membership import Membership
from mlmeter.energy.occupancy import CounterRecord, Occupancy, Segments, occupancy
from mlmeter.energy.phase_power import PhasePowerFit, fit_phase_power, solve
from mlmeter.energy.stretches import Stretches, excerpts

Floats = NDArray[np.float64]

BRACKET_SECONDS = 0.5e-3
MIN_WATTS, MAX_WATTS = 40.0, 450.0
LABEL_WATTS = np.array([80.0, 300.0, 180.0])

small = settings(deadline=None, derandomize=True, max_examples=12)


def record_of(instants: Floats, joules: Floats, count_joules: float = 1e-3) -> CounterRecord:
    half = BRACKET_SECONDS / 2
    return CounterRecord(instants - half, instants + half, joules, count_joules, MIN_WATTS, MAX_WATTS)


def session(
    seed: int, *, seconds: float = 20.0, window_seconds: float = 0.03, period_seconds: float = 0.1
) -> tuple[CounterRecord, Segments, Floats]:
    """Gaps and windows of two labels with 10 % scatter; the rows span exactly the segments."""
    random = np.random.default_rng(seed)
    count = max(int(seconds / window_seconds), 1)
    cuts = np.sort(random.uniform(0, seconds, count - 1))
    edges = np.concatenate([[0.0], cuts, [seconds]])
    label = np.arange(count) % 2 * (1 + (random.random(count) < 0.4))
    watts = np.clip(LABEL_WATTS[label] * (1 + 0.1 * random.standard_normal(count)), MIN_WATTS, MAX_WATTS)
    joules = watts * np.diff(edges)
    inner = np.arange(period_seconds / 2, seconds - period_seconds / 4, period_seconds)
    instants = np.concatenate([[0.0], inner + random.normal(0, 1e-3, len(inner)), [seconds]])
    shown = np.interp(instants, edges, np.append(0.0, np.cumsum(joules)))
    return record_of(instants, shown), Segments(edges, label.astype(np.int64), 3), joules


def label_sums(fit: PhasePowerFit) -> tuple[Floats, Floats]:
    """Energy and statistical uncertainty of each label."""
    segments = fit.occupancy.segments
    members = Membership.of_labels(segments.label, segments.labels)
    sums = group_energies(fit, np.zeros(segments.labels), members)
    return sums.joules, sums.sigma_statistical_joules


def stretches_of(fit: PhasePowerFit) -> Stretches:
    """What a long session is judged by."""
    return Stretches.of(fit.occupancy, excerpts(fit.occupancy))


def variances(
    fit: PhasePowerFit,
    segment: NDArray[np.int64],
    group: NDArray[np.int64],
    groups: int,
    weight: Floats | None = None,
) -> Floats:
    """Statistical variance of each group of segments."""
    weight = np.ones(len(segment)) if weight is None else weight
    return group_variances(fit, Membership(segment, group, groups, weight))


def usual_scatter(parts: Occupancy) -> Scatter:
    """The same scatter for every label."""
    ratios = np.full(parts.labels, 0.15)
    return Scatter.of(ratios, 1.0, np.full(parts.labels, parts.mean_watts), parts.scale_watts)


# --- the published figures --------------------------------------------------------------------


@pytest.fixture
def example() -> PhasePowerFit:
    instants, joules = np.array([0.0, 0.1, 0.2, 0.3]), np.array([0.0, 21.0, 44.6, 63.4])
    segments = Segments(np.array([0.0, 0.04, 0.10, 0.13, 0.25, 0.30]), np.array([0, 1, 0, 1, 0]), 2)
    parts = occupancy(record_of(instants, joules), segments)
    scatter = Scatter.of(np.array([0.1, 0.15]), 1.0, np.array([80.0, 300.0]), parts.scale_watts)
    return solve(parts, scatter)


def test_powers_of_the_example(example: PhasePowerFit) -> None:
    """Mean power, noise and label powers are the figures of the method's description."""
    assert example.occupancy.mean_watts == pytest.approx(211.3333, abs=5e-5)
    assert example.scatter.noise_density == pytest.approx(0.446618, abs=5e-7)
    assert example.means.watts == pytest.approx([72.3275, 297.4126], abs=5e-5)
    assert example.means.log_likelihood == pytest.approx(-5.735426, abs=5e-7)


def test_energies_of_the_example(example: PhasePowerFit) -> None:
    """Energies and their uncertainties are the published figures, before they are scaled."""
    expected = [2.8973, 18.1030, 2.1971, 36.6699, 3.5330]
    assert example.energies_joules * example.closure_ratio == pytest.approx(expected, abs=6e-5)
    every = np.arange(5)
    sigmas = np.sqrt(variances(example, every, every, 5))
    assert sigmas == pytest.approx([0.7828, 0.7827, 0.6729, 1.2335, 0.5786], abs=5.1e-5)


def test_label_sums_of_the_example(example: PhasePowerFit) -> None:
    """Sums have uncertainties of their own: their parts are anticorrelated."""
    sums, sigmas = label_sums(example)
    assert sums * example.closure_ratio == pytest.approx([8.6275, 54.7729], abs=6e-5)
    assert sigmas == pytest.approx([1.9384, 1.9369], abs=5e-5)


# --- laws -------------------------------------------------------------------------------------


@small
@given(st.integers(0, 10_000), st.sampled_from([0.004, 0.03, 0.2, 2.0]))
def test_energies_add_up_to_the_counter(seed: int, window_seconds: float) -> None:
    """Segments that span the rows have the counter's energy, each within its limits."""
    record, segments, _ = session(seed, seconds=5.0, window_seconds=window_seconds)
    fit = fit_phase_power(record, segments)
    assert fit.energies_joules.sum() == pytest.approx(record.joules[-1], rel=1e-9)
    assert fit.closure_ratio == pytest.approx(1.0, abs=1e-3)
    assert (fit.energies_joules >= MIN_WATTS * segments.seconds * (1 - 1e-9)).all()
    assert (fit.energies_joules <= MAX_WATTS * segments.seconds * (1 + 1e-9)).all()


@small
@given(st.integers(0, 10_000), st.floats(-1e5, 1e5))
def test_a_shift_in_time_changes_nothing(seed: int, shift: float) -> None:
    """Energies depend on differences of time only."""
    record, segments, _ = session(seed, seconds=3.0)
    moved = replace(record, after=record.after + shift, before=record.before + shift)
    fit = fit_phase_power(record, segments)
    moved_fit = fit_phase_power(moved, replace(segments, edges=segments.edges + shift))
    assert moved_fit.energies_joules == pytest.approx(fit.energies_joules, rel=1e-4, abs=1e-6)


@small
@given(st.integers(0, 10_000), st.sampled_from([0.125, 0.5, 4.0, 64.0]))
def test_energies_scale_with_power(seed: int, factor: float) -> None:
    """With k times the power each energy and each uncertainty is k times as large."""
    record, segments, _ = session(seed, seconds=3.0)
    scaled = replace(
        record,
        joules=record.joules * factor,
        resolution_joules=record.resolution_joules * factor,
        min_watts=record.min_watts * factor,
        max_watts=record.max_watts * factor,
    )
    fit, larger = fit_phase_power(record, segments), fit_phase_power(scaled, segments)
    assert larger.energies_joules == pytest.approx(fit.energies_joules * factor, rel=1e-6)
    assert label_sums(larger)[1] == pytest.approx(label_sums(fit)[1] * factor, rel=1e-6)


@small
@given(st.integers(0, 10_000), st.permutations([0, 1, 2]))
def test_the_order_of_labels_is_free(seed: int, order: list[int]) -> None:
    """Numbers of labels are names: other numbers give the same energies."""
    record, segments, _ = session(seed, seconds=3.0)
    fit = fit_phase_power(record, segments)
    renamed = replace(segments, label=np.array(order)[segments.label])
    parts = occupancy(record, renamed)
    ratios = fit.scatter.ratios[np.argsort(order)]
    watts = (fit.scatter.watts / fit.scatter.ratios)[np.argsort(order)]
    again = solve(parts, Scatter.of(ratios, fit.scatter.noise_ratio, watts, parts.scale_watts))
    assert again.energies_joules == pytest.approx(fit.energies_joules, rel=1e-6)


@small
@given(st.integers(0, 10_000), st.integers(0, 99))
def test_a_segment_of_no_length_changes_nothing(seed: int, place: int) -> None:
    """A window of no length has no energy and takes none from others."""
    record, segments, _ = session(seed, seconds=3.0)
    with_empty = Segments(
        np.insert(segments.edges, place, segments.edges[place]), np.insert(segments.label, place, 2), 3
    )
    energies = fit_phase_power(record, with_empty).energies_joules
    assert energies[place] == 0.0
    assert np.delete(energies, place) == pytest.approx(fit_phase_power(record, segments).energies_joules)


@small
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_a_share_of_energy_has_that_share_of_its_uncertainty(seed: int, share: float) -> None:
    """Weights scale standard uncertainties."""
    fit = fit_phase_power(*session(seed, seconds=3.0)[:2])
    every = np.arange(len(fit.energies_joules))
    whole = variances(fit, every, every, len(every))
    part = variances(fit, every, every, len(every), np.full(len(every), share))
    assert part == pytest.approx(share**2 * whole, abs=1e-12)


def test_a_whole_session_is_known_better_than_its_windows() -> None:
    """Uncertainties of windows in one interval cancel in their sum."""
    fit = fit_phase_power(*session(1)[:2])
    every = np.arange(len(fit.energies_joules))
    whole = variances(fit, every, np.zeros(len(every), dtype=np.int64), 1)[0]
    assert whole < 0.01 * variances(fit, every, every, len(every)).sum()


# --- right values -----------------------------------------------------------------------------


@pytest.mark.parametrize("window_seconds", [0.005, 0.03, 0.3])
def test_label_sums_are_right_within_their_uncertainty(window_seconds: float) -> None:
    """Errors of label sums are about what their uncertainties say, over many sessions."""
    z = []
    for seed in range(8):
        record, segments, joules = session(seed, window_seconds=window_seconds)
        sums, sigmas = label_sums(fit_phase_power(record, segments))
        z.append((sums - np.bincount(segments.label, joules)) / sigmas)
    # This load lacks the noise within segments that the fit allows for at least.
    assert 0.3 < np.sqrt(np.mean(np.square(z))) < 1.6


@pytest.mark.parametrize("block_intervals", [50, 100, 400])
def test_the_size_of_blocks_does_not_matter(block_intervals: int) -> None:
    """Blocks of 50 to 400 intervals agree within 0.4 sigma."""
    record, segments, _ = session(3, seconds=60.0)
    usual = solve(parts := occupancy(record, segments), find_scatter(parts))
    other = solve(parts := occupancy(record, segments, block_intervals=block_intervals), find_scatter(parts))
    (sums, sigmas), (other_sums, _) = label_sums(usual), label_sums(other)
    assert (np.abs(other_sums - sums) < 0.4 * sigmas).all()


def test_twice_the_session_costs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that a fit and its variances work through grow in proportion to the session."""
    costs: list[int] = []

    def counted(band: Floats) -> Floats:
        costs.append(band.size)
        return factorise(band)

    monkeypatch.setattr(label_power, "factorise", counted)
    monkeypatch.setattr(group_variances_module, "factorise", counted)

    def cost(seconds: float) -> int:
        costs.clear()
        fit = solve(parts := occupancy(*session(5, seconds=seconds)[:2]), usual_scatter(parts))
        every = np.arange(len(fit.energies_joules))
        variances(fit, every, every, len(every))
        return sum(costs)

    assert cost(400.0) == pytest.approx(2 * cost(200.0), rel=0.05)


def test_the_search_of_scatter_does_not_grow() -> None:
    """However long a session is, its scatter is found on a few blocks, all labels among them."""
    record, segments, _ = session(5, seconds=400.0)
    label = segments.label.copy()
    label[-9:] = 3
    parts = occupancy(record, Segments(segments.edges, label, 4))
    assert parts.blocks == 40
    chosen = search_blocks(parts)
    assert len(chosen) <= SEARCH_BLOCKS + 4
    assert set(Design.of(parts, chosen).label) == {0, 1, 2, 3}


# --- what cannot be known ---------------------------------------------------------------------


def lone_rows(count: int) -> CounterRecord:
    return record_of(np.linspace(0.05, 0.15, count), np.linspace(0.0, 20.0, count))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_give_wide_intervals_and_no_nonsense(rows: int) -> None:
    """With hardly any row the energies are possible ones and their uncertainty is large."""
    segments = Segments(np.array([0.0, 0.1, 0.1, 0.3]), np.array([0, 1, 0]), 2)
    fit = fit_phase_power(lone_rows(rows), segments)
    sigmas = np.sqrt(variances(fit, np.arange(3), np.arange(3), 3))
    assert np.isfinite(fit.energies_joules).all()
    assert (fit.energies_joules >= MIN_WATTS * segments.seconds).all()
    assert sigmas[1] == 0.0
    assert (sigmas[[0, 2]] > 0.1 * fit.energies_joules[[0, 2]]).all()
    assert np.isfinite(systematic_sigmas(fit, SLOW_EDGE_SECONDS, refit=True)).all()


def test_a_session_of_no_length_has_no_energy() -> None:
    """Segments of no length only: nothing to fit, nothing to fail."""
    fit = fit_phase_power(lone_rows(2), Segments(np.full(3, 0.1), np.array([0, 1]), 2))
    assert fit.energies_joules.tolist() == [0.0, 0.0]


def test_a_counter_that_stands_still_gives_no_energy() -> None:
    """Where the counter shows nothing, the limits of the power do not invent energy."""
    segments = Segments(np.linspace(0, 3, 31), np.arange(30) % 2, 2)
    fit = fit_phase_power(record_of(np.linspace(0, 3, 31), np.zeros(31)), segments)
    assert fit.energies_joules.sum() == 0.0
    assert np.isfinite(label_sums(fit)[1]).all()


def test_a_load_in_step_with_the_counter_is_not_resolved() -> None:
    """Where every interval has the same occupancy, the share of a label is anyone's guess."""
    edges = np.linspace(0.0, 20.0, 401)
    segments = Segments(edges, np.arange(400) % 2, 2)
    instants = np.linspace(0.0, 20.0, 201)
    watts = np.array([100.0, 400.0])[segments.label]
    joules = np.interp(instants, edges, np.append(0.0, np.cumsum(watts * np.diff(edges))))
    fit = fit_phase_power(record_of(instants, joules), segments)
    systematic = systematic_sigmas(fit, SLOW_EDGE_SECONDS, refit=True)
    sums = group_energies(fit, systematic, Membership.of_labels(segments.label, 2))
    assert not sums.resolved(np.ones(2, dtype=bool)).any()
    low, high = sums.interval(np.full(2, 198.0), np.zeros(2), np.full(2, MAX_WATTS * 10.0))
    assert (low <= [1000.0, 4000.0]).all()
    assert (high >= [1000.0, 4000.0]).all()


# --- guards -----------------------------------------------------------------------------------


def test_edges_of_time_matter_less_for_long_windows() -> None:
    """A phase of long windows has a smaller share of ambiguous time."""
    ratios = []
    for window_seconds in (0.03, 0.3):
        fit = fit_phase_power(*session(2, window_seconds=window_seconds)[:2])
        sigmas = leverage_sigmas(fit, stretches_of(fit), SLOW_EDGE_SECONDS, SLOW_EDGE_SECONDS)
        ratios.append(sigmas[1] / label_sums(fit)[0][1])
    assert 0 < ratios[1] < ratios[0]


def test_a_label_without_neighbours_has_no_systematic_term() -> None:
    """With one label, errors of time move next to nothing, and that at the ends of the rows."""
    record, segments, _ = session(2)
    fit = fit_phase_power(record, replace(segments, label=np.zeros_like(segments.label), labels=1))
    assert leverage_sigmas(fit, stretches_of(fit), SLOW_EDGE_SECONDS, SLOW_EDGE_SECONDS).tolist() == [0.0]
    assert lag_changes(fit, stretches_of(fit))[0] < 1e-4 * fit.energies_joules.sum()


def test_a_wrong_lag_is_less_likely_and_is_told() -> None:
    """The likelihood prefers the true lag; a lag off by 2 ms is within the claimed uncertainty."""
    record, segments, joules = session(4, seconds=60.0)
    right = fit_phase_power(record, segments)
    late = fit_phase_power(replace(record, lag_seconds=0.05), segments)
    assert late.means.log_likelihood < right.means.log_likelihood - 50
    off = fit_phase_power(replace(record, lag_seconds=0.002), segments)
    claimed = np.hypot(systematic_sigmas(off, SLOW_EDGE_SECONDS, refit=True), label_sums(off)[1])
    truth = np.bincount(segments.label, joules)
    assert (np.abs(label_sums(off)[0] - truth) < 3 * claimed).all()


# --- labels and groups ------------------------------------------------------------------------


def test_gaps_are_labelled_by_the_window_before_them() -> None:
    """A gap after A is not one after B; the gap before all windows is a third."""
    label = np.array([0, 1, 0, 2, 0, 1, 0])
    new = gap_labels(label, label == 0)
    assert new[2] == new[6]
    assert len({new[0], new[2], new[4], new[1], new[3]}) == 5
    assert new[1] == new[5]


def test_rare_labels_join_their_phase() -> None:
    """Labels of fewer than four segments become one per phase; others stay."""
    label = np.array([0, 0, 0, 0, 1, 2, 3])
    merged = merge_rare_labels(label, np.array([0, 0, 0, 0, 0, 0, 1]))
    assert merged[4] == merged[5]
    assert len(set(merged.tolist())) == 3


def test_student_factors() -> None:
    """Factors are those of Student's t, 0.975 quantile; infinite degrees give the normal one."""
    expected = [12.706, 4.303, 3.182, 2.306, 2.042, 1.984]
    assert student_factor(np.array([1.0, 2, 3, 8, 30, 100])) == pytest.approx(expected, rel=4e-3)
    assert student_factor(np.array([0.0, 1e9])) == pytest.approx([12.706, 1.960], abs=1e-3)


def test_degrees_of_freedom() -> None:
    """Two are spent on a label's power and scatter; one always remains."""
    assert degrees_of_freedom(np.array([0, 0, 0, 0, 0, 1]), 3).tolist() == [3.0, 1.0, 1.0]


def test_spans_are_made_of_their_segments() -> None:
    """A span has the segments from its start to its end, and none if it has no length."""
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    members = Membership.of_spans(edges, np.array([0.0, 1.0, 2.0]), np.array([2.0, 3.0, 2.0]))
    assert members.segment.tolist() == [0, 1, 1, 2]
    assert members.group.tolist() == [0, 0, 1, 1]


def test_a_burst_is_known_where_its_calls_are_not() -> None:
    """The energy of a whole burst of short calls is right to a few tenths of a per cent."""
    record, segments, joules = session(6, window_seconds=0.005)
    fit = fit_phase_power(record, segments)
    hull = Membership.of_spans(segments.edges, segments.edges[[200]], segments.edges[[3000]])
    burst = group_energies(fit, np.zeros(3), hull)
    assert burst.joules[0] == pytest.approx(joules[200:3000].sum(), rel=5e-3)
    assert burst.sigma_joules[0] < 0.005 * burst.joules[0]


def test_intervals_are_cut_by_hard_bounds() -> None:
    """Bounds cut an interval from outside, but never leave the value out."""
    energies = GroupEnergies(np.array([5.0, 5.0]), np.array([1.0, 1.0]), np.zeros(2))
    low, high = energies.interval(np.full(2, 1e9), np.array([4.5, 5.5]), np.array([20.0, 6.0]))
    assert low.tolist() == [4.5, 5.0]
    assert high == pytest.approx([6.96, 6.0])


def test_resolved_needs_a_refresh_and_ten_per_cent() -> None:
    """A window without a refresh in or after it is not resolved, however sure the fit is."""
    energies = GroupEnergies(np.array([5.0, 5.0, 5.0]), np.array([0.1, 0.1, 1.0]), np.zeros(3))
    changed = refreshed(np.array([0.0, 1.0]), np.array([0.5, 1.5, 0.5]), np.array([0.6, 1.6, 0.7]), 0.5)
    assert changed.tolist() == [True, False, True]
    assert energies.resolved(changed).tolist() == [True, False, False]
