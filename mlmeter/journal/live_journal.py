"""The journal of a running session: written on a thread of its own, never a reason to fail."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlmeter.journal import JOURNAL
from mlmeter.journal.encoding import Part
from mlmeter.journal.file import Boundary, Entry, JournalFile
from mlmeter.journal.past import Past
from mlmeter.journal.progress import Written, news, nothing_written
from mlmeter.journal.whole import last_entries, waiting_spans
from mlmeter.living import Living
from mlmeter.sampling.errands import start_thread
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.sampling.wake import Wake

if TYPE_CHECKING:
    from mlmeter.collected import Collected
    from mlmeter.recording import Recording

# What has been read or closed is on its way to the disk within a second. The thread writes when the sampler
# has booked, which its own rounds do every 0.6 to 0.94 s; whoever asks for energies causes it at any time. If
# nobody asks the thread then, as after such a time or while a read hangs, it writes unasked, and no later.
PERIOD_NS = 600_000_000
PATIENCE_NS = 340_000_000
# A disk that is full is tried again; a slow one is not waited for at the end of a session.
FIRST_RETRY_NS, LAST_RETRY_NS = 5_000_000_000, 300_000_000_000
LONGEST_WAIT_SECONDS = 5.0
# For the thread, which has nothing more to do but to end.
LONGEST_JOIN_SECONDS = 1.0
# Nine days of twenty domains at 10 Hz.
MOST_BYTES = 1 << 30
SHRUNK = "the journal has become so large that its oldest readings are dropped; their sums stay"
# A fork waits for a transaction, which takes milliseconds, but not for a disk that hangs.
LONGEST_WAIT_AT_FORK_SECONDS = 0.5


# By their ids: of a set no list could be made while another thread adds to it.
_journals: Living[LiveJournal] = Living()
_held_at_fork = threading.local()


class LiveJournal:
    """Writes what is new of a session to `JOURNAL` in a directory.

    A disk that hangs keeps nobody but the thread that writes, which is the journal's own.

    Args:
        directory: the run directory; made when the first rows are written.
        session: whose; what happens to the journal is noted there.
    """

    def __init__(self, directory: Path, session: Collected) -> None:
        self._directory, self._session, self._remark = directory, session, session.noted.remark
        # A finalizer of the program's may stop the meter on the thread that holds it.
        self._lock = threading.RLock()
        _journals.add(self)
        self._file: JournalFile | None = None
        # None as long as nothing is in the file.
        self._written: Written | None = None
        # Sums of what is no longer in memory, and those of them that are in the file.
        self._past: Past | None = None
        self._past_written: Past | None = None
        # Where a reader of the file can begin, and up to when everything is before it.
        self._boundaries: deque[tuple[int, Boundary]] = deque()
        self._due_ns, self._retry_ns = session.start_ns, FIRST_RETRY_NS
        self._wake = Wake()
        # Whether the session has ended, and whether who ended it has taken the file, or waits no more.
        self._ended, self._left = False, threading.Event()
        # The whole session, if its end has not waited for the disk.
        self._late: Recording | None = None
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()

    def keep_up(self) -> None:
        """Let the thread write if it is time to; another one if something has ended the first."""
        if self._ended or not self._beginning.acquire(blocking=False):
            return
        try:
            if self._thread is None or not self._thread.is_alive():
                self._thread = start_thread("mlmeter-journal", self._run)
        except RuntimeError as error:  # there are too many, or the interpreter ends
            self._tell(error)
        finally:
            self._beginning.release()
        if self._session.sampler.clock.now_ns() >= self._due_ns:
            self._wake.set()

    def leave(self) -> None:
        """End the thread of a session that nobody will end."""
        self._end()
        self._left.set()

    def _end(self) -> None:
        """Let the thread write no more."""
        self._ended = True
        self._wake.set()

    @property
    def windows(self) -> int:
        """How many closed windows are in the file: the first ones of the log."""
        return 0 if self._written is None else self._written.windows.windows

    def _run(self) -> None:
        sampler, clock, spent = self._session.sampler, self._session.sampler.clock, ThreadTime()
        while not self._ended:
            clock.wait(self._wake, (self._due_ns + PATIENCE_NS - clock.now_ns()) * 1e-9)
            self._wake.clear()
            self.tick()
            sampler.add_cost(spent.piece_ns())
        self._left.wait()
        with self._lock, contextlib.suppress(Exception):
            if self._file is not None and self._late is not None:
                self._complete(self._file, self._late)
            elif self._file is not None:
                self._close(self._file)

    def _close(self, file: JournalFile) -> None:
        """Close the file, of which no more can be written."""
        self._file = None
        with contextlib.suppress(sqlite3.Error):
            file.close()

    def tick(self) -> None:
        """Write what is new if that is due; called on the thread, or where there is none at each booking."""
        now_ns = self._session.sampler.clock.now_ns()
        if now_ns < self._due_ns:
            return
        try:
            self._due_ns = now_ns + PERIOD_NS
            with self._lock:
                if self._ended:
                    return
                file = self._file_in_place()
            # Without the lock: whoever ends the session may hold what this waits for.
            written = self._written or nothing_written(self._session)
            new = news(self._session, written, now_ns)
            # The disk may have taken its time, while the counters were read.
            until_ns = self._session.sampler.clock.now_ns()
            with self._lock:
                if not self._ended:
                    self._write(file, new, until_ns)
            self._retry_ns = FIRST_RETRY_NS
        except Exception as error:  # whatever the disk or what was read do, the program goes on
            self._due_ns = now_ns + self._retry_ns
            self._retry_ns = min(2 * self._retry_ns, LAST_RETRY_NS)
            self._tell(error)

    def forgotten(self, past: Past) -> None:
        """Take note of what is no longer in memory; called on a thread that may take its time."""
        self._past = past.in_json()

    def finish(self, recording: Recording) -> bool:
        """Write the rest of a session that has ended; return whether the journal holds all of it.

        Args:
            recording: the whole session.
        """
        self._end()
        try:
            if not self._lock.acquire(timeout=LONGEST_WAIT_SECONDS):
                # The thread writes it when the disk comes back, if the program is still there then.
                self._late = recording
                return False
            try:
                file, self._file = self._file, None
                holds_all = file is not None and self._complete(file, recording)
            finally:
                self._lock.release()
        except Exception as error:  # whatever the disk or what was read do, the program goes on
            self._tell(error)
            holds_all = False
        finally:
            self._left.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(LONGEST_JOIN_SECONDS)
        return holds_all

    def _complete(self, file: JournalFile, recording: Recording) -> bool:
        """Write the rest and close the file; return whether it is where it belongs, and holds all."""
        try:
            if self._written is None or not file.in_place or self._session.log.interrupted:
                return False
            self._write_rest(file, recording, self._written)
            return True
        finally:
            file.close()

    def abandon(self) -> None:
        """In a forked child: the journal is the parent's."""
        if self._file is not None:
            self._file.abandon()

    def _file_in_place(self) -> JournalFile:
        """Return the file, made now if there is none."""
        if self._file is not None and not self._file.in_place:
            # Somebody has removed the directory: what has been written is gone, what is to come need not be.
            self._close(self._file)
            self._remark("journal", f"{self._directory / JOURNAL} was removed; it is begun again")
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = JournalFile(self._directory / JOURNAL)
            self._boundaries = deque([(self._session.start_ns, self._file.boundary)])
            self._written = self._past_written = None
        return self._file

    def _write(
        self, file: JournalFile, new: tuple[list[Entry], dict[str, Part], Written], until_ns: int
    ) -> None:
        """Write what is new, of which nothing is newer than a time."""
        entries, parts, written = new
        past = self._new_past()
        if past is not None:
            entries += past.entries(self._boundary_before(past.oldest_ns))
        file.write(entries, parts)
        self._written = written
        if file.boundary.number != self._boundaries[-1][1].number:
            self._boundaries.append((until_ns, file.boundary))
        if past is not None:
            self._past_written = past
            if file.shrink(self._boundaries[0][1].number, MOST_BYTES):
                self._remark("journal", SHRUNK)

    def _new_past(self) -> Past | None:
        """Return the sums of the past that are not in the file yet, if there are any."""
        return None if self._past is self._past_written else self._past

    def _boundary_before(self, time_ns: int) -> Boundary:
        """Return the last boundary before which nothing is newer than a time."""
        while len(self._boundaries) > 1 and self._boundaries[1][0] <= time_ns:
            self._boundaries.popleft()
        return self._boundaries[0][1]

    def _write_rest(self, file: JournalFile, recording: Recording, written: Written) -> None:
        now_ns = self._session.sampler.clock.now_ns()
        # Events are numbered anew, as in the recording; then those that it has come too early for.
        written = replace(written, events=frozenset(recording.events))
        entries, parts, _ = news(self._session, written, now_ns)
        parts |= waiting_spans(recording, written.spans - self._session.devices.forgotten_spans)
        if (past := self._new_past()) is not None:
            entries += past.entries(self._boundary_before(past.oldest_ns))
        # Domains, events and facts are told as the recording has them.
        file.write([*entries, *last_entries(recording)], parts, last=True)

    def _tell(self, error: Exception) -> None:
        # Memory may be full, or the program's own logging fail: the thread goes on.
        with contextlib.suppress(Exception):
            text = f"the journal cannot be written ({type(error).__name__}: {error})"
            self._remark("journal", f"{text}: what is read meanwhile is in memory only")


def _before_fork() -> None:
    """Let no thread be inside SQLite: a lock of its own would stay locked in the child."""
    # At once where it is found by `_after_fork`: Ctrl-C may come meanwhile.
    _held_at_fork.locks = held = []
    deadline = time.monotonic() + LONGEST_WAIT_AT_FORK_SECONDS
    for journal in _journals:
        if journal._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            held.append(journal._lock)  # noqa: PERF401  # one by one: Ctrl-C leaves what is held in it


def _after_fork() -> None:
    for lock in getattr(_held_at_fork, "locks", ()):
        lock.release()
    _held_at_fork.locks = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
