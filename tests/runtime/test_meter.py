"""EnergyMeter: sessions, phases, arguments, several meters."""

from __future__ import annotations

import asyncio
import csv
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mlmeter
from mlmeter.errors import (
    StateError,
)
from mlmeter.meter import EnergyMeter
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter


@pytest.fixture
def meter(clock: FakeClock) -> EnergyMeter:
    """A meter of one 100 W counter."""
    return fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, name="test")


def joules(meter: EnergyMeter, **where: str) -> float:
    """Energy of the one row of `phases` that fits."""
    frame = meter.session.phases()
    for column, value in {"domain": "total", **where}.items():
        frame = frame[frame[column] == value]
    (energy,) = frame["energy_joules"]
    return float(energy)


def test_constant_power_gives_power_times_time(clock: FakeClock, meter: EnergyMeter) -> None:
    """100 W for 2 s are 200 J."""
    with meter:
        clock.advance(2)
    assert meter.session.total().energy_joules == pytest.approx(200, rel=1e-6)


def test_time_that_no_window_claims_has_the_base_phase(clock: FakeClock, meter: EnergyMeter) -> None:
    """1 s outside any window is training, 2 s in an inference window are inference."""
    with meter:
        clock.advance(1)
        with meter.inference():
            clock.advance(2)
    assert joules(meter, phase="training") == pytest.approx(100, rel=1e-3)
    assert joules(meter, phase="inference") == pytest.approx(200, rel=1e-3)


def test_phases_add_up_to_the_session(clock: FakeClock, meter: EnergyMeter) -> None:
    """Nothing is lost between phases and nothing is counted twice."""
    with meter:
        for step in range(7):
            clock.advance(0.013)
            with meter.inference(), meter.phase(f"part {step % 3}"):
                clock.advance(0.0317)
    frame = meter.session.phases()
    total = frame[frame["domain"] == "total"]["energy_joules"].sum()
    assert total == pytest.approx(meter.session.total().energy_joules, rel=1e-12)


def test_window_without_phase_takes_that_of_the_enclosing_one(clock: FakeClock, meter: EnergyMeter) -> None:
    """A window inside an inference window is inference unless it says otherwise."""
    with meter, meter.inference(), meter.window("inner") as inner:
        clock.advance(1)
    assert inner.phase == "inference"


def test_stop_twice_is_harmless(clock: FakeClock, meter: EnergyMeter) -> None:
    """The second stop changes nothing."""
    meter.start()
    clock.advance(1)
    meter.stop()
    first = meter.session
    clock.advance(1)
    meter.stop()
    assert meter.session is first


def test_start_of_a_running_meter_is_an_error(meter: EnergyMeter) -> None:
    """Starting twice would silently drop the first session."""
    with meter, pytest.raises(StateError, match="already running"):
        meter.start()


def test_start_after_stop_begins_a_new_session(clock: FakeClock, meter: EnergyMeter) -> None:
    """A meter can be used again; the new session starts at zero."""
    with meter:
        clock.advance(5)
    with meter:
        clock.advance(1)
    assert meter.session.total().energy_joules == pytest.approx(100, rel=1e-6)


def test_session_of_a_meter_never_started_is_an_error(meter: EnergyMeter) -> None:
    """There is no result before a start."""
    with pytest.raises(StateError, match="never started"):
        _ = meter.session


def test_session_while_running_is_a_snapshot(clock: FakeClock, meter: EnergyMeter) -> None:
    """A snapshot holds what happened so far, open windows included, and does not change."""
    with meter, meter.inference("open"):
        clock.advance(1)
        meter.recorder._sampler.tick()
        snapshot = meter.session
        clock.advance(1)
        assert not snapshot.finished
        assert snapshot.total().energy_joules == pytest.approx(100, rel=1e-3)
        frame = snapshot.windows()
        assert bool(frame[frame["name"] == "open"]["unfinished"].all())
    assert meter.session.finished


