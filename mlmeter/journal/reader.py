"""Journals as recordings: of runs that have ended, and of runs that were killed.

Whoever reads a journal may have got it from a stranger: nothing in it is executed, and
whatever does not fit becomes a `RunFileError`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlmeter.errors import RunFileError
from mlmeter.journal.encoding import Decoder
from mlmeter.journal.file import APPLICATION_ID, SCHEMA_VERSION
from mlmeter.journal.rebuilding import rebuilt
from mlmeter.journal.validation import checked
from mlmeter.recording import Recording

# Of all batches together: 4 GiB of memory. A day of twenty domains at 10 Hz has 50 million.
MOST_NUMBERS = 500_000_000
MOST_ENTRIES = 5_000_000
MOST_JSON_BYTES = 64_000_000
# What a file that does not fit makes the code below raise.
_MISFITS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)

Entries = dict[str, dict[int, Any]]


def read_journal(path: Path) -> Recording:
    """Return the recording that a journal holds; `Run.finished` is False if the run was killed.

    Raises:
        RunFileError: it is missing, damaged, of a newer version, or still being written.
    """
    with _opened(path) as connection:
        try:
            entries = _entries(connection)
            streams = {number: (str(name), str(codes)) for number, (name, codes) in entries["stream"].items()}
            decoder = Decoder({number: codes for number, (_, codes) in streams.items()})
            _read_batches(connection, decoder)
            columns = {name: decoder.columns(number) for number, (name, _) in streams.items()}
            return checked(rebuilt(entries, columns))
        except sqlite3.Error as error:
            raise RunFileError(str(path), _reason(error)) from error
        except _MISFITS as error:
            raise RunFileError(str(path), f"is damaged: {type(error).__name__}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal; one that was left with a log beside it is completed by that."""
    if not path.is_file():
        raise RunFileError(str(path), "cannot be read: there is no such file")
    log = path.with_name(f"{path.name}-wal")
    with tempfile.TemporaryDirectory(prefix="mlmeter-") as copy:
        try:
            if not log.exists():
                connection = _connect(path, "mode=ro&immutable=1")
            else:
                try:
                    connection = _connect(path, "mode=rw")
                except sqlite3.OperationalError as error:
                    if _is_locked(error):
                        raise
                    # Nobody may write here: complete a copy.
                    connection = _connect(_copied(path, log, Path(copy)), "mode=rw")
        except (OSError, sqlite3.Error) as error:
            raise RunFileError(str(path), _reason(error)) from error
        try:
            yield connection
        finally:
            connection.close()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{options}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)
    try:
        # Without the memory that other processes would share.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        identity = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except BaseException:
        connection.close()
        raise
    if identity != APPLICATION_ID:
        connection.close()
        raise sqlite3.DatabaseError("it is no journal of mlmeter")
    if version != SCHEMA_VERSION:
        connection.close()
        raise sqlite3.DatabaseError(f"its schema has version {version}; this mlmeter reads {SCHEMA_VERSION}")
    return connection


def _copied(path: Path, log: Path, directory: Path) -> Path:
    for source in (path, log):
        shutil.copy(source, directory / source.name)
    return directory / path.name


def _entries(connection: sqlite3.Connection) -> Entries:
    found: Entries = {}
    size = 0
    rows = connection.execute("SELECT kind, number, json FROM entries ORDER BY kind, number")
    for count, (kind, number, text) in enumerate(rows):
        size += len(text)
        if count >= MOST_ENTRIES or size > MOST_JSON_BYTES:
            raise ValueError("it has more entries than this mlmeter reads")
        try:
            found.setdefault(kind, {})[number] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"entry {kind} {number} is no JSON: {error}") from error
    return found


def _read_batches(connection: sqlite3.Connection, decoder: Decoder) -> None:
    total = 0
    for number, blob in connection.execute("SELECT number, numbers FROM batches ORDER BY number"):
        try:
            total += decoder.take(blob)
        except _MISFITS as error:
            raise ValueError(f"batch {number}: {error}") from error
        if total > MOST_NUMBERS:
            raise ValueError(f"it has more than {MOST_NUMBERS} numbers")


def _reason(error: Exception) -> str:
    if _is_locked(error):
        return "is being written by a program that still runs"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _is_locked(error: Exception) -> bool:
    # Not every error of SQLite's has a code.
    return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
