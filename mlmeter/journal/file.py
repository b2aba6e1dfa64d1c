"""The SQLite file of one journal: named entries in JSON, and batches of numbers.

SQLite's write-ahead log keeps every transaction that has come to its end, whatever kills the
process. The file is locked by whoever writes it, which needs no memory shared between
processes: nothing of it can fail with a signal, as mapped files do on a full disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlmeter.journal.encoding import MOST_NUMBERS, Ends, Part, merged, packed, plain
from mlmeter.journal.guard import guard, guarded, release

APPLICATION_ID = 0x6D6C6D74  # "mlmt"
SCHEMA_VERSION = 1
# In order of the names, as a reader expects them to the letter.
SCHEMA = (
    "CREATE TABLE batches (number INTEGER PRIMARY KEY, numbers BLOB NOT NULL)",
    """CREATE TABLE entries (kind TEXT NOT NULL, number INTEGER NOT NULL, json TEXT NOT NULL,
                      PRIMARY KEY (kind, number)) WITHOUT ROWID""",
)
# Kind, number and value; a value that is in JSON already is a `Json`.
Entry = tuple[str, int, Any]
# Small batches are written again as a large one, which takes less space and is read faster.
MERGED_BATCHES = 128
MERGED_NUMBERS = 100_000
# A larger batch is packed at once: what comes late is written when a disk has just got room again.
MOST_PLAIN = 10_000
# Of a file that has become too large, one part in so many goes at a time.
SHRINK_PARTS = 8


class Json(str):
    """A value as it is written."""

    __slots__ = ()


class Boundary(NamedTuple):
    """Where reading can begin: after a batch, whose number this is, with the ends of the streams there."""

    number: int
    ends: Ends


class _Tail(NamedTuple):
    """The small batches at the end of a journal.

    Attributes:
        first: number of the batch before them.
        ends: of every stream before them.
        batches: their parts; numbers: how many there are in them.
    """

    first: int
    ends: Ends
    batches: list[Sequence[Part]]
    numbers: int


class JournalFile:
    """A journal that is being written, by one thread at a time.

    Args:
        path: a file that does not exist.

    Raises:
        OSError: it cannot be made.
        sqlite3.Error: likewise.
    """

    def __init__(self, path: Path) -> None:
        # Made here, and only here: a link that somebody has put in its place is not followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._path, self._inode = path, os.fstat(descriptor).st_ino
        self._path_text = str(path)
        os.close(descriptor)
        self._streams: dict[str, tuple[int, str]] = {}
        self._tail = _Tail(0, {}, [], 0)
        try:
            self._guard = guard(path)
            try:
                self._connection = _begun(path)
            except BaseException:
                release(self._guard)
                raise
        except (OSError, sqlite3.Error):
            # Nothing is in it, and it would be in the way of the next attempt.
            if self.in_place:
                path.unlink(missing_ok=True)
            raise

    @property
    def in_place(self) -> bool:
        """Whether the file is still where it was made."""
        try:
            return os.stat(self._path_text).st_ino == self._inode  # noqa: PTH116  # each second: half the cost
        except OSError:
            return False

    @property
    def boundary(self) -> Boundary:
        """The end of the last large batch."""
        return Boundary(self._tail.first, self._tail.ends)

    def shrink(self, number: int, most_bytes: int) -> bool:
        """Remove the oldest of the batches up to a number if the file is too large; return whether it was.

        Raises:
            sqlite3.Error: that failed.
        """
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size <= most_bytes:
            return False
        oldest, newest = self._connection.execute("SELECT min(number), max(number) FROM batches").fetchone()
        last = min(number, oldest + (newest - oldest) // SHRINK_PARTS)
        self._connection.execute("DELETE FROM batches WHERE number <= ?", (last,))
        return True

    def write(self, entries: Iterable[Entry], parts: dict[str, Part], *, last: bool = False) -> None:
        """Write entries and parts of streams in one transaction.

        Args:
            entries: kind, number and value; one of the same kind and number is replaced.
            parts: by name of the stream; their stream numbers are filled in here.
            last: nothing will be written after it, so that all can be packed.

        Raises:
            sqlite3.Error: nothing has been written.
        """
        streams = dict(self._streams)
        added: list[Entry] = []
        numbered: list[Part] = []
        for name, part in parts.items():
            if name not in streams:
                streams[name] = len(streams), part.codes
                added.append(("stream", streams[name][0], [name, part.codes]))
            numbered.append(Part(streams[name][0], part.codes, part.back, part.columns))
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            _put(connection, [*added, *entries])
            tail = self._append(numbered, 1 if last else MERGED_BATCHES)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._streams, self._tail = streams, tail

    def _append(self, parts: list[Part], most: int) -> _Tail:
        """Insert parts as batches and return the tail after that, which has fewer than so many."""
        tail = self._tail
        insert = "INSERT INTO batches VALUES (?, ?)"
        for batch, size in _batches(parts):
            batches = [*tail.batches, batch]
            numbers = tail.numbers + size
            if len(batches) < most and size < MOST_PLAIN and numbers < MERGED_NUMBERS:
                tail = tail._replace(batches=batches, numbers=numbers)
                self._connection.execute(insert, (tail.first + len(batches), plain(batch)))
                continue
            blob, ends = packed(merged(batches), tail.ends)
            self._connection.execute("DELETE FROM batches WHERE number > ?", (tail.first,))
            self._connection.execute(insert, (tail.first + 1, blob))
            tail = _Tail(tail.first + 1, {**tail.ends, **ends}, [], 0)
        return tail

    def close(self) -> None:
        """Make it one complete file, without a log beside it.

        Raises:
            sqlite3.Error: that failed; what has been written can still be read.
        """
        try:
            self._connection.execute("PRAGMA journal_mode=DELETE")
        finally:
            self._connection.close()
            release(self._guard)

    def abandon(self) -> None:
        """In a forked child: never touch the file again.

        SQLite would tidy up the parent's log when the connection is closed, so it never is.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        release(self._guard)


