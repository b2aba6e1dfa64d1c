"""Labels of segments for the fit: who is taken to draw the same power as whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = NDArray[np.int64]

# A label of fewer segments cannot tell its own scatter.
FEWEST_SEGMENTS = 4


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
    before = np.where(gap & (last >= 0), label[last], -1)
    pairs = np.stack([label, np.where(gap, before, -2)])
    return np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def merge_rare_labels(label: Indices, phase: Indices) -> Indices:
    """Let labels of fewer than 4 segments join the others of their phase.

    Args:
        label: of each segment, from 0, shape (segments,).
        phase: of each segment, from 0, shape (segments,).

    Returns:
        New labels, from 0, shape (segments,).
    """
    if not len(label):
        return label
    rare = np.bincount(label)[label] < FEWEST_SEGMENTS
    merged = np.where(rare, label.max() + 1 + phase, label)
    return np.unique(merged, return_inverse=True)[1].reshape(-1).astype(np.int64)
