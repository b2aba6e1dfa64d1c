"""The rows of one domain as growing columns, numbered from 0 in order of time.

Rows are appended; now and then the newest are taken back or rewritten. The oldest can be
forgotten: the numbers of the others stay, so that whoever has copied some knows where to go on.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

# In the column of the driver's time stamps: the reading had none.
NO_DRIVER_TIME = -1


class RowMark(NamedTuple):
    """What somebody has copied of the rows of one domain.

    Attributes:
        base: number of the first row that concerns them.
        end: number after the last row that they have.
        revisions: how many times rows had been taken back or rewritten by then.
    """

    base: int
    end: int
    revisions: int


class RowCopy(NamedTuple):
    """Columns of some rows, one entry each; `driver_ns` is None if no row has a driver's time."""

    after_ns: array[int]
    before_ns: array[int]
    counts: array[int]
    driver_ns: array[int] | None


class RowColumns:
    """Times and counts of one domain.

    Attributes:
        first: number of the oldest row that is kept.
        after_ns, before_ns, counts: columns of the rows from `first` on.
        revised: for each time that rows were taken back or rewritten, the number of the first of them.
    """

    def __init__(self) -> None:
        self.first = 0
        self.after_ns, self.before_ns, self.counts = array("q"), array("q"), array("q")
        self.revised: list[int] = []
        # No memory is used where the driver tells no times.
        self._driver_ns: array[int] | None = None

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def end(self) -> int:
        """Number that the next row will have."""
        return self.first + len(self.counts)

    def append(self, after_ns: int, before_ns: int, count: int, driver_ns: int | None) -> None:
        """Add a row; `driver_ns` is the driver's own time of it."""
        if driver_ns is not None and self._driver_ns is None:
            self._driver_ns = array("q", [NO_DRIVER_TIME]) * len(self.counts)
        self.after_ns.append(after_ns)
        self.before_ns.append(before_ns)
        self.counts.append(count)
        if self._driver_ns is not None:
            self._driver_ns.append(NO_DRIVER_TIME if driver_ns is None else driver_ns)

    def take_back(self, end: int) -> None:
        """Remove the rows from number `end` on."""
        for column in self._columns():
            del column[max(0, end - self.first) :]
        self.revised.append(end)

    def rewrite_after(self, after_ns: Mapping[int, int]) -> None:
        """Change the earliest times of rows, given by their positions in the columns."""
        for position, time_ns in after_ns.items():
            self.after_ns[position] = time_ns
        if after_ns:
            self.revised.append(self.first + min(after_ns))

    def forget(self, number: int) -> None:
        """Remove the rows before `number`; the newest one stays in any case."""
        size = min(number - self.first, len(self.counts) - 1)
        if size <= 0:
            return
        for column in self._columns():
            del column[:size]
        self.first += size

    def mark_at(self, time_ns: int, rows_before: int) -> RowMark:
        """Return the mark of who wants the rows since `time_ns` and some before, and has none yet."""
        base = self.first + max(0, bisect_right(self.before_ns, time_ns) - rows_before)
        return RowMark(base, base, len(self.revised))

    def news(self, mark: RowMark) -> tuple[RowCopy, int, RowMark]:
        """Return rows that are new, how many of those copied before they replace, and the new mark."""
        base, had, revisions = mark
        start = had
        if len(self.revised) > revisions:
            start = max(base, min(start, *self.revised[revisions:]))
        return self.since(start), max(0, had - start), RowMark(base, max(start, self.end), len(self.revised))

    def since(self, number: int) -> RowCopy:
        """Return a copy of the rows from `number` on, so far as they are kept."""
        start = max(0, number - self.first)
        driver = None if self._driver_ns is None else self._driver_ns[start:]
        return RowCopy(self.after_ns[start:], self.before_ns[start:], self.counts[start:], driver)

    def _columns(self) -> tuple[array[int], ...]:
        columns = (self.after_ns, self.before_ns, self.counts)
        return columns if self._driver_ns is None else (*columns, self._driver_ns)
