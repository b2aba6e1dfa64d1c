"""Sensors whose values stand in small text files of sysfs: hwmon, power rails, batteries."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlmeter.measurement import Domain, Failure, Reading

# Device unbound, unplugged or gone with its driver.
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESTALE)
# A named pipe in a made-up tree must not block the metered program.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
_LARGEST_COUNT = 2**63 - 1

Numbers = Sequence[int]


class Sensor(NamedTuple):
    """One domain and the files that its count is made of.

    Attributes:
        domain: what is read.
        files: one file, or several such as voltage and current.
        count: makes the count out of the files' numbers.
    """

    domain: Domain
    files: tuple[str, ...]
    count: Callable[[Numbers], int] = lambda numbers: numbers[0]

    def read(self, position: int, now_ns: Callable[[], int]) -> Reading | Failure:
        """Read the files once."""
        begin_ns = now_ns()
        try:
            value = self.value()
        except (OSError, ValueError) as error:
            reason = f"cannot read {self.files[0]}: {words(error)}"
            return Failure(position, reason, isinstance(error, OSError) and error.errno in _GONE, begin_ns)
        return Reading(position, value, begin_ns, now_ns())

    def value(self) -> int:
        """Return the present count; raise OSError, or ValueError if the files hold none."""
        count = self.count([read_number(path) for path in self.files])
        if not 0 <= count <= _LARGEST_COUNT:
            raise ValueError(f"no count: {count}")
        return count


def read_text(path: str | Path, length: int = 256) -> str:
    """Return the beginning of a file without white space around it; raise OSError."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        return os.read(descriptor, length).decode("utf-8", "replace").strip()
    finally:
        os.close(descriptor)


def read_number(path: str | Path) -> int:
    """Return the number in a file; raise OSError, or ValueError if it holds none."""
    return int(read_text(path))


def text_or_none(path: str | Path) -> str | None:
    """Return what an optional file says; None if it is missing, unreadable or empty."""
    try:
        return read_text(path) or None
    except OSError:
        return None


def number_or_none(path: str | Path) -> int | None:
    """Return the number in an optional file; None if there is none."""
    try:
        return read_number(path)
    except (OSError, ValueError):
        return None


def product(numbers: Numbers) -> int:
    """Return millivolts x milliamperes, or what else two files hold; what flows back is 0."""
    return max(0, numbers[0] * numbers[1])


def folders_below(root: str | Path) -> list[Path]:
    """Return the folders, also linked ones, below `root`; hwmon2 stands before hwmon10."""
    try:
        found = [path for path in Path(root).iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda path: (len(path.name), path.name))


def words(error: Exception) -> str:
    """Return what an error of the system says, without its number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
