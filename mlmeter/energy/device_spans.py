"""Windows by the times of a device: when it did the work, not when the host launched it.

A device runs what is launched on one stream in order, so windows of one stream nest as they do on
the host. Work on several streams may end after the window round it: that window then lasts until
the last of them. Windows without times of the device keep those of the host, inside what they
were opened in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.uncertainty import UNIFORM_SIGMA
from mlmeter.energy.windows import Windows, hulls, levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class References:
    """Instants known by a device's clock and by the host's.

    Attributes:
        device_ns: by the device's clock, ascending, shape (references,).
        host_ns, half_widths_ns: by the host's clock, and how far off that may be at most.
    """

    device_ns: Integers
    host_ns: Integers
    half_widths_ns: Integers

    def host_times(self, device_ns: Integers) -> Integers:
        """Return the host's times of a device's: linear between references, with their mean drift beyond."""
        first_ns, first_host_ns = self.device_ns[0], self.host_ns[0]
        offsets = (self.host_ns - first_host_ns) - (self.device_ns - first_ns)
        since = (device_ns - first_ns).astype(np.float64)
        known = (self.device_ns - first_ns).astype(np.float64)
        drift = offsets[-1] / known[-1] if known[-1] > 0 else 0.0
        beyond = np.maximum(since - known[-1], 0.0) + np.minimum(since, 0.0)
        offset = np.interp(since, known, offsets.astype(np.float64)) + drift * beyond
        # Offsets are small: as numbers of full length they would not keep the nanoseconds of years.
        return np.asarray(device_ns - first_ns + first_host_ns + np.rint(offset).astype(np.int64))

    @property
    def sigma_seconds(self) -> float:
        """Standard uncertainty of the host's time of an instant: anywhere within its bounds."""
        full_widths = 2e-9 * self.half_widths_ns.astype(np.float64)
        return float(np.sqrt(np.mean(full_widths**2)) * UNIFORM_SIGMA)


def on_device(windows: Windows, start: Floats, end: Floats, edge_sigma_seconds: float) -> Windows:
    """Return the windows with the edges that a device had, consistently nested.

    Args:
        windows: by the host's times.
        start, end: the host's times at which the device reached the edges of each interval, in
            seconds; NaN where that is not known, shape (intervals,).
        edge_sigma_seconds: standard uncertainty of these times.
    """
    session_end = windows.end[0]
    known = ~(np.isnan(start) & np.isnan(end))
    start = np.clip(np.where(np.isnan(start), windows.start, start), 0.0, session_end)
    end = np.clip(np.where(np.isnan(end), windows.end, end), start, session_end)
    marked = np.zeros(len(windows), dtype=np.bool_)
    marked[windows.owner[known]] = True
    moved = replace(windows, start=start, end=end, edge_sigma_seconds=edge_sigma_seconds)
    nested = _nested(windows)
    moved, reached = _extended(moved, nested, marked)
    return _clipped(moved, nested, reached)


def _nested(windows: Windows) -> NDArray[np.bool_]:
    """Tell which windows were open only while the window round them was, shape (windows,)."""
    start, end = hulls(windows)
    parent = windows.parent
    inside = (start >= start[parent]) & (end <= end[parent])
    return inside & (parent >= 0)


def _extended(
    windows: Windows, nested: NDArray[np.bool_], marked: NDArray[np.bool_]
) -> tuple[Windows, NDArray[np.bool_]]:
    """Let windows last as long as the marked ones inside them; tell which now have times of the device."""
    first, last = hulls(windows)
    reached = marked.copy()
    for level in levels(windows.parent):
        inner = level[reached[level] & nested[level]]
        outer = windows.parent[inner]
        np.minimum.at(first, outer, first[inner])
        np.maximum.at(last, outer, last[inner])
        reached[outer] = True
    own_first, own_last = hulls(windows)
    at_start = windows.start == own_first[windows.owner]
    at_end = windows.end == own_last[windows.owner]
    return replace(
        windows,
        start=np.where(at_start, first[windows.owner], windows.start),
        end=np.where(at_end, last[windows.owner], windows.end),
    ), reached


def _clipped(windows: Windows, nested: NDArray[np.bool_], reached: NDArray[np.bool_]) -> Windows:
    """Keep windows that have only host times inside what they were opened in."""
    first, last = hulls(windows)
    for level in reversed(levels(windows.parent)):
        inner = level[nested[level] & ~reached[level]]
        outer = windows.parent[inner]
        first[inner] = np.clip(first[inner], first[outer], last[outer])
        last[inner] = np.clip(last[inner], first[inner], last[outer])
    free = reached[windows.owner] | ~nested[windows.owner]
    first, last = first[windows.owner], last[windows.owner]
    return replace(
        windows,
        start=np.where(free, windows.start, np.clip(windows.start, first, last)),
        end=np.where(free, windows.end, np.clip(windows.end, first, last)),
    )
