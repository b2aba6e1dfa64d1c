"""The sampler's rounds on a fake clock: polls, measured periods, failures, forks; totals stay right."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlmeter import EnergyMeter, load
from mlmeter.measurement import Domain, Failure
from mlmeter.sampling.refresh_lock import Mode
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.testing import FakeBackend, FakeClock, SimulatedBackend, fake_domain, fake_meter

POLL_CPU_NS = 20_000


@pytest.fixture(autouse=True)
def cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the thread's CPU time finds that a little has passed."""
    ticks = itertools.count(0, POLL_CPU_NS)
    monkeypatch.setattr("time.thread_time_ns", lambda: next(ticks))


def sampler_of(meter: EnergyMeter) -> Sampler:
    sampler = meter.recorder._sampler
    assert isinstance(sampler, Sampler)
    return sampler


def rounds(sampler: Sampler, until_seconds: float) -> None:
    """Let the sampler's thread do its rounds up to a time."""
    clock = sampler.clock
    deadline_ns = clock.now_ns() + sampler._period_ns
    spent = ThreadTime()
    while clock.now_ns() < until_seconds * 1e9:
        sampler._measure(sampler._thread.turn, spent)
        sampler._round(sampler._thread.turn, deadline_ns, spent)
        deadline_ns = sampler._next_deadline_ns(deadline_ns)


def gpu(clock: FakeClock, period: float, assumed: float | None = None, **fields: object) -> SimulatedBackend:
    """Return a GPU's counter under a load that changes every 0.25 s."""
    edges = [0.25 * k for k in range(400)]
    watts = [(300.0, 100.0, 60.0)[k % 3] for k in range(399)]
    backend = SimulatedBackend(
        edges,
        watts,
        clock,
        update_period_seconds=period,
        jitter_seconds=period / 100,
        joules_per_count=0.001,
        **{"name": "gpu-0", "kind": "gpu", "cheap_read": False, "max_power_watts": 450.0, **fields},
    )
    if assumed is not None:
        backend.domain = fake_domain(
            **{
                **{name: getattr(backend.domain, name) for name in Domain.__dataclass_fields__},
                "update_period_seconds": assumed,
            }
        )
    return backend


def with_windows(meter: EnergyMeter, seconds: float) -> None:
    """Open and close windows while the sampler's thread works."""
    sampler = sampler_of(meter)
    while sampler.clock.now_ns() < seconds * 1e9:
        with meter.window("step", phase="inference"):
            rounds(sampler, sampler.clock.now_ns() * 1e-9 + 0.07)


