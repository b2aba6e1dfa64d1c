"""Resolve a replay as a session is resolved and compare it with the truth, beside two simpler methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from recordings import recording_of
from scenarios import GAP, LABEL_WATTS, MAX_WATTS, MIN_WATTS, A, B, Floats, Indices, Replay, Scenario

from mlmeter.energy.columns import Columns
from mlmeter.energy.groups import degrees_of_freedom, group_energies
from mlmeter.energy.guards import SLOW_EDGE_SECONDS, systematic_sigmas
from mlmeter.energy.labels import merge_rare_labels
from mlmeter.energy.membership import Membership
from mlmeter.energy.occupancy import CounterRecord, Segments
from mlmeter.energy.phase_power import fit_phase_power
from mlmeter.energy.split import Split

PHASES = (A, B)
# Windows near the ends of a run do not count.
MARGIN_PERIODS = 3
ROUNDING_JOULES = 1e-6


@dataclass(frozen=True)
class Errors:
    """What one replay says; errors are relative, shape (windows,) or (phases,).

    Attributes:
        naive, interpolated, window: error of each window by two simpler methods and by the fit.
        sums, naive_sum, interpolated_sum: of the windows of a phase together; of A only by the
            simpler methods.
        statistical, systematic: claimed standard uncertainty of the sums.
        half_width: of the 95 % interval of each window.
        inside, sums_inside: whether the 95 % interval holds the truth, 1 or 0.
        bounded: whether the hard bounds of a window hold its truth, 1 or 0.
        resolved: whether the sums are said to be known.
        closure: by how much the fit had to be scaled.
    """

    naive: Floats
    interpolated: Floats
    window: Floats
    sums: Floats
    naive_sum: float
    interpolated_sum: float
    statistical: Floats
    systematic: Floats
    half_width: Floats
    inside: Floats
    sums_inside: Floats
    bounded: Floats
    resolved: NDArray[np.bool_]
    closure: float


def counted_windows(replay: Replay, scenario: Scenario) -> Indices:
    """Return the windows that are not near the ends of the run."""
    margin = MARGIN_PERIODS * scenario.period_seconds
    starts, ends = replay.edges[:-1], replay.edges[1:]
    return np.flatnonzero((replay.label != GAP) & (starts >= margin) & (ends <= replay.edges[-1] - margin))


def judge(replay: Replay, scenario: Scenario) -> Errors:
    """Compare what a session reports with the truth."""
    resolution = recording_of(replay, scenario).resolution
    (attribution,) = resolution.attributions.values()
    windows = counted_windows(replay, scenario)
    # Row 0 is the session; its windows follow in order of time.
    rows = 1 + np.searchsorted(replay.windows, windows)
    phase, truth = replay.label[windows], replay.joules[windows]
    starts, ends = replay.edges[windows], replay.edges[windows + 1]
    _, _, sums = next(resolution.pooled(rows, phase - A, len(PHASES)))
    found, owned = attribution.exclusive, attribution.owned
    naive = naive_differences(replay, starts, ends)
    if scenario.fast:
        # Half a period of the power within less that before: a read shows a refresh that old.
        interpolated = naive + (LABEL_WATTS[phase] - LABEL_WATTS[GAP]) * scenario.period_seconds / 2
    else:
        curve = replay.refreshes, replay.shown_joules
        interpolated = np.interp(ends, *curve) - np.interp(starts, *curve)
    true_sums, of_a = _by_phase(truth, phase), phase == A
    return Errors(
        naive=(naive - truth) / truth.mean(),
        interpolated=(interpolated - truth) / truth.mean(),
        window=(found.joules[rows] - truth) / truth.mean(),
        sums=sums["energy_joules"] / true_sums - 1,
        naive_sum=naive[of_a].sum() / true_sums[0] - 1,
        interpolated_sum=interpolated[of_a].sum() / true_sums[0] - 1,
        statistical=sums["sigma_statistical_joules"] / true_sums,
        systematic=np.nan_to_num(sums["sigma_systematic_joules"]) / true_sums,
        half_width=(found.high - found.low)[rows] / 2 / truth.mean(),
        inside=_holds(found.low[rows], truth, found.high[rows]),
        sums_inside=_holds(sums["low_joules"], true_sums, sums["high_joules"]),
        bounded=_holds(owned.low[rows], truth, owned.high[rows]),
        resolved=sums["resolved"],
        # Long windows of a fast counter are not fitted.
        closure=abs(attribution.split.fit.closure_ratio - 1) if isinstance(attribution.split, Split) else 0.0,
    )


@dataclass(frozen=True)
class PhaseErrors:
    """What a replay says of its phases: relative errors, also by readings; shape (phases,)."""

    error: Floats
    naive: Floats
    resolved: NDArray[np.bool_]
    held: Floats


def judge_phases(replay: Replay, scenario: Scenario, *, one_gap_label: bool) -> PhaseErrors:
    """Compare the phases of a replay with the truth.

    Args:
        replay, scenario: what is judged.
        one_gap_label: whether all gaps are taken for one, which the library does not do.
    """
    windows = counted_windows(replay, scenario)
    phase = replay.label[windows]
    if one_gap_label:
        sums = _fitted_with_one_gap_label(replay, scenario, windows)
    else:
        resolution = recording_of(replay, scenario).resolution
        rows = 1 + np.searchsorted(replay.windows, windows)
        _, _, sums = next(resolution.pooled(rows, phase - A, len(PHASES)))
    truth = _by_phase(replay.joules[windows], phase)
    read = _by_phase(naive_differences(replay, replay.edges[windows], replay.edges[windows + 1]), phase)
    return PhaseErrors(
        error=sums["energy_joules"] / truth - 1,
        naive=read / truth - 1,
        resolved=sums["resolved"],
        held=_holds(sums["low_joules"], truth, sums["high_joules"]),
    )


def _fitted_with_one_gap_label(replay: Replay, scenario: Scenario, windows: Indices) -> Columns:
    """Return sums of phases by a fit that does not tell gaps apart."""
    label = merge_rare_labels(replay.label, replay.label)
    record = CounterRecord(
        replay.after, replay.before, replay.row_joules, scenario.count_joules, MIN_WATTS, MAX_WATTS
    )
    fit = fit_phase_power(record, Segments(replay.edges, label, int(label.max()) + 1))
    systematic = systematic_sigmas(fit, SLOW_EDGE_SECONDS, refit=True)
    phase = replay.label[windows] - A
    members = Membership(windows, phase, len(PHASES), np.ones(len(windows)))
    energies = group_energies(fit, systematic, members)
    seconds = np.bincount(phase, np.diff(replay.edges)[windows])
    degrees = degrees_of_freedom(phase, len(PHASES))
    low, high = energies.interval(degrees, np.zeros(len(PHASES)), MAX_WATTS * seconds)
    return {
        "energy_joules": energies.joules,
        "low_joules": low,
        "high_joules": high,
        "resolved": energies.resolved(np.ones(len(PHASES), dtype=np.bool_)),
    }


def _by_phase(values: Floats, phase: Indices) -> Floats:
    return np.bincount(phase - A, values, minlength=len(PHASES))


def _holds(low: Floats, truth: Floats, high: Floats) -> Floats:
    """Tell which intervals hold the truth, 1 or 0; one may lie at a limit of the power all the time."""
    return ((low <= truth + ROUNDING_JOULES) & (truth <= high + ROUNDING_JOULES)).astype(np.float64)


def rms(values: Floats) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def naive_differences(replay: Replay, starts: Floats, ends: Floats) -> Floats:
    """Return what two readings of the counter say about each span."""
    padded = np.append(0.0, replay.shown_joules)
    upto_start, upto_end = (np.searchsorted(replay.refreshes, at, side="right") for at in (starts, ends))
    return padded[upto_end] - padded[upto_start]
