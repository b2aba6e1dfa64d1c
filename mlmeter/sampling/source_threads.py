"""Threads of single sources: of those that block, and for closing what may hang."""

from __future__ import annotations

import logging
import threading

from mlmeter.sampling.contained_reads import ContainedReads
from mlmeter.sampling.errands import came_back, start_thread
from mlmeter.sampling.sources import Source

logger = logging.getLogger("mlmeter")


class SourceThreads:
    """Gives each source that blocks a thread of its own, and closes sources.

    Args:
        reads: how the threads read.
        threaded: False for tests, in which everything happens on the calling thread.
    """

    def __init__(self, reads: ContainedReads, *, threaded: bool) -> None:
        self._reads = reads
        self._threaded = threaded
        # With what ends each of them.
        self._running: dict[int, tuple[threading.Thread, threading.Event]] = {}

    def __contains__(self, source: Source) -> bool:
        return id(source) in self._running

    def begin(self, source: Source) -> None:
        """Read a source on a thread of its own if it blocks."""
        if self._threaded and source.blocking:
            stop = threading.Event()
            thread = start_thread("mlmeter-source", self._reads.alone, source, stop)
            self._running[id(source)] = thread, stop

    def close(self, source: Source) -> None:
        """Close the backends of a source that nobody reads; one that hangs is left as it is."""
        limit_seconds = 0.0 if source.hanging else self._reads.limit_seconds
        thread, stop = self._running.pop(id(source), (None, None))
        if thread is not None and stop is not None:
            stop.set()
            thread.join(limit_seconds)
            limit_seconds = 0.0 if thread.is_alive() else limit_seconds
        name = source.backend.name
        if not source.gate.acquire(timeout=limit_seconds):
            logger.warning("backend %s is not closed: a read has not come back", name)
        elif not self._threaded:
            _close_backends(source)
        elif not came_back(lambda: _close_backends(source), self._reads.limit_seconds):
            logger.warning("backend %s has not come back from being closed", name)


def _close_backends(source: Source) -> None:
    """Close all backends of a source, whose gate is held."""
    try:
        for backend in source.backends:
            try:
                backend.close()
            except BaseException as error:  # closing is the backend's business; the session is complete
                logger.warning("closing backend %s failed: %s: %s", backend.name, type(error).__name__, error)
    finally:
        source.gate.release()
