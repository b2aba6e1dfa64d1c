"""Labels of segments for the fit: who is taken to draw the same power as whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.cached import cached_property
from mlmeter.energy.membership import Membership
from mlmeter.energy.windows import Ownership, Windows, same_phase_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# A label of fewer segments cannot tell its own scatter.
FEWEST_SEGMENTS = 4
# The work grows with the square of the labels.
MOST_LABELS = 30
MOST_COUNTED_RATIO = 4


class LabelledWindows:
    """The windows of a session by one clock, with owners, phases and labels.

    Args:
        windows: the windows.
        ownership: who owns which instant.
        phase_of_window: number of each window's phase, shape (windows,).
    """

    def __init__(self, windows: Windows, ownership: Ownership, phase_of_window: Indices) -> None:
        self.windows, self.ownership, self.phase_of_window = windows, ownership, phase_of_window

    def segment_labels(self, period_seconds: float) -> Indices:
        """Return the label of each segment for a counter of such a period, shape (segments,).

        What fills less than one period of the counter joins its phase.
        """
        label, group = self._unmerged
        seconds = np.diff(self.ownership.edges)
        return merge_rare_labels(label, group, seconds, least_seconds=period_seconds)

    @cached_property
    def _unmerged(self) -> tuple[Indices, Indices]:
        """Label each segment by its owners, gaps also by the window before them, and its group."""
        windows, ownership = self.windows, self.ownership
        size = len(ownership.edges) - 1
        if ownership.one_by_one:
            owner, segment = ownership.owner, np.arange(size)
        else:
            spans = Membership.of_ranges(ownership.first, ownership.last)
            owner, segment = ownership.owner[spans.group], spans.segment
        is_parent = np.zeros(len(windows), dtype=np.bool_)
        is_parent[windows.parent[1:]] = True
        is_parent[0] = True
        label = np.zeros(size, dtype=np.int64)
        label[segment] = windows.label[owner] + 1
        shared = ownership.owners > 1
        if shared.any():
            # Several owners make one label of their own: that of the set of their labels.
            names = int(windows.label.max()) + 2
            codes = np.random.default_rng(0).integers(1, 2**62, names, dtype=np.uint64)
            code = np.zeros(size, dtype=np.uint64)
            np.add.at(code, segment, codes[windows.label[owner] + 1])
            label[shared] = names + np.unique(code[shared], return_inverse=True)[1].reshape(-1)
        gap = np.ones(size, dtype=np.bool_)
        gap[segment[~is_parent[owner]]] = False
        phase = np.zeros(size, dtype=np.int64)
        phase[segment] = self.phase_of_window[owner]
        # Labels are few: their numbers are held in half of the memory.
        return gap_labels(label, gap).astype(np.int32), (2 * phase + gap).astype(np.int32)

    @cached_property
    def phase_runs(self) -> tuple[Indices, Indices, Indices]:
        """Phase, first and last edge of what is of one phase without a break; see `same_phase_runs`."""
        return same_phase_runs(self.ownership, self.phase_of_window)


def gap_labels(label: Indices, gap: NDArray[np.bool_]) -> Indices:
    """Tell gaps apart by the window before them: queued work and clocks that fall slowly follow it.

    Args:
        label: of each segment's innermost window, which for a gap is the enclosing one.
        gap: whether a segment is a gap between windows.

    Returns:
        New labels, from 0, shape (segments,).
    """
    windows = np.where(gap, -1, np.arange(len(label)))
    last = np.maximum.accumulate(windows) if len(label) else windows
    labels = int(label.max(initial=0)) + 1
    before = np.where(last >= 0, label[last], labels)
    # Windows come first: the search of scatter begins with them.
    return numbered(np.where(gap, labels + label * (labels + 1) + before, label))


def merge_rare_labels(
    label: Indices,
    group: Indices,
    seconds: Floats | None = None,
    *,
    least_seconds: float = 0.0,
    most: int = MOST_LABELS,
) -> Indices:
    """Let labels that a counter tells little of join the others of their group.

    Those are labels of fewer than 4 segments or of little time, and all but the most frequent ones.

    Args:
        label: of each segment, from 0, shape (segments,).
        group: of each segment, from 0, shape (segments,): its phase, gaps apart.
        seconds: length of each segment.
        least_seconds: that a label needs altogether.
        most: how many labels may stay for themselves.

    Returns:
        New labels, from 0, shape (segments,).
    """
    if not len(label):
        return label
    count = np.bincount(label)
    rare = count < FEWEST_SEGMENTS
    if seconds is not None:
        rare |= np.bincount(label, seconds) < least_seconds
    rare[np.argsort(-count, kind="stable")[most:]] = True
    merged = np.where(rare[label], label.max() + 1 + group, label)
    return numbered(merged)


def numbered(values: Indices) -> Indices:
    """Number the different values from 0 in their order, shape as `values`.

    Args:
        values: integers from 0; far fewer different ones than values, so that counting is faster
            than sorting.
    """
    most = int(values.max(initial=0)) + 1
    if most > MOST_COUNTED_RATIO * len(values) + MOST_COUNTED_RATIO:
        return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
    present = np.bincount(values, minlength=most) > 0
    return np.asarray((np.cumsum(present) - 1)[values], dtype=np.int64)
