"""Fit a replay and compare it with the truth, beside two simpler methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scenarios import GAP, LABEL_WATTS, MAX_WATTS, MIN_WATTS, A, B, Floats, Indices, Replay, Scenario

from mlmeter.energy.groups import GroupEnergies, degrees_of_freedom, group_energies, refreshed
from mlmeter.energy.guards import FAST_EDGE_SECONDS, SLOW_EDGE_SECONDS, systematic_sigmas
from mlmeter.energy.labels import gap_labels, merge_rare_labels
from mlmeter.energy.membership import Membership
from mlmeter.energy.occupancy import CounterRecord, Segments
from mlmeter.energy.phase_power import PhasePowerFit, fit_phase_power
from mlmeter.energy.timeline import CounterTimeline

PHASES = (A, B)
# Windows near the ends of a run do not count.
MARGIN_PERIODS = 3
ROUNDING_JOULES = 1e-9


@dataclass(frozen=True)
class Resolved:
    """A fitted replay: its windows that count, then its phases, as groups."""

    fit: PhasePowerFit
    windows: Indices
    phase: Indices
    energies: GroupEnergies
    degrees: Floats


@dataclass(frozen=True)
class Errors:
    """What one replay says; errors are relative, shape (windows,) or (phases,)."""

    naive: Floats
    interpolated: Floats
    window: Floats
    sums: Floats
    naive_sum: float
    interpolated_sum: float
    statistical: Floats
    systematic: Floats
    inside: Floats
    bounded: bool
    resolved: NDArray[np.bool_]
    closure: float


def resolve(
    replay: Replay, scenario: Scenario, *, one_gap_label: bool = False, margin_periods: float = MARGIN_PERIODS
) -> Resolved:
    """Fit a replay as the meter does."""
    label = replay.label if one_gap_label else gap_labels(replay.label, replay.label == GAP)
    label = merge_rare_labels(label, replay.label)
    period = scenario.period_seconds
    # The best single bracket of a read that shows a refresh of unknown age is one period long.
    after = np.maximum(replay.after, replay.before - period) if scenario.fast else replay.after
    record = CounterRecord(
        after, replay.before, replay.row_joules, scenario.count_joules, MIN_WATTS, MAX_WATTS
    )
    segments = Segments(replay.edges, label, int(label.max()) + 1)
    fit = fit_phase_power(record, segments)
    edge_seconds = FAST_EDGE_SECONDS if scenario.fast else SLOW_EDGE_SECONDS
    systematic = systematic_sigmas(fit, edge_seconds, refit=not scenario.fast)
    starts, ends = replay.edges[:-1], replay.edges[1:]
    margin = margin_periods * period
    counts = (replay.label != GAP) & (starts >= margin) & (ends <= replay.edges[-1] - margin)
    windows = np.flatnonzero(counts)
    phase = replay.label[windows]
    one_each = Membership(windows, np.arange(len(windows)), len(windows), np.ones(len(windows)))
    per_phase = Membership(windows, phase - A, len(PHASES), np.ones(len(windows)))
    energies = group_energies(fit, systematic, one_each.with_more(per_phase))
    degrees = degrees_of_freedom(phase - A, len(PHASES))
    return Resolved(fit, windows, phase, energies, np.concatenate([degrees[phase - A], degrees]))


def judge(replay: Replay, scenario: Scenario) -> Errors:
    """Compare a fitted replay with the truth."""
    resolved = resolve(replay, scenario)
    windows, phase, count = resolved.windows, resolved.phase, len(resolved.windows)
    truth = replay.joules[windows]
    starts, ends = replay.edges[windows], replay.edges[windows + 1]
    naive = naive_differences(replay, starts, ends)
    low, high = _timeline(replay, scenario).bounds(starts, ends)
    # A window may lie at a limit all the time.
    low, high = low - ROUNDING_JOULES, high + ROUNDING_JOULES
    nowhere = np.full(len(PHASES), np.inf)
    bounds = np.concatenate([low, -nowhere]), np.concatenate([high, nowhere])
    least, most = resolved.energies.interval(resolved.degrees, *bounds)
    if scenario.fast:
        # Half a period of the power within less that before: a read shows a refresh that old.
        interpolated = naive + (LABEL_WATTS[phase] - LABEL_WATTS[GAP]) * scenario.period_seconds / 2
    else:
        curve = replay.refreshes, replay.shown_joules
        interpolated = np.interp(ends, *curve) - np.interp(starts, *curve)
    true_sums = np.array([truth[phase == number].sum() for number in PHASES])
    energies = resolved.energies
    changed = refreshed(replay.before, starts[:1], ends[-1:], scenario.period_seconds)
    of_a = phase == A
    return Errors(
        naive=(naive - truth) / truth.mean(),
        interpolated=(interpolated - truth) / truth.mean(),
        window=(energies.joules[:count] - truth) / truth.mean(),
        sums=energies.joules[count:] / true_sums - 1,
        naive_sum=naive[of_a].sum() / true_sums[0] - 1,
        interpolated_sum=interpolated[of_a].sum() / true_sums[0] - 1,
        statistical=energies.sigma_statistical_joules[count:] / true_sums,
        systematic=energies.sigma_systematic_joules[count:] / true_sums,
        inside=((least[:count] <= truth) & (truth <= most[:count])).astype(float),
        bounded=bool(((low <= truth) & (truth <= high)).all()),
        resolved=energies.resolved(np.repeat(changed, len(energies.joules)))[count:],
        closure=abs(resolved.fit.closure_ratio - 1),
    )


def rms(values: Floats) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def naive_differences(replay: Replay, starts: Floats, ends: Floats) -> Floats:
    """Return what two readings of the counter say about each span."""
    padded = np.append(0.0, replay.shown_joules)
    upto_start, upto_end = (np.searchsorted(replay.refreshes, at, side="right") for at in (starts, ends))
    return padded[upto_end] - padded[upto_start]


def _timeline(replay: Replay, scenario: Scenario) -> CounterTimeline:
    return CounterTimeline(
        replay.after,
        replay.before,
        replay.row_joules,
        resolution_joules=scenario.count_joules,
        period_seconds=scenario.period_seconds,
        max_power_watts=MAX_WATTS,
        min_power_watts=MIN_WATTS,
    )
