"""What windows a running session has had; closing one appends to a queue only."""

from __future__ import annotations

import itertools
import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mlmeter.window_records import OPEN, WINDOW_COLUMNS, Closed, Label, WindowRecords
from mlmeter.work import is_metric

if TYPE_CHECKING:
    from collections.abc import Callable

# Closed windows that wait for the sampler before the program's own thread puts them away: where
# the program keeps the interpreter to itself, the sampler hardly runs.
MOST_PENDING = 5_000
LONGEST_WAIT_SECONDS = 0.05

# A program that gives each of its windows a name, or a phase, of its own, or a thread: those beyond
# these numbers share one.
MOST_LABELS, MOST_PHASES, MOST_THREADS = 100_000, 1_000, 10_000
# Of one name; of all of them together, so that they fit into a journal.
MOST_CHARACTERS, MOST_LABEL_CHARACTERS = 1_000, 8_000_000
OTHER_NAMES, OTHER_PHASES, OTHER_THREADS = "(other names)", "(other phases)", "(other threads)"

# Windows that end at nearly the same time on several threads may be queued out of order.
ORDER_SLACK_NS = 1_000_000_000


class Closable(Protocol):
    """An open window."""

    def closed(self, now_ns: int | None = None) -> Closed:
        """Return its record as if it ended at `now_ns`."""


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

    Args:
        remark: notes an event of the session, by kind and sentence.
    """

    def __init__(self, remark: Callable[[str, str], None] | None = None) -> None:
        self._remark = remark or (lambda _kind, _message: None)
        self.new_id: Callable[[], int] = itertools.count(1).__next__
        self.label_numbers: dict[tuple[str, str], int] = {}
        self.open: dict[int, Closable] = {}
        self.pending: deque[Closed] = deque()
        self.late_units: deque[tuple[int, Mapping[str, float]]] = deque()
        # A signal's handler may stop the meter while the same thread puts windows away.
        self._lock = threading.RLock()
        self._new_label_number: Callable[[], int] = itertools.count().__next__
        self._labels: dict[int, Label] = {}
        self._label_characters = 0
        self._phases: set[str] = set()
        self._thread_numbers: dict[int, int] = {}
        self._thread_names: list[str] = []
        self._columns = _empty_columns()
        self._pieces: list[tuple[int, int, int]] = []
        self._units: dict[str, tuple[array[int], array[float]]] = {}
        # How much is forgotten.
        self._gone = WindowMark()
        # Windows up to this number are forgotten, but for those of which something is still to come.
        self._forgotten_id = 0
        self._spared_ids: set[int] = set()

    def __len__(self) -> int:
        """Return how many closed windows are in memory."""
        return len(self._columns[0]) + len(self.pending)

    @property
    def edges(self) -> tuple[int, int]:
        """Two numbers of which one changes whenever a window opens or closes."""
        pending = len(self.pending)
        return len(self._columns[0]) + pending, len(self.open) - pending

    def label_number(self, name: str, phase: str) -> int:
        """Return the number of a label, a new one for a new label."""
        # Without a lock, which the thread that a signal's handler interrupts may hold: a number is taken,
        # its label noted, and of two threads that do this for one label the first one counts.
        label = self._within_limits(name, phase)
        if label not in self.label_numbers:
            number = self._new_label_number()
            self._labels[number] = label
            self._label_characters += len(label.name) + len(label.phase)
            self._phases.add(label.phase)
            self.label_numbers.setdefault(label, number)
        # Names beyond the limit are not kept.
        return self.label_numbers[label]

    def _within_limits(self, name: str, phase: str) -> Label:
        """Return the label, or that of all others where there are too many."""
        if phase not in self._phases and len(self._phases) >= MOST_PHASES:
            text = f"more than {MOST_PHASES} phases: further ones are told together as {OTHER_PHASES!r}"
            self._remark("note", text)
            phase = OTHER_PHASES
        name, phase = _cut(name), _cut(phase)
        if len(self._labels) >= MOST_LABELS or self._label_characters >= MOST_LABEL_CHARACTERS:
            text = f"too many names of windows, or too long ones: further ones are told as {OTHER_NAMES!r}"
            self._remark("note", text)
            name = OTHER_NAMES
        return Label(name, phase)

    def _labels_from(self, first: int) -> list[Label]:
        """Return the labels from a number on, up to one that is just being noted."""
        labels = self._labels
        return [labels[number] for number in itertools.takewhile(labels.__contains__, itertools.count(first))]

    def compact(self) -> None:
        """Move closed windows from the queue into the columns."""
        with self._lock:
            self._compact()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or a signal's handler has come while windows were put away: `news` lacks them."""
        with self._lock:
            self._compact()
            return any(not window.closed().flags & OPEN for window in list(self.open.values()))

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
            window_id, units = self.late_units.popleft()
            if self._forgotten_id < window_id or window_id in self._spared_ids:
                _add_units(self._units, window_id, units)
            else:
                text = "work was counted in a window long after it had ended, which is no longer in memory"
                self._remark("window", f"{text}: it is left out")
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
                tuple(self._labels_from(0)),
                tuple(self._thread_names),
            )

    def middle_ns(self) -> int | None:
        """Return the end of the window at half of those in memory; None if there are none."""
        with self._lock:
            ends = self._columns[5]
            return ends[len(ends) // 2] if ends else None

    def ended_until(self, time_ns: int) -> list[tuple[int, ...]]:
        """Return the closed windows in memory that ended up to a time, as rows of the columns."""
        with self._lock:
            return [row for row in zip(*self._columns, strict=True) if row[5] <= time_ns]

    def early_units(self, ended_ns: int, started_ns: int) -> dict[str, list[tuple[int, float]]]:
        """Return, by unit, numbers of windows and values that were told long ago.

        Args:
            ended_ns: of windows that ended up to then, all work and metrics.
            started_ns: of windows that began before, metrics, which are told while a window is open.
        """
        with self._lock:
            ids, starts, ends = (self._columns[column] for column in (0, 4, 5))
            ended = {number for number, end in zip(ids, ends, strict=True) if end <= ended_ns}
            began = {number for number, start in zip(ids, starts, strict=True) if start < started_ns}
            still_open = [window.closed(started_ns) for window in list(self.open.values())]
            began |= {window.id for window in still_open if window.start_ns < started_ns}
            found = {
                name: [
                    (number, value)
                    for number, value in zip(*columns, strict=True)
                    if number in ended or (is_metric(name) and number in began)
                ]
                for name, columns in self._units.items()
            }
        return {name: pairs for name, pairs in found.items() if pairs}

    def forget_before(self, time_ns: int) -> None:
        """Forget windows that ended before a time, but for those that later ones were opened in."""
        self.compact()
        with self._lock:
            ids, parent_ids, ends = (self._columns[column] for column in (0, 1, 5))
            old = [row for row, end in enumerate(ends) if end < time_ns]
            gone = {ids[row] for row in old}
            needed = {window.closed(time_ns).parent_id for window in list(self.open.values())}
            needed.update(parent for row, parent in enumerate(parent_ids) if ids[row] not in gone)
            # Windows are opened after those that they are in.
            for row in sorted(old, key=ids.__getitem__, reverse=True):
                if ids[row] in needed:
                    gone.discard(ids[row])
                    needed.add(parent_ids[row])
            if not gone:
                return
            kept = [row for row, number in enumerate(ids) if number not in gone]
            pieces = [piece for piece in self._pieces if piece[0] not in gone]
            units = {unit: _without(gone, *columns) for unit, columns in self._units.items()}
            self._gone = WindowMark(
                self._gone.windows + len(gone),
                self._gone.pieces + len(self._pieces) - len(pieces),
                units={
                    unit: self._gone.units.get(unit, 0) + len(columns[0]) - len(units[unit][0])
                    for unit, columns in self._units.items()
                },
            )
            self._columns = tuple(array(c.typecode, [c[row] for row in kept]) for c in self._columns)
            self._pieces, self._units = pieces, units
            self._forgotten_id = max(self._forgotten_id, *gone)
            kept_ids = {*self._columns[0], *self.open}
            self._spared_ids = {number for number in kept_ids if number <= self._forgotten_id}

    def news(self, mark: WindowMark, most_open: int) -> WindowNews:
        """Return what has come since `mark`, and up to so many windows that are open."""
        self.compact()
        with self._lock:
            still_open = [window.closed() for window in list(self.open.values())[:most_open]]
            numbered = [item._replace(thread=self._thread_number(item.thread)) for item in still_open]
            labels = self._labels_from(mark.labels)
            gone, units = self._gone, {}
            for name, (ids, counts) in self._units.items():
                first = max(0, mark.units.get(name, 0) - gone.units.get(name, 0))
                units[name] = ids[first:], counts[first:]
            return WindowNews(
                tuple(column[max(0, mark.windows - gone.windows) :] for column in self._columns),
                self._pieces[max(0, mark.pieces - gone.pieces) :],
                {name: new for name, new in units.items() if new[0]},
                labels,
                self._thread_names[mark.threads :],
                numbered,
                WindowMark(
                    gone.windows + len(self._columns[0]),
                    gone.pieces + len(self._pieces),
                    mark.labels + len(labels),
                    len(self._thread_names),
                    {name: gone.units.get(name, 0) + len(ids) for name, (ids, _) in self._units.items()},
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
            if len(self._thread_names) > MOST_THREADS:
                return MOST_THREADS
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            number = len(self._thread_names)
            if number < MOST_THREADS:
                self._thread_numbers[ident] = number
                self._thread_names.append(_cut(names.get(ident, f"thread {ident}")))
            else:
                self._thread_names.append(OTHER_THREADS)
                text = f"more than {MOST_THREADS} threads: windows of further ones have no name of a thread"
                self._remark("note", text)
        return number


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _empty_columns() -> tuple[array[int], ...]:
    return tuple(array(typecode) for typecode in WINDOW_COLUMNS.values())


def _without(gone: set[int], ids: array[int], counts: array[float]) -> tuple[array[int], array[float]]:
    """Return the counts of work without those of some windows."""
    kept = [row for row, number in enumerate(ids) if number not in gone]
    return array("q", [ids[row] for row in kept]), array("d", [counts[row] for row in kept])


def _add_units(
    table: dict[str, tuple[array[int], array[float]]], window_id: int, units: Mapping[str, float]
) -> None:
    for name, count in units.items():
        ids, counts = table.setdefault(name, (array("q"), array("d")))
        ids.append(window_id)
        counts.append(count)
