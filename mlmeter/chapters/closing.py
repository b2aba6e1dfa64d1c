"""When a chapter of a running session ends, and what is forgotten then."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlmeter.sampling.errands import start_thread

if TYPE_CHECKING:
    from mlmeter.collected import Collected
    from mlmeter.energy.chapter import Chapter
    from mlmeter.energy.counters import Rows
    from mlmeter.recording import Recording
    from mlmeter.sampling.subscription import Subscription
    from mlmeter.window_records import WindowRecords

# How much older than its end the readings are that a chapter is resolved with, and how much newer.
CONTEXT_SECONDS = 10.0
CONTEXT_PERIODS = 20
# A counter that shows nothing new keeps a chapter open for so long.
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a running session is held in memory; half of what exceeds one becomes a chapter.

    Attributes:
        rows: readings of all domains.
        windows: closed windows times domains, of which each window has an energy.
        context_seconds: no chapter is shorter, or ends later than so long ago.
    """

    rows: int = 1_000_000
    windows: int = 500_000
    context_seconds: float = CONTEXT_SECONDS


@dataclass(frozen=True)
class Held:
    """All that grows while a session runs, but for what is bounded anyway."""

    collected: Collected
    subscription: Subscription

    def middles_ns(self, limits: Limits) -> Iterator[int]:
        """Yield, of each limit that is exceeded, the time at half of what is held."""
        domains = len(self.collected.domains)
        if (
            len(self.collected.log) * max(domains, 1) > limits.windows
            and (middle_ns := self.collected.log.middle_ns()) is not None
        ):
            yield middle_ns
        if sum(source.held_rows() for source in self.subscription.sources) > limits.rows:
            reads = self._most_reads()
            yield reads[len(reads) // 2]

    def last_read_ns(self, time_ns: int) -> int:
        """Return when a counter was last read before a time: nowhere is energy known better."""
        reads = self._most_reads()
        position = bisect_right(reads, time_ns)
        return reads[position - 1] if position else time_ns

    def _most_reads(self) -> Sequence[int]:
        columns = [rows.columns.before_ns for source in self.subscription.sources for rows in source.rows]
        return max(columns, key=len, default=())

    def has_shown(self, time_ns: int) -> bool:
        """Return whether all counters that work have shown what they counted up to a time."""
        return self.collected.sampler.refreshed_since(self.subscription.sources, time_ns)

    def forget(self, end_ns: int, needs_ns: int) -> None:
        """Forget windows that ended up to a time, and what was read before another one."""
        held = self.collected
        held.checks.keep_up_rows()
        held.log.forget_before(end_ns + 1)
        held.devices.forget_before(needs_ns)
        if held.processes is not None:
            held.processes.forget(needs_ns)
        held.sampler.forget(self.subscription, needs_ns)


class Chapters:
    """Closes the chapters of one session, each on a thread of its own.

    Neither the metered program's threads nor the sampler's wait for it.

    Args:
        held: what is in memory.
        running: whether the session has not ended.
        lock: held while what is in memory becomes a chapter.
        remark: notes an event, by kind and sentence.

    Attributes:
        limits: how much is held in memory.
        past: all chapters so far as one; None before the first.
        on_chapter: gets each chapter when it has ended.
        on_forget: gets all chapters so far as one, and since when readings are still in memory.
    """

    def __init__(
        self,
        held: Held,
        running: Callable[[], bool],
        lock: AbstractContextManager[Any],
        remark: Callable[[str, str], None],
    ) -> None:
        self.limits = Limits()
        self.past: Chapter | None = None
        self.on_chapter: Callable[[Chapter], object] | None = None
        self.on_forget: Callable[[Chapter, int], object] | None = None
        self._held, self._running = held, running
        self._sampler, self._start_ns = held.collected.sampler, held.collected.start_ns
        self._lock, self._remark = lock, remark
        self._closing = False

    @property
    def context_ns(self) -> int:
        """How long before the end of a chapter readings are kept."""
        seconds = max(self.limits.context_seconds, CONTEXT_PERIODS * self._held.collected.slowest_seconds)
        return round(seconds * 1e9)

    @property
    def held_ns(self) -> int:
        """Since when readings are needed."""
        return self._start_ns if self.past is None else self.past.end_ns - self.context_ns

    def keep_up(self) -> None:
        """Begin to close a chapter if too much is held in memory; called at each tick."""
        if self._closing:
            return
        middles = list(self._held.middles_ns(self.limits))
        end_ns = self._end_ns(max(middles)) if middles else None
        if end_ns is None:
            return
        self._closing = True
        if not self._sampler.threaded:
            self._close(end_ns)
            return
        try:
            start_thread("mlmeter-chapter", self._close, end_ns)
        except RuntimeError:  # no thread can be started while the interpreter ends
            self._closing = False

    def _end_ns(self, middle_ns: int) -> int | None:
        """Return when the chapter ends; None if it is too early to tell."""
        now_ns, context_ns = self._sampler.clock.now_ns(), self.context_ns
        start_ns = self._start_ns if self.past is None else self.past.end_ns
        end_ns = self._held.last_read_ns(min(middle_ns, now_ns - context_ns))
        if end_ns < start_ns + context_ns:
            return None
        waited = now_ns - end_ns > context_ns + LONGEST_WAIT_SECONDS * 1e9
        return end_ns if waited or self._held.has_shown(end_ns) else None

    def _close(self, end_ns: int) -> None:
        started_ns = time.thread_time_ns()
        try:
            self._close_chapter(end_ns)
        except Exception as error:  # what cannot be added up must not break the metered program
            self._remark("note", f"a chapter could not be closed: {type(error).__name__}: {error}")
            # What is held may grow, but it is not tried again at every tick.
            limits = self.limits
            self.limits = replace(limits, rows=2 * limits.rows, windows=2 * limits.windows)
        finally:
            self._closing = False
            self._sampler.add_cost(time.thread_time_ns() - started_ns)

    def _close_chapter(self, end_ns: int) -> None:
        from mlmeter.chapters.pooling import chapter_of

        with self._lock:
            recording = self._held.collected.recording(self._sampler.clock.now_ns(), finished=False)
        chapter = chapter_of(cut(recording.rest, end_ns, self.context_ns))
        past = chapter if self.past is None else self.past.plus(chapter)
        with self._lock:
            if not self._running():
                return
            self.past = past
            self._held.forget(end_ns, self.held_ns)
        if self.on_forget is not None:
            self.on_forget(past, self.held_ns)
        if self.on_chapter is not None:
            self.on_chapter(chapter)


def cut(recording: Recording, end_ns: int, context_ns: int) -> Recording:
    """Return a recording up to a time, with a little of what is known of the time after it.

    Args:
        recording: the time since the last chapter.
        end_ns: where it is cut.
        context_ns: how long before and after that readings and edges of windows count.
    """
    run, windows = recording.run, recording.windows
    near = [e for e in _edges_of(windows) if end_ns - context_ns <= e <= end_ns + context_ns]
    before = (run.start_ns,) if recording.before is None else recording.before.edges_ns
    return replace(
        recording,
        run=replace(run, end_ns=end_ns),
        domains=tuple((domain, _rows_upto(rows, end_ns, context_ns)) for domain, rows in recording.domains),
        windows=windows.opened_before(end_ns),
        beside_ns=array("q", sorted({*before, *near})),
    )


def _edges_of(windows: WindowRecords) -> Iterator[int]:
    yield from windows.starts_ns
    yield from windows.ends_ns
    for _, start_ns, end_ns in windows.pieces:
        yield start_ns
        yield end_ns


def _rows_upto(rows: Rows, end_ns: int, context_ns: int) -> Rows:
    """Return the rows up to a little after a time; what could not be read until then is a gap."""
    size = bisect_right(rows.before_ns, end_ns + context_ns)
    gaps = rows.gaps_ns
    if rows.last_ns is not None and rows.last_ns < end_ns:
        gaps = (*gaps, (rows.last_ns, end_ns))
    return rows._replace(
        after_ns=rows.after_ns[:size],
        before_ns=rows.before_ns[:size],
        counts=rows.counts[:size],
        driver_ns=None if rows.driver_ns is None else rows.driver_ns[:size],
        gaps_ns=gaps,
    )