def test_window_still_open_at_the_end_is_kept_and_marked(clock: FakeClock, meter: EnergyMeter) -> None:
    """A window that another thread never closed ends with the session."""
    meter.start()
    window = meter.inference("forgotten")
    window.__enter__()
    clock.advance(1)
    meter.stop()
    window.__exit__(None, None, None)
    frame = meter.session.windows()
    row = frame[(frame["name"] == "forgotten") & (frame["domain"] == "total")].iloc[0]
    assert row["unfinished"]
    assert row["energy_joules"] == pytest.approx(100, rel=1e-3)


def test_window_after_the_stop_does_nothing(clock: FakeClock, meter: EnergyMeter) -> None:
    """Code that goes on after the session runs unharmed and unrecorded."""
    with meter:
        clock.advance(1)
    with meter.inference("late") as late:
        clock.advance(1)
    assert late.energy().energy_joules is None
    assert "late" not in set(meter.session.windows()["name"])


def test_exception_travels_on_and_marks_the_window(clock: FakeClock, meter: EnergyMeter) -> None:
    """The program's exception is its own; the window is closed and marked failed."""
    with pytest.raises(ZeroDivisionError), meter, meter.window("bad"):
        clock.advance(1)
        _ = 1 / 0
    frame = meter.session.windows()
    assert bool(frame[frame["name"] == "bad"]["failed"].all())
    assert meter.session.total().energy_joules == pytest.approx(100, rel=1e-3)


def test_sys_exit_in_a_window_keeps_the_energy(clock: FakeClock, meter: EnergyMeter) -> None:
    """SystemExit goes through; what was metered stays."""
    with pytest.raises(SystemExit) as caught, meter, meter.window("last"):
        clock.advance(3)
        sys.exit(7)
    assert caught.value.code == 7
    assert meter.session.total().energy_joules == pytest.approx(300, rel=1e-3)


def test_concurrent_windows_share_their_time(clock: FakeClock, meter: EnergyMeter) -> None:
    """X for 10 s and Y for 2 s of them on another thread: 900 J and 100 J at 100 W, both marked."""
    with meter, meter.window("X"):
        clock.advance(4)
        other = threading.Thread(target=_two_seconds, args=(meter, clock))
        other.start()
        other.join()
        clock.advance(4)
    frame = meter.session.windows()
    rows = frame[(frame["domain"] == "total") & (frame["scope"] == "exclusive")].set_index("name")
    assert rows.loc["X", "energy_joules"] == pytest.approx(900, rel=1e-3)
    assert rows.loc["Y", "energy_joules"] == pytest.approx(100, rel=1e-3)
    assert rows.loc["X", "concurrent"]
    assert rows.loc["Y", "concurrent"]


def _two_seconds(meter: EnergyMeter, clock: FakeClock) -> None:
    with meter.window("Y"):
        clock.advance(2)


def test_window_closed_on_another_thread_is_recorded(clock: FakeClock, meter: EnergyMeter) -> None:
    """A window may be closed elsewhere than it was opened; later windows are not its children."""
    with meter:
        window = meter.window("handed over")
        window.__enter__()
        clock.advance(1)
        closer = threading.Thread(target=window.__exit__, args=(None, None, None))
        closer.start()
        closer.join()
        assert mlmeter.current_window() is None
        with meter.window("next") as following:
            assert following.parent_id == 0
    assert "handed over" in set(meter.session.windows()["name"])


def test_tasks_have_their_own_windows(clock: FakeClock, meter: EnergyMeter) -> None:
    """Windows of two asyncio tasks overlap without nesting into each other."""

    async def task(name: str) -> int:
        with meter.window(name) as window:
            await asyncio.sleep(0)
            clock.advance(1)
            await asyncio.sleep(0)
        return window.parent_id

    async def both() -> list[int]:
        return list(await asyncio.gather(task("a"), task("b")))

    with meter:
        parents = asyncio.run(both())
    assert parents == [0, 0]


