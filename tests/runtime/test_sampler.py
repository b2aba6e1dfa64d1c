"""The sampler: deadlines, edges, failures, sharing, cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest

from mlmeter import EnergyMeter
from mlmeter.journal.live_journal import PATIENCE_NS, PERIOD_NS
from mlmeter.live import JOURNAL_SECONDS
from mlmeter.measurement import Domain, Failure, Reading
from mlmeter.sampling.pace import LONGEST_SECONDS
from mlmeter.sampling.refresh_lock import NEVER_NS
from mlmeter.sampling.sampler import BOOKING_NS, MANY_QUEUED, Sampler
from mlmeter.sampling.sources import Source
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.testing import FakeBackend, FakeClock, SimulatedBackend, check_backend, fake_domain, fake_meter


def source_of(backend: FakeBackend | SimulatedBackend) -> Source:
    """Return an opened source."""
    return Source.of(backend, backend.open())


def test_edge_reads_once_per_update_period(clock: FakeClock) -> None:
    """Windows closer together than the counter's period share one read."""
    backend = FakeBackend.with_power(clock, watts=100)
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([source_of(backend)])
    before = backend.reads
    for _ in range(10):
        clock.advance(0.0001)
        sampler.edge()
    assert backend.reads - before == 1


def test_slow_counters_are_not_read_at_edges(clock: FakeClock) -> None:
    """A GPU's counter would be asked in vain: it has not changed."""
    backend = FakeBackend.with_power(clock, watts=100, update_period_seconds=0.1, cheap_read=False)
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([source_of(backend)])
    before = backend.reads
    clock.advance(1)
    sampler.edge()
    assert backend.reads == before


def test_readings_arrive_in_order_of_time(clock: FakeClock) -> None:
    """Readings queued out of order by several threads are put in order, none is lost."""
    backend = FakeBackend([fake_domain()], [0], clock)
    source = source_of(backend)
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([source])
    clock.advance(0.003)
    for at, value in ((3_000_000, 30), (1_000_000, 10), (2_000_000, 20)):
        sampler._queue.append((source, [Reading(0, value, at, at)], at))
    ((_, rows),) = sampler.snapshot([source])
    assert list(rows.counts) == [0, 10, 20, 30]


