"""A session with chapters as a whole: the sums of its past, and of what is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.bursts import slowest_seconds
from mlmeter.cached import cached_property
from mlmeter.chapters.pooling import UNITS, Pooling
from mlmeter.chapters.work import COUNT
from mlmeter.energy.columns import energy_columns, hidden_joules, total_columns
from mlmeter.energy.pool import NOT_READ, Pool
from mlmeter.energy.process_share import PARTS
from mlmeter.energy.thinning import step_seconds
from mlmeter.frame.sources import sample_points
from mlmeter.measurement import Event
from mlmeter.recording import TOTAL, Recording, Resolution
from mlmeter.units import SECONDS_PER_NANOSECOND
from mlmeter.work import WINDOWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies
    from mlmeter.energy.chapter import Chapter
    from mlmeter.energy.columns import Columns
    from mlmeter.energy.thinning import Samples
    from mlmeter.process_scope import ProcessScope


class WholeSession:
    """Energies of a session with chapters, as `Resolution` tells those of one without.

    Attributes:
        rest: energies of what is in memory; windows that began earlier have all their energy.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.rest = recording.resolution

    @cached_property
    def past(self) -> Chapter:
        """All chapters as one."""
        first, *others = self._recording.chapters
        for chapter in others:
            first = first.plus(chapter)
        return first

    @cached_property
    def _pooling(self) -> Pooling:
        rest = self._recording.rest
        return Pooling(rest, slowest_seconds(rest))

    @cached_property
    def session_pool(self) -> Pool:
        """The whole machine."""
        return self.past.session.plus(self._pooling.session())

    @cached_property
    def phase_pool(self) -> Pool:
        """The phases; the base phase first."""
        return self.past.phases.plus(self._pooling.phases())

    @cached_property
    def name_pool(self) -> Pool:
        """Windows by name and phase."""
        return self.past.names.plus(self._pooling.names())

    @cached_property
    def burst_pool(self) -> Pool:
        """Bursts by name and phase."""
        return self.past.bursts.plus(self._pooling.bursts())

    @cached_property
    def work_pool(self) -> Pool:
        """Work by phase and unit, and by phase, unit and name."""
        sums = self._pooling.work_sums()
        sums.add(self._recording.rest)
        # No window is open any more: nothing waits.
        work, _ = sums.pools()
        return self.past.work.plus(work)

    @property
    def phase_units(self) -> dict[str, NDArray[np.float64]]:
        """Work of the phases by unit, in alphabetical order; shape (phases,)."""
        # Of the work that is in memory only the counts are asked for, which take no energies.
        counts, _ = self._pooling.work_sums().pools()
        work = Pool(self.past.work.keys, self.past.work.columns).plus(counts)
        units = sorted({str(key[1]) for key in work.keys if len(key) == 2} - {WINDOWS})
        return {unit: work.placed([(name, unit) for name in self.phases]).column(COUNT) for unit in units}

    @cached_property
    def part_pools(self) -> dict[str, Pool]:
        """Parts of a process' session, and under ``"total"`` what the tables tell of it."""
        return {
            name: self.past.parts.get(name, Pool()).plus(pool) for name, pool in self._pooling.parts().items()
        }

    @property
    def phases(self) -> tuple[str, ...]:
        """Phase names; the base phase first."""
        return tuple(str(key[0]) for key in self.phase_pool.keys)

    @property
    def unit_names(self) -> list[str]:
        """Names of the units of work."""
        return [name.removeprefix(UNITS) for name in self.name_pool.columns if name.startswith(UNITS)]

    @property
    def process(self) -> ProcessScope | None:
        """What takes a process' part; None where energies are the whole machine's."""
        return self.rest.process

    @property
    def events(self) -> tuple[Event, ...]:
        """What the fits say, and what is not in memory any more."""
        past = self.past
        seconds = (past.end_ns - self._recording.run.start_ns) * SECONDS_PER_NANOSECOND
        windows = (
            f"{past.windows} windows that ended in the first {seconds:.0f} s are no longer told one by one: "
            "phases, names and totals have them"
        )
        step = step_seconds(past.seconds)
        samples = f"samples of the first {seconds:.0f} s are thinned to one every {step:g} s or more"
        notes = [
            Event(time_seconds=seconds, kind="note", domain=None, message=text) for text in (windows, samples)
        ]
        return (*past.events, *self.rest.events, *notes)

    def by_domain(self, spans: str) -> Iterator[tuple[str, str, Columns]]:
        """Yield name, kind and energy columns of each domain, the sum of the counted ones last.

        Args:
            spans: as for `Resolution.by_domain`.
        """
        if spans in ("phases", TOTAL):
            yield from self.columns(self._pool(spans))
        else:
            yield from self.rest.by_domain(spans)

    def total(self, spans: str, kind: str | None = None) -> Columns:
        """Return the sum of the counted domains, or of those of one kind."""
        if spans in ("phases", TOTAL):
            return self._sum(self._pool(spans), kind)
        return self.rest.total(spans, kind)

    def wholes(self) -> dict[str, Columns]:
        """Return the session's energy of each domain and of all, whatever the scope, by name."""
        return {name: columns for name, _, columns in self.columns(self.session_pool)}

    def session_parts(self, part: int) -> Iterator[tuple[str, str, Columns]]:
        """Yield, as `by_domain`, one of the `PARTS` of the session's energy; nothing for the machine's."""
        if PARTS[part] in self.part_pools:
            yield from self.columns(self.part_pools[PARTS[part]])

    def columns(self, pool: Pool) -> Iterator[tuple[str, str, Columns]]:
        """Yield name, kind and energy columns of each domain of a pool, the sum last."""
        for domain, _ in self._recording.domains:
            energies = pool.energies.get(domain.name)
            if energies is not None and energies.method != NOT_READ:
                yield domain.name, domain.kind, energy_columns(energies)
        yield TOTAL, TOTAL, self._sum(pool)

    def samples(self) -> dict[str, Samples]:
        """Return seconds and joules since the start: thinned of the past, all of what is in memory."""
        found, past = {}, self.past
        for domain, _ in self._recording.domains:
            earlier = past.samples.get(domain.name)
            later = sample_points(self._recording.rest, domain)
            if later is not None and domain.name in past.session.energies:
                joules = float(past.session.energies[domain.name].joules[0])
                later = later[0] + past.seconds, later[1] + joules
            parts = [part for part in (earlier, later) if part is not None]
            if parts:
                seconds, total = (np.concatenate(column) for column in zip(*parts, strict=True))
                # The end of the one is the start of the other.
                kept = np.concatenate(([True], np.diff(seconds) > 0))
                found[domain.name] = seconds[kept], total[kept]
        return found

    def _pool(self, spans: str) -> Pool:
        if spans == "phases":
            return self.phase_pool
        return self.session_pool if self.process is None else self.part_pools[TOTAL]

    def _sum(self, pool: Pool, kind: str | None = None) -> Columns:
        chosen: list[Energies] = []
        unread = None
        for domain, _ in self._recording.domains:
            energies = pool.energies.get(domain.name)
            of_kind = domain.counted if kind is None else domain.kind == kind and domain.parent is None
            if energies is None or not of_kind:
                continue
            if energies.method != NOT_READ:
                chosen.append(energies)
            else:
                unread = energies.high if unread is None else unread + energies.high
        parts = [energy_columns(energies) for energies in chosen]
        return total_columns(parts, len(pool), unread if parts else None, hidden_joules(chosen, len(pool)))


def told_by_sums(recording: Recording) -> str:
    """Return why something is not known of a session with chapters, and where it is; else an empty text."""
    if not recording.chapters:
        return ""
    return (
        f"of the first {recording.past_seconds:.0f} s only sums are in memory; if the run has a directory, "
        "mlmeter.load(directory, everything=True) has it all"
    )


def results(recording: Recording) -> Resolution | WholeSession:
    """Return the energies of a session, computed on first use."""
    if not recording.chapters:
        return recording.resolution
    found = vars(recording).get("whole")
    if found is None:
        # Beside the other properties that are computed once; they must not refer to what keeps them.
        found = vars(recording)["whole"] = WholeSession(recording.apart())
    return found