def _begun(path: Path) -> sqlite3.Connection:
    """Return the connection to an empty file that has become a journal.

    Raises:
        sqlite3.Error: it cannot be opened or written.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    try:
        for pragma in (
            "locking_mode=EXCLUSIVE",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            f"application_id={APPLICATION_ID}",
            f"user_version={SCHEMA_VERSION}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        # A killed process has made all of them or none.
        for statement in ("BEGIN", *SCHEMA, "COMMIT"):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def complete(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries into a journal that nobody writes any more, and make it one complete file.

    Raises:
        sqlite3.Error: that failed.
    """
    with guarded(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN IMMEDIATE")
            _put(connection, entries)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode=DELETE")
        finally:
            connection.close()


def json_text(value: Any) -> Json:
    """Return a value as it is written.

    Raises:
        ValueError: it is no number that JSON has.
    """
    return Json(json.dumps(value, allow_nan=False, separators=(",", ":"), default=str))


def _put(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    for kind, number, value in entries:
        text = value if isinstance(value, Json) else json_text(value)
        connection.execute("REPLACE INTO entries VALUES (?, ?, ?)", (kind, number, text))


def _batches(parts: list[Part]) -> Iterable[tuple[list[Part], int]]:
    """Split parts so that no batch becomes too large to be read; with how many numbers each has."""
    whole = sum([part.size for part in parts])
    if parts and whole <= MOST_NUMBERS // 8:
        yield parts, whole
        return
    batch: list[Part] = []
    size = 0
    for part in parts:
        rows, step = len(part.columns[0]), max(1, MOST_NUMBERS // 8 // len(part.codes))
        for start in range(0, max(rows, 1), step):
            piece = part
            if rows > step:
                piece = part._replace(
                    back=part.back if start == 0 else 0,
                    columns=[column[start : start + step] for column in part.columns],
                )
            if batch and (size + piece.size > MOST_NUMBERS // 4 or batch[-1].stream == piece.stream):
                yield batch, size
                batch, size = [], 0
            batch.append(piece)
            size += piece.size
    if batch:
        yield batch, size