def test_ticks_that_book_nothing_lose_nothing(clock: FakeClock) -> None:
    """What they have read waits in the queue, in its order, until a tick books it or somebody asks."""
    backend = FakeBackend([fake_domain()], [lambda now: now // 1_000_000], clock)
    source = source_of(backend)
    sampler, booked = Sampler(clock, threaded=False), []
    sampler.subscribe([source], on_booking=lambda: booked.append(clock.now_ns()))
    for _ in range(5):
        clock.advance(0.1)
        sampler.tick(booking=False)
    assert source.rows[0].readings == 1
    assert len(booked) == 1
    ((_, rows),) = sampler.snapshot([source])
    assert list(rows.counts) == [0, 100, 200, 300, 400, 500]
    clock.advance(0.1)
    sampler.tick()
    assert source.rows[0].readings == 7
    assert len(booked) == 2


@pytest.mark.parametrize(("windows", "kept"), [(10, True), (500, False)])
def test_much_is_put_away_before_the_garbage_collector_runs(
    clock: FakeClock, windows: int, kept: bool
) -> None:
    """At the next tick, whether it books or not; of a quiet program nothing is, as that costs more then."""
    meter = fake_meter(FakeBackend([fake_domain()], [lambda now: now // 10], clock), clock=clock)
    with meter:
        sampler, log = meter._sampler, meter.recorder.log
        assert sampler is not None
        for _ in range(windows):
            with meter.window("step"):
                clock.advance(0.002)
        assert len(log.pending) == windows
        assert (0 < len(sampler._queue) <= MANY_QUEUED) == kept
        sampler.tick(booking=False)
        assert (bool(sampler._queue), bool(log.pending)) == (kept, kept)
    assert len(meter.session.recording.windows) == windows


@pytest.mark.parametrize(
    "period_seconds", [0.01, 0.1, 0.15, LONGEST_SECONDS, 0.32, 0.34, 0.4, JOURNAL_SECONDS]
)
def test_what_is_read_is_written_within_a_second(clock: FakeClock, period_seconds: float) -> None:
    """Whatever the period is, each booking finds the journal due; without one it is written no later."""
    sampler, booked = Sampler(clock, threaded=False), []
    source = source_of(FakeBackend([fake_domain()], [lambda now: now // 1_000_000], clock))
    sampler.subscribe([source], period_seconds, on_booking=lambda: booked.append(clock.now_ns()))
    spent, deadline_ns = ThreadTime(), clock.now_ns() + sampler._period_ns
    while clock.now_ns() < 60e9:
        sampler._round(sampler._thread.turn, deadline_ns, spent)
        deadline_ns = sampler._next_deadline_ns(deadline_ns)
    gaps = [later - earlier for earlier, later in pairwise(booked)]
    assert max(gaps) <= BOOKING_NS
    assert min(gaps) >= PERIOD_NS
    assert PERIOD_NS + PATIENCE_NS <= BOOKING_NS < 0.95e9


def test_nothing_waits_in_the_queue_when_the_last_meter_has_gone(clock: FakeClock) -> None:
    """What was read in its last moment would keep its source, and so all that it has given."""
    backend = FakeBackend([fake_domain()], [lambda now: now // 1_000_000], clock)
    sampler = Sampler(clock, threaded=False)
    subscription = sampler.subscribe([source_of(backend)])
    clock.advance(0.1)
    sampler.tick(booking=False)
    assert sampler._queue
    sampler.unsubscribe(subscription)
    assert not sampler._queue


def test_what_is_booked_late_was_sound_when_it_was_read(clock: FakeClock) -> None:
    """A reading that comes from the future is nonsense, also when its time has come since."""

    class Ahead(FakeBackend):
        def read(self) -> Sequence[Reading | Failure]:
            return [item._replace(end_ns=item.end_ns + 50_000_000) for item in super().read()]  # type: ignore[union-attr,call-arg,misc]

    source = source_of(Ahead([fake_domain()], [lambda now: now // 1_000_000], clock))
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([source])
    clock.advance(0.1)
    sampler.tick(booking=False)
    clock.advance(0.1)
    assert sampler.snapshot([source])[0][1].readings == 0
    assert any("lies in the future" in remark.message for _, remark in sampler.remarks([source]))


def test_reading_of_an_unknown_domain_is_ignored(clock: FakeClock) -> None:
    """A backend that invents a domain does no harm."""

    class Inventive(FakeBackend):
        def read(self) -> Sequence[Reading | Failure]:
            return [*super().read(), Reading(7, 1, 0, 0), Reading(-1, 1, 0, 0)]

    meter = fake_meter(Inventive([fake_domain()], [lambda now: now // 10], clock), clock=clock)
    with meter:
        clock.advance(1)
    assert meter.session.total().energy_joules == pytest.approx(100, rel=1e-3)


def test_backend_that_raises_is_retried_later(clock: FakeClock) -> None:
    """A failed backend is asked again after 1 s, 2 s, 4 s; its counter then covers the outage."""
    backend = FakeBackend([fake_domain()], [lambda now: now // 10], clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        sampler = meter.recorder._sampler
        clock.advance(1)
        sampler.tick()
        working, backend.counts = backend.counts, [RuntimeError("driver is gone")]
        attempts = backend.reads
        for _ in range(60):
            clock.advance(0.1)
            sampler.tick()
        assert backend.reads - attempts == 3
        backend.counts = working
        for _ in range(60):
            clock.advance(0.1)
            sampler.tick()
    assert meter.session.total().energy_joules == pytest.approx(100 * 13, rel=1e-3)
    assert "driver is gone" in " ".join(meter.session.events()["message"])


def test_domain_that_fails_at_the_end_loses_coverage(clock: FakeClock) -> None:
    """What was read stays; the time without readings is told, and no joule is invented for it."""
    backend = FakeBackend(
        [fake_domain(update_period_seconds=0.1, cheap_read=False)], [lambda now: now // 10], clock
    )
    meter = fake_meter(backend, clock=clock)
    with meter:
        for _ in range(10):
            clock.advance(0.1)
            meter.recorder._sampler.tick()
        backend.counts = [Failure(0, "GPU is lost", True, clock.now_ns())]
        for _ in range(10):
            clock.advance(0.1)
            meter.recorder._sampler.tick()
    total = meter.session.total()
    assert total.coverage_ratio == pytest.approx(0.5, abs=0.06)
    assert total.energy_joules is not None
    assert total.energy_joules <= 110
    assert "GPU is lost" in " ".join(meter.session.events()["message"])
    assert total.high_joules is not None
    assert total.high_joules >= 200


def test_counter_reset_is_an_event_and_never_negative(clock: FakeClock) -> None:
    """A driver reload loses the energy between two readings and nothing else."""
    counts = iter([0, 10_000_000, 20_000_000, 5, 10_000_005, 20_000_005])
    backend = FakeBackend([fake_domain(cheap_read=False)], [lambda now: next(counts)], clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        for _ in range(4):
            clock.advance(0.1)
            meter.recorder._sampler.tick()
        clock.advance(0.1)
    frame = meter.session.domains()
    assert frame["resets"].iloc[0] == 1
    assert meter.session.total().energy_joules == pytest.approx(40, rel=0.02)
    assert "reset" in set(meter.session.events()["kind"])


def test_counter_that_never_moves_gives_nothing(clock: FakeClock) -> None:
    """A virtual machine's counter that always shows 0 is no energy of 0 J."""
    meter = fake_meter(FakeBackend([fake_domain()], [0], clock), clock=clock)
    with meter:
        for _ in range(20):
            clock.advance(0.1)
            meter.recorder._sampler.tick()
    assert meter.session.total().energy_joules is None
    assert "stuck" in set(meter.session.events()["kind"])
    assert "stood still" in meter.session.domains()["reason"].iloc[0]


def test_period_is_shortened_where_a_counter_wraps_sooner(clock: FakeClock) -> None:
    """A counter is read at least four times per wrap, whatever period the user asked for."""
    backend = FakeBackend.with_power(clock, 100, modulus=10_000_000, max_power_watts=100.0)
    sampler = Sampler(clock, threaded=False)
    subscription = sampler.subscribe([source_of(backend)], period_seconds=10)
    assert subscription.period_seconds == pytest.approx(0.1 / 4)


def test_wraps_lose_nothing(clock: FakeClock) -> None:
    """A window that spans many wraps has all its energy."""
    backend = FakeBackend.with_power(clock, 100, modulus=10_000_000, max_power_watts=150.0)
    meter = fake_meter(backend, clock=clock)
    with meter, meter.window("long") as window:
        for _ in range(1000):
            clock.advance(0.02)
            meter.recorder._sampler.tick()
    assert window.energy().energy_joules == pytest.approx(2000, rel=1e-4)


def test_missed_deadlines_are_skipped(clock: FakeClock) -> None:
    """After a long stall the sampler goes on at the next deadline instead of catching up."""
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([])
    clock.advance(10.05)
    assert sampler._next_deadline_ns(100_000_000) == 10_100_000_000


def test_locate_finds_the_next_refresh(clock: FakeClock) -> None:
    """After an edge the next refresh is caught in a bracket much narrower than the period."""
    backend = SimulatedBackend([0, 10], [100.0], clock, update_period_seconds=0.001)
    source = source_of(backend)
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([source])
    clock.advance(0.1)
    sampler.tick()
    clock.advance(0.0503)
    sampler._budget.saved_ns = 1_000_000
    sampler.edge()
    sampler.locate()
    ((_, rows),) = sampler.snapshot([source])
    assert rows.before_ns[-1] - rows.after_ns[-1] <= 200_000
    assert rows.after_ns[-1] <= 151_000_000 <= rows.before_ns[-1]


def test_locate_gives_up_without_credit(clock: FakeClock) -> None:
    """When the CPU time saved for it is used up, no refresh is looked for."""
    backend = FakeBackend.with_power(clock, watts=100)
    sampler = Sampler(clock, threaded=False)
    sampler.subscribe([source_of(backend)])
    clock.advance(0.01)
    sampler._budget.saved_ns = 0
    sampler.edge()
    reads = backend.reads
    sampler.locate()
    assert backend.reads == reads


def test_locate_looks_once_with_little_credit(clock: FakeClock) -> None:
    """With little CPU time saved, one read two periods after the edge has to do."""
    backend = FakeBackend.with_power(clock, watts=100)
    sampler = Sampler(clock, threaded=False)
    source = source_of(backend)
    sampler.subscribe([source])
    clock.advance(0.01)
    sampler._budget.saved_ns = 500_000
    sampler.edge()
    reads, edge_ns = backend.reads, clock.now_ns()
    sampler.locate()
    assert backend.reads == reads + 1
    ((domain, rows),) = sampler.snapshot([source])
    assert rows.before_ns[-1] - edge_ns == pytest.approx(2e9 * domain.update_period_seconds)


def test_thread_starts_with_the_first_meter_and_ends_with_the_last() -> None:
    """There is one thread, and none after the last stop."""

    def samplers() -> int:
        return sum(thread.name == "mlmeter-sampler" for thread in threading.enumerate())

    class Ticking(FakeBackend):
        def read(self) -> Sequence[Reading | Failure]:
            now = time.perf_counter_ns()
            return [Reading(0, now // 1000, now, now)]

    first = EnergyMeter(backends=[Ticking([fake_domain()], [], FakeClock())])
    second = EnergyMeter(backends=[Ticking([fake_domain()], [], FakeClock())])
    with first:
        with second:
            assert samplers() == 1
        assert samplers() == 1
    assert samplers() == 0


def test_simulated_backend_keeps_the_protocol(clock: FakeClock) -> None:
    """The simulated counter passes the kit for backends."""
    check_backend(SimulatedBackend([0, 10], [100.0], clock, update_period_seconds=0.1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "other"}, None),
        ({"parent": "nobody"}, "unknown parent"),
        ({"source": "else"}, "source differs"),
    ],
)
def test_check_backend_finds_faults(clock: FakeClock, change: dict[str, str], words: str | None) -> None:
    """The kit says what is wrong with a backend."""
    backend = FakeBackend([fake_domain(**change)], [1], clock)
    if words is None:
        check_backend(backend)
        return
    with pytest.raises(AssertionError, match=words):
        check_backend(backend)


def test_check_backend_finds_a_wrong_value(clock: FakeClock) -> None:
    """A value beyond the modulus would unwrap to nonsense."""
    domain: Domain = fake_domain(modulus=100)
    with pytest.raises(AssertionError, match="modulus"):
        check_backend(FakeBackend([domain], [100], clock))


def test_slow_counters_are_polled_while_windows_open_and_close(clock: FakeClock) -> None:
    """Refreshes about windows lie in brackets of a fraction of the period; nothing is polled when idle."""
    backend = SimulatedBackend([0, 100], [100.0], clock, update_period_seconds=0.1, cheap_read=False)
    meter = fake_meter(backend, clock=clock)
    sampler = meter.recorder._sampler
    with meter:
        clock.advance(1)
        sampler.tick()
        sampler.tick()
        clock.advance(4)
        sampler.tick()
        assert sampler._next_poll_ns() == NEVER_NS
        with meter.window("w"):
            clock.advance(0.01)
        sampler.tick()
        assert sampler._next_poll_ns() <= clock.now_ns()
        sampler.poll()
        due_ns = sampler._next_poll_ns()
        assert 0.001e9 <= due_ns - clock.now_ns() <= 0.03e9
        assert sampler._next_poll_ns() == due_ns
        clock.advance((due_ns - clock.now_ns()) * 1e-9)
        reads = sampler.cost().reads
        sampler.poll()
        assert sampler.cost().reads == reads + 1
        assert sampler._next_poll_ns() > due_ns
        sampler._budget.saved_ns = 0
        assert sampler._next_poll_ns() == NEVER_NS
