"""What looks at counters may cost: at first, later, and where the thread cannot be in time."""

from __future__ import annotations

import random
import threading
from collections import deque

from mlmeter.sampling.contained_reads import ContainedReads
from mlmeter.sampling.edge_reads import EdgeReads
from mlmeter.sampling.poll_budget import (
    CPU_RATIO,
    CROWDED_NS,
    FIRST_LOOKS_NS,
    LATER_CPU_RATIO,
    REST_UNTIL_NS,
    SMALL_CPU_RATIO,
    WAKE_DELAYS,
    PollBudget,
)
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import Source
from mlmeter.testing import FakeBackend, FakeClock, fake_domain

SECOND_NS = 1_000_000_000
TICK_NS = 100_000_000


def spent_in(seconds: int, budget: PollBudget, look_ns: int = 200_000) -> float:
    """Look whenever it is allowed, a hundred times a second; return the share of one core."""
    spent_ns = 0
    for step in range(seconds * 100):
        if step % 10 == 0:
            budget.earn(TICK_NS)
        if budget.may_locate():
            budget.spend(look_ns)
            spent_ns += look_ns
    return spent_ns / (seconds * SECOND_NS)


def late_by(budget: PollBudget, nanoseconds: int) -> None:
    for _ in range(WAKE_DELAYS):
        budget.woke(nanoseconds)


def test_looks_are_dear_in_the_first_minutes_only() -> None:
    """Three minutes of looks at half a percent of a core, for ever after at a fifth."""
    budget = PollBudget()
    budget.saved_ns = 0
    assert abs(spent_in(150, budget) - CPU_RATIO) < 0.1 * CPU_RATIO
    spent_in(60, budget)
    assert not budget.first_looks
    assert abs(spent_in(600, budget) - LATER_CPU_RATIO) < 0.1 * LATER_CPU_RATIO


def test_dear_polls_are_few_in_the_end() -> None:
    """Where a poll costs 0.15 ms, looks have a twentieth of a percent later; one of 0.05 ms is cheap."""
    budget = PollBudget()
    budget.spend(FIRST_LOOKS_NS)
    for cost_ns, ratio in ((150_000, SMALL_CPU_RATIO), (50_000, LATER_CPU_RATIO)):
        for _ in range(100):
            budget.spend_poll(cost_ns)
        assert budget.cpu_ratio == ratio


def test_looks_after_edges_leave_something_for_polls() -> None:
    """After the first minutes an edge wakes the thread only where there is enough for polls as well."""
    budget = PollBudget()
    budget.spend(FIRST_LOOKS_NS)
    budget.saved_ns = REST_UNTIL_NS
    assert budget.may_poll()
    assert not budget.may_locate()


def test_a_thread_that_wakes_late_looks_little() -> None:
    """Where the program holds the interpreter for 5 ms at a time, no edge wakes the thread; it recovers."""
    budget = PollBudget()
    late_by(budget, 5_000_000)
    assert budget.crowded
    assert not budget.may_locate()
    assert budget.cpu_ratio == SMALL_CPU_RATIO
    late_by(budget, CROWDED_NS // 10)
    assert not budget.crowded
    assert budget.may_locate()


def test_a_few_late_wakes_change_nothing() -> None:
    """One wake in ten that is late, by whatever, is no crowd."""
    budget = PollBudget()
    for number in range(WAKE_DELAYS):
        budget.woke(50_000_000 if number % 10 == 0 else 100_000)
    assert not budget.crowded


def test_edges_do_not_wake_a_crowded_thread() -> None:
    """The counters are read at the edge all the same."""
    clock, wake, budget = FakeClock(), threading.Event(), PollBudget()
    backend = FakeBackend([fake_domain()], [lambda now: now // 1000], clock)
    reads = ContainedReads(clock, deque(), 3.0)
    edges = EdgeReads(clock, reads, wake, budget, random.Random(1))
    source = Source.of(backend, backend.open())
    edges.arrange([source])
    # Once on a thread of our own: then windows may.
    reads.here(source)
    late_by(budget, 5_000_000)
    edges.edge()
    assert backend.reads == 2
    assert not wake.is_set()


def test_a_tick_does_not_repeat_what_an_edge_has_read() -> None:
    """A regular tick 10 ms after an edge reads nothing; one that somebody asks for reads."""
    clock = FakeClock()
    backend = FakeBackend([fake_domain()], [lambda now: now // 1000], clock)
    sampler = Sampler(clock, threaded=False)
    hold = sampler.subscribe([Source.of(backend, backend.open())])
    clock.advance(0.09)
    sampler.edge()
    before = backend.reads
    clock.advance(0.01)
    sampler.tick(resting_too=False)
    assert backend.reads == before
    sampler.tick()
    assert backend.reads == before + 1
    clock.advance(0.1)
    sampler.tick(resting_too=False)
    assert backend.reads == before + 2
    sampler.unsubscribe(hold)
