"""One energy counter of Linux' powercap folder, on a descriptor that is kept."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from mlmeter.backends.powercap_zones import LARGEST_COUNT, OPEN_FLAGS, read_text
from mlmeter.measurement import Reading

# What stands for a counter that cannot be read.
Instead = TypeVar("Instead")

_COUNT_BYTES = 32  # more than the kernel writes
_new = tuple.__new__


class ZoneCounter:
    """A kept descriptor of one `energy_uj`; -1 if the last read failed.

    The descriptor is closed when the last reference goes, so that a thread in the middle of a
    read never sees it closed, or even taken by another file.
    """

    __slots__ = ("_ending", "_fd", "_folder", "_zone_name", "position")

    def __init__(
        self, folder: str, zone_name: str, position: int = 0, ending: bytes = b"", *, fd: int = -1
    ) -> None:
        self.position = position
        self._folder = folder
        self._zone_name = zone_name
        self._ending = ending
        self._fd = fd

    @classmethod
    def of_folder(cls, folder: str) -> ZoneCounter:
        """Open the counter of a zone, or raise OSError."""
        counter = cls(folder, read_text(f"{folder}/name")).reopened()
        # A line end that was there once must be there always: without it the number is cut short.
        counter._ending = b"\n" if os.pread(counter._fd, _COUNT_BYTES, 0).endswith(b"\n") else b""
        return counter

    @property
    def path(self) -> str:
        """Its file."""
        return f"{self._folder}/energy_uj"

    @property
    def is_open(self) -> bool:
        """Whether it can be read."""
        return self._fd >= 0

    def reopened(self) -> ZoneCounter:
        """Return a counter with a new descriptor of the same zone; raise OSError if there is none."""
        fd = os.open(self.path, OPEN_FLAGS)
        counter = ZoneCounter(self._folder, self._zone_name, self.position, self._ending, fd=fd)
        # After a reload of the driver the folder's number can be another zone's.
        if read_text(f"{self._folder}/name") != self._zone_name:
            raise OSError(errno.ESTALE, f"the folder no longer holds {self._zone_name}")
        return counter

    def closed(self) -> ZoneCounter:
        """Return a counter to be reopened."""
        return ZoneCounter(self._folder, self._zone_name, self.position, self._ending)

    def read(self, now_ns: Callable[[], int]) -> Reading:
        """Read the counter once; raise OSError, or ValueError if the file holds no whole number."""
        (reading,) = self.read_all((self,), now_ns, _raise)
        return reading

    @staticmethod
    def read_all(
        counters: Iterable[ZoneCounter],
        now_ns: Callable[[], int],
        failed: Callable[[ZoneCounter, Exception], Instead],
    ) -> list[Reading | Instead]:
        """Read counters one after the other; `failed` says what to return for one that cannot be read.

        Each reading begins where the one before it ends. As the program waits for this at the edges of
        its windows, it is one function: calls are dear where caches are cold.
        """
        found: list[Reading | Instead] = []
        end_ns = now_ns()
        for counter in counters:
            begin_ns = end_ns
            try:
                text = os.pread(counter._fd, _COUNT_BYTES, 0)
                end_ns = now_ns()
                value = int(text)
                if not (0 <= value <= LARGEST_COUNT and text.endswith(counter._ending)):
                    raise ValueError(f"no count in {text!r}")
                # What the class does, without the call of the function that a NamedTuple has for it.
                found.append(_new(Reading, (counter.position, value, begin_ns, end_ns, None, None)))
            except (OSError, ValueError) as error:
                found.append(failed(counter, error))
                end_ns = now_ns()
        return found

    # The default keeps os.close alive while the interpreter shuts down.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)


def _raise(_counter: ZoneCounter, error: Exception) -> NoReturn:
    try:
        raise error
    finally:
        # Else the error, which knows this call, would keep the counter open.
        del _counter, error
