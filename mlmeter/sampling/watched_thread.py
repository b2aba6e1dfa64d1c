"""The sampler's thread, and the one that watches it.

Where a read does not come back, the thread is left to that read and a new one goes on with the other sources.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mlmeter.sampling.contained_reads import ContainedReads
from mlmeter.sampling.errands import start_thread

logger = logging.getLogger("mlmeter")


class WatchedThread:
    """A thread whose place another one takes where a read keeps it, or something has ended it.

    Args:
        run: its work, which is given a turn and ends when `turn` is no longer that.
        reads: what may keep it.
        lock: held by whoever calls `begin` and `end`.

    Attributes:
        current: the thread; None while there is none.
        turn: whose it is to work.
    """

    def __init__(self, run: Callable[[object], None], reads: ContainedReads, lock: threading.RLock) -> None:
        self._run, self._reads, self._lock = run, reads, lock
        self.current: threading.Thread | None = None
        self.turn = object()
        self._end_watch = threading.Event()

    def begin(self) -> None:
        """Start it unless there is one, and the one that watches."""
        if self.current is None:
            self._start()
            self._end_watch = threading.Event()
            start_thread("mlmeter-watch", self._watch, self._end_watch)

    def end(self) -> threading.Thread | None:
        """Let it end after what it is at; return it, to be waited for, if there is one and it is another."""
        ended, self.current = self.current, None
        self.turn = object()
        self._end_watch.set()
        return None if ended is threading.current_thread() else ended

    def _start(self) -> None:
        """Let a new thread go on."""
        self.turn = object()
        self.current = start_thread("mlmeter-sampler", self._run, self.turn)

    def _watch(self, end: threading.Event) -> None:
        """Look for reads that do not come back, and go on without the threads that they keep."""
        while not end.wait(self._reads.limit_seconds / 2):
            for thread_id, source in self._reads.overdue():
                self._reads.give_up(source)
                with self._lock:
                    if self.current is not None and self.current.ident == thread_id and not end.is_set():
                        self._start()
            with self._lock:
                # A debugger may have ended it.
                if self.current is not None and not self.current.is_alive() and not end.is_set():
                    logger.error("the sampler's thread has ended: another one goes on")
                    self._start()
