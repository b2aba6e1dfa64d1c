"""Bursts: which windows are one, and that their energy is known where that of a call is not."""

from __future__ import annotations

import numpy as np
import pytest

from mlmeter.energy.bursts import bursts_of
from mlmeter.energy.windows import Windows
from mlmeter.testing import FakeClock, fake_meter
from tests.simulated_gpu import simulated_gpu

PERIOD = 0.1
CALL_SECONDS, PAUSE_SECONDS = 0.004, 0.001
CALL_WATTS, PAUSE_WATTS, IDLE_WATTS = 350.0, 120.0, 60.0


def windows_of(*rows: tuple[int, float, float, int]) -> Windows:
    """A session of 10 s and windows: parent, start, end, label."""
    parent, start, end, label = zip((-1, 0.0, 10.0, -1), *rows, strict=True)
    return Windows(
        np.array(parent), np.arange(len(rows) + 1), np.array(start), np.array(end), np.array(label)
    )


def test_a_burst_ends_with_a_long_gap_or_another_name() -> None:
    """Three periods of gap are allowed; a window of another name between two parts them."""
    windows = windows_of(
        (0, 1.0, 1.1, 0),
        (0, 1.39, 1.5, 0),
        (0, 1.81, 1.9, 0),
        (0, 2.0, 2.1, 1),
        (0, 2.1, 2.2, 1),
        (0, 2.2, 2.3, 0),
    )
    found = bursts_of(windows, PERIOD)
    assert found.label.tolist() == [0, 1]
    assert found.start.tolist() == [1.0, 2.0]
    assert found.end.tolist() == [1.5, 2.2]
    assert found.calls.tolist() == [2, 2]
    assert found.busy_seconds == pytest.approx([0.21, 0.2])


def test_only_siblings_are_one_burst() -> None:
    """Calls in two different windows are two bursts; what is in a call does not part calls."""
    windows = windows_of(
        (0, 1.0, 2.0, 9),
        (0, 2.0, 3.0, 9),
        (1, 1.1, 1.2, 0),
        (1, 1.3, 1.4, 0),
        (2, 2.1, 2.2, 0),
        (2, 2.2, 2.3, 0),
    )
    found = bursts_of(windows, PERIOD)
    assert sorted(zip(found.label.tolist(), found.start.tolist(), found.end.tolist(), strict=True)) == [
        (0, 1.1, 1.4),
        (0, 2.1, 2.3),
        (9, 1.0, 3.0),
    ]


def test_windows_of_no_length_are_no_burst() -> None:
    """Several at one instant have nothing to divide by."""
    windows = windows_of((0, 1.0, 1.0, 0), (0, 1.0, 1.0, 0), (0, 5.0, 5.0, 0))
    assert len(bursts_of(windows, PERIOD).label) == 0


def test_a_session_without_windows_has_no_bursts() -> None:
    """Nothing is found, and nothing fails."""
    assert len(bursts_of(windows_of(), PERIOD).label) == 0


@pytest.mark.parametrize("phase", [0.1, 0.4, 0.8])
def test_joules_per_call_in_step_with_the_counter(phase: float) -> None:
    """20 calls in each period of the counter, always the same: right to 0.3 %, calls themselves unknown."""
    clock = FakeClock()
    calls = 400
    cycle = CALL_SECONDS + PAUSE_SECONDS
    edges, watts = [0.0, 1.0], [IDLE_WATTS]
    for call in range(calls):
        edges += [1.0 + call * cycle + CALL_SECONDS, 1.0 + (call + 1) * cycle]
        watts += [CALL_WATTS, PAUSE_WATTS]
    backend = simulated_gpu(
        clock, [*edges, edges[-1] + 1.0], [*watts, IDLE_WATTS], phase=phase, joules_per_count=0.001
    )
    meter = fake_meter(backend, clock=clock)
    sampler = meter.recorder._sampler

    def wait_until(seconds: float) -> None:
        while clock.now_ns() * 1e-9 < seconds:
            clock.advance(min(0.001, seconds - clock.now_ns() * 1e-9 + 1e-9))
            sampler.tick()

    with meter:
        wait_until(1.0)
        for call in range(calls):
            with meter.window("predict", phase="inference"):
                wait_until(1.0 + call * cycle + CALL_SECONDS)
            wait_until(1.0 + (call + 1) * cycle)
        wait_until(edges[-1] + 0.9)
    row = meter.session.bursts().query("domain == 'gpu-0'").iloc[0]
    hull = backend.true_joules(1.0, edges[-1] - PAUSE_SECONDS)
    assert (row["name"], row["phase"], row["method"]) == ("predict", "inference", "burst")
    assert (row["bursts"], row["windows"]) == (1, calls)
    assert row["busy_ratio"] == pytest.approx(CALL_SECONDS / cycle, abs=0.01)
    assert row["energy_joules"] == pytest.approx(hull, rel=3e-3)
    assert row["joules_per_window"] == pytest.approx(hull / calls, rel=3e-3)
    assert row["low_joules"] <= hull <= row["high_joules"]
    assert row["resolved"]


def test_no_bursts_are_an_empty_table() -> None:
    """A session of one window has the columns and no row."""
    clock = FakeClock()
    with fake_meter(simulated_gpu(clock), clock=clock) as meter:
        with meter.window("once"):
            clock.advance(1.0)
    table = meter.session.bursts()
    assert len(table) == 0
    assert "joules_per_window" in table.columns
