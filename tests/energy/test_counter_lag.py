"""Counters that are late or watch a part of the time are found, and others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mlmeter.energy.counter_lag import with_kernel
from mlmeter.energy.label_power import find_scatter
from mlmeter.energy.occupancy import CounterRecord, Segments, occupancy
from mlmeter.energy.phase_power import PhasePowerFit, solve

Floats = NDArray[np.float64]

PERIOD, SECONDS = 0.1, 30.0
WATTS = np.array([60.0, 300.0])
LABELS = 2


def load(seed: int, usual_seconds: float) -> tuple[Segments, Floats]:
    """Gaps and windows of random lengths whose powers scatter by 10 %: segments and joules."""
    random = np.random.default_rng(seed)
    lengths = usual_seconds * np.exp(random.normal(0, 0.5, round(SECONDS / usual_seconds)))
    label = np.arange(len(lengths)) % 2
    watts = WATTS[label] * (1 + 0.1 * random.standard_normal(len(lengths)))
    return Segments(np.append(0.0, np.cumsum(lengths)), label, LABELS), watts * lengths


def record_of(segments: Segments, joules: Floats, lag: float = 0.0, share: float = 1.0) -> CounterRecord:
    """The rows of a counter that is late by `lag` and sees the last `share` of each period."""
    edges, random = segments.edges, np.random.default_rng(9)
    upto = np.append(0.0, np.cumsum(joules))
    instants = np.arange(0.05, edges[-1], PERIOD)
    instants += random.normal(0, 1e-3, len(instants))
    starts = instants[1:] - share * np.diff(instants)
    seen = np.interp(instants[1:] - lag, edges, upto) - np.interp(starts - lag, edges, upto)
    shown = np.append(0.0, np.cumsum(seen / share))
    before = instants + random.uniform(0, 1e-3, len(instants))
    return CounterRecord(before - 1e-3, before, shown, 1e-3, 0.0, 450.0)


def fitted(segments: Segments, record: CounterRecord) -> PhasePowerFit:
    """What a session of them is fitted to."""
    parts = occupancy(record.about(segments.edges[0], segments.edges[-1]), segments)
    return solve(*with_kernel(parts, find_scatter(parts)))


def error(fit: PhasePowerFit, joules: Floats) -> float:
    """Relative error of the windows' energy."""
    windows = fit.occupancy.segments.label == 1
    return float(fit.energies_joules[windows].sum() / joules[windows].sum() - 1)


@pytest.mark.parametrize("usual_seconds", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("lag", [0.02, 0.05, 0.08])
def test_a_late_counter_is_found(lag: float, usual_seconds: float) -> None:
    """The lag to 2 % of a period, and with it the energy of the windows to 2 %."""
    segments, joules = load(1, usual_seconds)
    fit = fitted(segments, record_of(segments, joules, lag=lag))
    assert fit.occupancy.record.lag_seconds == pytest.approx(lag, abs=0.002)
    assert fit.occupancy.record.sensed_ratio == 1.0
    assert abs(error(fit, joules)) <= 0.02


@pytest.mark.parametrize("usual_seconds", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_part_time_counter_is_found(share: float, usual_seconds: float) -> None:
    """The share that it watches, and the energy of the windows to 4 %."""
    segments, joules = load(2, usual_seconds)
    fit = fitted(segments, record_of(segments, joules, share=share))
    assert fit.occupancy.record.sensed_ratio == share
    assert fit.occupancy.record.lag_seconds <= 0.005
    assert abs(error(fit, joules)) <= 0.04


@pytest.mark.parametrize("usual_seconds", [0.004, 0.03, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_plain_counter_is_left_alone(seed: int, usual_seconds: float) -> None:
    """No lag is found where there is none."""
    segments, joules = load(seed, usual_seconds)
    record = fitted(segments, record_of(segments, joules)).occupancy.record
    assert (record.lag_seconds, record.sensed_ratio) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_a_load_that_ignores_the_windows_tells_no_lag(seed: int) -> None:
    """Where windows say nothing about the power, no kernel makes them do so."""
    segments, _ = load(seed, 0.2)
    random = np.random.default_rng(seed)
    steps = np.append(0.0, np.sort(random.uniform(0, segments.edges[-1], 40)))
    upto = np.append(0.0, np.cumsum(random.choice([20.0, 60.0, 300.0], 40) * np.diff(steps)))
    joules = np.diff(np.interp(segments.edges, steps, upto))
    record = fitted(segments, record_of(segments, joules)).occupancy.record
    assert (record.lag_seconds, record.sensed_ratio) == (0.0, 1.0)
