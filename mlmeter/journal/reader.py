"""Journals as recordings: of runs that have ended, and of runs that were killed.

Whoever reads a journal may have got it from a stranger: nothing in it is executed, and
whatever does not fit becomes a `RunFileError`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from mlmeter.foreign_files import MISFITS, damaged, json_value, place
from mlmeter.journal.encoding import Decoder
from mlmeter.journal.opening import DROPPED, EMPTY, opened, unreadable
from mlmeter.journal.past import CHAPTER, RESTART, Restart
from mlmeter.journal.rebuilding import rebuilt
from mlmeter.journal.validation import checked
from mlmeter.recording import Recording

# Of all batches together: 4 GiB of memory. A day of twenty domains at 10 Hz has 50 million.
MOST_NUMBERS = 500_000_000
MOST_ENTRIES = 5_000_000
MOST_JSON_BYTES = 64_000_000

Entries = dict[str, dict[int, Any]]


def read_journal(path: Path, *, everything: bool = False) -> Recording:
    """Return the recording that a journal holds; `Run.finished` is False if the run was killed.

    Args:
        path: the file.
        everything: read what a long session has told as sums, too.

    Raises:
        RunFileError: it is missing, damaged, of a newer version, or still being written.
    """
    with opened(path) as connection:
        try:
            entries = _entries(connection)
            if not entries:
                raise sqlite3.DatabaseError(EMPTY)
            streams = {number: (str(name), str(codes)) for number, (name, codes) in entries["stream"].items()}
            if everything:
                _check_nothing_dropped(connection)
                entries.pop(RESTART, None)
                entries.pop(CHAPTER, None)
            with place("entry restart 0"):
                restart = Restart.of(entries)
                decoder = Decoder({number: codes for number, (_, codes) in streams.items()}, restart.ends)
            _read_batches(connection, decoder, restart.batch)
            columns = {name: decoder.columns(number) for number, (name, _) in streams.items()}
            return checked(rebuilt(entries, columns, restart))
        except sqlite3.Error as error:
            raise unreadable(path, error) from error
        except (*MISFITS, MemoryError) as error:
            raise damaged(path, "is damaged", error) from error


def _check_nothing_dropped(connection: sqlite3.Connection) -> None:
    first = connection.execute("SELECT min(number) FROM batches").fetchone()[0]
    if first not in (None, 1):
        raise sqlite3.DatabaseError(DROPPED)


def _entries(connection: sqlite3.Connection) -> Entries:
    found: Entries = {}
    size, before = 0, ("", 0)
    rows = connection.execute("SELECT kind, number, json FROM entries ORDER BY kind, number")
    for count, (kind, number, text) in enumerate(rows):
        if not (isinstance(kind, str) and isinstance(number, int) and isinstance(text, str)):
            raise ValueError(f"entry {kind!r} {number!r} is no text")
        # A damaged file can lead in circles.
        if count and (kind, number) <= before:
            raise ValueError(f"entry {kind!r} {number} comes after {before[0]!r} {before[1]}")
        before = kind, number
        size += len(text)
        if count >= MOST_ENTRIES or size > MOST_JSON_BYTES:
            raise ValueError("it has more entries than this mlmeter reads")
        with place(f"entry {kind} {number} is no JSON"):
            found.setdefault(kind, {})[number] = json_value(text)
    return found


def _read_batches(connection: sqlite3.Connection, decoder: Decoder, after: int) -> None:
    total, before = 0, after
    query = "SELECT number, numbers FROM batches WHERE number > ? ORDER BY number"
    for number, blob in connection.execute(query, (after,)):
        if number != before + 1:
            raise ValueError(f"batch {number} comes after batch {before}")
        before = number
        with place(f"batch {number}"):
            total += decoder.take(blob)
        if total > MOST_NUMBERS:
            raise ValueError(f"it has more than {MOST_NUMBERS} numbers")
