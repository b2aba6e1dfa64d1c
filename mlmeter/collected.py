"""All that a running session has collected, and what that is as a recording at any time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlmeter.measurement import Domain, Event, Provenance, Unavailable
from mlmeter.recording import Recording, Run
from mlmeter.report.facts import host_facts
from mlmeter.sampling.sources import ROWS_BEFORE

if TYPE_CHECKING:
    from mlmeter.chapters.closing import Chapters
    from mlmeter.device_time.session import SessionDevices
    from mlmeter.energy.counters import Rows
    from mlmeter.event_log import EventLog
    from mlmeter.sampling.cross_checks import CrossChecks
    from mlmeter.sampling.process_reader import ProcessReader
    from mlmeter.sampling.sampler import Sampler
    from mlmeter.sampling.sources import Source
    from mlmeter.window_log import WindowLog


@dataclass
class Collected:
    """What a session collects, from several threads; every part has its own lock.

    Attributes:
        name, base_phase: of the session.
        facts: what the manifest tells beside the run itself.
        sampler: reads the sources.
        log: the windows.
        devices: the windows on devices.
        noted: the events that the session has noted itself.
        checks: counters against power.
        sources: what is metered; unavailable: what could not be, and why.
        processes: what reads CPU times; None if energies are the machine's.
        run_id: unique; empty before the start.
        opened_ns, start_ns: when the sources were opened, and when the session began after that.
        start_wall_ns: its start in nanoseconds since 1970.
        states: by name of the domain, what its device said of itself at the start and at the end.
        chapters: sums of what is no longer in memory; None before the start.
    """

    name: str
    base_phase: str
    facts: Mapping[str, Any]
    sampler: Sampler
    log: WindowLog
    devices: SessionDevices
    noted: EventLog
    checks: CrossChecks
    sources: tuple[Source, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()
    processes: ProcessReader | None = None
    run_id: str = ""
    opened_ns: int = 0
    start_ns: int = 0
    start_wall_ns: int = 0
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    chapters: Chapters | None = None

    @property
    def domains(self) -> list[Domain]:
        """The domains of all sources."""
        return [domain for source in self.sources for domain in source.domains]

    @property
    def slowest_seconds(self) -> float:
        """Update period of the slowest counter; 0 without any."""
        return max((domain.update_period_seconds for domain in self.domains), default=0.0)

    def note_states(self, when: str) -> None:
        """Ask devices for clocks, heat and limits, which explain powers; some tell nothing."""
        for source in self.sources:
            for name, state in source.device_states().items():
                self.states.setdefault(name, {})[when] = state

    def recording(self, end_ns: int, *, finished: bool, since_ns: int | None = None) -> Recording:
        """Copy what is known up to `end_ns`; with `since_ns` only what concerns the time since."""
        chapters = self.chapters
        past = None if chapters is None else chapters.past
        of_late = since_ns is not None and (past is None or since_ns >= past.end_ns)
        start_ns = max(self.start_ns, since_ns or 0) if of_late else self.start_ns
        # What is in memory begins a little before the chapter that is not over.
        held_ns = start_ns if of_late or chapters is None else chapters.held_ns
        rows = self.sampler.snapshot(self.sources)
        return Recording(
            run=self.run(end_ns, finished=finished, start_ns=start_ns),
            domains=tuple(
                self.as_metered(domain, _since(collected, held_ns), start_ns) for domain, collected in rows
            ),
            windows=self.log.snapshot(end_ns, since_ns if of_late else None),
            unavailable=self.unavailable,
            events=self.events(end_ns),
            device=self.devices.times(since_ns if of_late else None),
            process=None if self.processes is None else self.processes.rows(held_ns),
            chapters=() if of_late or past is None else (past,),
        )

    def run(self, end_ns: int, *, finished: bool, start_ns: int | None = None) -> Run:
        """Return the facts about the run up to `end_ns`."""
        return Run(
            id=self.run_id,
            name=self.name,
            base_phase=self.base_phase,
            start_ns=self.start_ns if start_ns is None else start_ns,
            end_ns=end_ns,
            start_wall_ns=self.start_wall_ns,
            finished=finished,
            facts={
                **self.facts,
                **host_facts(),
                "sampler": asdict(self.sampler.cost()),
                "clock": self.sampler.clock_changes.facts(self.start_ns, end_ns, self.start_wall_ns),
                "device_states": {name: dict(states) for name, states in self.states.items()},
            },
        )

    def as_metered(self, domain: Domain, rows: Rows, start_ns: int | None = None) -> tuple[Domain, Rows]:
        """Return a domain and its rows as those of this session, or of the part since `start_ns`."""
        start_ns = self.start_ns if start_ns is None else start_ns
        # Power had to take the place of its counter in this session.
        if rows.integrated_ns is not None and rows.integrated_ns > start_ns:
            domain = replace(domain, provenance=Provenance.DERIVED)
        return domain, self.checks.of_session(domain, rows)

    def events(self, end_ns: int) -> tuple[Event, ...]:
        """Return the events up to a time: those that the session has noted, then domain by domain."""
        of_sources = (
            Event(
                time_seconds=max(0, remark.at_ns - self.start_ns) * 1e-9,
                kind=remark.kind,
                domain=domain,
                message=remark.message,
            )
            for domain, remark in self.sampler.remarks(self.sources)
            if self.opened_ns <= remark.at_ns <= max(end_ns, self.sampler.clock.now_ns())
        )
        return (*self.noted.events, *of_sources)


def _since(rows: Rows, start_ns: int) -> Rows:
    """Return the rows from a few before `start_ns` on."""
    first = max(0, bisect_right(rows.before_ns, start_ns) - ROWS_BEFORE)
    return rows._replace(
        after_ns=rows.after_ns[first:],
        before_ns=rows.before_ns[first:],
        counts=rows.counts[first:],
        driver_ns=None if rows.driver_ns is None else rows.driver_ns[first:],
    )
