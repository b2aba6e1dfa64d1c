"""The lock that tells other processes that a journal is being written.

SQLite's own is lost as soon as the process opens and closes the file in another way, as a program
does that copies its output folder; this one stays until it is released.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

with contextlib.suppress(ImportError):  # not on Windows
    from fcntl import LOCK_EX, LOCK_NB, flock

BUSY = "is being written, or recovered, by another process or thread"


def guard(path: Path) -> int:
    """Take the lock of a file, where there are locks, and return the descriptor that holds it.

    Raises:
        sqlite3.OperationalError: somebody else holds it.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise sqlite3.OperationalError(BUSY) from error
    except (OSError, NameError):
        # Some file servers have none, and some systems.
        pass
    return descriptor


def release(descriptor: int) -> None:
    """Let go of the lock; in a forked child only of the child's share."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Hold the lock of a file.

    Raises:
        sqlite3.OperationalError: somebody else holds it.
        OSError: the file cannot be opened.
    """
    descriptor = guard(path)
    try:
        yield
    finally:
        release(descriptor)
