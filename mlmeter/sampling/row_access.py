"""What is known of the domains of sources, for whoever does not read them himself."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from mlmeter.energy.counters import Remark, Rows
from mlmeter.energy.row_columns import RowCopy, RowMark
from mlmeter.measurement import Domain
from mlmeter.sampling.clock_changes import ClockChanges
from mlmeter.sampling.sources import Source


class RowNews(NamedTuple):
    """New rows of one domain.

    Attributes:
        rows: what is new.
        back: how many of the rows copied before are not valid any more.
        mark: of who has copied these.
        last_ns: when the domain was read last, None if never; readings: how often it was.
        content: differs from before if what is known beside the rows has changed in a way that matters.
    """

    rows: RowCopy
    back: int
    mark: RowMark
    last_ns: int | None
    readings: int
    content: tuple[object, ...]


class RowAccess:
    """Copies rows and remarks while nothing is added to them; the half of the sampler that only looks."""

    clock_changes: ClockChanges
    _lock: threading.RLock

    def _drain(self) -> None:
        """Bring the rows up to date; the lock is held."""
        raise NotImplementedError

    def snapshot(self, sources: Sequence[Source]) -> list[tuple[Domain, Rows]]:
        """Return the rows of `sources` with everything read so far."""
        with self._lock:
            self._drain()
            return [pair for source in sources for pair in source.snapshot()]

    def marks_at(self, sources: Sequence[Source], time_ns: int, rows_before: int) -> list[RowMark]:
        """Return, of every domain, the mark of who wants the rows since `time_ns` and some before."""
        with self._lock:
            columns = [rows.columns for source in sources for rows in source.rows]
            return [item.mark_at(time_ns, rows_before) for item in columns]

    def oldest_ns(self, sources: Sequence[Source], least_ns: int) -> int:
        """Return when the oldest row in memory was read; not before some time, for one that is lost."""
        with self._lock:
            columns = [rows.columns for source in sources for rows in source.rows]
            return max(least_ns, min((item.before_ns[0] for item in columns if item), default=least_ns))

    def news(self, sources: Sequence[Source], marks: Sequence[RowMark]) -> list[RowNews]:
        """Return what has been read of every domain since the marks, one for each."""
        with self._lock:
            self._drain()
            domains = ((source, position) for source in sources for position in range(len(source.rows)))
            return [
                _news(source, position, mark) for (source, position), mark in zip(domains, marks, strict=True)
            ]

    def state(self, sources: Sequence[Source], number: int) -> tuple[Domain, Rows]:
        """Return a domain, by its number among all, and what is known of it beside its rows."""
        with self._lock:
            for source in sources:
                if number < len(source.rows):
                    rows = source.rows[number]
                    state = rows.snapshot(rows.columns.end)
                    return source.domains[number], state._replace(
                        period_seconds=source.period_seconds(number)
                    )
                number -= len(source.rows)
        raise IndexError(number)

    def remarks(self, sources: Sequence[Source]) -> list[tuple[str | None, Remark]]:
        """Return what has been remarked about the domains of `sources`, with their names, and the clocks."""
        with self._lock:
            changes = self.clock_changes.changes
            return [(None, remark) for change in changes for remark in change.remarks()] + [
                (domain.name, remark)
                for source in sources
                for domain, rows in zip(source.domains, source.rows, strict=True)
                for remark in list(rows.remarks)
            ]

    def refreshed_since(self, sources: Sequence[Source], time_ns: int) -> bool:
        """Return whether every domain that works has shown what it counted up to `time_ns`."""
        with self._lock:
            self._drain()
            return all(rows.refreshed_since(time_ns) for source in sources for rows in source.rows)

    def close_rows(self, sources: Sequence[Source], end_ns: int) -> None:
        """Book what could not be read up to the end of a session as gaps; say what was never read."""
        with self._lock:
            for source in sources:
                source.close_rows(end_ns)


def _news(source: Source, position: int, mark: RowMark) -> RowNews:
    rows = source.rows[position]
    content = (*rows.content, source.period_seconds(position))
    return RowNews(*rows.columns.news(mark), rows.last_ns, rows.readings, content)
