"""Files that are there whole or not at all, whoever else writes into their folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def writing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open what a user has named: a file is replaced, a device or a pipe is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open(mode, **_text(mode)) as file:
            yield file
        return
    with replacing(path, mode) as file:
        yield file


@contextmanager
def replacing(path: Path, mode: str = "w", *, durable: bool = False) -> Iterator[IO[Any]]:
    """Open a new file that takes the place of `path` only when it has been written whole.

    Whatever stands at `path` is replaced, never followed or written into. What a killed process
    leaves is called ``.mlmeter-*.tmp``, and in nobody's way.

    Args:
        path: the file.
        mode: ``"w"`` for text in UTF-8 or ``"wb"``.
        durable: be sure that it is on the disk before it takes the place, for what nobody else has.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    temporary = name_beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, mode, **_text(mode)) as file:  # noqa: PTH123  # of a descriptor
            yield file
            if durable:
                file.flush()
                os.fsync(descriptor)
        put_in_place(temporary, path)
    except BaseException:
        # A disk that failed once fails again: the first reason is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def name_beside(path: Path) -> Path:
    """Return a name in the same folder for a new file that nobody can foresee."""
    return path.with_name(f".mlmeter-{os.getpid()}-{secrets.token_hex(8)}.tmp")


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file that has been written, in place of whatever stands at `path`.

    A file server that was asked twice, because its first answer got lost, says that there is nothing
    to rename any more.

    Raises:
        OSError: that failed.
    """
    written = temporary.lstat()
    try:
        os.replace(temporary, path)  # noqa: PTH105  # as the system calls it
    except FileNotFoundError:
        if not os.path.samestat(path.lstat(), written):
            raise


def _text(mode: str) -> dict[str, Any]:
    return {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