def test_nested_meters_share_one_sampler(clock: FakeClock) -> None:
    """An inner meter sees its own span, the outer one all of it; the backend is closed at the end."""
    backend = FakeBackend.with_power(clock, watts=100)
    sampler = Sampler(clock, threaded=False)
    outer = EnergyMeter(backends=[backend], sampler=sampler)
    inner = EnergyMeter(backends=[FakeBackend.with_power(clock, watts=100)], sampler=sampler)
    with outer:
        clock.advance(1)
        with inner:
            clock.advance(1)
        clock.advance(1)
    assert outer.session.total().energy_joules == pytest.approx(300, rel=1e-3)
    assert inner.session.total().energy_joules == pytest.approx(100, rel=1e-3)
    assert backend.closed


def test_observer_gets_each_finished_window(clock: FakeClock) -> None:
    """`on_window` is called once per window with its final energy."""
    seen: list[tuple[str, float | None]] = []
    backend = FakeBackend.with_power(clock, watts=100)
    meter = fake_meter(
        backend,
        clock=clock,
        on_window=lambda window: seen.append((window.name, window.energy().energy_joules)),
    )
    with meter:
        for name in ("a", "b"):
            with meter.window(name):
                clock.advance(1)
    assert [name for name, _ in seen] == ["a", "b"]
    assert [energy for _, energy in seen] == [pytest.approx(100, rel=1e-2)] * 2


def test_failing_observer_is_an_event(clock: FakeClock) -> None:
    """An observer that raises harms nobody."""

    def observer(window: object) -> None:
        raise RuntimeError("full disk")

    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, on_window=observer)
    with meter, meter.window("a"):
        clock.advance(1)
    assert "full disk" in " ".join(meter.session.events()["message"])


def test_sync_is_called_at_both_edges_and_marked(clock: FakeClock) -> None:
    """The window waits for the device before each stamp."""
    calls: list[int] = []
    meter = fake_meter(
        FakeBackend.with_power(clock, watts=1), clock=clock, sync=lambda: calls.append(clock.now_ns())
    )
    with meter, meter.window("a"):
        clock.advance(1)
    assert [call / 1e9 for call in calls] == [0, 1]
    frame = meter.session.windows()
    assert frame[frame["name"] == "a"]["synchronised"].all()


def test_failing_sync_is_an_event_and_not_marked(clock: FakeClock) -> None:
    """A sync function that raises harms nobody, and the window does not claim to be synchronised."""

    def sync() -> None:
        raise RuntimeError("no CUDA")

    meter = fake_meter(FakeBackend.with_power(clock, watts=1), clock=clock, sync=sync)
    with meter, meter.window("a"):
        clock.advance(1)
    frame = meter.session.windows()
    assert not frame[frame["name"] == "a"]["synchronised"].any()
    assert "no CUDA" in " ".join(meter.session.events()["message"])


