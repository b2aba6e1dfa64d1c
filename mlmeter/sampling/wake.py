"""What the sampler's thread waits for."""

from __future__ import annotations

import threading


class Wake:
    """A flag that one thread waits for: what `threading.Event` is, at half its cost.

    A thread that wakes ten times a second finds the processor's caches cold each time, so that the number
    of functions called decides what a wake-up costs: here it is one of the interpreter's own.

    Example:
        >>> wake = Wake()
        >>> wake.wait(0.001)
        False
        >>> wake.set()
        >>> wake.wait(10.0), wake.is_set()
        (True, True)
    """

    __slots__ = ("_unset",)

    def __init__(self) -> None:
        # Held as long as the flag is not set.
        self._unset = threading.Lock()
        self._unset.acquire()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return not self._unset.locked()

    def set(self) -> None:
        """Set it and wake whoever waits; harmless when it is set."""
        try:
            self._unset.release()
        except RuntimeError:
            # It is not held: set already.
            return

    def clear(self) -> None:
        """Reset it."""
        self._unset.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, which it stays, or so many seconds have passed; return whether it is set."""
        if not self._unset.acquire(True, -1 if timeout is None else timeout):
            return False
        self.set()
        return True
