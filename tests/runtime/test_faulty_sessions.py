"""Sessions of a meter in which domains come and go, and windows are many, empty or minute."""

from __future__ import annotations

import contextvars
import time
import tracemalloc
from collections import deque

import pytest

from mlmeter.measurement import Failure
from mlmeter.meter import EnergyMeter
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, SimulatedBackend, advance, fake_domain, fake_meter
from mlmeter.windows import Window
from tests.simulated_gpu import simulated_gpu

MANY = 100_000
# Far from what it takes: only work that grows with the square of the windows fails.
MOST_SECONDS = 60.0
MOST_BYTES = 1 << 30


def check_sums(session: Session, domain: str) -> None:
    """No window has less than nothing, and together they have what the session has."""
    total = session.total().energy_joules
    windows = session.windows()
    windows = windows[(windows["domain"] == domain) & (windows["scope"] == "exclusive")]
    assert (windows["energy_joules"].dropna() >= 0).all()
    assert (windows["low_joules"].dropna() >= 0).all()
    assert windows["energy_joules"].sum() == pytest.approx(total, rel=1e-9)
    assert session.phases().query("domain == 'total'")["energy_joules"].sum() == pytest.approx(total)


def open_apart(window: Window) -> None:
    """Open a window in a context of its own, as a task does: it is inside no other."""
    contextvars.Context().run(window.__enter__)


def at_once(meter: EnergyMeter, clock: FakeClock) -> None:
    windows = [meter.window(f"task-{number % 3}") for number in range(MANY)]
    for number, window in enumerate(windows):
        open_apart(window)
        clock.advance(1e-5)
        if number % 1000 == 0:
            advance(meter, 0.005, 0.005)
    for window in windows:
        window.__exit__(None, None, None)
        clock.advance(1e-6)


def staircase(meter: EnergyMeter, clock: FakeClock) -> None:
    opened: deque[Window] = deque()
    for number in range(MANY):
        opened.append(meter.window(f"task-{number % 3}"))
        open_apart(opened[-1])
        clock.advance(1e-4)
        if number % 50 == 0:
            advance(meter, 0.005, 0.005)
        if len(opened) > 5:
            opened.popleft().__exit__(None, None, None)
    while opened:
        opened.popleft().__exit__(None, None, None)


def nested(meter: EnergyMeter, clock: FakeClock) -> None:
    windows = [meter.window("level") for _ in range(MANY)]
    for number, window in enumerate(windows):
        window.__enter__()
        clock.advance(1e-5)
        if number % 1000 == 0:
            advance(meter, 0.005, 0.005)
    for window in reversed(windows):
        window.__exit__(None, None, None)
        clock.advance(1e-6)


@pytest.mark.parametrize("pattern", [at_once, staircase, nested])
def test_a_hundred_thousand_overlapping_windows(clock: FakeClock, pattern) -> None:  # type: ignore[no-untyped-def]
    """All at once, a few at a time, or one in the other: not more than the counter, and bounded work."""
    meter = fake_meter(simulated_gpu(clock, watts=[100.0]), clock=clock)
    with meter:
        advance(meter, 1.0, 0.005)
        pattern(meter, clock)
        advance(meter, 1.0, 0.005)
    started = time.process_time()
    tracemalloc.start()
    check_sums(meter.session, "gpu-0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - started < MOST_SECONDS
    assert peak < MOST_BYTES
    energy = meter.session.total().energy_joules
    assert energy == pytest.approx(100.0 * meter.session.duration_seconds, rel=0.01)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 5e-7])
@pytest.mark.parametrize("period_seconds", [0.001, 0.1])
def test_windows_shorter_than_a_microsecond(clock: FakeClock, seconds: float, period_seconds: float) -> None:
    """They have next to no energy, within bounds of the power, and take none from the session."""
    backend = SimulatedBackend([0.0, 1000.0], [100.0], clock, update_period_seconds=period_seconds)
    meter = fake_meter(backend, clock=clock)
    with meter:
        for _ in range(200):
            advance(meter, 0.01, 0.005)
            with meter.inference("call"):
                clock.advance(seconds)
        advance(meter, 0.5, 0.005)
    check_sums(meter.session, "fake-0")
    windows = meter.session.windows().query("domain == 'fake-0' and scope == 'inclusive' and window > 0")
    assert (windows["high_joules"] <= 1000.0 * seconds + 1e-9).all()
    assert (windows["low_joules"] <= 100.0 * seconds + 1e-9).all()
    assert (windows["high_joules"] >= 100.0 * seconds - 1e-9).all()
    if seconds == 0:
        assert (windows["energy_joules"] == 0).all()


