"""The thread of mlmeter that reads all sources, keeps their rows, and counts its own cost.

Meters subscribe with the sources that they want; meters that want the same source share
its rows. Readings reach the rows through one queue, whoever made them, and are put in
order of time there.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from mlmeter.clock import Clock, MonotonicClock
from mlmeter.living import Living
from mlmeter.sampling.clock_changes import ClockChanges
from mlmeter.sampling.contained_reads import ContainedReads, Unbooked
from mlmeter.sampling.edge_reads import EdgeReads
from mlmeter.sampling.errands import READ_LIMIT_SECONDS
from mlmeter.sampling.pace import Pace
from mlmeter.sampling.poll_budget import PollBudget
from mlmeter.sampling.process_tree import ProcessTimes, ProcessTree
from mlmeter.sampling.refresh_lock import NEVER_NS
from mlmeter.sampling.row_access import RowAccess
from mlmeter.sampling.source_threads import SourceThreads
from mlmeter.sampling.sources import POOL, Source
from mlmeter.sampling.subscription import Cost, Subscription
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.sampling.wake import Wake
from mlmeter.sampling.watched_thread import WatchedThread

DEFAULT_PERIOD_SECONDS = 0.1
_DEFAULT_PERIOD_NS = round(DEFAULT_PERIOD_SECONDS * 1e9)
# How long readings may wait in the queue, after which meters write their journals, within a second. To book
# each at once would cost the program several times as much: whatever has not run for a tenth of a second has
# left the processor's caches.
BOOKING_NS = 940_000_000
# So many are put into the rows at once: each keeps objects, and many of those make the garbage collector run.
MANY_QUEUED = 40

logger = logging.getLogger("mlmeter")


class Sampler(RowAccess):
    """Reads sources at a period and at window edges.

    Everything that the thread does is in `tick`, `poll` and `locate`, which tests call directly.

    Attributes:
        edge: reads the cheap counters on the caller's thread, at most once per update period.
        clock_changes: suspends of the machine and steps of the wall clock so far.

    Args:
        clock: the time.
        threaded: False for tests, which call `tick`: then all reads happen there.
        process_times: makes what tells a session with ``scope="process"`` CPU times.
        read_limit_seconds: after which a read counts as hanging.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        threaded: bool = True,
        process_times: Callable[[], ProcessTimes] = ProcessTree.of_this_process,
        read_limit_seconds: float = READ_LIMIT_SECONDS,
    ) -> None:
        self.clock = clock or MonotonicClock()
        self.process_times = process_times
        self._read_limit_seconds = read_limit_seconds
        self._now_ns = self.clock.now_ns
        self._threaded = threaded
        self._random = random.Random()
        # By id of the domain: the hardware's update periods do not change with the meter.
        self._known_seconds: dict[str, float] = {}
        self._reset()
        _samplers.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._wake = Wake()
        self._queue: deque[Unbooked] = deque()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._sources: list[Source] = []
        # Those that the sampler's thread reads, and of these the ones with a slow counter.
        self._regular: tuple[Source, ...] = ()
        self._slow: tuple[Source, ...] = ()
        self._unmeasured = False
        self._period_ns = _DEFAULT_PERIOD_NS
        self.clock_changes = ClockChanges(self.clock)
        self._budget, self._pace = PollBudget(), Pace()
        self._reads = ContainedReads(self.clock, self._queue, self._read_limit_seconds)
        self._edges = EdgeReads(self.clock, self._reads, self._wake, self._budget, self._random)
        self.edge = self._edges.edge
        # When windows were last seen to open or close.
        self._active_ns = -NEVER_NS
        self._poll_ns = NEVER_NS
        self._booked_ns = -NEVER_NS
        self._polls: Counter[str] = Counter()
        self._thread = WatchedThread(self._run, self._reads, self._lock)
        self._alone = SourceThreads(self._reads, threaded=self._threaded)
        self._ticks = self._cpu_ns = 0

    # -- meters ---------------------------------------------------------------------------

    def subscribe(
        self,
        sources: Sequence[Source],
        period_seconds: float = DEFAULT_PERIOD_SECONDS,
        on_tick: Callable[[], object] | None = None,
        on_booking: Callable[[], object] | None = None,
        *,
        paced: bool = False,
    ) -> Subscription:
        """Start reading `sources` and return the hold on them.

        Args:
            sources: opened sources; one that is already being read is shared.
            period_seconds: longest time between reads; shortened where a counter wraps sooner.
            on_tick: called on the sampler's thread after each tick; True if windows have opened or
                closed since.
            on_booking: called there after those ticks that bring the rows up to date.
            paced: whether reads may come less often where they are dear; see `Pace`.
        """
        now_ns = self._now_ns()
        subscription = Subscription(sources, period_seconds, on_tick, on_booking, now_ns, paced=paced)
        with self._lock:
            if not self._subscriptions:
                self.clock_changes.begin()
            for source in subscription.sources:
                source.subscribers += 1
                if source not in self._sources:
                    self._sources.append(source)
                    source.prepare(self._budget, self._known_seconds, self._random, self._now_ns())
                    self._alone.begin(source)
            self._subscriptions = (*self._subscriptions, subscription)
            self._arrange()
            self.tick()
            if self._threaded:
                self._thread.begin()
        self._wake.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop reading for this subscription; the last one ends the thread and closes the sources."""
        with self._lock:
            if subscription not in self._subscriptions:
                return
            self._subscriptions = tuple(item for item in self._subscriptions if item is not subscription)
            for source in subscription.sources:
                source.subscribers -= 1
            unwanted = [source for source in subscription.sources if source.subscribers == 0]
            self._sources = [source for source in self._sources if source.subscribers]
            self._arrange()
            for source in unwanted:
                self._keep(source)
                self._alone.close(source)
            thread = None
            if not self._subscriptions:
                thread = self._thread.end()
                self._wake.set()
        if thread is not None:
            # A read may hang in a driver: the daemon thread is then left behind, not waited for.
            thread.join(timeout=1.0)
        with self._lock:
            if not self._subscriptions:
                # Nobody will book it, and it would keep the sources with all their rows.
                self._queue.clear()

    def forget(self, subscription: Subscription, time_ns: int) -> None:
        """Forget what was read before a time, so far as no other meter needs it."""
        with self._lock:
            subscription.needs_ns = time_ns
            for source in subscription.sources:
                needed = (item.needs_ns for item in self._subscriptions if source in item.sources)
                source.forget(min(needed, default=time_ns))

    def add_cost(self, cpu_ns: int) -> None:
        """Count CPU time that was used for a meter elsewhere than in the sampler."""
        with self._lock:
            self._cpu_ns += cpu_ns

    def cost(self) -> Cost:
        """Return what the sampler has used since it was made."""
        with self._lock:
            polls = sum((source.polls() for source in self._sources), self._polls)
        return Cost(self._ticks, self._reads.reads, self._cpu_ns * 1e-9, self._period_ns * 1e-9, dict(polls))

    @property
    def learning(self) -> bool:
        """Whether looks at counters may still cost what they may in the first minutes of a process."""
        return self._budget.first_looks

    # -- the metered program's threads -----------------------------------------------------

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own reads; else whoever calls `tick`."""
        return self._threaded

    @property
    def has_edges(self) -> bool:
        """Whether any counter is worth reading at window edges."""
        return bool(self._edges.sources)

    # -- the sampler's thread --------------------------------------------------------------

    def tick(self, *, polled_too: bool = True, resting_too: bool = True, booking: bool = True) -> None:
        """Read every source once and bring the rows up to date.

        Args:
            polled_too: False leaves out sources that are being polled anyway.
            resting_too: False leaves out sources whose calls are too slow for every tick.
            booking: False leaves what is read in the queue, for a later tick or whoever wants the rows.
        """
        spent = ThreadTime()
        self._read_all(polled_too=polled_too, resting_too=resting_too)
        self._tell(booking=booking)
        self._cpu_ns += spent.piece_ns()

    def _read_all(self, *, polled_too: bool, resting_too: bool) -> None:
        """Read what is to be read at a tick."""
        with self._lock:
            # Whatever happened to the clocks lies before what is read now.
            if self.clock_changes.was_suspended():
                self._look_at_clocks()
            sources, now = self._regular, self._now_ns()
        polling = self._poll_ns != NEVER_NS
        # A tick may come a little early, and the one before it has read a little late.
        fresh_ns = self._period_ns - self._period_ns // 8
        for source in sources:
            rests = not resting_too and source.rests(now, self._reads.period_ns)
            if rests or (not polled_too and source in self._slow and now - source.read_ns < fresh_ns):
                continue
            self._read_and_observe(source, now, polling=polling)
        self._ticks += 1

    def _tell(self, *, booking: bool) -> None:
        """Bring the rows up to date if asked to, and let the meters do what they do at ticks."""
        with self._lock:
            if booking:
                self._booked_ns = self._now_ns()
                self._drain()
                self._set_period()
            elif len(self._queue) > MANY_QUEUED:
                self._drain()
            subscriptions = self._subscriptions
        for item in subscriptions:
            if item.on_tick is not None and item.on_tick() is True:
                # What is quiet after ten short rounds is not after one that came late.
                late_ns = max(0, self._period_ns - _DEFAULT_PERIOD_NS)
                self._active_ns = self._now_ns() + late_ns
        for item in subscriptions if booking else ():
            if item.on_booking is not None:
                item.on_booking()

    def locate(self, spent: ThreadTime | None = None) -> None:
        """After a window edge, catch the next refresh of the cheap counters.

        Args:
            spent: CPU time of the thread; its next piece is the look's.
        """
        self._cpu_ns += self._edges.locate(spent or ThreadTime())

    def poll(self, spent: ThreadTime | None = None) -> None:
        """Read the slow counters that are due, out of the CPU time saved for looking.

        Args:
            spent: CPU time of the thread; its next piece is this poll's.
        """
        spent = spent or ThreadTime()
        now = self._now_ns()
        for source in self._polled():
            if source.due_ns(self._active_ns) <= now:
                self._read_and_observe(source, now, polling=True)
        used_ns = spent.piece_ns()
        self._budget.spend_poll(used_ns)
        self._cpu_ns += used_ns

    def _next_poll_ns(self) -> int:
        """Return when to poll next; never, while nothing happens or no CPU time is left."""
        self._poll_ns = NEVER_NS
        if self._budget.may_poll():
            dues = [source.due_ns(self._active_ns) for source in self._polled()]
            self._poll_ns = min(dues, default=NEVER_NS)
        return self._poll_ns

    def _polled(self) -> list[Source]:
        """Return the slow counters that may be polled: not those whose calls are slow."""
        return [source for source in self._slow if not source.cost.rest_ns(self._reads.period_ns)]

    def _measure(self, turn: object, spent: ThreadTime) -> None:
        """Measure the update periods of fast counters, once in a process."""
        for source in self._edges.sources:
            if source.fast_periods_seconds is None:
                source.fast_periods_seconds = [None] * len(source.domains)
                periods = self._edges.measure(source, lambda: self._thread.turn is turn)
                with self._lock:
                    self._drain()
                    source.learn_fast_periods(periods, self._budget, self._random, self._now_ns())
                    self._arrange()
        self._cpu_ns += spent.piece_ns()

    def _run(self, turn: object) -> None:
        """Make rounds as long as it is this thread's turn."""
        spent, deadline_ns = ThreadTime(), self._now_ns() + self._period_ns
        while self._thread.turn is turn:
            try:
                if self._unmeasured:
                    self._measure(turn, spent)
                self._round(turn, deadline_ns, spent)
            except BaseException:  # the thread must outlive anything a backend or observer does
                logger.exception("the sampler failed in one round and goes on")
                self._wake.clear()
                self.clock.wait(self._wake, self._period_ns * 1e-9)
            deadline_ns = self._next_deadline_ns(deadline_ns)

    def _round(self, turn: object, deadline_ns: int, spent: ThreadTime) -> None:
        """Wait for the next thing to do and do it; the wake-up is often dearer than what is done then."""
        poll_ns = self._next_poll_ns()
        until_ns = min(deadline_ns, poll_ns)
        woken = self._edges.rest(self._wake, (until_ns - self._now_ns()) * 1e-9)
        if self._thread.turn is not turn:
            return
        if woken:
            self._wake.clear()
            self.locate(spent)
        else:
            self._budget.woke(self._now_ns() - until_ns)
        if self._now_ns() >= poll_ns:
            self.poll(spent)
        now = self._now_ns()
        if now >= deadline_ns:
            # At the last tick at which it is not too late.
            booking = now + self._period_ns - self._booked_ns > BOOKING_NS
            self._read_all(polled_too=poll_ns == NEVER_NS, resting_too=False)
            used_ns = spent.piece_ns()
            # That only: all else there is less of in shorter rounds.
            self._pace.took(used_ns)
            self._tell(booking=booking)
            self._cpu_ns += used_ns + spent.piece_ns()

    def _next_deadline_ns(self, deadline_ns: int) -> int:
        """Absolute deadlines; those that were missed are skipped, not caught up with."""
        now, period_ns = self._now_ns(), self._period_ns
        if now < deadline_ns:
            return min(deadline_ns, now + period_ns)
        self._budget.earn(period_ns)
        missed = -(-(now - deadline_ns) // period_ns)
        return deadline_ns + period_ns * max(1, missed)

    def _arrange(self) -> None:
        """Recompute what depends on the set of sources and subscriptions."""
        self._edges.arrange(self._sources)
        self._unmeasured = any(source.fast_periods_seconds is None for source in self._edges.sources)
        self._regular = tuple(source for source in self._sources if source not in self._alone)
        self._slow = tuple(source for source in self._regular if any(source.locks))
        self._budget.locks = max(1, sum(lock is not None for source in self._slow for lock in source.locks))
        self._set_period()

    def _set_period(self) -> None:
        """Read as often as any meter wants it, and no more often than is cheap if none minds."""
        wanted = [(item.period_seconds, item.longest_seconds) for item in self._subscriptions]
        shortest, longest = map(min, zip(*wanted, strict=True)) if wanted else [DEFAULT_PERIOD_SECONDS] * 2
        # Whether a call is slow does not depend on how dear rounds are.
        self._reads.period_ns = round(shortest * 1e9)
        self._period_ns = self._pace.period_ns(self._reads.period_ns, round(longest * 1e9))

    def _read_and_observe(self, source: Source, now_ns: int, *, polling: bool) -> None:
        """Read one source, without the lock: it may hang."""
        on_thread = not self._threaded or threading.current_thread() is self._thread.current
        if not on_thread:
            items = self._reads.elsewhere(source)
        else:
            items = self._reads.here(source, checking=polling and bool(source.locks))
        if polling and items:
            with self._lock:
                source.observe(items, now_ns, self._active_ns)

    def _drain(self) -> None:
        """Put what has been read into the rows, which are told of a suspend first."""
        self._look_at_clocks()
        self._reads.drain()

    def _look_at_clocks(self) -> None:
        """Tell the rows if the machine has been suspended."""
        change = self.clock_changes.look()
        if change is not None and change.suspended_ns:
            # Rows know of the last suspend only: what was read before it may be from after the one before.
            self._reads.drain(change.since_ns)
            for source in self._sources:
                source.suspended(change.since_ns, change.until_ns)
            self._reads.drain()

    def _keep(self, source: Source) -> None:
        """Remember what is worth knowing of a source that is closed."""
        self._polls.update(source.polls())
        for position, domain in enumerate(source.domains):
            if (period_seconds := source.period_seconds(position)) is not None:
                self._known_seconds[domain.id] = period_seconds

    def after_fork_in_child(self) -> None:
        """Forget everything: the thread, and perhaps a lock's owner, stayed in the parent.

        An observer may have forked on the thread, whose turn is over then: it ends with the observer.
        """
        self._reset()
        self._arrange()


_shared: Sampler | None = None
_shared_lock = threading.Lock()
_samplers: Living[Sampler] = Living()


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    POOL.after_fork_in_child()
    for sampler in _samplers:
        sampler.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def shared_sampler() -> Sampler:
    """Return the process-wide sampler, made on first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Sampler()
        return _shared