def test_two_domains_are_summed_and_parts_are_not(clock: FakeClock) -> None:
    """Package and DRAM add up; core is part of package; psys contains everything."""
    domains = [
        fake_domain(name="package-0"),
        fake_domain(name="dram-0", kind="dram"),
        fake_domain(name="core-0", parent="package-0"),
        fake_domain(name="psys", kind="psys"),
    ]
    counts = [lambda now, watts=watts: now * watts // 1000 for watts in (100, 10, 70, 150)]
    meter = fake_meter(FakeBackend(domains, counts, clock), clock=clock)
    with meter:
        clock.advance(1)
    assert meter.session.total().energy_joules == pytest.approx(110, rel=1e-3)
    assert meter.session.total("cpu").energy_joules == pytest.approx(100, rel=1e-3)
    assert meter.session.total("psys").energy_joules == pytest.approx(150, rel=1e-3)


def test_forked_child_leaves_the_session_to_its_parent(tmp_path: Path) -> None:
    """What a child decorates is in a run of its own; the parent's is the parent's alone, written once."""
    code = (
        "import os, sys, mlmeter\n"
        "with mlmeter.inference('warm-up'):\n    pass\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    with mlmeter.inference('request'):\n        pass\n"
        "    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    root = str(Path(mlmeter.__file__).parent.parent)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        timeout=60,
        env={"PYTHONPATH": root, "MLMETER_OUTPUT_DIR": str(tmp_path)},
    )
    with (tmp_path / "runs.csv").open(newline="") as file:
        runs = [row["session"] for row in csv.DictReader(file)]
    assert len(runs) == len(set(runs)) == 2
    texts = [(tmp_path / run / "windows.csv").read_text() for run in runs]
    assert [("warm-up" in text, "request" in text) for text in texts] == [(False, True), (True, False)]


def test_units_are_pooled_over_the_windows_that_count_them(clock: FakeClock, meter: EnergyMeter) -> None:
    """Windows of the same name that count nothing do not raise the joules per unit of the others."""
    with meter:
        with meter.window("predict", images=1):
            clock.advance(1)
        with meter.window("predict"):
            clock.advance(9)
    row = meter.session.window_names().iloc[0]
    assert row["energy_joules"] == pytest.approx(1000, rel=1e-2)
    assert row["joules_per_image"] == pytest.approx(100, rel=1e-2)


def test_domains_of_two_backends_keep_apart(clock: FakeClock) -> None:
    """Equal names are made different; an equal identity is one device, and added once."""
    first = FakeBackend.with_power(clock, 100, id="a")
    other = FakeBackend.with_power(clock, 50, id="b")
    same = FakeBackend.with_power(clock, 100, id="a")
    with fake_meter(first, other, same, clock=clock) as meter:
        clock.advance(10)
    assert meter.session.total().energy_joules == pytest.approx(1500, rel=1e-3)
    assert list(meter.session.domains()["domain"]) == ["fake-0", "fake-0-2", "fake-0-3"]
    assert "already" in " ".join(meter.session.events()["message"])


def test_one_backend_object_in_two_meters(clock: FakeClock) -> None:
    """The inner meter shares what the outer one has opened, and does not close it."""
    backend = FakeBackend.with_power(clock, 100)
    outer = fake_meter(backend, clock=clock)
    inner = EnergyMeter(backends=[backend], sampler=outer._sampler)
    with outer:
        with inner:
            clock.advance(1)
        clock.advance(9)
    assert outer.session.total().energy_joules == pytest.approx(1000, rel=1e-3)
    assert inner.session.total().energy_joules == pytest.approx(100, rel=1e-2)


def test_window_that_outlives_its_parent(clock: FakeClock, meter: EnergyMeter) -> None:
    """A task that is not awaited owns its time; its parent gets what happened before its own end."""
    with meter:
        request = meter.window("request").__enter__()
        clock.advance(1)
        background = meter.window("background").__enter__()
        clock.advance(1)
        request.__exit__(None, None, None)
        clock.advance(8)
        background.__exit__(None, None, None)
    names = meter.session.window_names().query("domain == 'total'").set_index("name")["energy_joules"]
    assert names["request"] == pytest.approx(200, rel=1e-2)
    assert names["background"] == pytest.approx(900, rel=1e-2)
    assert not meter.session.windows()["concurrent"].any()


def test_mutual_recursion_is_counted_once(clock: FakeClock, meter: EnergyMeter) -> None:
    """The pooled energy of a name is never more than the session's."""
    with meter, meter.window("even"), meter.window("odd"), meter.window("even"):
        clock.advance(1)
    names = meter.session.window_names().query("domain == 'total'").set_index("name")
    assert names.loc["even", "energy_joules"] == pytest.approx(100, rel=1e-3)
    assert names.loc["even", "windows"] == 1


def test_time_before_the_first_reading_is_a_gap(clock: FakeClock) -> None:
    """A counter that is readable only from 9 s on tells nothing of what was before."""

    def count(now_ns: int) -> int:
        if now_ns < 9_000_000_000:
            raise OSError("not yet")
        return now_ns // 10

    meter = fake_meter(FakeBackend([fake_domain()], [count], clock), clock=clock)
    with meter:
        advance(meter, 10, 0.1)
    total = meter.session.total()
    assert not total.resolved
    assert total.coverage_ratio == pytest.approx(0.1, abs=0.11)
