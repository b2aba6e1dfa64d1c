"""A running session: sources, windows and events, until they become a recording."""

from __future__ import annotations

import itertools
import os
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlmeter import baseline as baselines
from mlmeter.backends.base import Backend
from mlmeter.backends.registry import Probe
from mlmeter.chapters.closing import Chapters, Held
from mlmeter.collected import Collected
from mlmeter.device_time.session import SessionDevices
from mlmeter.errors import StateWarning
from mlmeter.event_log import EventLog
from mlmeter.measurement import Energy, Event, Unavailable
from mlmeter.sampling.cross_checks import CrossChecks
from mlmeter.sampling.process_reader import ProcessReader
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import POOL
from mlmeter.sampling.subscription import Subscription
from mlmeter.session import Session
from mlmeter.settling import Settling
from mlmeter.source_remarks import remark_sources, slow_remarks
from mlmeter.window_log import WindowLog

if TYPE_CHECKING:
    from mlmeter.energy.chapter import Chapter
    from mlmeter.journal.live_journal import LiveJournal
    from mlmeter.recorder import DeviceEdges
    from mlmeter.windows import Window

# How much of the past the result of one window takes into account.
CONTEXT_PERIODS = 100
# Longest time between two ticks of a session that is written while it runs.
JOURNAL_SECONDS = 0.46
# So many closed windows are put away at once, those of a quiet program with what is read. Python's garbage
# collector runs when it counts 700 new objects, for 0.1 ms and in the midst of the program: a window keeps
# three of them until then, and a read of counters two and one for each.
MANY_PENDING = 60
FORKED = "this process was forked from the one that is metered, whose session has its energy"

_run_numbers = itertools.count(1)


