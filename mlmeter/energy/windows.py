"""Which window owns which instant: nesting, overlap, interruptions.

Window 0 is the session itself. At each instant the owners are the open windows in which no
other window is open; several owners (threads, tasks) share the instant equally. A window may
have several intervals: a generator is not running between two of its values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Seconds = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Spans shorter than this are rounding, not overlap: 1 ns in a session of months.
ROUNDING_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a session as columns; row 0 is the session.

    Attributes:
        parent: row of the enclosing window, -1 for row 0, shape (windows,). A parent's row
            comes before its children's.
        owner, start, end: intervals and the rows that they belong to, shape (intervals,),
            in seconds; clipped to the session.
        label: number of the (name, phase) pair, shape (windows,).
    """

    parent: Indices
    owner: Indices
    start: Seconds
    end: Seconds
    label: Indices

    def __len__(self) -> int:
        return len(self.parent)


@dataclass(frozen=True, slots=True)
class Ownership:
    """The result: pieces of time, each owned by one window.

    Attributes:
        owner, start, end: pieces in which a window is innermost, shape (pieces,).
        edges: all instants at which an owner changes, ascending, shape (edges,).
        owners: number of owners from each edge to the next, shape (edges - 1,).
        concurrent_piece: whether a piece is shared anywhere, shape (pieces,).
        concurrent: whether a window shares any instant, shape (windows,).
    """

    owner: Indices
    start: Seconds
    end: Seconds
    edges: Seconds
    owners: Indices
    concurrent_piece: NDArray[np.bool_]
    concurrent: NDArray[np.bool_]

    def share_out(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each piece's part of what happens from edge to edge, shape (pieces,).

        Several owners of one instant get equal parts.

        Args:
            steps: amounts from each edge to the next, shape (edges - 1,).
        """
        first = np.searchsorted(self.edges, self.start)
        last = np.searchsorted(self.edges, self.end)
        # An instant without an owner cannot be: the session owns what no window does.
        sums = np.concatenate(([0.0], np.cumsum(steps / np.maximum(self.owners, 1))))
        return np.asarray(sums[last] - sums[first])

    def weights(self, member: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return which part of each instant belongs to a set of pieces, shape (edges - 1,).

        Args:
            member: whether a piece belongs to the set, shape (pieces,).
        """
        changes = np.zeros(len(self.edges))
        np.add.at(changes, np.searchsorted(self.edges, self.start[member]), 1.0)
        np.add.at(changes, np.searchsorted(self.edges, self.end[member]), -1.0)
        return np.asarray(np.cumsum(changes)[:-1] / np.maximum(self.owners, 1))


def resolve_ownership(windows: Windows) -> Ownership:
    """Find the owner or owners of every instant of the session, in n log n time."""
    owner, start, end = _innermost_pieces(windows)
    edges = np.unique(np.concatenate([start, end]))
    changes = np.zeros(len(edges), dtype=np.int64)
    first, last = np.searchsorted(edges, start), np.searchsorted(edges, end)
    np.add.at(changes, first, 1)
    np.add.at(changes, last, -1)
    owners = np.cumsum(changes)[:-1]
    shared = np.concatenate(([0.0], np.cumsum(np.where(owners > 1, np.diff(edges), 0.0))))
    concurrent_piece = shared[last] - shared[first] > ROUNDING_SECONDS
    concurrent = np.zeros(len(windows), dtype=np.bool_)
    concurrent[owner[concurrent_piece]] = True
    return Ownership(owner, start, end, edges, owners, concurrent_piece, concurrent)


def _innermost_pieces(windows: Windows) -> tuple[Indices, Seconds, Seconds]:
    """Cut each window's intervals at its children, in order of start."""
    is_parent = np.zeros(len(windows), dtype=np.bool_)
    is_parent[windows.parent[1:]] = True
    childless = ~is_parent[windows.owner]
    parents = ~childless
    pieces = [(windows.owner[childless], windows.start[childless], windows.end[childless])]
    if parents.any():
        pieces.append(_uncovered(windows, parents))
    owner, start, end = (np.concatenate(column) for column in zip(*pieces, strict=True))
    real = end > start
    order = np.argsort(start[real], kind="stable")
    return owner[real][order], start[real][order], end[real][order]


def _uncovered(windows: Windows, parents: NDArray[np.bool_]) -> tuple[Indices, Seconds, Seconds]:
    """Sweep each parent's own and its children's intervals: innermost = open and no child open."""
    own = windows.owner[parents]
    parent_of_interval = windows.parent[windows.owner]
    child = parent_of_interval >= 0
    group = np.concatenate([own, own, parent_of_interval[child], parent_of_interval[child]])
    time = np.concatenate(
        [windows.start[parents], windows.end[parents], windows.start[child], windows.end[child]]
    )
    ones_own, ones_child = np.ones(len(own), np.int64), np.ones(int(child.sum()), np.int64)
    none_own, none_child = np.zeros_like(ones_own), np.zeros_like(ones_child)
    opened = np.concatenate([ones_own, -ones_own, none_child, none_child])
    covered = np.concatenate([none_own, none_own, ones_child, -ones_child])
    order = np.lexsort((time, group))
    group, time = group[order], time[order]
    # Every group opens as often as it closes, so one running sum serves all groups.
    innermost = (np.cumsum(opened[order]) > 0) & (np.cumsum(covered[order]) == 0)
    piece = innermost[:-1] & (group[:-1] == group[1:])
    return group[:-1][piece], time[:-1][piece], time[1:][piece]


def same_phase_runs(ownership: Ownership, phase_of_owner: Indices) -> tuple[Indices, Seconds, Seconds]:
    """Join consecutive pieces of one phase: inner edges then cancel instead of adding uncertainty.

    Only for sessions without concurrent pieces.

    Returns:
        phase, start and end of each run, in order of time.
    """
    phase = phase_of_owner[ownership.owner]
    if not len(phase):
        return phase, ownership.start, ownership.end
    new = np.concatenate(([True], (phase[1:] != phase[:-1]) | (ownership.start[1:] > ownership.end[:-1])))
    first = np.flatnonzero(new)
    last = np.concatenate((first[1:] - 1, [len(phase) - 1]))
    return phase[first], ownership.start[first], ownership.end[last]


def add_to_ancestors(parent: Indices, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each window's value plus those of all its descendants.

    Args:
        parent: shape (windows,), parents before children.
        values: shape (columns, windows).
    """
    sums = values.copy()
    for level in _levels(parent):
        for column in sums:
            np.add.at(column, parent[level], column[level])
    return sums


def with_descendants(parent: Indices, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the chosen windows and everything inside them, shape (windows,)."""
    inside = chosen.copy()
    for level in reversed(_levels(parent)):
        inside[level] |= inside[parent[level]]
    return inside


def _levels(parent: Indices) -> list[Indices]:
    """Rows by depth, deepest first, without the root."""
    depth = np.zeros(len(parent), dtype=np.int64)
    rows = np.arange(1, len(parent))
    ancestors = parent[1:].copy()
    while len(rows):
        depth[rows] += 1
        still = ancestors > 0
        rows, ancestors = rows[still], parent[ancestors[still]]
    order = np.argsort(depth, kind="stable")
    counts = np.bincount(depth)
    starts = np.concatenate(([0], np.cumsum(counts)))
    return [order[starts[d] : starts[d + 1]] for d in range(len(counts) - 1, 0, -1)]
