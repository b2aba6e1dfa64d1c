"""Reads of fast counters: at the edges of windows, just after them, and once to learn their period."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from mlmeter.clock import Clock
from mlmeter.energy.refresh_period import irregular_period, refresh_period
from mlmeter.measurement import Reading
from mlmeter.sampling.contained_reads import LONGEST_WANT_NS, ContainedReads
from mlmeter.sampling.edge_allowance import EdgeAllowance
from mlmeter.sampling.poll_budget import PollBudget
from mlmeter.sampling.refresh_lock import NEVER_NS
from mlmeter.sampling.sources import Source
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.sampling.wake import Wake

# With less CPU time saved, one look replaces the search for the refresh.
LOCATE_CPU_NEEDED_NS = 1_000_000
LOCATE_STEP_SECONDS = 0.00015
LOCATE_PERIODS = 2
# The period is measured with pauses between the reads: back to back they would take the
# interpreter from the metered program.
MEASURE_NS = 20_000_000
MEASURE_STEP_SECONDS = 0.0003
MEASURE_CHANGES = 9
# Where that shows few refreshes, the counter is slow, or this thread had no processor.
LONGEST_MEASURE_NS = 300_000_000
LATER_STEP_SECONDS = 0.001
# A read lets go of the interpreter's lock. If the sampler's thread is waiting for that, a thread of the
# program gets it back late: an edge soon after another one is not read then, unless the wait takes so long
# that it is for something else.
DENSE_PERIODS = 3
# A look that comes so late after its edge tells little: edges soon after others ask for none for a while.
LATE_NS = 500_000
FIRST_PAUSE_NS = 10_000_000
LONGEST_PAUSE_NS = 640_000_000


class EdgeReads:
    """Reads fast counters where windows begin and end.

    Args:
        clock: the time.
        reads: reads sources into the sampler's queue.
        wake: wakes the sampler's thread.
        budget: CPU time that `locate` may use.
        rng: of rests between edges that are read.
    """

    def __init__(
        self,
        clock: Clock,
        reads: ContainedReads,
        wake: Wake,
        budget: PollBudget,
        rng: random.Random,
    ) -> None:
        self._clock, self._now_ns = clock, clock.now_ns
        self._read, self._read_at_edge = reads.here, reads.at_edge
        self._wake, self._budget = wake, budget
        self._allowance = EdgeAllowance(rng)
        self.sources: tuple[Source, ...] = ()
        self._interval_ns = self._dense_interval_ns = 0
        self._next_ns = NEVER_NS
        # Until when an edge is soon after another one.
        self._dense_ns = 0
        self._edge_ns = 0
        # From when on the sampler's thread wants the interpreter's lock.
        self._wanted_ns = NEVER_NS
        self._pause_ns = 0
        self._look_from_ns = 0

    def arrange(self, sources: Sequence[Source]) -> None:
        """Read those of `sources` from now on that are fast and cheap."""
        self.sources = tuple(source for source in sources if source.cheap)
        periods = [domain.update_period_seconds for source in self.sources for domain in source.domains]
        self._interval_ns = round(min(periods, default=0.0) * 1e9)
        self._dense_interval_ns = DENSE_PERIODS * self._interval_ns
        self._next_ns = 0 if self.sources else NEVER_NS

    def edge(self) -> None:
        """Read the counters on the caller's thread, if that is due; never wait for one.

        Edges are read at most once per update period, and no more of them than `EdgeAllowance` allows.
        """
        now = self._now_ns()
        if now < self._next_ns:
            return
        dense, self._dense_ns = now < self._dense_ns, now + self._dense_interval_ns
        if dense and 0 <= now - self._wanted_ns < LONGEST_WANT_NS:
            return
        # For other threads; after the reads it is known better.
        self._next_ns = now + self._interval_ns
        # Where the sampler's thread has to do the reading, it looks after the edge, too.
        worth_a_look = False
        for source in self.sources:
            permit = source.edge_permit
            if permit.open:
                self._read_at_edge(source)
            worth_a_look = worth_a_look or permit.open or permit.fast
        if worth_a_look and not (dense and now < self._look_from_ns) and self._budget.may_locate():
            self._edge_ns = self._wanted_ns = now
            self._wake.set()
        rest_ns = self._allowance.rest_ns(now, self._now_ns())
        if rest_ns:
            # Another thread may have been told of a longer one.
            self._next_ns = max(self._next_ns, now + rest_ns)

    def rest(self, wake: Wake, timeout_seconds: float) -> bool:
        """Let the sampler's thread wait until `wake` is set or the time is over; return whether it is set."""
        if timeout_seconds < 0:
            timeout_seconds = 0.0
        self._wanted_ns = self._now_ns() + int(timeout_seconds * 1e9)
        woken = self._clock.wait(wake, timeout_seconds)
        self._wanted_ns = self._now_ns()
        return woken

    def locate(self, spent: ThreadTime) -> int:
        """After a window edge, catch the next refresh in a narrow bracket; return the CPU time used.

        It tells how much of the last update period belongs to each side of the edge. With little
        CPU time saved, or a thread that wakes too late, one read after the refresh has to do:
        its bracket is wide, but what lies behind the edge is known as well.

        Args:
            spent: CPU time of the thread; its next piece is the look's.
        """
        edge_ns, self._edge_ns = self._edge_ns, 0
        if not edge_ns or not self.sources:
            return 0
        late = self._now_ns() - edge_ns > LATE_NS
        self._pause_ns = min(max(FIRST_PAUSE_NS, 2 * self._pause_ns), LONGEST_PAUSE_NS) if late else 0
        self._look_from_ns = edge_ns + self._pause_ns
        horizon_ns = edge_ns + LOCATE_PERIODS * self._interval_ns
        waiter = Wake()
        if self._budget.saved_ns < LOCATE_CPU_NEEDED_NS:
            self._pass(waiter, (horizon_ns - self._now_ns()) * 1e-9)
        for source in self.sources:
            if source.edge_permit.open or source.edge_permit.fast:
                self._read_until_refreshed(source, horizon_ns, waiter)
        used_ns = spent.piece_ns()
        self._budget.spend(used_ns)
        return used_ns

    def _read_until_refreshed(self, source: Source, horizon_ns: int, waiter: Wake) -> None:
        """Read a source until all its counters have changed or the time is over; at least once."""
        first: dict[int, int] = {}
        waiting = {index for index, domain in enumerate(source.domains) if domain.counted}
        while waiting:
            for item in self._read(source):
                if isinstance(item, Reading) and item.value != first.setdefault(item.position, item.value):
                    waiting.discard(item.position)
            if self._now_ns() >= horizon_ns:
                return
            self._pass(waiter, LOCATE_STEP_SECONDS)

    def _pass(self, waiter: Wake, seconds: float) -> None:
        """Wait between two reads; edges may be read meanwhile."""
        if self._wanted_ns == NEVER_NS:
            self._clock.wait(waiter, seconds)
        else:
            self.rest(waiter, seconds)

    def measure(self, source: Source, going: Callable[[], bool]) -> list[float | None]:
        """Read a source for 20 ms and return the update periods of its domains in seconds.

        Args:
            source: what to read.
            going: False when the reading must end at once.
        """
        seen = [_Changes() for _ in source.domains]
        counted = [found for found, domain in zip(seen, source.domains, strict=True) if domain.counted]
        waiter, started_ns = Wake(), self._now_ns()
        while going():
            for item in self._read(source):
                if isinstance(item, Reading) and 0 <= item.position < len(seen):
                    seen[item.position].add(item)
            elapsed_ns = self._now_ns() - started_ns
            enough = all(len(found.before) >= MEASURE_CHANGES for found in counted)
            if elapsed_ns >= (MEASURE_NS if enough else LONGEST_MEASURE_NS):
                break
            step_seconds = MEASURE_STEP_SECONDS if elapsed_ns < MEASURE_NS else LATER_STEP_SECONDS
            self._pass(waiter, step_seconds)
        return [found.period_seconds() for found in seen]


class _Changes:
    """Brackets of the refreshes of one counter."""

    def __init__(self) -> None:
        self.after: list[float] = []
        self.before: list[float] = []
        # The longest time without a read since the refresh before each.
        self.unread: list[float] = []
        self._last: Reading | None = None
        self._unread_seconds = 0.0

    def add(self, reading: Reading) -> None:
        last, self._last = self._last, reading
        if last is None:
            return
        self._unread_seconds = max(self._unread_seconds, (reading.end_ns - last.begin_ns) * 1e-9)
        if reading.value != last.value:
            self.after.append(last.begin_ns * 1e-9)
            self.before.append(reading.end_ns * 1e-9)
            self.unread.append(self._unread_seconds)
            self._unread_seconds = 0.0

    def period_seconds(self) -> float | None:
        if len(self.before) < MEASURE_CHANGES:
            return None
        mean_seconds = refresh_period(self.after, self.before)
        if mean_seconds is None:
            return None
        return irregular_period(self.after, self.before, self.unread, mean_seconds)
