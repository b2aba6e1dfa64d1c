"""What is kept of each window, and of all windows of a session as compact columns."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

FAILED = 1
SYNCHRONISED = 2
OPEN = 4
# One of the waits failed: the others do not make it synchronised.
SYNC_FAILED = 8

# Columns of windows and their types: 41 bytes a window.
WINDOW_COLUMNS = {
    "ids": "q",
    "parent_ids": "q",
    "labels": "i",
    "threads": "i",
    "starts_ns": "q",
    "ends_ns": "q",
    "flags": "B",
}


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

    def opened_before(self, time_ns: int) -> WindowRecords:
        """Return the windows that were opened before a time."""
        kept = [row for row, start_ns in enumerate(self.starts_ns) if start_ns < time_ns]
        columns: dict[str, Any] = {}
        for name in WINDOW_COLUMNS:
            column = getattr(self, name)
            columns[name] = array(column.typecode, [column[row] for row in kept])
        return replace(self, **columns)
