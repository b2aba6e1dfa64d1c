"""What windows a session had, as compact columns; closing a window appends to a queue only."""

from __future__ import annotations

import itertools
import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 1
SYNCHRONISED = 2
OPEN = 4
# One of the waits failed: the others do not make it synchronised.
SYNC_FAILED = 8

# Closed windows that wait for the sampler before the program's own thread puts them away: where
# the program keeps the interpreter to itself, the sampler hardly runs.
MOST_PENDING = 5_000
LONGEST_WAIT_SECONDS = 0.05

# Windows that end at nearly the same time on several threads may be queued out of order.
ORDER_SLACK_NS = 1_000_000_000


class Label(NamedTuple):
    """Name and phase of a window."""

    name: str
    phase: str


class Closed(NamedTuple):
    """A closed window on its way into the columns.

    `pieces` holds the spans of a window with interruptions, else it is None.
    """

    id: int
    parent_id: int
    label: int
    thread: int
    start_ns: int
    end_ns: int
    flags: int
    units: Mapping[str, float] | None
    pieces: tuple[tuple[int, int], ...] | None


class Closable(Protocol):
    """An open window."""

    def closed(self, now_ns: int | None = None) -> Closed:
        """Return its record as if it ended at `now_ns`."""


@dataclass(frozen=True, slots=True)
class WindowRecords:
    """The windows of a session in order of opening; times are monotonic nanoseconds.

    Attributes:
        ids, parent_ids: numbers from 1; parent 0 is the session itself.
        labels: index into `label_table`; threads: index into `thread_names`.
        starts_ns, ends_ns, flags: shape (windows,).
        pieces: spans (id, start, end) of windows with interruptions.
        units: per unit name the window ids and the counts; also metrics, whose names tell them apart.
    """

    ids: array[int]
    parent_ids: array[int]
    labels: array[int]
    threads: array[int]
    starts_ns: array[int]
    ends_ns: array[int]
    flags: array[int]
    pieces: tuple[tuple[int, int, int], ...]
    units: dict[str, tuple[array[int], array[float]]]
    label_table: tuple[Label, ...]
    thread_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


class WindowMark(NamedTuple):
    """How much somebody has copied of a log: windows, pieces, labels, threads, and counts by unit."""

    windows: int = 0
    pieces: int = 0
    labels: int = 0
    threads: int = 0
    units: Mapping[str, int] = {}


class WindowNews(NamedTuple):
    """What has come to a log since a mark.

    Attributes:
        columns: of closed windows in order of closing, as `WindowRecords` has them.
        pieces, units, labels, threads: likewise.
        still_open: windows that are open now, the oldest first, with the numbers of their threads.
        mark: of who has copied this.
    """

    columns: tuple[array[int], ...]
    pieces: list[tuple[int, int, int]]
    units: dict[str, tuple[array[int], array[float]]]
    labels: list[Label]
    threads: list[str]
    still_open: list[Closed]
    mark: WindowMark


