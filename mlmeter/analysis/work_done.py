"""Work that windows of one phase counted, pooled: energy, count, and scatter from window to window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmeter.analysis.figure import Figure, added
from mlmeter.analysis.student import student_quantile
from mlmeter.recording import TOTAL, Recording

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Unit of work of windows that count none: each is one.
WINDOWS = "windows"
CONFIDENCE = 0.975


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Windows that did work of one unit.

    Attributes:
        energy: of all of them, children included, joules.
        count: of all of them.
        windows: how many.
        duration_seconds: of all of them.
        squares: sums over the windows of joules squared, joules x count, and count squared.
    """

    energy: Figure
    count: float
    windows: int
    duration_seconds: float
    squares: tuple[float, float, float]

    @property
    def joules_each(self) -> Figure:
        """Energy per unit; the interval allows for the scatter from window to window.

        So it holds for more windows like these, not only for these themselves. The standard error of a
        ratio of sums: W. G. Cochran, Sampling Techniques, 1977, section 6.4.
        """
        each = self.energy.times(1 / self.count)
        if self.windows < 2 or each.value is None:
            return each
        joules, mixed, counts = self.squares
        residuals = max(0.0, joules - 2 * each.value * mixed + each.value**2 * counts)
        variance = residuals * self.windows / (self.windows - 1) / self.count**2
        return each.widened(student_quantile(CONFIDENCE, self.windows - 1) * math.sqrt(variance))


def units_counted(recording: Recording, phase: str) -> dict[str, float]:
    """Return how many of each unit windows of a phase counted, nested ones included; 0 is a count, too."""
    import numpy as np

    from mlmeter.frame.units import units_by_window

    rows = _rows_of_phase(recording, phase)
    return {
        unit: float(np.nansum(counts[rows]))
        for unit, counts in units_by_window(recording).items()
        if not np.isnan(counts[rows]).all()
    }


def work_by_window(recording: Recording, phase: str, unit: str) -> dict[str | None, Work]:
    """Return the work of a phase by name of the windows, and of all of them under None.

    Only of windows that counted the unit; of nested ones the outermost of a name, or of all. Nothing where
    there are none.
    """
    import numpy as np

    resolution = recording.resolution
    rows, counts = _working_rows(recording, phase, unit)
    if not counts.sum() > 0:
        return {}
    label = resolution.windows.label
    joules = resolution.total("inclusive")["energy_joules"]
    windows = resolution.windows
    seconds = np.bincount(windows.owner, windows.end - windows.start, len(windows)).astype(np.float64)
    found: dict[str | None, Work] = {}
    # Windows of one phase and name have one label.
    for name_of_row in (np.zeros_like(label), label):
        chosen = _outermost(windows.parent, rows, name_of_row)
        keys, group = np.unique(name_of_row[rows[chosen]], return_inverse=True)
        for number, energy in enumerate(_pooled(recording, rows[chosen], group, len(keys))):
            here = np.flatnonzero(chosen)[group == number]
            name = None if name_of_row is not label else recording.windows.label_table[keys[number]].name
            if counts[here].sum() > 0:
                found[name] = _work(energy, joules[rows[here]], counts[here], seconds[rows[here]])
    return found


def pooled_work(parts: Iterable[Work]) -> Work:
    """Return the work of several sessions together."""
    works = tuple(parts)
    joules, mixed, counts = (sum(column) for column in zip(*(work.squares for work in works), strict=True))
    return Work(
        energy=added(work.energy for work in works),
        count=sum(work.count for work in works),
        windows=sum(work.windows for work in works),
        duration_seconds=sum(work.duration_seconds for work in works),
        squares=(joules, mixed, counts),
    )


def _work(
    energy: Figure, joules: NDArray[np.float64], counts: NDArray[np.float64], seconds: NDArray[np.float64]
) -> Work:
    return Work(
        energy=energy,
        count=float(counts.sum()),
        windows=len(counts),
        duration_seconds=float(seconds.sum()),
        squares=(float(joules @ joules), float(joules @ counts), float(counts @ counts)),
    )


def _rows_of_phase(recording: Recording, phase: str) -> NDArray[np.int64]:
    """Return the windows of a phase; the session itself, which is row 0, is none."""
    import numpy as np

    resolution = recording.resolution
    if phase not in resolution.phases:
        return np.zeros(0, dtype=np.int64)
    rows = np.flatnonzero(resolution.phase_of_window == resolution.phases.index(phase))
    return rows[rows > 0]


def _working_rows(
    recording: Recording, phase: str, unit: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the windows of a phase that counted a unit, and their counts."""
    import numpy as np

    from mlmeter.frame.units import units_by_window

    rows = _rows_of_phase(recording, phase)
    if unit == WINDOWS:
        return rows, np.ones(len(rows))
    counts = units_by_window(recording).get(unit)
    if counts is None:
        return rows[:0], np.zeros(0)
    rows = rows[~np.isnan(counts[rows])]
    return rows, counts[rows]


def _outermost(
    parent: NDArray[np.int64], rows: NDArray[np.int64], key: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which of some windows are in no other one of them with the same key, shape (rows,)."""
    import numpy as np

    chosen = np.zeros(len(parent), dtype=np.bool_)
    chosen[rows] = True
    inside, ancestor = np.zeros(len(rows), dtype=np.bool_), parent[rows]
    while (ancestor > 0).any():
        inside |= (ancestor > 0) & chosen[ancestor] & (key[ancestor] == key[rows])
        ancestor = np.where(ancestor > 0, parent[ancestor], ancestor)
    return ~inside


def _pooled(
    recording: Recording, rows: NDArray[np.int64], group: NDArray[np.int64], groups: int
) -> list[Figure]:
    from mlmeter.energy.columns import energy_value

    for domain, _, columns in recording.resolution.pooled(rows, group, groups):
        if domain == TOTAL:
            return [Figure.of_energy(energy_value(columns, number)) for number in range(groups)]
    raise AssertionError("the total is always among the domains")


def merged(by_session: Iterable[Mapping[str | None, Work]]) -> dict[str | None, Work]:
    """Return the work of several sessions by name of the windows; names in order of appearance."""
    parts: dict[str | None, list[Work]] = {}
    for works in by_session:
        for name, work in works.items():
            parts.setdefault(name, []).append(work)
    return {name: pooled_work(found) for name, found in parts.items()}
