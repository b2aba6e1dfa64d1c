"""Windows never wait twice for a source that was cheap to read and no longer is."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from mlmeter import EnergyMeter
from mlmeter.measurement import Failure, Reading
from mlmeter.sampling.contained_reads import LONGEST_WANT_NS
from mlmeter.sampling.edge_permit import EDGE_LIMIT_NS
from mlmeter.sampling.refresh_lock import NEVER_NS
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import Source
from mlmeter.testing import FakeBackend, FakeClock, fake_domain, fake_meter
from tests.runtime.waiting import LONG_SECONDS, wait_until

CHEAP_SECONDS = 10e-6


class Delayed(FakeBackend):
    """A counter of 100 W that claims to be cheap; a test says how long each read takes."""

    name = "delayed"

    def __init__(self, clock: FakeClock) -> None:
        super().__init__([fake_domain(source="delayed")], [lambda now: now // 10], clock)
        self.clock = clock
        self.delay: Callable[[], float] = lambda: CHEAP_SECONDS
        self.at_edge = False
        # How long each read at an edge has taken.
        self.edges_seconds: list[float] = []

    def read(self) -> Sequence[Reading | Failure]:
        delay = self.delay()
        begin_ns = self.clock.now_ns()
        self.clock.advance(delay)
        if self.at_edge:
            self.edges_seconds.append(delay)
        return [item._replace(begin_ns=begin_ns) for item in super().read()]  # type: ignore[arg-type]

    def slow_edges(self, since: int = 0) -> int:
        """Return how many reads at edges took more than an edge may."""
        return sum(delay * 1e9 > EDGE_LIMIT_NS for delay in self.edges_seconds[since:])


def started(backend: Delayed, *others: FakeBackend) -> EnergyMeter:
    """Return a running meter that tells its backend which reads happen at edges."""
    meter = fake_meter(backend, *others, clock=backend.clock)
    meter.start()
    edge = meter.recorder.edge
    assert edge is not None

    def told() -> None:
        backend.at_edge = True
        edge()
        backend.at_edge = False

    meter.recorder.edge = told
    return meter


def run(meter: EnergyMeter, clock: FakeClock, seconds: float, windows_per_second: int = 20) -> None:
    """Open windows, and do what the sampler's thread does: a regular tick every 0.1 s."""
    deadline_ns = next_ns = clock.now_ns()
    deadline_ns += round(seconds * 1e9)
    while clock.now_ns() < deadline_ns:
        with meter.window("step"):
            clock.advance(0.5 / windows_per_second)
        clock.advance(0.5 / windows_per_second)
        if clock.now_ns() >= next_ns:
            next_ns = clock.now_ns() + 100_000_000
            meter.recorder._sampler.tick(resting_too=False)


def after(seconds: float, backend: Delayed, windows_per_second: int = 20) -> EnergyMeter:
    """Return a meter that has run for so long and was stopped."""
    meter = started(backend)
    run(meter, backend.clock, seconds, windows_per_second)
    meter.stop()
    return meter


def notes(meter: EnergyMeter) -> list[str]:
    events = meter.session.events()
    return [text for text in events["message"] if "edge" in text]


# -- the law, counted -------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.05, 0.5, 30.0])
def test_one_slow_read_is_waited_for_and_no_other(clock: FakeClock, delay: float) -> None:
    """A source that becomes slow delays one edge; from then on the sampler's thread has it alone."""
    backend = Delayed(clock)
    meter = started(backend)
    run(meter, clock, 5)
    assert len(backend.edges_seconds) > 100
    assert backend.slow_edges() == 0
    before = len(backend.edges_seconds)
    backend.delay = lambda: delay
    run(meter, clock, 300)
    assert len(backend.edges_seconds) - before <= 1
    meter.stop()
    assert len(notes(meter)) <= 1


def test_source_that_is_fast_again_is_read_at_edges_again(clock: FakeClock) -> None:
    """The sampler's thread finds out; an event says when it was left alone and when that ended."""
    backend = Delayed(clock)
    meter = started(backend)
    run(meter, clock, 5)
    backend.delay = lambda: 0.05
    run(meter, clock, 20)
    backend.delay = lambda: CHEAP_SECONDS
    before = len(backend.edges_seconds)
    run(meter, clock, 20)
    meter.stop()
    assert len(backend.edges_seconds) - before > 100
    first, second = notes(meter)
    assert "delayed: a read took 50 ms; for 1 s, and" in first
    assert second == "delayed: its reads are fast; windows read it at their edges again"


