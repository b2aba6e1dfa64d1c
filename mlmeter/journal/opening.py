"""Opening a journal that somebody else may have made: what it can do is hold numbers and texts."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mlmeter.errors import RunFileError
from mlmeter.foreign_files import damaged
from mlmeter.journal.file import APPLICATION_ID, SCHEMA, SCHEMA_VERSION
from mlmeter.journal.guard import BUSY, guarded

# Of one entry or batch, which are far smaller: who writes down a length must not get that memory.
MOST_VALUE_BYTES = 1 << 26
EMPTY = "it is empty: its program ended before anything was written"
DROPPED = "its oldest readings were dropped, so that it did not grow without end; their sums can be loaded"
LOGS = ("-wal", "-journal")
# What a rollback log ends with that names a file for SQLite to remove: https://sqlite.org/fileformat.html
_NAMES_A_FILE = bytes.fromhex("d9d505f920a163d7")


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal to be read; one that was left with a log beside it is completed by that.

    Raises:
        RunFileError: it is missing, damaged, of a newer version, or still being written.
    """
    if not path.is_file():
        raise RunFileError(str(path), "cannot be read: there is no such file")
    log = path.with_name(f"{path.name}-wal")
    with tempfile.TemporaryDirectory(prefix="mlmeter-") as copy, contextlib.ExitStack() as held:
        try:
            held.enter_context(guarded(path))
            if not log.exists():
                connection = _connect(path, "mode=ro&immutable=1")
            else:
                refuse_traps(path)
                try:
                    connection = _connect(path, "mode=rw")
                except sqlite3.OperationalError as error:
                    if _is_locked(error):
                        raise
                    # Nobody may write here: complete a copy.
                    connection = _connect(_copied(path, log, Path(copy)), "mode=rw")
        # The last if a text that SQLite quotes is not in UTF-8.
        except (OSError, sqlite3.Error, ValueError) as error:
            raise unreadable(path, error) from error
        try:
            yield connection
        finally:
            connection.close()


def refuse_traps(path: Path) -> None:
    """Check the files that SQLite uses when it may write: journal and logs, if there are any.

    SQLite would write through a link that takes the place of a log, and remove the file that a
    rollback log can name, whichever that is.

    Raises:
        RunFileError: one of them is a trap.
        OSError: one cannot be read.
    """
    for name in ("", *LOGS):
        file = path.with_name(f"{path.name}{name}")
        try:
            found = file.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(found.st_mode):
            raise RunFileError(str(file), "is no plain file")
        if name == "-journal" and found.st_size >= len(_NAMES_A_FILE):
            with file.open("rb") as log:
                log.seek(-len(_NAMES_A_FILE), os.SEEK_END)
                if log.read() == _NAMES_A_FILE:
                    raise RunFileError(str(file), "names another file, which would be removed")


def unreadable(path: Path, error: Exception) -> RunFileError:
    """Return the error that says why a journal cannot be read."""
    if _is_locked(error):
        return RunFileError(str(path), BUSY)
    if str(error) in (EMPTY, DROPPED):
        return RunFileError(str(path), str(error))
    return damaged(path, "cannot be read", error)


def _connect(path: Path, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?{options}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        # Without the memory that other processes would share.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if the file holds anything but the tables of a journal.

    A view or a computed column in their place could go on for ever.
    """
    identity = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    query = "SELECT sql FROM sqlite_schema ORDER BY name LIMIT ?"
    tables = [sql for (sql,) in connection.execute(query, (len(SCHEMA) + 1,))]
    if not tables and identity in (0, APPLICATION_ID):
        raise sqlite3.DatabaseError(EMPTY)
    if identity != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is no journal of mlmeter")
    if version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"its schema has version {version}; this mlmeter reads {SCHEMA_VERSION}")
    if tables != list(SCHEMA):
        raise sqlite3.DatabaseError("it has other tables than a journal of mlmeter")


def _copied(path: Path, log: Path, directory: Path) -> Path:
    for source in (path, log):
        shutil.copy(source, directory / source.name)
    return directory / path.name


def _is_locked(error: Exception) -> bool:
    # Not every error of SQLite's has a code.
    return str(error) == BUSY or getattr(error, "sqlite_errorcode", None) in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )
