"""Reads of sources of which any may hang, raise or give nonsense; the others go on.

A read cannot be interrupted. One that does not come back keeps the thread that it is on; what
can be done is to go on elsewhere and to leave the source alone until it has come back.
"""

from __future__ import annotations

import operator
import threading
from collections import deque
from collections.abc import Sequence

from mlmeter.clock import Clock
from mlmeter.measurement import Failure, Reading
from mlmeter.sampling.edge_permit import EDGE_LIMIT_NS, FAST_NS
from mlmeter.sampling.errands import came_back, is_the_users
from mlmeter.sampling.refresh_lock import NEVER_NS
from mlmeter.sampling.sources import FIRST_RETRY_SECONDS, Source

LAST_RETRY_SECONDS = 60.0
# As a rule no thread waits longer for the interpreter's lock. What takes longer waits for something else.
LONGEST_WANT_NS = 10_000_000
_LARGEST_COUNT = 2**63 - 1
_NO_EXTRAS = [None, None]
_REMEDY = "update this backend or its driver, or leave it out with backends=[...]"

Items = Sequence[Reading | Failure]
# What was read and is not in the rows yet: of which source, what that gave, sound or not, and when.
Unbooked = tuple[Source, Items, int]


class ContainedReads:
    """Reads sources into a queue.

    Args:
        clock: the time.
        queue: takes what was read.
        limit_seconds: after which a read counts as hanging.

    Attributes:
        reads: number of reads so far.
        limit_seconds: as given.
        period_ns: time between two reads of a source that is not slow, if they cost nothing.
    """

    def __init__(self, clock: Clock, queue: deque[Unbooked], limit_seconds: float) -> None:
        self._now_ns = clock.now_ns
        self._queue = queue
        self.limit_seconds = limit_seconds
        self.reads = 0
        self.period_ns = 1
        # What each thread is reading now, and since when.
        self._under_way: dict[int, tuple[Source, int]] = {}

    def here(self, source: Source, *, checking: bool = True) -> Items:
        """Read on the calling thread; nothing if the source is to be left alone.

        Args:
            source: what to read.
            checking: False leaves it to `drain` to look at what the source gives: return nothing.
        """
        if source.hanging or (source.failing and self._now_ns() < source.retry_at_ns):
            return ()
        # One read at a time: backends need not be safe for several threads. What another thread is
        # asking a cheap one will be known in microseconds, or that read hangs, and one is enough.
        patience_seconds = 0.0 if source.cheap else self.limit_seconds
        if not source.gate.acquire(timeout=patience_seconds):
            if not source.cheap:
                self.give_up(source)
            return ()
        try:
            return self._read(source, checking=checking)
        finally:
            source.gate.release()

    def at_edge(self, source: Source) -> None:
        """Read a cheap source on a thread of the metered program, at the least cost, unless that may wait.

        A thread of ours that is at it and has waited a moment for the interpreter's lock, which this
        thread has, is no reason to leave out an edge.
        """
        if source.hanging or source.failing:
            return
        held, begin_ns = source.gate.acquire(blocking=False), self._now_ns()
        if not held and begin_ns - source.reading_ns >= LONGEST_WANT_NS:
            return
        thread, permit = threading.get_ident(), source.edge_permit
        items: Items
        try:
            self._under_way[thread] = source, begin_ns
            try:
                items = source.backend.read()
            except BaseException as error:  # it must not reach the metered program
                if is_the_users(error):
                    raise
                items = self._failed(source, error)
            end_ns = source.read_ns = self._now_ns()
            self._queue.append((source, items, end_ns))
            if end_ns - begin_ns > EDGE_LIMIT_NS or not permit.calm:
                source.note(permit.took_at_edge(end_ns - begin_ns, end_ns), end_ns)
        finally:
            self._under_way.pop(thread, None)
            if held:
                source.hanging = False
                source.gate.release()
        self.reads += 1

    def elsewhere(self, source: Source) -> Items:
        """Read for a thread of the metered program, which waits no longer than the limit."""
        if source.hanging or (source.cheap and source.edge_permit.open):
            return self.here(source)
        found: list[Items] = []
        if not came_back(lambda: found.append(self.here(source)), self.limit_seconds):
            self.give_up(source)
        return found[0] if found else ()

    def alone(self, source: Source, stop: threading.Event) -> None:
        """Read a source that blocks at its own pace until told to stop: the work of a thread of its own."""
        period_seconds = min(domain.update_period_seconds for domain in source.domains)
        while not stop.is_set():
            self.here(source)
            stop.wait(period_seconds)

    def give_up(self, source: Source) -> None:
        """Leave a source alone whose read has not come back, and say so once."""
        if source.hanging:
            return
        source.hanging = True
        source.edge_permit.close(self._now_ns())
        reason = (
            f"{source.backend.name} has not come back from a read for {self.limit_seconds:g} s and is left "
            f"alone until it does; {_REMEDY}"
        )
        self._queue.append((source, self._failures(source, reason), self._now_ns()))

    def overdue(self) -> list[tuple[int, Source]]:
        """Return the threads whose reads have taken longer than the limit, and what they read."""
        since_ns = self._now_ns() - round(self.limit_seconds * 1e9)
        return [
            (thread, source)
            for thread, (source, begin_ns) in list(self._under_way.items())
            if begin_ns < since_ns
        ]

    def _late_check(self, source: Source, items: Items, read_ns: int) -> Items:
        """Look at what was read where there was no time for it."""
        try:
            return self._sound(source, items, read_ns, in_turn=True)
        except Exception as error:  # no list, or things in it that are no readings
            return self._failed(source, error)

    def _sound(self, source: Source, items: Items, read_ns: int, *, in_turn: bool) -> list[Reading | Failure]:
        """Return readings that can be used; what is nonsense becomes a failure.

        Args:
            source: what was read.
            items: what it gave; read_ns: when.
            in_turn: whether everything that was read before has been looked at.

        Raises:
            Exception: not even a list of readings and failures was given.
        """
        return [
            self._checked(source, item, read_ns, in_turn=in_turn)
            for item in items
            if 0 <= operator.index(item.position) < len(source.rows)
        ]

    def drain(self, until_ns: int = NEVER_NS) -> None:
        """Put what has been read into the rows, in order of time; not what was read after a time."""
        by_source: dict[int, tuple[Source, list[Reading | Failure]]] = {}
        while self._queue and self._queue[0][2] <= until_ns:
            source, read, read_ns = self._queue.popleft()
            by_source.setdefault(id(source), (source, []))[1].extend(self._late_check(source, read, read_ns))
        for source, items in by_source.values():
            try:
                items.sort(key=_end_of_reading)
            except AttributeError:  # a failure is among them
                items.sort(key=_time_of)
            for item in items:
                rows = source.rows[item.position]
                if isinstance(item, Reading):
                    rows.add(item)
                else:
                    rows.fail(item)

    def _read(self, source: Source, *, checking: bool) -> Items:
        """Read and put the result into the queue; a failed backend is asked again later and later."""
        thread, started_ns = threading.get_ident(), self._now_ns()
        self._under_way[thread] = source, started_ns
        source.reading_ns = started_ns
        result: Items
        try:
            if source.edge_permit.on_proof:
                source.backend.read()
                started_ns = self._now_ns()
            result = source.backend.read()
            ended_ns = self._now_ns()
            if checking or source.failing:
                result = self._sound(source, result, ended_ns, in_turn=False)
        except BaseException as error:  # whatever a driver raises must not reach the metered program
            if is_the_users(error):
                raise
            ended_ns = self._now_ns()
            result = self._failed(source, error)
        else:
            if source.failing:
                source.failing = False
                source.retry_seconds = FIRST_RETRY_SECONDS
        finally:
            self._under_way.pop(thread, None)
            source.hanging = False
            source.reading_ns = -NEVER_NS
        self.reads += 1
        source.read_ns, elapsed_ns = ended_ns, ended_ns - started_ns
        permit = source.edge_permit
        # Nearly all reads are quick ones of a source that is known as that: nothing changes then.
        if elapsed_ns >= FAST_NS or source.cost.doubtful or (source.cheap and not permit.settled):
            source.timed(elapsed_ns, ended_ns, self.period_ns)
            if source.cheap:
                source.note(permit.took_elsewhere(elapsed_ns, ended_ns), ended_ns)
        self._queue.append((source, result, ended_ns))
        return result if checking else ()

    def _failed(self, source: Source, error: BaseException) -> list[Failure]:
        source.failing = True
        source.retry_at_ns = self._now_ns() + round(source.retry_seconds * 1e9)
        source.retry_seconds = min(2 * source.retry_seconds, LAST_RETRY_SECONDS)
        return self._failures(
            source, f"{source.backend.name} failed: {type(error).__name__}: {error}; {_REMEDY}"
        )

    def _failures(self, source: Source, reason: str) -> list[Failure]:
        now_ns = self._now_ns()
        return [Failure(position, reason, False, now_ns) for position in range(len(source.domains))]

    def _checked(
        self, source: Source, item: Reading | Failure, now_ns: int, *, in_turn: bool
    ) -> Reading | Failure:
        if not isinstance(item, Reading):
            at_ns = item.at_ns if type(item.at_ns) is int and item.at_ns <= now_ns else now_ns
            return Failure(item.position, str(item.reason), bool(item.lost), at_ns)
        wrong = None
        position, value, begin_ns, end_ns, *extras = item
        try:
            # Nearly all are Python's own numbers: without a call for each.
            plain = type(position) is type(value) is type(begin_ns) is type(end_ns) is int
            item = item if plain and extras == _NO_EXTRAS else _in_whole_numbers(item)
        except TypeError:
            wrong = f"{item.value!a} at {item.begin_ns!a} to {item.end_ns!a} is not made of whole numbers"
        else:
            last_ns = source.last_ns.get(item.position, item.end_ns)
            if not 0 <= item.value <= _LARGEST_COUNT:
                wrong = f"{item.value} is no count"
            elif not item.begin_ns <= item.end_ns <= now_ns:
                wrong = "the time of a reading lies in the future, or ends before it begins"
            elif extras != _NO_EXTRAS and any(abs(number or 0) > _LARGEST_COUNT for number in item[4:]):
                wrong = "its power or the time of its driver is no number of 64 bits"
            elif in_turn and source.ordered and item.end_ns < last_ns:
                wrong = f"a reading is {(last_ns - item.end_ns) * 1e-9:.3f} s older than the one before it"
        if wrong is not None:
            text = f"{source.backend.name} gave nonsense: {wrong}; {_REMEDY}"
            return Failure(item.position, text[:400], False, now_ns)
        if in_turn:
            source.last_ns[item.position] = item.end_ns
        return item


def _in_whole_numbers(item: Reading) -> Reading:
    """Return a reading whose numbers are all of Python's own kind.

    Raises:
        TypeError: they are no whole numbers.
    """
    needed = map(operator.index, item[:4])
    return Reading(*needed, *(None if number is None else operator.index(number) for number in item[4:]))


# Of nearly all items, without a call of Python for each.
_end_of_reading = operator.attrgetter("end_ns")


def _time_of(item: Reading | Failure) -> int:
    return item.end_ns if isinstance(item, Reading) else item.at_ns
