"""Which window owns which instant: nesting, overlap, interruptions.

Window 0 is the session itself. At each instant the owners are the open windows in which no
other window is open; several owners (threads, tasks) share the instant equally. A window may
have several intervals: a generator is not running between two of its values.

A window can outlive the one that it was opened in, such as a task that is not awaited. What
it does then belongs to it and to those around it that are still open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Seconds = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Spans shorter than this are rounding, not overlap: 1 ns in a session of months.
ROUNDING_SECONDS = 1e-9
# Windows that are nested more deeply are taken one by one, not level by level.
DEEP = 64


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a session as columns; row 0 is the session.

    Attributes:
        parent: row of the enclosing window, -1 for row 0, shape (windows,). A parent's row
            comes before its children's.
        owner, start, end: intervals and the rows that they belong to, shape (intervals,),
            in seconds; clipped to the session.
        label: number of the (name, phase) pair, shape (windows,).
        edge_sigma_seconds: standard uncertainty of the times of edges; 0 by the host's own clock.
    """

    parent: Indices
    owner: Indices
    start: Seconds
    end: Seconds
    label: Indices
    edge_sigma_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.parent)


@dataclass(frozen=True, slots=True)
class Ownership:
    """The result: pieces of time, each owned by one window.

    Attributes:
        owner, start, end: pieces in which a window is innermost, shape (pieces,).
        edges: all instants at which an owner changes, ascending, shape (edges,).
        first, last: number of the edge at which a piece starts and ends, shape (pieces,).
        owners: number of owners from each edge to the next, shape (edges - 1,).
        concurrent_piece: whether a piece is shared anywhere, shape (pieces,).
        concurrent: whether a window shares any instant, shape (windows,).
        loose: whether a piece is of a window that sticks out of one around it, shape (pieces,).
    """

    owner: Indices
    start: Seconds
    end: Seconds
    edges: Seconds
    first: Indices
    last: Indices
    owners: Indices
    concurrent_piece: NDArray[np.bool_]
    concurrent: NDArray[np.bool_]
    loose: NDArray[np.bool_]

    @property
    def one_by_one(self) -> bool:
        """Whether each piece is what is from one edge to the next, in the same order."""
        return len(self.owner) == len(self.owners) and bool((self.owners == 1).all())

    def share_out(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each piece's part of what happens from edge to edge, shape (pieces,).

        Several owners of one instant get equal parts.

        Args:
            steps: amounts from each edge to the next, shape (edges - 1,).
        """
        if self.one_by_one:
            return steps
        # An instant without an owner cannot be: the session owns what no window does.
        sums = np.concatenate(([0.0], np.cumsum(steps / np.maximum(self.owners, 1))))
        return np.asarray(sums[self.last] - sums[self.first])

    def weights(self, member: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return which part of each instant belongs to a set of pieces, shape (edges - 1,).

        Args:
            member: whether a piece belongs to the set, shape (pieces,).
        """
        if self.one_by_one:
            return member.astype(np.float64)
        size = len(self.edges)
        changes = np.bincount(self.first[member], minlength=size)
        changes -= np.bincount(self.last[member], minlength=size)
        return np.asarray(np.cumsum(changes)[:-1] / np.maximum(self.owners, 1))


def resolve_ownership(windows: Windows) -> Ownership:
    """Find the owner or owners of every instant of the session, in n log n time."""
    outlives = outliving(windows)
    owner, start, end = _innermost_pieces(windows, outlives)
    if len(owner) and np.array_equal(end[:-1], start[1:]):
        return _one_after_another(windows, outlives, owner, np.append(start, end[-1]))
    edges = np.unique(np.concatenate([start, end]))
    first, last = np.searchsorted(edges, start), np.searchsorted(edges, end)
    changes = np.bincount(first, minlength=len(edges)) - np.bincount(last, minlength=len(edges))
    owners = np.cumsum(changes)[:-1]
    shared = np.concatenate(([0.0], np.cumsum(np.where(owners > 1, np.diff(edges), 0.0))))
    concurrent_piece = shared[last] - shared[first] > ROUNDING_SECONDS
    concurrent = np.zeros(len(windows), dtype=np.bool_)
    concurrent[owner[concurrent_piece]] = True
    return Ownership(
        owner, start, end, edges, first, last, owners, concurrent_piece, concurrent, outlives[owner]
    )


def _one_after_another(
    windows: Windows, outlives: NDArray[np.bool_], owner: Indices, edges: Seconds
) -> Ownership:
    """Return what it is where each piece begins at the end of the one before: nothing has to be searched."""
    number = np.arange(len(edges))
    return Ownership(
        owner=owner,
        start=edges[:-1],
        end=edges[1:],
        edges=edges,
        first=number[:-1],
        last=number[1:],
        owners=np.ones(len(owner), dtype=np.int64),
        concurrent_piece=np.zeros(len(owner), dtype=np.bool_),
        concurrent=np.zeros(len(windows), dtype=np.bool_),
        loose=outlives[owner],
    )


def _innermost_pieces(windows: Windows, outlives: NDArray[np.bool_]) -> tuple[Indices, Seconds, Seconds]:
    """Cut each window's intervals at its children, in order of start."""
    is_parent = np.zeros(len(windows), dtype=np.bool_)
    is_parent[windows.parent[1:]] = True
    childless = ~is_parent[windows.owner]
    parents = ~childless
    pieces = [(windows.owner[childless], windows.start[childless], windows.end[childless])]
    if parents.any():
        pieces.append(_uncovered(windows, parents))
    owner, start, end = (np.concatenate(column) for column in zip(*pieces, strict=True))
    if outlives.any():
        owner, start, end = _cut_where_ancestors_end(windows, outlives, owner, start, end)
    real = end > start
    order = np.argsort(start[real], kind="stable")
    return owner[real][order], start[real][order], end[real][order]


def _uncovered(windows: Windows, parents: NDArray[np.bool_]) -> tuple[Indices, Seconds, Seconds]:
    """Sweep each parent's own and its children's intervals: innermost = open and no child open."""
    own = windows.owner[parents]
    covered_row, child = _covered_by(windows)
    group = np.concatenate([own, own, covered_row, covered_row])
    time = np.concatenate(
        [windows.start[parents], windows.end[parents], windows.start[child], windows.end[child]]
    )
    ones_own, ones_child = np.ones(len(own), np.int64), np.ones(len(child), np.int64)
    none_own, none_child = np.zeros_like(ones_own), np.zeros_like(ones_child)
    opened = np.concatenate([ones_own, -ones_own, none_child, none_child])
    covered = np.concatenate([none_own, none_own, ones_child, -ones_child])
    order = np.lexsort((time, group))
    group, time = group[order], time[order]
    # Every group opens as often as it closes, so one running sum serves all groups.
    innermost = (np.cumsum(opened[order]) > 0) & (np.cumsum(covered[order]) == 0)
    piece = innermost[:-1] & (group[:-1] == group[1:])
    return group[:-1][piece], time[:-1][piece], time[1:][piece]


def _covered_by(windows: Windows) -> tuple[Indices, Indices]:
    """Return pairs of a window and an interval of a descendant in whose time it is not innermost.

    Its children's intervals, and those of remoter descendants where what is between may not be open.
    """
    intervals = np.flatnonzero(windows.parent[windows.owner] >= 0)
    ancestor = windows.parent[windows.owner[intervals]]
    hull_start, hull_end = hulls(windows)
    interrupted = np.bincount(windows.owner, minlength=len(windows)) > 1
    rows, found = [ancestor], [intervals]
    while True:
        sticks_out = windows.end[intervals] > hull_end[ancestor]
        sticks_out |= windows.start[intervals] < hull_start[ancestor]
        alone = (ancestor > 0) & (sticks_out | interrupted[ancestor])
        if not alone.any():
            return np.concatenate(rows), np.concatenate(found)
        intervals = intervals[alone]
        ancestor = windows.parent[ancestor[alone]]
        rows.append(ancestor)
        found.append(intervals)


def _cut_where_ancestors_end(
    windows: Windows, outlives: NDArray[np.bool_], owner: Indices, start: Seconds, end: Seconds
) -> tuple[Indices, Seconds, Seconds]:
    """Cut pieces of windows that outlive an ancestor, so that each piece is inside it or outside."""
    ancestor = np.where(outlives[owner], windows.parent[owner], -1)
    while (ancestor > 0).any():
        for hull in hulls(windows):
            at = np.where(ancestor > 0, hull[ancestor], np.inf)
            cut = (at > start) & (at < end)
            start = np.concatenate([start, at[cut]])
            end = np.concatenate([np.where(cut, at, end), end[cut]])
            owner = np.concatenate([owner, owner[cut]])
            ancestor = np.concatenate([ancestor, ancestor[cut]])
        ancestor = np.where(ancestor > 0, windows.parent[ancestor], -1)
    return owner, start, end


def hulls(windows: Windows) -> tuple[Seconds, Seconds]:
    """Return first start and last end of each window, shape (windows,)."""
    start, end = np.full(len(windows), np.inf), np.full(len(windows), -np.inf)
    np.minimum.at(start, windows.owner, windows.start)
    np.maximum.at(end, windows.owner, windows.end)
    return start, end


def outliving(windows: Windows) -> NDArray[np.bool_]:
    """Tell which windows, or windows around them, stick out of what they were opened in."""
    start, end = hulls(windows)
    has_parent = windows.parent >= 0
    sticks_out = (end > end[windows.parent]) | (start < start[windows.parent])
    return with_descendants(windows.parent, has_parent & sticks_out)


def same_phase_runs(ownership: Ownership, phase_of_owner: Indices) -> tuple[Indices, Indices, Indices]:
    """Join consecutive pieces of one phase: inner edges then cancel instead of adding uncertainty.

    Only for sessions without concurrent pieces.

    Returns:
        phase and numbers of the first and the last edge of each run, in order of time.
    """
    phase = phase_of_owner[ownership.owner]
    if not len(phase):
        return phase, ownership.first, ownership.last
    new = np.concatenate(([True], (phase[1:] != phase[:-1]) | (ownership.first[1:] > ownership.last[:-1])))
    if new.all():
        return phase, ownership.first, ownership.last
    first = np.flatnonzero(new)
    last = np.concatenate((first[1:] - 1, [len(phase) - 1]))
    return phase[first], ownership.first[first], ownership.last[last]


def add_to_enclosing(
    windows: Windows, ownership: Ownership, pieces: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each window's own pieces plus those of its descendants while it was open.

    Args:
        windows: the windows.
        ownership: of these windows.
        pieces: amounts of each piece, shape (columns, pieces).

    Returns:
        shape (columns, windows).
    """
    loose, size = ownership.loose, len(windows)
    own = [np.bincount(ownership.owner, np.where(loose, 0.0, column), size) for column in pieces]
    # Sums of nothing come back as integers.
    nested = np.stack(own).astype(np.float64)
    sums = add_to_ancestors(windows.parent, nested)
    for row, piece in _enclosing(windows, ownership, loose):
        for total, column in zip(sums, pieces, strict=True):
            np.add.at(total, row, column[piece])
    return sums


def pieces_by_window(windows: Windows, ownership: Ownership) -> tuple[Indices, Indices]:
    """Return all pairs of a window and a piece that is its own or a descendant's in its time."""
    pairs = list(_enclosing(windows, ownership, np.ones(len(ownership.owner), dtype=np.bool_)))
    window, piece = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return window, piece


def pieces_within(windows: Windows, ownership: Ownership, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell of each piece whether it is in a chosen window or in a descendant while that is open."""
    loose = ownership.loose
    inside = with_descendants(windows.parent, chosen)[ownership.owner] & ~loose
    for row, piece in _enclosing(windows, ownership, loose):
        inside[piece[chosen[row]]] = True
    return inside


def _enclosing(
    windows: Windows, ownership: Ownership, which: NDArray[np.bool_]
) -> Iterator[tuple[Indices, Indices]]:
    """Yield, level by level, pairs of a window and a piece of it or of a descendant in its time."""
    hull_start, hull_end = hulls(windows)
    piece = np.flatnonzero(which)
    row = ownership.owner[piece]
    while len(piece):
        open_then = ownership.end[piece] <= hull_end[row] + ROUNDING_SECONDS
        open_then &= ownership.start[piece] >= hull_start[row] - ROUNDING_SECONDS
        yield row[open_then], piece[open_then]
        has_parent = windows.parent[row] >= 0
        piece, row = piece[has_parent], windows.parent[row[has_parent]]


def add_to_ancestors(parent: Indices, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each window's value plus those of all its descendants.

    Args:
        parent: shape (windows,), parents before children.
        values: shape (columns, windows).
    """
    depth = depths(parent)
    if _is_deep(depth):
        return np.stack([_summed_upwards(parent, column) for column in values])
    sums = values.copy()
    for level in _levels(depth):
        for column in sums:
            np.add.at(column, parent[level], column[level])
    return sums


def _summed_upwards(parent: Indices, values: NDArray[np.float64]) -> NDArray[np.float64]:
    above, sums = parent.tolist(), values.tolist()
    for row in range(len(above) - 1, 0, -1):
        sums[above[row]] += sums[row]
    return np.array(sums)


def with_descendants(parent: Indices, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the chosen windows and everything inside them, shape (windows,)."""
    depth = depths(parent)
    inside = chosen.copy()
    if _is_deep(depth):
        for row, above in enumerate(parent[1:].tolist(), start=1):
            inside[row] |= inside[above]
        return inside
    for level in reversed(_levels(depth)):
        inside[level] |= inside[parent[level]]
    return inside


def depths(parent: Indices) -> Indices:
    """Return how many windows are round each, shape (windows,); the session is round all others."""
    depth = np.zeros(len(parent), dtype=np.int64)
    rows, ancestors = np.arange(1, len(parent)), parent[1:].copy()
    for _ in range(DEEP):
        depth[rows] += 1
        still = ancestors > 0
        rows, ancestors = rows[still], parent[ancestors[still]]
        if not len(rows):
            return depth
    found = [0] * len(parent)
    for row, above in enumerate(parent[1:].tolist(), start=1):
        found[row] = found[above] + 1
    return np.array(found, dtype=np.int64)


def levels(parent: Indices) -> list[Indices]:
    """Rows by depth, deepest first, without the root."""
    return _levels(depths(parent))


def _is_deep(depth: Indices) -> bool:
    """Whether there are too many levels to take them one by one, each as an array."""
    return len(depth) > 0 and int(depth.max()) > DEEP


def _levels(depth: Indices) -> list[Indices]:
    order = np.argsort(depth, kind="stable")
    counts = np.bincount(depth)
    starts = np.concatenate(([0], np.cumsum(counts)))
    return [order[starts[d] : starts[d + 1]] for d in range(len(counts) - 1, 0, -1)]