class LiveSession:
    """Collects what happens between the start and the stop of one meter.

    It is the recorder of its windows; see `mlmeter.recorder.Recorder`.
    """

    def __init__(
        self,
        name: str,
        *,
        base_phase: str,
        backends: tuple[str | Backend, ...] | None,
        period_seconds: float,
        paced: bool,
        power_sampling: str,
        sync: Callable[[], object] | str | None,
        on_window: Callable[[Window], object] | None,
        facts: Mapping[str, Any],
        sampler: Sampler,
        baseline: baselines.Given = None,
        of_process: bool = False,
        output_dir: Path | None = None,
    ) -> None:
        self._output_dir = output_dir
        self._journal: LiveJournal | None = None
        self._baseline = baseline
        self.running = False
        # Whether the journal holds all of the session that has ended.
        self.journalled = False
        self.base_phase = base_phase
        self.edge: Callable[[], None] | None = None
        self.device: DeviceEdges | None = None
        self.now_ns = sampler.clock.now_ns
        self.finished: deque[Window] | None = deque() if on_window is not None else None
        self._backends = backends
        # How processes share a machine is told by readings only.
        self._period_seconds, self._paced = period_seconds, paced and not of_process
        self._power_sampling = power_sampling
        self._on_window = on_window
        self._reporting = False
        noted = EventLog(self.now_ns)
        self.remark = noted.remark
        self.log = WindowLog(self.remark)
        devices = SessionDevices(sync, self.now_ns, self.remark)
        self.collected = Collected(
            name, base_phase, facts, sampler, self.log, devices, noted, CrossChecks(sampler)
        )
        self._edges = (0, 0)
        self._warned_not_running = self._forked = False
        self._sampler = sampler
        self._of_process = of_process
        self._lock = threading.RLock()
        self._subscription: Subscription | None = None
        self._settling = Settling(self.collected, lambda: self.running)
        self._final: Session | None = None

    @property
    def _tick_seconds(self) -> float:
        """Time between ticks: what is read is to be on its way to the disk within a second."""
        asked = self._period_seconds
        return asked if self._output_dir is None else min(asked, JOURNAL_SECONDS)

    @property
    def started(self) -> bool:
        """Whether the session has ever been started."""
        return bool(self.collected.run_id)

    def start(self) -> None:
        """Open the sources and begin; never raises because of hardware."""
        if self._output_dir is not None:
            # Not while the session runs: it takes milliseconds.
            import mlmeter.journal.live_journal  # noqa: F401

        # What the first read of a source says belongs to the session, too.
        opened = self.collected
        opened.opened_ns = self.now_ns()
        with POOL.lock:
            opened.sources, found = POOL.open(self._backends, self._power_sampling)
            self._subscription = self._sampler.subscribe(
                opened.sources, self._tick_seconds, self._on_tick, self._on_booking, paced=self._paced
            )
        try:
            self._begin(found, self._subscription)
        except BaseException:
            # Somebody has pressed Ctrl-C: nobody will stop this session.
            self._sampler.unsubscribe(self._subscription)
            if self._journal is not None:
                self._journal.leave()
            raise

    def _begin(self, found: Probe, subscription: Subscription) -> None:
        """Begin with sources that are open and being read."""
        begun, clock = self.collected, self._sampler.clock
        begun.unavailable = found.unavailable
        self.edge = self._sampler.edge if any(source.cheap for source in begun.sources) else None
        if self._of_process:
            times = self._sampler.process_times()
            begun.processes = ProcessReader(
                clock, times, begun.sources, self._period_seconds, self._note_process
            )
            begun.processes.tick(edge=True)
        begun.start_wall_ns = clock.wall_ns()
        begun.run_id = _run_id(begun.name, begun.start_wall_ns)
        begun.note_states("start")
        begun.start_ns = begun.noted.start_ns = clock.now_ns()
        begun.checks = CrossChecks(self._sampler, begun.sources)
        begun.devices.begin(begun.domains)
        self.device = begun.devices.edges
        begun.chapters = Chapters(Held(begun, subscription), lambda: self.running, self._lock, self.remark)
        self.running = True
        slow = slow_remarks(begun.sources, subscription.period_seconds)
        remark_sources(begun.noted, begun.sources, begun.unavailable, (*found.notes, *slow))
        self._take_baseline()
        if self._output_dir is not None:
            self._begin_journal(self._output_dir, begun.chapters)

    def _begin_journal(self, output_dir: Path, chapters: Chapters) -> None:
        from mlmeter.journal.live_journal import LiveJournal

        self._journal = LiveJournal(output_dir / self.collected.run_id, self.collected)
        chapters.on_forget = self._note_past
        if self._sampler.threaded:
            self._journal.keep_up()

    def _note_past(self, chapter: Chapter, held_ns: int) -> None:
        """Hand the journal the sums of what is no longer in memory."""
        from mlmeter.journal.past import Past

        spared = self.log.ended_until(chapter.end_ns)
        oldest_ns = self._sampler.oldest_ns(self.collected.sources, held_ns - 10 * (chapter.end_ns - held_ns))
        if self._journal is not None:
            oldest_ns = min(oldest_ns, held_ns)
            units = self.log.early_units(chapter.end_ns, oldest_ns)
            self._journal.forgotten(Past(chapter, held_ns, oldest_ns, spared, units))

    def stop(self, *, settle: bool = True) -> None:
        """End the session; harmless when it has ended or never began.

        Args:
            settle: wait, but not long, until slow counters have shown the end.
        """
        with self._lock:
            if not self.running:
                return
            # What Ctrl-C interrupts is done by the next call.
            if self._final is None:
                final = self._end(settle=settle)
                if final is None:
                    return
                self.journalled = self._journal is not None and self._journal.finish(final.recording)
                self._final = final
            if self._subscription is not None:
                self._sampler.unsubscribe(self._subscription)
            self.running = False

    def _end(self, *, settle: bool) -> Session | None:
        """Read for the last time and return the session; None in a child that an observer has forked."""
        end_ns, ended = self.now_ns(), self.collected
        if ended.processes is not None:
            ended.processes.tick(edge=True)
        self._sampler.tick()
        if settle:
            self._settling.settle(end_ns)
        ended.devices.end()
        self.device = None
        self._report_finished(final=True)
        if not self.running:
            return None
        self._sampler.close_rows(ended.sources, end_ns)
        for domain, text in ended.checks.disagreements():
            self.remark("cross-check", text, domain)
        ended.note_states("end")
        return Session(ended.recording(end_ns, finished=True))

    def session(self) -> Session:
        """Return the final session, or a snapshot of the running one."""
        with self._lock:
            if self._final is not None:
                return self._final
            return Session(self.collected.recording(self.now_ns(), finished=False))

    def add_event(self, kind: str, message: str) -> None:
        """Add what is known after the end of a session only: what became of its files."""
        with self._lock:
            if self._final is not None:
                recording = self._final.recording
                seconds = recording.run.duration_seconds
                event = Event(time_seconds=seconds, kind=kind, domain=None, message=message)
                self._final = Session(replace(recording, events=(*recording.events, event)))

    # -- for windows -----------------------------------------------------------------------

    def warn_not_running(self) -> None:
        """Warn once that windows are opened although nothing records them."""
        if not self._warned_not_running:
            self._warned_not_running = True
            if self._forked:
                state = "runs in the process from which this one was forked"
            else:
                state = "has been stopped" if self.started else "was never started"
            text = f"meter {self.collected.name!r} {state}: its windows are not metered"
            self.collected.noted.warn("window", text, StateWarning)

    def window_energy(self, window: Window, kind: str | None, *, context_seconds: float = 0.0) -> Energy:
        """Return the energy of a window with what has been read so far.

        Args:
            window: a window of this meter.
            kind: of the domains that count, or None for all.
            context_seconds: time before the window that may tell of it, too.
        """
        session = self._final
        if session is None:
            if not self.running:
                return Energy(energy_joules=None)
            self._sampler.tick()
            with self._lock:
                since_ns = max(self.collected.start_ns, window.start_ns - round(context_seconds * 1e9))
                session = Session(self.collected.recording(self.now_ns(), finished=False, since_ns=since_ns))
        ids = session.recording.windows.ids
        row = bisect_right(ids, window.id)
        if not row or ids[row - 1] != window.id:
            return Energy(energy_joules=None)
        return session.window_energy(row, kind)

    def final_window_energy(self, window: Window, kind: str | None, timeout_seconds: float | None) -> Energy:
        """Return the energy of a window once its end is known to the counters."""
        shown = self._settling.wait_for(window, self._period_seconds, timeout_seconds)
        # The power of short windows is told by many of them, and by nothing that is not shown yet.
        context_seconds = CONTEXT_PERIODS * self._settling.slowest_seconds if shown else 0.0
        return self.window_energy(window, kind, context_seconds=context_seconds)

    def _look_at_devices(self) -> None:
        self.collected.devices.look()
        self.device = self.collected.devices.edges

    # -- the pieces of start and stop --------------------------------------------------------

    def _note_process(self, text: str) -> None:
        self.remark("process", text)

    def _take_baseline(self) -> None:
        """Write the idle powers that this session uses into its facts."""
        begun = self.collected
        now = datetime.fromtimestamp(begun.start_wall_ns / 1e9, UTC)
        facts, notes = baselines.baseline_facts(self._baseline, begun.domains, now)
        if facts is not None:
            begun.facts = {**begun.facts, "baseline": facts}
        for note in notes:
            self.remark("note", note)

    def _on_tick(self) -> bool:
        """Do what cannot wait; return whether any window has opened or closed since the last call."""
        edges, self._edges = self._edges, self.log.edges
        if len(self.log.pending) > MANY_PENDING:
            self.log.compact()
        if self.collected.processes is not None and self.running:
            self.collected.processes.tick()
        self._look_at_devices()
        if self.finished:
            self._report_finished(final=False)
        return edges != self._edges

    def _on_booking(self) -> None:
        """Put closed windows away, and do what else must be done from time to time."""
        self.log.compact()
        self.collected.checks.keep_up()
        if self._journal is not None and self.running:
            keep_up = self._journal.keep_up if self._sampler.threaded else self._journal.tick
            keep_up()
        if self.collected.chapters is not None and self.running:
            self.collected.chapters.keep_up()

    def _report_finished(self, *, final: bool) -> None:
        """Give the observer the windows whose end the counters have shown."""
        if self.finished is None or self._on_window is None or self._reporting:
            return
        # An observer that asks for an energy causes a tick, which must not report again.
        self._reporting = True
        try:
            while self.finished:
                window = self.finished[0]
                if not final and not self._settling.is_shown(window):
                    break
                self.finished.popleft()
                self._on_window(window)
        # The observer is the user's: its failure is an event, also if it tries to exit the program
        # from the sampler's thread.
        except (Exception, SystemExit, GeneratorExit) as error:
            self.remark("window", f"on_window failed: {type(error).__name__}: {error}")
        finally:
            self._reporting = False

    def forget_after_fork(self) -> None:
        """In a forked child: record nothing; the parent goes on and counts the child's energy."""
        self._lock = threading.RLock()
        mine = self.collected
        mine.devices.forget()
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.abandon()
        # It would read the parent's counters.
        self.edge = None
        if self._final is not None and not self.running:
            return
        self.running, self._forked = False, True
        self.device = mine.processes = self.finished = self._subscription = None
        # Another thread of the parent may have been changing them: half changed is how they would stay.
        self.log = mine.log = WindowLog()
        mine.sources, mine.checks = (), CrossChecks(self._sampler)
        mine.unavailable = (Unavailable(source="all", kinds=(), reason=FORKED),)


def _run_id(name: str, wall_ns: int) -> str:
    """Return a name for the run that sorts by time, is unique and safe as a file name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_ns / 1e9))
    safe = "".join(letter if letter.isalnum() else "-" for letter in name.lower())[:40].strip("-")
    # Containers that share a folder have the same process numbers; and nobody is to foresee the name.
    return f"{stamp}-{safe or 'run'}-{os.getpid()}-{next(_run_numbers)}-{os.urandom(3).hex()}"
