"""Files that may come from strangers: read with limits, believed in nothing, quoted safely."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mlmeter.errors import RunFileError

LONGEST_REASON = 300
# What values of another kind make code raise that expects certain ones.
MISFITS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def read_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object: numbers are finite, no name is there twice.

    Args:
        path: the file.
        most_bytes: a larger file is not read.

    Raises:
        RunFileError: it cannot be read, or is something else; the reason tells the place.
    """
    try:
        found = json_value(read_bytes(path, most_bytes).decode("utf-8"))
    except ValueError as error:
        raise damaged(path, "is no JSON file", error) from error
    if not isinstance(found, dict):
        raise RunFileError(str(path), "is no JSON object")
    return found


def json_value(text: str) -> Any:
    """Return what a JSON text says: numbers are finite, no name of an object is there twice.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read a plain file of bounded size; a pipe or a device is not waited for.

    Raises:
        RunFileError: it cannot be read, is no file or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # of a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RunFileError(str(path), "is no plain file")
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise RunFileError(str(path), f"cannot be read: {error.strerror or error}") from error
    if len(content) > most_bytes:
        raise RunFileError(str(path), f"is larger than {most_bytes:,} bytes")
    return content


def damaged(path: Path, what: str, error: Exception) -> RunFileError:
    """Return the error that says what is wrong with a file, in words that are safe to print."""
    if isinstance(error, RunFileError):
        return error
    return RunFileError(str(path), f"{what}: {visible(_words(error)[:LONGEST_REASON])}")


@contextmanager
def place(name: str) -> Iterator[None]:
    """Name the place in a file where something does not fit.

    Raises:
        ValueError: it does not.
    """
    try:
        yield
    except MISFITS as error:
        raise ValueError(f"{name}: {_words(error)}") from error


def _words(error: Exception) -> str:
    # What these say is a sentence; of others, such as KeyError, it is only the half.
    whole = type(error) in (ValueError, json.JSONDecodeError, UnicodeDecodeError)
    return str(error) if whole else f"{type(error).__name__}: {error}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} is there twice")
        found[name] = value
    return found


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def visible(text: str) -> str:
    r"""Return a text of one line in which nothing can steer a terminal.

    Names come from programs, devices and files of strangers: line ends, escape sequences and marks
    that turn the direction of writing are shown as what they are, such as ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