@pytest.mark.parametrize(("period", "assumed"), [(0.1, 0.1), (0.02, 0.1), (0.1, 0.02)])
def test_learnt_period_reaches_the_results(
    clock: FakeClock, tmp_path: Path, period: float, assumed: float
) -> None:
    """Polls lock on, the session is right, and the measured period is shown, used, saved and loaded."""
    backend = gpu(clock, period, assumed)
    meter = fake_meter(backend, clock=clock, output_dir=tmp_path)
    with meter:
        with_windows(meter, 12.0)
        polls = sampler_of(meter).cost().polls
    session = meter.session
    run = session.recording.run
    truth = backend.true_joules(run.start_ns * 1e-9, run.end_ns * 1e-9)
    total = session.total()
    # This load ignores its windows: at both ends it is told by their usual power for up to two periods.
    assert total.energy_joules == pytest.approx(truth, rel=0.025)
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= truth <= total.high_joules
    assert polls[Mode.LOCK] > polls[Mode.DISCOVER] > 0
    row = session.domains().iloc[0]
    assert row["update_period_seconds"] == assumed
    assert row["measured_period_seconds"] == pytest.approx(period, rel=0.01)
    ((_, rows),) = session.recording.domains
    width = np.subtract(rows.before_ns, rows.after_ns)[len(rows.counts) // 2 :]
    assert np.median(width) <= 2_000_000
    assert session.recording.resolution.timelines["gpu-0"].period_seconds == rows.period_seconds  # type: ignore[union-attr]
    loaded = load(next(tmp_path.glob("*/session.json")))
    assert loaded.domains()["measured_period_seconds"].iloc[0] == rows.period_seconds
    assert loaded.recording.run.facts["sampler"]["polls"] == run.facts["sampler"]["polls"]


def test_quiet_sampler_does_what_it_did_before(clock: FakeClock) -> None:
    """Without windows a slow counter is read ten times a second and never in between."""
    meter = fake_meter(gpu(clock, 0.1), clock=clock)
    with meter:
        sampler = sampler_of(meter)
        rounds(sampler, 1.0)
        reads = sampler.cost().reads
        rounds(sampler, 11.0)
        assert sampler.cost().reads - reads == 100
        assert sampler.cost().polls.get(Mode.LOCK, 0) == 0


def test_polled_counter_is_not_read_at_ticks_as_well(clock: FakeClock) -> None:
    """The lock's reads are all there are: at most six per refresh at 1 ms jitter."""
    meter = fake_meter(gpu(clock, 0.1), clock=clock)
    with meter:
        with_windows(meter, 5.0)
        sampler = sampler_of(meter)
        reads = sampler.cost().reads
        with_windows(meter, 25.0)
        assert sampler.cost().reads - reads <= 6 * 200


def test_two_gpus_of_one_source_are_locked_each_at_its_own_phase(clock: FakeClock) -> None:
    """They are read together, and each has narrow brackets."""
    domains = [
        fake_domain(name=f"gpu-{number}", kind="gpu", update_period_seconds=0.1, cheap_read=False)
        for number in range(2)
    ]
    late_ns = 43_000_000
    counts = [stepping(0.1), lambda now: stepping(0.1)(now + late_ns)]
    meter = fake_meter(FakeBackend(domains, counts, clock), clock=clock)
    with meter:
        with_windows(meter, 10.0)
    for _, rows in meter.session.recording.domains:
        width = np.subtract(rows.before_ns, rows.after_ns)[len(rows.counts) // 2 :]
        assert np.median(width) <= 3_000_000
        assert rows.period_seconds == pytest.approx(0.1, rel=0.01)


def test_gpu_that_fails_is_not_polled_without_end(clock: FakeClock) -> None:
    """A source that raises while it is locked: a few polls a second, and it is found again later."""
    backend = gpu(clock, 0.1)
    meter = fake_meter(backend, clock=clock)
    with meter:
        with_windows(meter, 4.0)
        sampler, working = sampler_of(meter), backend.read

        def fail() -> tuple[Failure, ...]:
            raise RuntimeError("GPU is busy")

        backend.read = fail  # type: ignore[method-assign,assignment]
        reads = sampler.cost().reads
        with_windows(meter, 8.0)
        assert sampler.cost().reads - reads <= 10
        backend.read = working  # type: ignore[method-assign]
        with_windows(meter, 16.0)
    end = meter.session.recording.run.end_ns * 1e-9
    assert meter.session.total().energy_joules == pytest.approx(backend.true_joules(0, end), rel=0.02)


def stepping(period: float, watts: float = 100.0) -> Callable[[int], int]:
    """Return the count in microjoules of a counter that is refreshed evenly."""
    period_ns = round(period * 1e9)
    return lambda now: round(watts * (now // period_ns * period_ns) / 1000)


@pytest.mark.parametrize("period", [0.001, 0.00098, 0.0015])
def test_period_of_a_fast_counter_is_measured(clock: FakeClock, period: float) -> None:
    """20 ms of reads at the first start tell it to 2 %; it stays a fast counter."""
    backend = FakeBackend([fake_domain(name="package-0")], [stepping(period)], clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        sampler = sampler_of(meter)
        reads = backend.reads
        rounds(sampler, 0.5)
        assert backend.reads - reads <= 100
        assert sampler.has_edges
    assert meter.session.domains()["measured_period_seconds"].iloc[0] == pytest.approx(period, rel=0.02)


def test_fast_counter_is_measured_once(clock: FakeClock) -> None:
    """The second meter of a process knows."""
    sampler = Sampler(clock, threaded=False)
    periods = []
    for _ in range(2):
        backend = FakeBackend([fake_domain(name="package-0")], [stepping(0.001)], clock)
        meter = EnergyMeter(backends=[backend], sampler=sampler)
        with meter:
            rounds(sampler, clock.now_ns() * 1e-9 + 0.5)
            reads = backend.reads
        periods.append(meter.session.domains()["measured_period_seconds"].iloc[0])
    assert periods[0] == periods[1] > 0
    assert reads <= 10


@pytest.mark.parametrize("period", [0.015, 0.03])
def test_slow_rapl_is_locked_and_its_bounds_hold(clock: FakeClock, period: float) -> None:
    """A counter said to be fast that is refreshed every 15 ms: no edge reads, honest intervals, a note."""
    domain = fake_domain(name="package-0", max_power_watts=300.0)
    count = stepping(period)
    backend = FakeBackend([domain], [count], clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        sampler = sampler_of(meter)
        rounds(sampler, 1.0)
        assert not sampler.has_edges
        reads = backend.reads
        sampler.edge()
        assert backend.reads == reads
        with_windows(meter, 6.0)
        with meter.window("short") as window:
            clock.advance(0.004)
        rounds(sampler, 7.0)
        assert sampler.cost().polls[Mode.LOCK] > 0
    session = meter.session
    assert session.domains()["measured_period_seconds"].iloc[0] == pytest.approx(period, rel=0.02)
    assert f"every {1e3 * period:.0f} ms" in " ".join(session.events()["message"])
    assert session.total().energy_joules == pytest.approx(100 * session.duration_seconds, rel=0.01)
    energy = window.energy()
    assert energy.low_joules is not None
    assert energy.high_joules is not None
    assert energy.low_joules <= 0.4 <= energy.high_joules
    # The first row was read when the counter was still trusted.
    ((_, rows),) = session.recording.domains
    for after, before, total in zip(rows.after_ns, rows.before_ns, rows.counts, strict=True):
        refresh_ns = (total + rows_origin(count, rows.before_ns[0])) * 10
        assert after <= refresh_ns <= before


def rows_origin(count: Callable[[int], int], first_ns: int) -> int:
    """Return the raw count from which a domain's rows are counted."""
    return count(first_ns)


def test_one_late_refresh_does_not_make_a_counter_slow(clock: FakeClock) -> None:
    """A hiccup of 30 ms during the measurement: the median tells."""

    def count(now: int) -> int:
        shown = now // 1_000_000 * 1_000_000
        return 5_000_000 // 10 if 5_000_000 <= shown < 35_000_000 else shown // 10

    meter = fake_meter(FakeBackend([fake_domain(name="package-0")], [count], clock), clock=clock)
    with meter:
        sampler = sampler_of(meter)
        rounds(sampler, 0.5)
        assert sampler.has_edges
    assert meter.session.domains()["measured_period_seconds"].iloc[0] == pytest.approx(0.001, rel=0.02)


@pytest.mark.parametrize("count", [0, lambda now: now // 10, RuntimeError("no permission")])
def test_counter_without_a_period_keeps_the_assumed_one(
    clock: FakeClock, count: int | Exception | Callable[[int], int]
) -> None:
    """One that never changes, changes all the time or cannot be read: nothing is made up."""
    backend = FakeBackend([fake_domain(name="package-0")], [count], clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        rounds(sampler_of(meter), 2.0)
        assert sampler_of(meter).has_edges
    assert meter.session.domains()["measured_period_seconds"].isna().all()


def test_sampler_with_a_failing_lock_still_waits(clock: FakeClock, mocker: object) -> None:
    """Whatever goes wrong in a round, the thread does not spin."""
    meter = fake_meter(gpu(clock, 0.1), clock=clock)
    with meter:
        sampler = sampler_of(meter)
        calls = []

        def fail(*_: object) -> None:
            calls.append(clock.now_ns())
            if len(calls) >= 20:
                sampler._thread.end()
            raise RuntimeError

        mocker.patch.object(sampler, "_round", fail)  # type: ignore[attr-defined]
        sampler._run(sampler._thread.turn)
    assert calls[-1] - calls[0] >= 19 * 50_000_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_child_after_fork_polls_nothing(clock: FakeClock) -> None:
    """The parent's locks stay with the parent; the child can meter afresh."""
    meter = fake_meter(gpu(clock, 0.1), clock=clock)
    with meter:
        sampler = sampler_of(meter)
        with_windows(meter, 3.0)
        sampler.after_fork_in_child()
        assert sampler._next_poll_ns() > clock.now_ns() + 10**12
        assert not sampler.has_edges
        assert sampler.cost().reads == 0