def test_a_session_of_no_length(clock: FakeClock) -> None:
    """Nothing was used, and nothing is divided by."""
    meter = fake_meter(simulated_gpu(clock, watts=[100.0]), clock=clock)
    with meter, meter.window("empty"):
        pass
    session = meter.session
    assert (session.windows()["energy_joules"].dropna() >= 0).all()
    assert session.domains()["short"].tolist() == [True]


def two_counters(clock: FakeClock) -> FakeBackend:
    """Two counters of 100 W and of 50 W."""
    domains = [fake_domain(name=name, max_power_watts=200.0) for name in ("cpu-0", "cpu-1")]
    counts = [lambda now_ns: now_ns // 10, lambda now_ns: now_ns // 20]
    return FakeBackend(domains, counts, clock)


def test_a_domain_that_vanishes(clock: FakeClock) -> None:
    """What it used before is kept, what it may have used since is in the interval, an event says why."""
    backend = two_counters(clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        with meter.training("before"):
            advance(meter, 2.0)
        backend.counts[1] = Failure(1, "it is gone", True, clock.now_ns())
        with meter.inference("after"):
            advance(meter, 2.0)
    domains = meter.session.domains().set_index("domain")
    assert domains.loc["cpu-1", "energy_joules"] == pytest.approx(100.0, rel=0.02)
    assert domains.loc["cpu-1", "coverage_ratio"] == pytest.approx(0.5, abs=0.02)
    total = meter.session.total()
    assert total.low_joules <= 600.0 <= total.high_joules  # type: ignore[operator]
    phases = meter.session.phases().set_index(["phase", "domain"])
    # Absent, not 0: and the sum says that a part of it is missing.
    assert phases.loc[("inference", "cpu-1")].isna()["energy_joules"] or (
        phases.loc[("inference", "cpu-1"), "coverage_ratio"] < 0.05
    )
    assert phases.loc[("inference", "total"), "high_joules"] >= 300.0
    assert phases.loc[("inference", "total"), "coverage_ratio"] < 0.05
    events = meter.session.events()
    assert "it is gone" in " ".join(events[events["kind"] == "lost"]["message"])


def test_a_domain_that_appears(clock: FakeClock) -> None:
    """Time before its first reading is a gap with an event; from then on it is metered."""
    backend = two_counters(clock)
    count, backend.counts[1] = backend.counts[1], Failure(1, "not yet", False, 0)
    meter = fake_meter(backend, clock=clock)
    with meter:
        advance(meter, 1.0)
        backend.counts[1] = count
        advance(meter, 3.0)
    domains = meter.session.domains().set_index("domain")
    assert domains.loc["cpu-1", "energy_joules"] == pytest.approx(150.0, rel=0.03)
    assert domains.loc["cpu-1", "gaps_seconds"] == pytest.approx(1.0, abs=0.05)
    total = meter.session.total()
    assert total.low_joules <= 600.0 <= total.high_joules  # type: ignore[operator]
    messages = " ".join(meter.session.events()["message"])
    assert "not yet" in messages
    assert "readable after" in messages


def test_a_domain_that_comes_and_goes(clock: FakeClock) -> None:
    """A counter that counts on through its absences is complete; it is known in time only."""
    backend = two_counters(clock)
    count = backend.counts[1]
    meter = fake_meter(backend, clock=clock)
    with meter:
        for _ in range(5):
            with meter.window("seen"):
                advance(meter, 0.5)
            backend.counts[1] = Failure(1, "busy", False, clock.now_ns())
            for _ in range(2):
                with meter.window("unseen"):
                    advance(meter, 0.25)
            backend.counts[1] = count
        advance(meter, 0.5)
    domains = meter.session.domains().set_index("domain")
    assert domains.loc["cpu-1", "energy_joules"] == pytest.approx(275.0, rel=0.01)
    assert domains.loc["cpu-1", "coverage_ratio"] == 1
    windows = meter.session.windows().query("domain == 'cpu-1' and scope == 'inclusive'")
    width = (windows["high_joules"] - windows["low_joules"]).groupby(windows["name"]).median()
    assert width["unseen"] > 5 * width["seen"]
    assert (windows["low_joules"] >= 0).all()
