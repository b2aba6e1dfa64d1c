"""What a window is said to have used while it is open, just after it and at the end of the session."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlmeter.errors import ArgumentError
from mlmeter.measurement import Energy
from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeBackend, FakeClock, SimulatedBackend, advance, fake_domain, fake_meter
from mlmeter.windows import Window
from tests.simulated_gpu import simulated_gpu

PERIOD = 0.1
STEP_SECONDS = 0.01


@pytest.fixture
def meter(clock: FakeClock) -> EnergyMeter:
    """A meter of a GPU of 200 W."""
    return fake_meter(simulated_gpu(clock, phase=0.5), clock=clock)


def holds(energy: Energy, joules: float) -> bool:
    """Whether the interval of an energy has a value in it."""
    assert energy.low_joules is not None
    assert energy.high_joules is not None
    return energy.low_joules - 1e-6 <= joules <= energy.high_joules + 1e-6


def test_an_open_window_has_what_it_has_used_so_far(meter: EnergyMeter) -> None:
    """At once, interpolated, within hard bounds, and growing."""
    with meter:
        advance(meter, 1.0, STEP_SECONDS)
        with meter.window("step") as window:
            for number in range(1, 8):
                advance(meter, 0.25, STEP_SECONDS)
                energy = window.energy()
                assert energy.method == "interpolated"
                assert energy.energy_joules == pytest.approx(50.0 * number, rel=0.02)
                assert holds(energy, 50.0 * number)


def test_a_window_shorter_than_a_refresh_is_not_resolved_at_once(meter: EnergyMeter) -> None:
    """No refresh has shown it: the interval goes from nothing to the limit of the power."""
    with meter:
        advance(meter, 1.06, STEP_SECONDS)
        with meter.window("call") as window:
            advance(meter, 0.01, STEP_SECONDS)
        energy = window.energy()
        assert not energy.resolved
        assert energy.low_joules == 0
        assert energy.high_joules == pytest.approx(5.0, rel=0.01)
        assert holds(energy, 2.0)


def test_a_result_waits_for_the_refresh_after_the_end(clock: FakeClock, meter: EnergyMeter) -> None:
    """Its interval is no wider than the provisional one, and the wait is at most a few periods."""
    with meter:
        advance(meter, 1.06, STEP_SECONDS)
        with meter.window("step") as window:
            advance(meter, 0.33, STEP_SECONDS)
        before_ns, provisional, final = clock.now_ns(), window.energy(), window.result()
        assert clock.now_ns() - before_ns <= 3 * PERIOD * 1e9
        assert final.low_joules >= provisional.low_joules - 1e-9  # type: ignore[operator]
        assert final.high_joules <= provisional.high_joules + 1e-9  # type: ignore[operator]
        assert final.energy_joules == pytest.approx(66.0, rel=0.02)
        assert holds(final, 66.0)
        # It has been shown: asking again does not wait.
        before_ns = clock.now_ns()
        assert window.result() == final
        assert clock.now_ns() == before_ns


def test_a_result_without_time_is_provisional(meter: EnergyMeter) -> None:
    """With a time-out of 0 it is what `energy` says."""
    with meter:
        advance(meter, 1.06, STEP_SECONDS)
        with meter.window("step") as window:
            advance(meter, 0.02, STEP_SECONDS)
        assert window.result(timeout_seconds=0) == window.energy()


def test_a_result_takes_the_windows_before_into_account(clock: FakeClock) -> None:
    """After a hundred calls of 23 ms with idle gaps a call's power is known; at once it is not."""
    starts = 0.5 + 0.061 * np.arange(120)
    edges = np.stack([starts, starts + 0.023], axis=1).ravel()
    backend = simulated_gpu(clock, [0.0, *edges, edges[-1] + 9.0], [50.0, *[300.0, 50.0] * 120])
    meter = fake_meter(backend, clock=clock)
    with meter:
        for start in starts:
            advance(meter, start - clock.now_ns() * 1e-9, 0.002)
            with meter.window("call", phase="inference") as window:
                advance(meter, 0.023, 0.001)
        provisional, final = window.energy(), window.result()
    assert not provisional.resolved
    assert (final.method, final.resolved) == ("phase_power", True)
    assert final.energy_joules == pytest.approx(6.9, rel=0.05)
    assert holds(final, 6.9)


def test_a_fast_counter_answers_by_its_edge_reads(clock: FakeClock) -> None:
    """Provisional values of a package are `counter_edges` and sharp."""
    backend = SimulatedBackend(
        [0.0, 100.0], [60.0], clock, update_period_seconds=0.001, max_power_watts=200.0
    )
    meter = fake_meter(backend, clock=clock)
    with meter:
        advance(meter, 1.0, STEP_SECONDS)
        with meter.window("step") as window:
            clock.advance(0.05)
        energy = window.energy()
    assert energy.method == "counter_edges"
    assert energy.energy_joules == pytest.approx(3.0, rel=0.01)
    assert holds(energy, 3.0)