def test_now_and_then_slow_is_met_less_and_less_often(clock: FakeClock) -> None:
    """2 % of the reads take 50 ms: windows meet ten of them in 20 minutes, and then one in ten minutes."""
    rng = random.Random(7)
    backend = Delayed(clock)
    backend.delay = lambda: 0.05 if rng.random() < 0.02 else CHEAP_SECONDS
    after(7200, backend, 2)
    assert 1 <= backend.slow_edges() <= 10 + 7200 / 600


@pytest.mark.parametrize("delay", [60e-6, 150e-6, 5e-3])
def test_dear_reads_are_left_to_the_sampler(clock: FakeClock, delay: float) -> None:
    """What always takes longer than an edge may: 32 reads at first, then eight at each trial."""
    backend = Delayed(clock)
    backend.delay = lambda: delay if backend.at_edge else min(delay, 200e-6)
    meter = after(600, backend)
    assert 1 <= backend.slow_edges() <= 32 + 8 * 10
    assert backend.slow_edges() <= 0.01 * 2 * len(meter.session.recording.windows)


def test_cold_caches_are_no_fault_of_the_source(clock: FakeClock) -> None:
    """Reads of 80 us at all edges that take 10 us when repeated: windows go on reading them."""
    backend = Delayed(clock)
    last_ns = [0]

    def delay() -> float:
        cold = clock.now_ns() - last_ns[0] > 100_000
        last_ns[0] = clock.now_ns()
        return 80e-6 if cold else CHEAP_SECONDS

    backend.delay = delay
    meter = after(60, backend)
    assert notes(meter) == []
    assert len(backend.edges_seconds) >= 0.9 * 60 * 40


def test_edges_of_many_windows_take_a_small_share_of_the_time(clock: FakeClock) -> None:
    """A quarter of a percent at 300 windows a second of 20 us reads; what is read comes in rows."""
    backend = Delayed(clock)
    backend.delay = lambda: 20e-6
    meter = started(backend)
    # No looks after edges, which would keep the next ones from being read.
    meter.recorder._sampler._budget.saved_ns = -NEVER_NS
    edges: list[bool] = []
    told = meter.recorder.edge

    def noted() -> None:
        before = len(backend.edges_seconds)
        told()
        edges.append(len(backend.edges_seconds) > before)

    meter.recorder.edge = noted
    run(meter, clock, 60, windows_per_second=300)
    meter.stop()
    # What is saved at first, and the share of a minute.
    assert 0.8 * 0.0025 * 60 <= sum(backend.edges_seconds) <= 0.0025 * 61 + 20e-6
    threes = zip(edges, edges[1:], edges[2:], strict=False)
    assert (False, True, False) not in set(threes)


def test_fifty_edges_a_second_are_read_whatever_they_cost(clock: FakeClock) -> None:
    """25 windows a second with reads of 49 us, some of 400 us: all their edges are read."""
    backend = Delayed(clock)
    backend.delay = lambda: 400e-6 if len(backend.edges_seconds) % 2 else 49e-6
    meter = after(60, backend, 25)
    assert len(backend.edges_seconds) == 2 * len(meter.session.recording.windows)


def test_a_hiccup_means_nothing(clock: FakeClock) -> None:
    """One read in thirty waits 5 ms for the interpreter: windows are read at their edges as before."""
    backend = Delayed(clock)
    backend.delay = lambda: 5e-3 if len(backend.edges_seconds) % 30 == 29 else CHEAP_SECONDS
    meter = after(60, backend)
    assert notes(meter) == []
    assert len(backend.edges_seconds) >= 2 * 20 * 50


def test_a_thread_that_holds_the_interpreter_does_not_take_the_edges(clock: FakeClock) -> None:
    """Reads on the sampler's thread may wait for the lock each time; those at edges do not."""
    backend = Delayed(clock)
    meter = started(backend)
    run(meter, clock, 1)
    backend.delay = lambda: CHEAP_SECONDS if backend.at_edge else 0.1
    before = len(backend.edges_seconds)
    run(meter, clock, 30)
    meter.stop()
    assert len(backend.edges_seconds) - before > 200
    assert not any("windows do not read" in text for text in notes(meter))


