"""The whole chain on counters of known energy that advance with real time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlmeter import EnergyMeter
from mlmeter.backends.rapl import RaplBackend, modulus
from tests.backends.live_tree import LiveTree

RANGE_MICROJOULES = 30_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[EnergyMeter, LiveTree]:
    """Forty 0.1 s windows, 210 W training and 10 W inference in turn, on 1 ms counters."""
    root: Path = tmp_path_factory.mktemp("powercap")
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram"}
    with LiveTree(root, zones, RANGE_MICROJOULES) as tree:
        tree.set_watts(50, "intel-rapl:0:0")
        tree.set_watts(5, "intel-rapl:0:1")
        tree.set_watts(10)
        time.sleep(0.1)
        with EnergyMeter(backends=[RaplBackend(root)]) as meter:
            for _ in range(20):
                for watts, phase in ((210, "training"), (10, "inference")):
                    tree.set_watts(watts)
                    with meter.window(phase, phase=phase):
                        time.sleep(0.1)
    return meter, tree


def truths(meter: EnergyMeter, tree: LiveTree) -> list[tuple[str, float, float, float, float]]:
    """Phase, metered energy, its interval, and true energy of each window's package."""
    frame = meter.session.windows()
    rows = frame[(frame["domain"] == "package-0") & (frame["scope"] == "inclusive") & (frame["window"] > 0)]
    records = meter.session.recording.windows
    times = zip(records.starts_ns, records.ends_ns, strict=True)
    return [
        (row.phase, row.energy_joules, row.low_joules, row.high_joules, tree.true_joules(start, end))
        for row, (start, end) in zip(rows.itertuples(), times, strict=True)
    ]


def test_every_window_is_within_two_percent(run: tuple[EnergyMeter, LiveTree]) -> None:
    """0.1 s windows are right to 2 %, also at 10 W just after 210 W."""
    errors = [abs(energy / truth - 1) for _, energy, _, _, truth in truths(*run)]
    assert max(errors) <= 0.02


def test_phase_sums_are_within_half_a_percent(run: tuple[EnergyMeter, LiveTree]) -> None:
    """The energy of all windows of a phase is right to 0.5 %."""
    for phase in ("training", "inference"):
        rows = [(energy, truth) for label, energy, _, _, truth in truths(*run) if label == phase]
        assert sum(energy for energy, _ in rows) == pytest.approx(sum(t for _, t in rows), rel=0.005)


def test_the_session_is_right_through_ten_wraps(run: tuple[EnergyMeter, LiveTree]) -> None:
    """The total is right to 0.2 % although the counter wrapped at least ten times."""
    meter, tree = run
    record = meter.session.recording.run
    truth = tree.true_joules(record.start_ns, record.end_ns)
    wrap_joules = (modulus(RANGE_MICROJOULES) or 0) * 1e-6
    assert truth / wrap_joules >= 10
    assert meter.session.total("cpu").energy_joules == pytest.approx(truth, rel=0.002)
    assert meter.session.domains()["resets"].sum() == 0