def test_energies_of_one_kind(clock: FakeClock) -> None:
    """A kind has its own domains only, in `energy`, `result`, the session's and the meter's."""
    package = FakeBackend.with_power(clock, watts=50.0)
    meter = fake_meter(simulated_gpu(clock, phase=0.5), package, clock=clock)
    with meter:
        advance(meter, 1.0, STEP_SECONDS)
        with meter.window("step") as window:
            advance(meter, 1.0, STEP_SECONDS)
            assert window.energy("gpu").energy_joules == pytest.approx(200.0, rel=0.01)
        for ask in (window.energy, window.result):
            parts = [ask(kind=kind).energy_joules for kind in ("cpu", "gpu")]
            assert parts == pytest.approx([50.0, 200.0], rel=0.01)
            assert ask().energy_joules == pytest.approx(sum(parts))
            assert ask(kind="dram").energy_joules is None
        snapshot = meter.session
        assert snapshot.window_energy(1, "cpu").energy_joules == pytest.approx(50.0, rel=0.01)
        seconds = meter.session.duration_seconds
        assert meter.energy("cpu").energy_joules == pytest.approx(50.0 * seconds, rel=0.01)
        with pytest.raises(ArgumentError):
            window.energy("battery")


def test_snapshots_grow_and_do_not_change(meter: EnergyMeter) -> None:
    """Each is what was known then, for good; windows that are open are marked."""
    with meter:
        advance(meter, 1.0, STEP_SECONDS)
        snapshots, texts = [], []
        with meter.window("step"):
            for _ in range(4):
                advance(meter, 0.5, STEP_SECONDS)
                snapshots.append(meter.session)
                texts.append(snapshots[-1].to_json())
        assert meter.session.finished is False
        assert all(not snapshot.finished for snapshot in snapshots)
        assert all(bool(snapshot.windows()["unfinished"].iloc[-1]) for snapshot in snapshots)
    totals = [snapshot.total().energy_joules for snapshot in snapshots]
    assert totals == pytest.approx([300.0, 400.0, 500.0, 600.0], rel=0.03)
    assert [snapshot.to_json() for snapshot in snapshots] == texts
    assert meter.session.finished
    assert meter.session is meter.session


Ask = Callable[[EnergyMeter, Window], object]
NOBODY: Ask = lambda meter, window: None  # noqa: E731  # one of a row of its like


def run(ask_inside: Ask, ask_after: Ask) -> EnergyMeter:
    """A session of short windows of two powers; somebody asks in and after each.

    The counter is read at the same instants whoever asks: `advance` has just read it.
    """
    clock, rng = FakeClock(), np.random.default_rng(3)
    lengths = rng.uniform(0.01, 0.09, 400)
    edges = np.concatenate(([0.0, 1.0], 1.0 + np.cumsum(lengths), [100.0]))
    watts = [80.0, *np.tile([300.0, 80.0], 200).tolist(), 80.0]
    backend = simulated_gpu(clock, edges.tolist(), watts, jitter_seconds=0.001)
    meter = fake_meter(backend, clock=clock, phase="idle")
    with meter:
        advance(meter, 1.0, 0.005)
        for length, pause in lengths.reshape(-1, 2).tolist():
            with meter.window("call", phase="inference") as window:
                advance(meter, length, 0.005)
                ask_inside(meter, window)
            ask_after(meter, window)
            advance(meter, pause, 0.005)
    return meter


def test_asking_changes_no_final_value() -> None:
    """The same readings give the same tables, whatever was asked on the way."""
    plain = run(NOBODY, NOBODY)

    def everything(meter: EnergyMeter, window: Window) -> None:
        window.energy("gpu")
        window.result(timeout_seconds=0)
        if window.id % 20 == 0:
            meter.session.phases()

    asked = run(lambda _, window: window.energy(), everything)
    readings = [meter.session.recording.domains[0][1] for meter in (plain, asked)]
    assert readings[0].counts == readings[1].counts
    assert readings[0].before_ns == readings[1].before_ns
    for table in ("phases", "windows", "window_names", "samples"):
        one, other = (meter.session.records(table) for meter in (plain, asked))
        for rows in (one, other):
            for row in rows:
                # Runs have names of their own.
                row.pop("session")
        assert one == other