def test_source_that_is_slow_from_the_start_is_never_read_at_an_edge(clock: FakeClock) -> None:
    """What it costs is seen on a thread of our own first."""
    backend = Delayed(clock)
    backend.delay = lambda: 0.05
    after(60, backend)
    assert backend.edges_seconds == []


def test_errors_by_schedule_are_not_retried_at_edges(clock: FakeClock) -> None:
    """Each third read raises: windows meet an error at most once a second, the sampler asks again."""
    backend = Delayed(clock)
    raised: list[bool] = []

    def delay() -> float:
        if backend.reads % 3 == 2:
            backend.reads += 1
            raised.append(backend.at_edge)
            raise OSError("by schedule")
        return CHEAP_SECONDS

    backend.delay = delay
    meter = after(60, backend)
    assert 1 <= sum(raised) <= 61
    total = meter.session.total()
    assert total.energy_joules == pytest.approx(100 * meter.session.duration_seconds, rel=0.03)


def test_windows_without_edge_reads_have_honest_intervals(clock: FakeClock) -> None:
    """They are read ten times a second at most: 95 % of the intervals hold the truth."""
    backend = Delayed(clock)
    backend.counts = [lambda now: now // 1_000_000 * 100_000]
    meter = started(backend)
    run(meter, clock, 5.0003)
    backend.delay = lambda: 0.05
    run(meter, clock, 30)
    meter.stop()
    frame = meter.session.windows()
    windows = frame[
        (frame["name"] == "step") & (frame["domain"] == "fake-0") & (frame["scope"] == "inclusive")
    ]
    true_joules = 100 * windows["duration_seconds"]
    held = (windows["low_joules"] <= true_joules) & (windows["high_joules"] >= true_joules)
    assert len(windows) > 200
    assert held.mean() >= 0.95


# -- the interpreter's lock ----------------------------------------------------------------------


def subscribed(backend: Delayed) -> tuple[Sampler, Source]:
    """Return a sampler that reads the backend at edges, and its source."""
    sampler, source = Sampler(backend.clock, threaded=False), Source.of(backend, backend.open())
    sampler.subscribe([source])
    return sampler, source


def read_at_edge(sampler: Sampler, backend: Delayed) -> bool:
    """Whether an edge reads the backend now."""
    reads = backend.reads
    sampler.edge()
    return backend.reads > reads


def test_edges_close_together_yield_to_a_thread_that_waits_for_the_interpreter(clock: FakeClock) -> None:
    """A read would hand it over in the middle of an edge; the first edge after a pause is read."""
    backend = Delayed(clock)
    sampler, _ = subscribed(backend)
    clock.advance(0.1)
    sampler._budget.saved_ns = 0
    sampler._edges._wanted_ns = clock.now_ns()
    found = []
    for _ in range(10):
        found.append(read_at_edge(sampler, backend))
        clock.advance(0.0015)
    # After 10 ms it is waiting for something else.
    assert found == [True, *[False] * 6, True, True, True]


def test_edge_is_read_although_our_thread_is_about_to_read(clock: FakeClock) -> None:
    """For 10 ms that thread may only be waiting for the interpreter's lock; then its read may hang."""
    backend = Delayed(clock)
    sampler, source = subscribed(backend)
    clock.advance(0.1)
    with source.gate:
        source.reading_ns = clock.now_ns()
        clock.advance(0.005)
        assert read_at_edge(sampler, backend)
        clock.advance(0.005)
        assert not read_at_edge(sampler, backend)
    source.reading_ns = -NEVER_NS
    clock.advance(0.005)
    assert read_at_edge(sampler, backend)
    assert source.gate.acquire(blocking=False)


def test_looks_that_come_late_are_asked_for_less_often(clock: FakeClock) -> None:
    """A program that keeps the interpreter makes them useless where windows are close together."""
    backend = Delayed(clock)
    backend.delay = lambda: 0.0
    sampler, _ = subscribed(backend)

    def looks(seconds: float, step_seconds: float, late_seconds: float) -> int:
        asked, until_ns = 0, clock.now_ns() + round(seconds * 1e9)
        while clock.now_ns() < until_ns:
            clock.advance(step_seconds)
            sampler._budget.saved_ns = 500_000
            sampler.edge()
            if sampler._wake.is_set():
                sampler._wake.clear()
                asked += 1
                clock.advance(late_seconds)
                sampler.locate()
        return asked

    assert looks(2.0, 0.0008, 0.001) <= 12
    assert looks(2.0, 0.02, 0.001) >= 80
    assert looks(2.0, 0.02, 0.0) >= 80
    assert looks(2.0, 0.0008, 0.0) >= 100


# -- with real threads -------------------------------------------------------------------------


class Hanging(FakeBackend):
    """A real-time counter that claims to be cheap; once `hang` is set, the next read hangs until released."""

    def __init__(self, name: str = "hanging", **domain: object) -> None:
        fields = {"name": f"{name}-0", "source": name, "kind": "gpu", **domain}
        super().__init__([fake_domain(**fields)], [], FakeClock())
        self.name = name
        self.hang, self.hangs, self.released = threading.Event(), threading.Event(), threading.Event()
        self.threads: list[str] = []

    def read(self) -> Sequence[Reading | Failure]:
        self.threads.append(threading.current_thread().name)
        if self.hang.is_set() and not self.released.is_set():
            self.hangs.set()
            self.released.wait(LONG_SECONDS)
        begin_ns = time.perf_counter_ns()
        return [Reading(0, begin_ns // 100, begin_ns, time.perf_counter_ns())]


def test_windows_leave_a_source_alone_that_the_sampler_waits_for(sampler: Sampler) -> None:
    """After 10 ms, as long as a thread may wait for the interpreter, not only once it is known to hang."""
    backend = Hanging()
    with EnergyMeter(backends=[backend], sampler=sampler, period_seconds=0.01) as meter:
        wait_until(lambda: len(backend.threads) > 100)
        backend.hang.set()
        assert backend.hangs.wait(LONG_SECONDS)
        reads, source = len(backend.threads), meter.recorder.collected.sources[0]
        wait_until(lambda: time.perf_counter_ns() - source.reading_ns > LONGEST_WANT_NS)
        for _ in range(1000):
            with meter.window("step"):
                pass
        assert len(backend.threads) == reads
        backend.released.set()
    assert len(meter.session.recording.windows) == 1000


def test_window_that_hangs_delays_no_other(sampler: Sampler) -> None:
    """One thread is caught by the read; the others go on without it, the other sources are read on."""
    backend, other = Hanging(), Hanging("other", kind="cpu", cheap_read=False, update_period_seconds=0.01)
    caught = threading.Event()

    def step() -> None:
        while not caught.is_set():
            # No other thread reads it then, unless the sampler's is just at it.
            backend.hang.set()
            with meter.window("caught"):
                pass
            if backend.hangs.is_set():
                caught.set()

    with EnergyMeter(backends=[backend, other], sampler=sampler, period_seconds=0.01) as meter:
        wait_until(lambda: meter.recorder.collected.sources[0].edge_permit.open)
        worker = threading.Thread(target=step, name="worker")
        worker.start()
        assert backend.hangs.wait(LONG_SECONDS)
        reads = len(backend.threads)
        for _ in range(1000):
            with meter.window("step"):
                pass
        wait_until(lambda: "has not come back" in " ".join(meter.session.events()["message"]))
        others = len(other.threads)
        wait_until(lambda: len(other.threads) > others + 5)
        assert len(backend.threads) == reads
        backend.released.set()
        worker.join(LONG_SECONDS)
    assert not worker.is_alive()


def test_first_read_of_a_cheap_source_may_hang(sampler: Sampler) -> None:
    """It is made on a thread of its own: the program waits for the limit, not for the read."""
    backend = Hanging()
    backend.hang.set()
    with EnergyMeter(backends=[backend], sampler=sampler, period_seconds=0.01) as meter:
        with meter.window("step"):
            pass
    assert meter.session.total().energy_joules is None
    assert backend.threads == ["mlmeter-errand"]
    backend.released.set()
