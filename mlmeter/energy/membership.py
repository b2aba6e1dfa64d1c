"""Which segments belong to which groups: windows, phases, names, bursts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.occupancy import ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Membership:
    """Which segments belong to which groups; a group has a segment at most once.

    Attributes:
        segment, group: shape (memberships,).
        groups: how many groups there are.
        weight: part of the segment's energy that is the group's, 0 to 1, shape (memberships,).
    """

    segment: Indices
    group: Indices
    groups: int
    weight: Floats

    @classmethod
    def of_spans(cls, edges: Floats, starts: Floats, ends: Floats) -> Membership:
        """Make each span a group; spans begin and end at edges of segments."""
        return cls.of_ranges(np.searchsorted(edges, starts, side="right") - 1, np.searchsorted(edges, ends))

    @classmethod
    def of_ranges(cls, first: Indices, last: Indices) -> Membership:
        """Make each range of segments a group, from one edge to another."""
        count = np.maximum(last - first, 0)
        group = np.repeat(np.arange(len(first)), count)
        return cls(ranges(first, last), group, len(first), np.ones(len(group)))

    @classmethod
    def of_labels(cls, label: Indices, labels: int) -> Membership:
        """Make each label a group."""
        return cls(np.arange(len(label)), label, labels, np.ones(len(label)))


def join(keys: Indices | NDArray[np.int32], wanted: Indices) -> tuple[Indices, Indices]:
    """Return all pairs (place in `wanted`, place in `keys`) of equal values.

    Args:
        keys: integers from 0, ascending.
        wanted: integers from 0.
    """
    size = max(int(keys[-1]) if len(keys) else 0, int(wanted.max(initial=0))) + 1
    counts = np.bincount(keys, minlength=size)
    starts = np.cumsum(counts) - counts
    count = counts[wanted]
    skipped = np.cumsum(count) - count
    left = np.repeat(np.arange(len(wanted)), count)
    return left, np.arange(len(left)) + np.repeat(starts[wanted] - skipped, count)
