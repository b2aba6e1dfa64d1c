"""A slow counter and a thread that wakes late, on virtual time: what a lock sees of it."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlmeter.measurement import Reading
from mlmeter.sampling.poll_budget import CPU_SAVED_NS, PollBudget
from mlmeter.sampling.refresh_lock import NEVER_NS, Mode, RefreshLock

MILLISECOND = 1_000_000
READ_NS = 20_000
TICK_NS = 100 * MILLISECOND


@dataclass
class Seen:
    """What the polls of a run found; times in milliseconds."""

    reads: int = 0
    polls: int = 0
    seconds: float = 0.0
    updates: int = 0
    brackets: list[float] = field(default_factory=list)
    modes: set[Mode] = field(default_factory=set)

    @property
    def reads_per_update(self) -> float:
        return self.reads / max(self.updates, 1)

    def bracket(self, quantile: float) -> float:
        """Return a quantile of the brackets' widths."""
        ordered = sorted(self.brackets)
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]

    @property
    def early_ratio(self) -> float:
        """Share of refreshes that were there at the first look: their bracket is half a period or more."""
        typical = self.seconds / max(self.updates, 1) * 1000
        return sum(width > typical / 2 for width in self.brackets) / len(self.brackets)


def steady(period_ms: float, jitter_ms: float, seconds: float, seed: int = 0) -> list[float]:
    """Return times of refreshes in milliseconds: even, each with a deviation of its own."""
    rng = random.Random(seed)
    times = [k * period_ms + rng.gauss(0, jitter_ms) for k in range(1, int(seconds * 1000 / period_ms))]
    return sorted(times)


def exponential(mean_ms: float) -> Callable[[random.Random], float]:
    """Return wake-up delays of an idle machine."""
    return lambda rng: rng.expovariate(1 / mean_ms)


IDLE = exponential(0.1)


class Simulation:
    """Polls a counter whenever its lock wants it, for as long as told.

    Args:
        refreshes: times of the refreshes in milliseconds, ascending.
        guess_ms: update period as assumed beforehand.
        delay: how late a wake-up is, in milliseconds.
        poll_cost_ns: CPU time of a poll.
    """

    def __init__(
        self,
        refreshes: Sequence[float],
        guess_ms: float,
        delay: Callable[[random.Random], float] = IDLE,
        *,
        poll_cost_ns: int = 1_000,
        known_ms: float | None = None,
        seed: int = 1,
    ) -> None:
        self.refreshes = refreshes
        self.now_ns = 0
        self.budget = PollBudget()
        for _ in range(500):
            self.budget.spend_poll(poll_cost_ns)
        self.budget.saved_ns = CPU_SAVED_NS
        self.lock = RefreshLock(
            guess_ms * MILLISECOND,
            self.budget,
            known_ns=None if known_ms is None else known_ms * MILLISECOND,
            rng=random.Random(seed),
        )
        self._random = random.Random(seed)
        self._delay = delay
        self._reading: Reading | None = None
        self._poll_cost_ns = poll_cost_ns
        self._tick_ns = TICK_NS
        self.lock.observe(self.read(), polled=False)

    def read(self) -> Reading:
        """Return what the counter shows now; the read takes a little while."""
        value = bisect_right(self.refreshes, self.now_ns / MILLISECOND)
        begin_ns = self.now_ns
        self.now_ns += READ_NS
        self._reading = Reading(0, value, begin_ns, self.now_ns)
        return self._reading

    def run(self, until_seconds: float, active: bool = True) -> Seen:
        """Poll until a time, and tick ten times a second, as the sampler does."""
        seen, start_ns = Seen(), self.now_ns
        first = self._reading.value if self._reading else 0
        while self.now_ns < until_seconds * 1e9:
            poll_ns = self.lock.due_ns(self.now_ns if active else -NEVER_NS)
            if not self.budget.may_poll():
                poll_ns = NEVER_NS
            polled = poll_ns <= self._tick_ns
            late_ns = round(self._delay(self._random) * MILLISECOND)
            self.now_ns = max(self.now_ns, min(poll_ns, self._tick_ns)) + late_ns
            self.budget.woke(late_ns)
            if polled:
                self.budget.spend_poll(self._poll_cost_ns)
                seen.polls += 1
            else:
                self._tick_ns += TICK_NS * ((self.now_ns - self._tick_ns) // TICK_NS + 1)
                self.budget.earn(TICK_NS)
                # What is being polled is not read at ticks as well.
                fresh = self._reading is not None and self.now_ns - self._reading.end_ns < TICK_NS * 7 // 8
                if poll_ns != NEVER_NS and fresh:
                    continue
            before = self._reading
            seen.modes.add(self.lock.mode)
            reading = self.read()
            seen.reads += 1
            self.lock.observe(reading, polled=polled)
            if before is not None and reading.value != before.value:
                seen.brackets.append((reading.end_ns - before.begin_ns) / MILLISECOND)
        seen.updates = (self._reading.value if self._reading else 0) - first
        seen.seconds = (self.now_ns - start_ns) * 1e-9
        return seen
