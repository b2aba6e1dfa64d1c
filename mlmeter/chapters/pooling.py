"""A chapter from a recording of its time: resolve it and add up."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.bursts import burst_rows, slowest_seconds
from mlmeter.chapters.work import Rows, WorkSums
from mlmeter.dynamic_energy import DynamicEnergy
from mlmeter.energy.chapter import Chapter
from mlmeter.energy.pool import Key, Pool, chosen_rows, unread
from mlmeter.energy.process_share import PARTS
from mlmeter.energy.thinning import thinned
from mlmeter.energy.timeline import max_power_watts
from mlmeter.frame.sources import overlap_seconds, sample_points
from mlmeter.frame.table import sum_by
from mlmeter.frame.units import last_metrics, units_by_window
from mlmeter.frame.windows import base_of, inside_same_label, phase_seconds, times_of_windows
from mlmeter.recording import TOTAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies
    from mlmeter.energy.thinning import Samples
    from mlmeter.recording import Recording

    Indices = NDArray[np.int64]

# Names and phases that are told apart in all chapters together.
MOST_NAMES = 1_000
OTHER_NAMES = "(other names)"
SESSION: Key = ("session",)
# Columns of pools; the name of a domain, or of a unit, follows.
SECONDS, GAPS, LENGTH = "seconds:", "gaps_seconds:", "length:"
UNITS, UNIT_JOULES = "units:", "unit_joules:"
EXCLUSIVE, INCLUSIVE, WORK = "exclusive", "inclusive", "work"


def chapter_of(recording: Recording) -> Chapter:
    """Add up a recording whose neighbours are chapters, too; one domain after the other is in memory.

    A window counts in the chapter in which it ends, its energy and its time where they are.
    """
    period_seconds = slowest_seconds(recording)
    whole = Pooling(recording, period_seconds)
    sums, parts = whole.work_sums(), []
    for domain, _ in recording.domains:
        one = recording.of_one(domain)
        parts.append(_chapter_of(Pooling(one, period_seconds)))
        sums.add(one)
    chapter = reduce(Chapter.beside, parts) if parts else _chapter_of(whole)
    work, waiting = sums.pools()
    return replace(chapter, work=work, carried={**chapter.carried, WORK: waiting})


def _chapter_of(pooling: Pooling) -> Chapter:
    run, beside_ns = pooling.recording.run, pooling.recording.beside_ns or ()
    middle_ns = (run.start_ns + run.end_ns) // 2
    return Chapter(
        run.start_ns,
        run.end_ns,
        pooling.windows,
        session=pooling.session(),
        phases=pooling.phases(),
        names=pooling.names(),
        bursts=pooling.bursts(),
        parts=pooling.parts(),
        carried=pooling.carried(),
        samples=pooling.samples(),
        metrics=last_metrics(pooling.recording),
        events=pooling.resolution.events,
        edges_ns=tuple(edge for edge in beside_ns if edge > middle_ns),
    )


class Pooling:
    """One recording on its way to sums.

    Args:
        recording: without chapters.
        burst_seconds: time between refreshes of the slowest counter of the session.

    Attributes:
        recording, resolution: the recording, and what resolves it.
        windows: how many windows have ended in it.
    """

    def __init__(self, recording: Recording, burst_seconds: float) -> None:
        self.recording, self.resolution = recording, recording.resolution
        self._burst_seconds = burst_seconds
        run, records = recording.run, recording.windows
        ends = np.array(records.ends_ns, dtype=np.int64)
        # Row 0 is the session, which goes on.
        self._ids = np.concatenate(([0], np.array(records.ids, dtype=np.int64)))
        self._open = np.concatenate(([True], ends > run.end_ns))
        late = ends > run.start_ns if recording.before is not None else np.ones(len(ends), dtype=np.bool_)
        self._ended = np.concatenate(([False], late & (ends <= run.end_ns)))
        self._units = units_by_window(recording)
        self.windows = int(self._ended.sum())

    def work_sums(self) -> WorkSums:
        """Return what adds up the work of windows, so far of no domain."""
        keys, number = self._keys_of_labels()
        label = self.resolution.windows.label
        rows = Rows(
            self._ids,
            self._ended,
            self._open,
            # The session, which is no window, has no name.
            np.where(label >= 0, number[label], -1),
            keys,
            self._units,
        )
        return WorkSums(self.recording, rows)

    def _by_domain(self, spans: str) -> dict[str, Energies]:
        """Return energies of whole spans, of domains that were never read what they can have used."""
        found, resolution = {}, self.resolution
        for domain, rows in self.recording.domains:
            attribution = resolution.attributions.get(domain.name)
            if attribution is not None:
                found[domain.name] = resolution.energies_of(attribution, spans)
            else:
                host = resolution.host.ownership
                phase = resolution.phase_of_window[host.owner] * (spans == "phases")
                size = len(resolution.phases) if spans == "phases" else 1
                seconds = sum_by(phase, host.share_out(np.diff(host.edges)), size)
                found[domain.name] = unread(domain, seconds, max_power_watts(domain, rows))
        return found

    def session(self) -> Pool:
        """Return the sums of the whole machine."""
        energies = self._by_domain(TOTAL)
        for name, attribution in self.resolution.attributions.items():
            energies[name] = attribution.total
        run = self.recording.run
        gaps = {
            f"{GAPS}{domain.name}": np.array([overlap_seconds(rows.gaps_ns, run)])
            for domain, rows in self.recording.domains
        }
        return Pool((SESSION,), gaps, energies)

    def parts(self) -> dict[str, Pool]:
        """Return the sums of the parts of a process' session; nothing for the machine's."""
        process = self.resolution.process
        if process is None:
            return {}
        attributions = self.resolution.attributions
        parts = {
            part: Pool((SESSION,), {}, {n: process.session_part(a, number) for n, a in attributions.items()})
            for number, part in enumerate(PARTS)
        }
        # What the tables tell of the session is the process' part, with what was never read.
        own = Pool((SESSION,), {}, self._by_domain(TOTAL))
        return {**parts, TOTAL: own}

    def phases(self) -> Pool:
        """Return the sums of phases; their work is that of `work_sums`."""
        resolution = self.resolution
        phases = resolution.phases
        columns = {"windows": _counts(resolution.phase_of_window[self._ended], len(phases))}
        for name in (*(domain.name for domain, _ in self.recording.domains), TOTAL):
            columns[f"{SECONDS}{name}"] = phase_seconds(resolution, name)
        return Pool(tuple((phase,) for phase in phases), columns, self._by_domain("phases"))

    def names(self) -> Pool:
        """Return the sums of windows by name and phase, children included; recursion is counted once."""
        keys, number = self._keys_of_labels()
        resolution = self.resolution
        label = np.where(resolution.windows.label >= 0, number[resolution.windows.label], -1)
        rows = np.flatnonzero(~inside_same_label(resolution.windows.parent, label) & (label >= 0))
        # Others are here because of windows that were opened in them and have outlived them.
        rows = rows[self._ended[rows] | self._open[rows]]
        used, group = np.unique(label[rows], return_inverse=True)
        size = len(used)
        ended = self._ended[rows]
        columns = {"windows": _counts(group[ended], size)}
        for name in (*(domain.name for domain, _ in self.recording.domains), TOTAL):
            durations = times_of_windows(base_of(resolution, name))["duration_seconds"]
            columns[f"{SECONDS}{name}"] = sum_by(group, durations[rows], size)
        columns |= self._unit_columns(rows[ended], group[ended], size)
        energies = {domain.name: found for domain, found in resolution.pooled_energies(rows, group, size)}
        for domain, collected in self.recording.domains:
            if domain.name not in energies:
                seconds = columns[f"{SECONDS}{domain.name}"]
                energies[domain.name] = unread(domain, seconds, max_power_watts(domain, collected))
        return Pool(tuple(keys[label] for label in used), columns, energies)

    def _keys_of_labels(self) -> tuple[list[Key], Indices]:
        """Return the keys of groups, and the group of each label; names beyond the limit are one."""
        before = self.recording.before
        known = set() if before is None else set(before.names.keys)
        groups: dict[Key, int] = {}
        number = np.zeros(len(self.recording.windows.label_table) + 1, dtype=np.int64)
        used = np.unique(np.array(self.recording.windows.labels, dtype=np.int64)).tolist()
        for label in used:
            key: Key = tuple(self.recording.windows.label_table[label])
            if key not in known and len(known) >= MOST_NAMES:
                key = (OTHER_NAMES, key[1])
            known.add(key)
            number[label] = groups.setdefault(key, len(groups))
        return list(groups), number

    def _unit_columns(self, rows: Indices, group: Indices, size: int) -> dict[str, NDArray[np.float64]]:
        """Return work by group, and the energy of the windows that did it."""
        columns: dict[str, NDArray[np.float64]] = {}
        if not self._units:
            return columns
        for unit, counts in self._units.items():
            columns[f"{UNITS}{unit}"] = sum_by(group, np.nan_to_num(counts[rows]), size)
        for name, attribution in self.resolution.attributions.items():
            joules = self.resolution.energies_of(attribution, INCLUSIVE).joules[rows]
            for unit, counts in self._units.items():
                worked = np.where(np.isnan(counts[rows]), 0.0, joules)
                columns[f"{UNIT_JOULES}{unit}:{name}"] = sum_by(group, worked, size)
        return columns

    def bursts(self) -> Pool:
        """Return the sums of bursts by name and phase; a burst is cut where a chapter ends."""
        pool = Pool()
        for row in burst_rows(self.recording, self._burst_seconds):
            columns = {
                name: np.array([float(value)])
                for name, value in (
                    ("bursts", row.bursts),
                    ("windows", row.calls),
                    ("seconds", row.duration_seconds),
                    ("busy_seconds", row.busy_seconds),
                )
            }
            energies = {domain.name: found for domain, found in row.energies}
            key: Key = tuple(self.recording.windows.label_table[row.label])
            if len(pool) < MOST_NAMES:
                pool = pool.plus(Pool((key,), columns, energies))
        return pool

    def carried(self) -> dict[str, Pool]:
        """Return what windows that go on have used so far, and those that they were opened in."""
        chosen, parent = self._open.copy(), self.resolution.windows.parent
        for row in range(len(chosen) - 1, 0, -1):
            # Windows are opened after those that they are in.
            chosen[parent[row]] |= chosen[row]
        rows = np.flatnonzero(chosen)
        keys = tuple((number,) for number in self._ids[rows].tolist())
        found = {}
        for spans in (EXCLUSIVE, INCLUSIVE):
            seconds = DynamicEnergy(self.recording, spans)
            columns, energies = {}, {}
            for name in (*(domain.name for domain, _ in self.recording.domains), TOTAL):
                columns[f"{SECONDS}{name}"] = seconds.seconds(name)[rows]
                length = times_of_windows(base_of(self.resolution, name))["duration_seconds"]
                columns[f"{LENGTH}{name}"] = length[rows] + self._length_before(spans, name)[rows]
            for name, attribution in self.resolution.attributions.items():
                energies[name] = chosen_rows(self.resolution.energies_of(attribution, spans), rows)
            found[spans] = Pool(keys, columns, energies)
        return found

    def _length_before(self, spans: str, name: str) -> NDArray[np.float64]:
        before = self.recording.before
        if before is None:
            return np.zeros(len(self._ids))
        return before.carried_column(spans, f"{LENGTH}{name}", self._ids[1:])

    def samples(self) -> dict[str, Samples]:
        """Return seconds and joules since the start, by domain."""
        found = {}
        for domain, _ in self.recording.domains:
            points = sample_points(self.recording, domain)
            if points is not None:
                found[domain.name] = thinned(*points)
        return found


def _counts(groups: Indices, size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(groups, minlength=size), dtype=np.float64)
