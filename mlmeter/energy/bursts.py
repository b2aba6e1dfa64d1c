"""Bursts: runs of windows of one name, such as the calls of a tight loop.

What one call used may not be knowable; what all of them used together is known nearly as well as
the counter itself, because only the two ends of the run matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.windows import Windows, hulls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Windows that are not further apart are one burst.
BURST_PERIODS = 3.0


@dataclass(frozen=True, slots=True)
class Bursts:
    """Runs of two or more windows of one label, inside the same window, with short gaps.

    Attributes:
        label: of each burst, shape (bursts,).
        start, end: of each burst in seconds; gaps between its windows are part of it.
        calls: how many windows it has.
        busy_seconds: their lengths together.
    """

    label: Indices
    start: Floats
    end: Floats
    calls: Indices
    busy_seconds: Floats

    def as_windows(self, label: int, session: Windows) -> Windows:
        """Return the bursts of one label as windows of the session."""
        own = np.flatnonzero(self.label == label)
        count = len(own)
        return Windows(
            parent=np.concatenate(([-1], np.zeros(count, dtype=np.int64))),
            owner=np.arange(count + 1),
            start=np.concatenate((session.start[:1], self.start[own])),
            end=np.concatenate((session.end[:1], self.end[own])),
            label=np.concatenate(([-1], np.full(count, label))),
            edge_sigma_seconds=session.edge_sigma_seconds,
        )


def bursts_of(windows: Windows, period_seconds: float) -> Bursts:
    """Find the bursts of a session.

    Args:
        windows: the windows.
        period_seconds: time between refreshes of the slowest counter.
    """
    start, end = hulls(windows)
    # Of siblings in order of time; a window of another name between two of one name parts them.
    rows = np.lexsort((start[1:], windows.parent[1:])) + 1
    label, parent = windows.label[rows], windows.parent[rows]
    new = np.ones(len(rows), dtype=np.bool_)
    gap_seconds = start[rows[1:]] - end[rows[:-1]]
    new[1:] = (label[1:] != label[:-1]) | (parent[1:] != parent[:-1])
    new[1:] |= gap_seconds > BURST_PERIODS * period_seconds
    first = np.flatnonzero(new)
    calls = np.diff(np.append(first, len(rows)))
    last = np.maximum.reduceat(end[rows], first) if len(first) else np.zeros(0)
    # Windows of no length at one instant are no burst of any energy.
    several = (calls > 1) & (last > start[rows][first])
    if not several.any():
        nothing = np.zeros(0)
        return Bursts(nothing.astype(np.int64), nothing, nothing, nothing.astype(np.int64), nothing)
    lengths = np.bincount(windows.owner, windows.end - windows.start, minlength=len(windows))
    return Bursts(
        label[first][several],
        start[rows][first][several],
        last[several],
        calls[several],
        np.add.reduceat(lengths[rows], first)[several],
    )
