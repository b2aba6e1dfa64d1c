"""Work of windows by phase and by name: what tells energy per unit and its scatter, as sums that add.

Of windows inside each other that count the same unit, the outermost one counts. While a window is
open it may still count what windows in it have counted: these wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlmeter.energy.pool import Key, Pool, unread
from mlmeter.energy.timeline import max_power_watts
from mlmeter.frame.table import sum_by
from mlmeter.frame.windows import base_of, times_of_windows
from mlmeter.recording import TOTAL, Recording
from mlmeter.work import WINDOWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]
    Flags = NDArray[np.bool_]

COUNT, CALLS, LENGTH = "count", "windows", "seconds"
# Sums over windows of joules squared, joules x count, and count squared.
SQUARES = ("joules_squared", "joules_count", "count_squared")


@dataclass(frozen=True)
class Rows:
    """Windows of one chapter; row 0 is the session.

    Attributes:
        ids: numbers of the windows, shape (windows,), like all that follows.
        ended, open: whether each has ended in this chapter, or goes on.
        names: number of name and phase.
        keys: name and phase by that number.
        units: counts by unit, NaN where a window counts nothing.
    """

    ids: Indices
    ended: Flags
    open: Flags
    names: Indices
    keys: Sequence[Key]
    units: Mapping[str, Floats]


class _Groups(NamedTuple):
    """Windows that count one unit, by phase or by name; none inside another one of its group."""

    counts: Floats
    keys: list[Key]
    rows: Indices
    group: Indices


class WorkSums:
    """Adds up the work of a chapter, domain by domain.

    Keys are ``(phase, unit)`` for all windows of a phase and ``(phase, unit, name)`` for those of one
    name; what waits has the number of the window that it waits for before them.

    Args:
        recording: of one chapter.
        rows: its windows.
    """

    def __init__(self, recording: Recording, rows: Rows) -> None:
        self._recording, self._rows = recording, rows
        self._joules = np.zeros(len(rows.ids))
        self._groups = list(self._grouped())
        self._energies: list[dict[str, Energies]] = [{} for _ in self._groups]
        self._seconds = times_of_windows(base_of(recording.resolution, TOTAL))["duration_seconds"]

    def add(self, recording: Recording) -> None:
        """Add the domains of a recording of the same time and windows."""
        resolution = recording.resolution
        for domain, _ in recording.domains:
            attribution = resolution.attributions.get(domain.name)
            if attribution is not None and domain.counted:
                self._joules = self._joules + resolution.energies_of(attribution, "inclusive").joules
        for groups, energies in zip(self._groups, self._energies, strict=True):
            size = len(groups.keys)
            pooled = resolution.pooled_energies(groups.rows, groups.group, size)
            energies.update((domain.name, found) for domain, found in pooled)
            seconds = sum_by(groups.group, self._seconds[groups.rows], size)
            for domain, collected in recording.domains:
                if domain.name not in energies:
                    energies[domain.name] = unread(domain, seconds, max_power_watts(domain, collected))

    def pools(self) -> tuple[Pool, Pool]:
        """Return the work that is done, and what waits for windows that are open."""
        found = self._waiting_before()
        for groups, energies in zip(self._groups, self._energies, strict=True):
            found = found.plus(Pool(tuple(groups.keys), self._columns(groups), energies))
            found = found.plus(self._before(groups))
        waits = [isinstance(key[0], int) for key in found.keys]
        done, waiting = (
            found.placed([key for key, late in zip(found.keys, waits, strict=True) if late is wanted])
            for wanted in (False, True)
        )
        return done, waiting

    def _grouped(self) -> Iterator[_Groups]:
        each = np.where(np.arange(len(self._rows.ids)) > 0, 1.0, np.nan)
        for unit, counts in {**self._rows.units, WINDOWS: each}.items():
            for by_name in (False, True):
                yield self._grouped_by(unit, counts, by_name=by_name)

    def _grouped_by(self, unit: str, counts: Floats, *, by_name: bool) -> _Groups:
        rows = np.flatnonzero(self._rows.ended & ~np.isnan(counts))
        own = self._of_row(by_name=by_name)
        inside, waits_for = self._enclosed(rows, own, counts)
        rows, waits_for = rows[~inside], waits_for[~inside]
        pairs, group = np.unique(np.stack((own[rows], waits_for)), axis=1, return_inverse=True)
        keys = [self._key(int(number), unit, int(row), by_name=by_name) for number, row in pairs.T]
        return _Groups(counts, keys, rows, group.reshape(-1))

    def _of_row(self, *, by_name: bool) -> Indices:
        return self._rows.names if by_name else self._recording.resolution.phase_of_window

    def _key(self, number: int, unit: str, waits_for: int, *, by_name: bool) -> Key:
        if by_name:
            name, phase = self._rows.keys[number]
            key: Key = (phase, unit, name)
        else:
            key = (self._recording.resolution.phases[number], unit)
        return (int(self._rows.ids[waits_for]), *key) if waits_for else key

    def _enclosed(self, rows: Indices, own: Indices, counts: Floats) -> tuple[Flags, Indices]:
        """Tell which windows are in one of the same phase or name that counts, or may still count.

        Returns:
            whether each is in one that counts, and the innermost open one that may; 0 for none.
        """
        parent = self._recording.resolution.windows.parent
        inside, waits_for = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.int64)
        ancestor = parent[rows]
        while (ancestor > 0).any():
            same = (ancestor > 0) & (own[ancestor] == own[rows])
            counted = ~np.isnan(counts[ancestor])
            inside |= same & counted
            may = same & ~counted & self._rows.open[ancestor] & (waits_for == 0)
            waits_for[may] = ancestor[may]
            ancestor = np.where(ancestor > 0, parent[ancestor], ancestor)
        return inside, waits_for

    def _columns(self, groups: _Groups) -> dict[str, Floats]:
        before, rows = self._recording.before, groups.rows
        seconds, counts, joules = self._seconds[rows], groups.counts[rows], self._joules[rows]
        if before is not None:
            length = before.carried_column("inclusive", f"length:{TOTAL}", self._rows.ids[1:])
            seconds = seconds + length[rows]
        columns = {COUNT: counts, CALLS: np.ones(len(rows)), LENGTH: seconds}
        columns |= dict(zip(SQUARES, (joules**2, joules * counts, counts**2), strict=True))
        return {name: sum_by(groups.group, column, len(groups.keys)) for name, column in columns.items()}

    def _before(self, groups: _Groups) -> Pool:
        """Return what windows of these groups have used in earlier chapters."""
        before, found = self._recording.before, Pool()
        carried = None if before is None else before.carried.get("inclusive")
        if carried is None:
            return found
        ids = self._rows.ids[groups.rows]
        for place in np.flatnonzero(np.isin(ids, [key[0] for key in carried.keys])).tolist():
            energies = carried.placed([(int(ids[place]),)]).energies
            found = found.plus(Pool((groups.keys[groups.group[place]],), {}, energies))
        return found

    def _waiting_before(self) -> Pool:
        """Return what waited for windows, under the keys that it has now."""
        before, found = self._recording.before, Pool()
        waiting = Pool() if before is None else before.carried.get("work", Pool())
        for key in waiting.keys:
            new = self._key_now(key)
            if new is not None:
                one = waiting.placed([key])
                found = found.plus(Pool((new,), one.columns, one.energies))
        return found

    def _key_now(self, key: Key) -> Key | None:
        """Return the key of what waited for a window; None if that window has counted the work itself."""
        number, phase, unit, *name = key
        row = int(np.searchsorted(self._rows.ids[1:], number)) + 1
        if row >= len(self._rows.ids) or self._rows.ids[row] != number:
            return (phase, unit, *name)
        counts = self._rows.units.get(str(unit), np.full(len(self._rows.ids), np.nan))
        if not np.isnan(counts[row]):
            return None
        if self._rows.open[row]:
            return key
        inside, waits_for = self._enclosed(np.array([row]), self._of_row(by_name=bool(name)), counts)
        if inside[0]:
            return None
        outer = int(waits_for[0])
        return (int(self._rows.ids[outer]), phase, unit, *name) if outer else (phase, unit, *name)
