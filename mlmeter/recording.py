"""All that one metered run found, raw, and its resolution into joules.

Every number of a report is computed from a `Recording`, so saving one and loading it again
gives the same report.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlmeter.cached import cached_property
from mlmeter.device_time.times import DeviceTimes
from mlmeter.energy.idle_power import IdlePower
from mlmeter.measurement import Domain, Event, Unavailable
from mlmeter.units import SECONDS_PER_NANOSECOND

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Attribution, Energies
    from mlmeter.energy.chapter import Chapter
    from mlmeter.energy.columns import Columns
    from mlmeter.energy.counters import Rows
    from mlmeter.energy.process_rows import ProcessRows
    from mlmeter.energy.timeline import Timeline
    from mlmeter.energy.windows import Ownership, Windows
    from mlmeter.process_scope import ProcessScope
    from mlmeter.time_bases import TimeBase
    from mlmeter.window_records import WindowRecords

SESSION_ROW = 0
# What the fit of so many windows holds is let go before the next domain's.
MANY_WINDOWS = 100_000
TOTAL = "total"
# In place of a setting: as the session was metered.
AS_METERED = "as-metered"
# Name of the fact about a run that holds the grid, PUE and price named at the meter.
ELECTRICITY = "electricity"
TABLES = ("phases", "windows", "window_names", "bursts", "domains", "shares", "samples", "events")


@dataclass(frozen=True, slots=True)
class Run:
    """Facts about a run, for the manifest.

    Attributes:
        id: unique name of the run, also its directory's.
        name: the user's name for it, or the program's.
        base_phase: phase of the time that no window claims.
        start_ns, end_ns: monotonic nanoseconds.
        start_wall_ns: nanoseconds since 1970 at `start_ns`, for display only.
        finished: False for the snapshot of a running session.
        facts: host, software and arguments, as shown in the manifest.
    """

    id: str
    name: str
    base_phase: str
    start_ns: int
    end_ns: int
    start_wall_ns: int
    finished: bool
    facts: Mapping[str, Any]

    @property
    def duration_seconds(self) -> float:
        """Length of the run in seconds."""
        return (self.end_ns - self.start_ns) * SECONDS_PER_NANOSECOND

    @property
    def idle_powers(self) -> dict[str, IdlePower]:
        """Idle power of the baseline, by name of the domain; none without a baseline."""
        baseline = self.facts.get("baseline")
        if not isinstance(baseline, dict):
            return {}
        return {name: IdlePower(**power) for name, power in baseline["domains"].items()}


@dataclass(frozen=True)
class Recording:
    """Raw material of a session: readings, windows, events.

    Of a session with chapters, readings and windows are those since the last of them ended, and a few
    from before: `rest` alone can be resolved.
    """

    run: Run
    domains: tuple[tuple[Domain, Rows], ...]
    windows: WindowRecords
    unavailable: tuple[Unavailable, ...]
    events: tuple[Event, ...]
    device: DeviceTimes = field(default_factory=DeviceTimes)
    # What tells this process' part; None if energies are those of the whole machine.
    process: ProcessRows | None = None
    # What is pooled of the time before, in order of time.
    chapters: tuple[Chapter, ...] = ()
    # Where this is one of several that follow each other: the chapter before it, and the edges of windows
    # near both ends, by which the curves of two neighbours are one curve.
    before: Chapter | None = None
    beside_ns: array[int] | None = None

    @property
    def rest(self) -> Recording:
        """The time since the last chapter as a recording of its own; without chapters the whole."""
        return self._rest if self.chapters else self

    @cached_property
    def _rest(self) -> Recording:
        before = self.chapters[-1]
        return replace(
            self,
            run=replace(self.run, start_ns=before.end_ns),
            chapters=(),
            before=before,
            beside_ns=array("q", [*before.edges_ns, self.run.end_ns]),
        )

    def apart(self) -> Recording:
        """Return a copy for what is kept in this recording and refers to it.

        Referring to each other they, and all their arrays, would stay in memory until the interpreter
        looks for cycles.
        """
        found = replace(self)
        if self.chapters:
            vars(found)["_rest"] = self._rest
        return found

    @property
    def past_seconds(self) -> float:
        """How long after the session `rest` begins."""
        return (self.rest.run.start_ns - self.run.start_ns) * SECONDS_PER_NANOSECOND

    def of_one(self, domain: Domain) -> Recording:
        """Return the recording of one domain alone, so that nothing of another one is in memory with it."""
        pair = next(pair for pair in self.domains if pair[0] is domain)
        one, resolution = replace(self, domains=(pair,)), copy(self.resolution)
        for name in ("timelines", "attributions", "events"):
            vars(resolution).pop(name, None)
        resolution._recording = one.apart()
        resolution.process = _process_scope(one, self.resolution.bases)
        vars(one)["resolution"] = resolution
        return one

    def with_run(self, run: Run) -> Recording:
        """Return the recording with other facts about the run, of which no number depends."""
        changed = replace(self, run=run)
        if "resolution" in self.__dict__:
            # Computing it again would give the same.
            changed.__dict__["resolution"] = self.resolution
        return changed

    @cached_property
    def resolution(self) -> Resolution:
        """The joules of `rest`, computed on first use."""
        return self._rest.resolution if self.chapters else Resolution(self.apart())


class Resolution:
    """Energies of all windows and phases of a recording.

    Attributes:
        phases: phase names; the base phase first.
        phase_of_window: index into `phases`, shape (windows,); row 0 is the session.
        windows: the windows as columns, by the host's times.
        ownership: who owns which instant, by the host's times.
        host: both together.
        bases: both together by domain name; by the times of the device where a GPU has some.
        synchronised: whether all edges of a window are known on a device, or it waited for the
            device, shape (windows,).
    """

    def __init__(self, recording: Recording) -> None:
        from mlmeter.time_bases import time_bases

        self._recording = recording
        found = time_bases(recording)
        self.bases, self.synchronised = found.by_domain, found.synchronised
        self.host = found.host
        self.windows: Windows = found.host.windows
        self.ownership: Ownership = found.host.ownership
        self.phases, self.phase_of_window = _phases_of(recording)
        self.process = _process_scope(recording, self.bases)

    @cached_property
    def timelines(self) -> dict[str, Timeline | None]:
        """Curve of each domain by name; None if it was never read."""
        from mlmeter.energy.timeline import timeline_of

        origin_ns = self._recording.run.start_ns
        return {
            domain.name: timeline_of(domain, rows, origin_ns, self._kinks(domain))
            for domain, rows in self._recording.domains
        }

    def _kinks(self, domain: Domain) -> NDArray[np.float64]:
        """Return the instants at which a domain's power may change: edges of windows, ends of the session."""
        import numpy as np

        edges, beside = self.bases[domain.name].ownership.edges, self._recording.beside_ns
        if beside is None:
            return edges
        # Where one chapter ends and the next begins, nothing changes.
        near = (np.array(beside, dtype=np.int64) - self._recording.run.start_ns) * SECONDS_PER_NANOSECOND
        return np.union1d(edges[1:-1], near)

    @cached_property
    def attributions(self) -> dict[str, Attribution]:
        """Energies by domain name, of those that could be read."""
        from mlmeter.energy.attribution import Attribution
        from mlmeter.energy.labels import LabelledWindows

        found, labelled = {}, {}
        for domain, _ in self._recording.domains:
            timeline, base = self.timelines[domain.name], self.bases[domain.name]
            if timeline is None:
                continue
            # Domains of one clock share what does not depend on the counter.
            if id(base) not in labelled:
                labelled[id(base)] = LabelledWindows(base.windows, base.ownership, self.phase_of_window)
            found[domain.name] = Attribution(domain, timeline, labelled[id(base)])
        return found

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What the fits say that a reader of their numbers must know."""
        of_process = () if self.process is None else self.process.remarks()
        return (
            *(
                Event(time_seconds=0.0, kind=kind, domain=name, message=f"{name}: {message}")
                for name, attribution in self.attributions.items()
                for kind, message in attribution.remarks
            ),
            *(Event(time_seconds=0.0, kind=kind, domain=None, message=text) for kind, text in of_process),
        )

    @property
    def unit_names(self) -> list[str]:
        """Names of the units of work, in order of their first use."""
        return list(self._recording.windows.units)

    def by_domain(self, spans: str) -> Iterator[tuple[str, str, Columns]]:
        """Yield name, kind and energy columns of each domain, the sum of the counted ones last.

        Args:
            spans: ``"exclusive"``, ``"inclusive"``, ``"phases"`` or ``"total"``.
        """
        from mlmeter.energy.columns import energy_columns

        for domain, _ in self._recording.domains:
            attribution = self.attributions.get(domain.name)
            if attribution is not None:
                yield domain.name, domain.kind, energy_columns(self.energies_of(attribution, spans))
        yield TOTAL, TOTAL, self.total(spans)

    def wholes(self) -> dict[str, Columns]:
        """Return the session's energy of each domain and of all, whatever the scope, by name."""
        from mlmeter.energy.columns import energy_columns, total_columns

        found = {}
        for name, attribution in self.attributions.items():
            found[name] = energy_columns(attribution.total)
            self._let_go(attribution, TOTAL)
        counted = [found[domain.name] for domain, _ in self._recording.domains if self._adds(domain)]
        return {**found, TOTAL: total_columns(counted, 1)}

    def _adds(self, domain: Domain) -> bool:
        """Whether a domain could be read and is part of the session's total."""
        return domain.counted and domain.name in self.attributions

    def session_parts(self, part: int) -> Iterator[tuple[str, str, Columns]]:
        """Yield, as `by_domain`, one of the `PARTS` of the session's energy; nothing for the machine's."""
        from mlmeter.energy.columns import energy_columns, hidden_joules, total_columns

        if self.process is None:
            return
        counted = []
        for domain, _ in self._recording.domains:
            attribution = self.attributions.get(domain.name)
            if attribution is not None:
                energies = self.process.session_part(attribution, part)
                counted += [energies] if domain.counted else []
                yield domain.name, domain.kind, energy_columns(energies)
        columns = [energy_columns(energies) for energies in counted]
        unread_joules = self._unread_joules(counted[0].duration_seconds) if counted else None
        yield TOTAL, TOTAL, total_columns(columns, 1, unread_joules, hidden_joules(counted, 1))

    def energies_of(self, attribution: Attribution, spans: str) -> Energies:
        """Return a domain's energies of one kind of spans; of many windows only one domain is in memory."""
        found: Energies = getattr(attribution, spans)
        if self.process is not None:
            found = self.process.of_spans(attribution, found, spans, self.phase_of_window)
        self._let_go(attribution, spans)
        before = self._recording.before
        return found if before is None else before.carried_into(found, spans, self._recording.windows.ids)

    def _let_go(self, attribution: Attribution, spans: str) -> None:
        if len(self.windows) > MANY_WINDOWS and spans in ("phases", TOTAL):
            attribution.release()

    def pooled(
        self, rows: NDArray[np.int64], group: NDArray[np.int64], groups: int
    ) -> Iterator[tuple[str, str, Columns]]:
        """Yield, as `by_domain`, the energies of groups of windows, children included.

        Args:
            rows: windows, none inside another one of its group, shape (chosen,).
            group: the group of each, shape (chosen,).
            groups: how many there are.
        """
        import numpy as np

        from mlmeter.energy.columns import energy_columns, hidden_joules, total_columns

        counted, unread_joules, hidden = [], None, np.zeros(groups)
        for domain, pooled in self.pooled_energies(rows, group, groups):
            columns = energy_columns(pooled)
            if domain.counted:
                counted.append(columns)
                hidden += hidden_joules([pooled], groups)
            unread_joules = self._unread_joules(pooled.duration_seconds)
            yield domain.name, domain.kind, columns
        yield TOTAL, TOTAL, total_columns(counted, groups, unread_joules, hidden)

    def pooled_energies(
        self, rows: NDArray[np.int64], group: NDArray[np.int64], groups: int
    ) -> Iterator[tuple[Domain, Energies]]:
        """Yield each domain with its energies of groups of windows, chosen as for `pooled`."""
        from mlmeter.energy.attribution import pool
        from mlmeter.energy.group_bounds import group_bounds

        bounds = group_bounds(self.attributions, rows, group, groups)
        for domain, _ in self._recording.domains:
            if domain.name not in self.attributions:
                continue
            attribution = self.attributions[domain.name]
            pooled = pool(attribution.enclosed, rows, group, bounds[domain.name])
            if attribution.split is not None:
                pooled = attribution.split.pooled(pooled, rows, group)
            if self.process is not None:
                pooled = self.process.pooled(attribution, pooled, rows, group)
            yield domain, pooled

    def total(self, spans: str, kind: str | None = None) -> Columns:
        """Return the sum of the counted domains, or of those of one kind."""
        from mlmeter.energy.columns import energy_columns, hidden_joules, total_columns

        chosen = [
            self.energies_of(self.attributions[domain.name], spans)
            for domain, _ in self._recording.domains
            if domain.name in self.attributions
            and (domain.counted if kind is None else _of_kind(domain, kind))
        ]
        sizes = {"phases": len(self.phases), TOTAL: 1}
        unread_joules = self._unread_joules(chosen[0].duration_seconds, kind) if chosen else None
        parts = [energy_columns(energies) for energies in chosen]
        size = sizes.get(spans, len(self.windows))
        return total_columns(parts, size, unread_joules, hidden_joules(chosen, size))

    def _unread_joules(
        self, duration_seconds: NDArray[np.float64], kind: str | None = None
    ) -> NDArray[np.float64] | None:
        """Return what domains of the sum that were never read can have used; None if all were."""
        from mlmeter.energy.timeline import max_power_watts

        unread = [
            max_power_watts(domain, rows)
            for domain, rows in self._recording.domains
            if not rows.counts and (domain.counted if kind is None else _of_kind(domain, kind))
        ]
        return sum(unread) * duration_seconds if unread else None


def _process_scope(recording: Recording, bases: dict[str, TimeBase]) -> ProcessScope | None:
    """Return what takes this process' part; None where energies are the whole machine's."""
    if recording.process is None:
        return None
    from mlmeter.process_scope import ProcessScope

    return ProcessScope(recording.process, recording.run.start_ns, bases, recording.run.idle_powers)


def _of_kind(domain: Domain, kind: str) -> bool:
    return domain.kind == kind and domain.parent is None


def _phases_of(recording: Recording) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    import numpy as np

    records = recording.windows
    names = [recording.run.base_phase]
    used = np.unique(np.array(records.labels, dtype=np.int64))
    names.extend(records.label_table[number].phase for number in used)
    phases = tuple(dict.fromkeys(names))
    of_label = np.array(
        [phases.index(label.phase) if label.phase in phases else 0 for label in records.label_table],
        dtype=np.int64,
    )
    of_window = of_label[np.array(records.labels, dtype=np.int64)] if len(records) else of_label[:0]
    return phases, np.concatenate(([0], of_window)).astype(np.int64)