class WindowLog:
    """Records the windows of one meter.

    `new_id`, `label_number`, `open` and `pending` are used on the hot path, from any thread,
    without a lock: each use is one atomic step of the interpreter. `open` also holds the windows
    that are `pending`.
    """

    def __init__(self) -> None:
        self.new_id: Callable[[], int] = itertools.count(1).__next__
        self.label_numbers: dict[tuple[str, str], int] = {}
        self.open: dict[int, Closable] = {}
        self.pending: deque[Closed] = deque()
        self.late_units: deque[tuple[int, Mapping[str, float]]] = deque()
        self._lock = threading.Lock()
        self._label_table: list[Label] = []
        self._thread_numbers: dict[int, int] = {}
        self._thread_names: list[str] = []
        self._columns = _empty_columns()
        self._pieces: list[tuple[int, int, int]] = []
        self._units: dict[str, tuple[array[int], array[float]]] = {}

    @property
    def edges(self) -> tuple[int, int]:
        """Two numbers of which one changes whenever a window opens or closes."""
        pending = len(self.pending)
        return len(self._columns[0]) + pending, len(self.open) - pending

    def label_number(self, name: str, phase: str) -> int:
        """Return the number of a label, a new one for a new label."""
        # Without a lock, which the thread that a signal's handler interrupts may hold.
        label = Label(name, phase)
        if label not in self._label_table:
            self._label_table.append(label)
        # Two threads may both have appended it: the first counts.
        number = self.label_numbers[name, phase] = self._label_table.index(label)
        return number

    def compact(self) -> None:
        """Move closed windows from the queue into the columns."""
        with self._lock:
            self._compact()

    def relieve(self) -> None:
        """Move them unless another thread is about to; wait for it a moment if it lags far behind."""
        patience = LONGEST_WAIT_SECONDS if len(self.pending) > 2 * MOST_PENDING else 0.0
        if self._lock.acquire(timeout=patience):
            try:
                self._compact()
            finally:
                self._lock.release()

    def _compact(self) -> None:
        # First these: of windows that are put away below, or have been.
        while self.late_units:
            _add_units(self._units, *self.late_units.popleft())
        while self.pending:
            batch = [self.pending.popleft() for _ in range(min(len(self.pending), MOST_PENDING))]
            # One that two threads have closed at a time is queued twice.
            batch = list({closed.id: closed for closed in batch if closed.id in self.open}.values())
            self._extend(self._columns, self._pieces, self._units, batch)
            # Last: what Ctrl-C interrupts here is found among the open ones.
            for closed in batch:
                self.open.pop(closed.id, None)

    def snapshot(self, now_ns: int, since_ns: int | None = None) -> WindowRecords:
        """Return the windows so far; open ones end at `now_ns` and are flagged `OPEN`.

        Args:
            now_ns: end of windows that are still open.
            since_ns: leave out windows that ended before.
        """
        self.compact()
        with self._lock:
            first = 0
            if since_ns is not None:
                first = bisect_left(self._columns[5], since_ns - ORDER_SLACK_NS)
            columns = tuple(column[first:] for column in self._columns)
            pieces = list(self._pieces)
            units = {name: (ids[:], counts[:]) for name, (ids, counts) in self._units.items()}
            still_open = [window.closed(now_ns) for window in list(self.open.values())]
            if any(not item.flags & OPEN for item in still_open):
                # Closed just now; or put away already, when Ctrl-C came.
                known = set(columns[0])
                still_open = [item for item in still_open if item.id not in known]
            self._extend(columns, pieces, units, still_open)
            order = sorted(range(len(columns[0])), key=columns[0].__getitem__)
            in_order = [array(column.typecode, [column[row] for row in order]) for column in columns]
            ids, parent_ids, labels, threads, starts_ns, ends_ns, flags = in_order
            return WindowRecords(
                ids,
                parent_ids,
                labels,
                threads,
                starts_ns,
                ends_ns,
                flags,
                tuple(pieces),
                units,
                tuple(self._label_table),
                tuple(self._thread_names),
            )

    def news(self, mark: WindowMark, most_open: int) -> WindowNews:
        """Return what has come since `mark`, and up to so many windows that are open."""
        self.compact()
        with self._lock:
            still_open = [window.closed() for window in list(self.open.values())[:most_open]]
            numbered = [item._replace(thread=self._thread_number(item.thread)) for item in still_open]
            units = {
                name: (ids[mark.units.get(name, 0) :], counts[mark.units.get(name, 0) :])
                for name, (ids, counts) in self._units.items()
            }
            # Labels come without the lock: what is told and what the mark says must agree.
            labels = self._label_table[mark.labels :]
            return WindowNews(
                tuple(column[mark.windows :] for column in self._columns),
                self._pieces[mark.pieces :],
                {name: new for name, new in units.items() if new[0]},
                labels,
                self._thread_names[mark.threads :],
                numbered,
                WindowMark(
                    len(self._columns[0]),
                    len(self._pieces),
                    mark.labels + len(labels),
                    len(self._thread_names),
                    {name: len(ids) for name, (ids, _) in self._units.items()},
                ),
            )

    def _extend(
        self,
        columns: tuple[array[int], ...],
        pieces: list[tuple[int, int, int]],
        units: dict[str, tuple[array[int], array[float]]],
        windows: list[Closed],
    ) -> None:
        if not windows:
            return
        ids, parent_ids, labels, threads, starts_ns, ends_ns, flags, counts, spans = zip(
            *windows, strict=True
        )
        numbers = {ident: self._thread_number(ident) for ident in set(threads)}
        numbered = [numbers[ident] for ident in threads]
        rows = (ids, parent_ids, labels, numbered, starts_ns, ends_ns, flags)
        # In one step of the interpreter: Ctrl-C finds columns of the same length.
        deque(map(array.extend, columns, rows), maxlen=0)
        for window_id, window_spans in zip(ids, spans, strict=True):
            if window_spans is not None:
                pieces.extend((window_id, start, end) for start, end in window_spans)
        for window_id, window_counts in zip(ids, counts, strict=True):
            if window_counts:
                _add_units(units, window_id, window_counts)

    def _thread_number(self, ident: int) -> int:
        number = self._thread_numbers.get(ident)
        if number is None:
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            number = self._thread_numbers[ident] = len(self._thread_names)
            self._thread_names.append(names.get(ident, f"thread {ident}"))
        return number


def _empty_columns() -> tuple[array[int], ...]:
    """Columns id, parent, label, thread, start, end, flags: 41 bytes a window."""
    return tuple(array(typecode) for typecode in "qqiiqqB")


def _add_units(
    table: dict[str, tuple[array[int], array[float]]], window_id: int, units: Mapping[str, float]
) -> None:
    for name, count in units.items():
        ids, counts = table.setdefault(name, (array("q"), array("d")))
        ids.append(window_id)
        counts.append(count)