def test_final_values_are_fitted_and_the_order_of_asking_does_not_matter() -> None:
    """Windows shorter than a refresh: `phase_power` at the end, in any order of tables, and stable."""
    meter = run(NOBODY, NOBODY)
    session = meter.session
    windows = session.windows().query("domain == 'gpu-0' and scope == 'inclusive' and window > 0")
    assert set(windows["method"]) == {"phase_power"}
    other = run(NOBODY, NOBODY).session
    assert other.window_energy(7) == session.window_energy(7)
    assert other.phases()["energy_joules"].tolist() == session.phases()["energy_joules"].tolist()
    truth = 300.0 * session.phases().query("phase == 'inference'")["duration_seconds"].iloc[0]
    of_phase = session.phases().query("phase == 'inference' and domain == 'gpu-0'").iloc[0]
    assert of_phase["low_joules"] <= truth <= of_phase["high_joules"]
    assert of_phase["energy_joules"] == pytest.approx(truth, rel=0.02)


def test_a_window_asked_after_the_end_is_the_sessions(meter: EnergyMeter) -> None:
    """After `stop` a window's energy and result are what the tables say."""
    with meter:
        advance(meter, 1.0, STEP_SECONDS)
        with meter.window("step") as window:
            advance(meter, 0.25, STEP_SECONDS)
        advance(meter, 1.0, STEP_SECONDS)
    assert window.energy() == window.result() == meter.session.window_energy(1)


def starved(clock: FakeClock, windows: int, length: float) -> EnergyMeter:
    """Windows one after the other without a read of the counter; then it goes on for a second."""
    meter = fake_meter(simulated_gpu(clock, phase=0.5), clock=clock)
    with meter:
        advance(meter, 1.0, STEP_SECONDS)
        for _ in range(windows):
            with meter.window("call"):
                clock.advance(length)
        advance(meter, 1.0, STEP_SECONDS)
    return meter


def test_a_window_that_no_refresh_tells_of_has_bounds_only() -> None:
    """A counter that stands still for 0.6 s: windows early in that time have no figure of their own."""
    clock = FakeClock()
    joules = [0.0]

    def count(now_ns: int) -> int:
        refreshed_ns = now_ns // 100_000_000 * 100_000_000
        # No refresh from 2.0 s to 2.6 s.
        held_ns = 1_900_000_000 if 2_000_000_000 <= refreshed_ns < 2_600_000_000 else refreshed_ns
        joules[0] = held_ns * 1e-9 * 200.0
        return round(joules[0] * 1e6)

    domain = fake_domain(
        name="gpu-0", kind="gpu", update_period_seconds=PERIOD, cheap_read=False, max_power_watts=500.0
    )
    meter = fake_meter(FakeBackend([domain], [count], clock), clock=clock)
    with meter:
        advance(meter, 2.05, STEP_SECONDS)
        with meter.window("blind"):
            advance(meter, 0.05, STEP_SECONDS)
        advance(meter, 0.4, STEP_SECONDS)
        with meter.window("seen"):
            advance(meter, 0.3, STEP_SECONDS)
        advance(meter, 1.0, STEP_SECONDS)
    windows = meter.session.windows().query("domain == 'gpu-0' and scope == 'inclusive'").set_index("name")
    blind, seen = windows.loc["blind"], windows.loc["seen"]
    assert (blind["method"], bool(blind["resolved"])) == ("bounds_only", False)
    # The guess and the interval stay in their columns.
    assert blind["low_joules"] <= blind["energy_joules"] <= blind["high_joules"]
    assert blind["low_joules"] <= 10.0 <= blind["high_joules"]
    assert seen["method"] == "phase_power"
    assert windows.loc["(session)", "energy_joules"] == pytest.approx(760.0, rel=0.01)


def test_reads_that_are_late_do_not_hide_a_refresh() -> None:
    """Without reads for a second the refreshes were somewhere in it: wide, but not bounds only."""
    meter = starved(FakeClock(), 20, 0.05)
    windows = meter.session.windows().query("domain == 'gpu-0' and scope == 'inclusive'")
    assert "bounds_only" not in set(windows["method"])
    assert not windows.query("window > 0")["resolved"].any()


@pytest.mark.parametrize(("seconds", "short"), [(59.0, True), (61.0, False)])
def test_short_sessions_are_marked(meter: EnergyMeter, seconds: float, short: bool) -> None:
    """The domains table says where a run is too short to stand for others."""
    with meter:
        advance(meter, seconds, 0.1)
    assert meter.session.records("domains")[0]["short"] is short


def test_a_slow_counter_needs_a_longer_session(clock: FakeClock) -> None:
    """A hundred refreshes of a counter of 1 s take 100 s."""
    backend = SimulatedBackend([0.0, 1000.0], [200.0], clock, update_period_seconds=1.0)
    meter = fake_meter(backend, clock=clock)
    with meter:
        advance(meter, 90.0, 0.5)
    assert meter.session.records("domains")[0]["short"] is True
