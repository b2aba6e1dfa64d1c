"""What a thread of the meter's has used of a processor."""

from __future__ import annotations

import time


class ThreadTime:
    """The CPU time of the thread that makes it, in pieces.

    Asking the system is dear where caches are cold: once per thing done, waiting for it included.
    """

    __slots__ = ("_until_ns",)

    def __init__(self) -> None:
        self._until_ns = time.thread_time_ns()

    def piece_ns(self) -> int:
        """Return what the thread has used since it last asked."""
        since_ns, self._until_ns = self._until_ns, time.thread_time_ns()
        return self._until_ns - since_ns
