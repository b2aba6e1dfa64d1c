"""Whose times count for which domain: the host's for CPUs, the device's for a GPU that has some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.device_time.times import NOT_MARKED, NOT_REACHED, numbers_of_domains
from mlmeter.energy.device_spans import References, on_device
from mlmeter.energy.windows import Ownership, Windows, resolve_ownership
from mlmeter.units import SECONDS_PER_NANOSECOND
from mlmeter.window_records import SYNC_FAILED, SYNCHRONISED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.device_time.times import DeviceTimes
    from mlmeter.recording import Recording

SESSION_ROW = 0


@dataclass(frozen=True, slots=True)
class TimeBase:
    """The windows by one clock, and who owns which instant."""

    windows: Windows
    ownership: Ownership

    @classmethod
    def of(cls, windows: Windows) -> TimeBase:
        """Find out who owns which instant."""
        return cls(windows, resolve_ownership(windows))


@dataclass(frozen=True, slots=True)
class TimeBases:
    """The windows of a session by all its clocks.

    Attributes:
        host: by the host's clock.
        by_domain: what counts for each domain, by name.
        synchronised: whether all edges of a window are known on a device, or it waited for the
            device, shape (windows,).
    """

    host: TimeBase
    by_domain: dict[str, TimeBase]
    synchronised: NDArray[np.bool_]


def time_bases(recording: Recording) -> TimeBases:
    """Find the windows of a session and their times by the host's clock and by those of devices."""
    intervals = _intervals_of(recording)
    host = TimeBase.of(_columns_of(recording, intervals))
    on_devices = {
        number: TimeBase.of(windows)
        for number, windows in _windows_by_device(recording, intervals, host.windows).items()
    }
    numbers = numbers_of_domains([domain for domain, _ in recording.domains], recording.device.uuids)
    by_domain = {
        domain.name: on_devices.get(numbers.get(domain.name, -1), host) for domain, _ in recording.domains
    }
    return TimeBases(host, by_domain, _synchronised(recording, intervals, set(numbers.values())))


@dataclass(frozen=True, slots=True)
class _Intervals:
    """All intervals of windows, without the session's: ids of windows, which piece it is, host times."""

    ids: NDArray[np.int64]
    pieces: NDArray[np.int64]
    starts_ns: NDArray[np.int64]
    ends_ns: NDArray[np.int64]

    def positions(self, ids: NDArray[np.int64], pieces: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the pieces of windows are among the intervals; -1 for those that are not."""
        ids, pieces = ids.astype(np.int64), pieces.astype(np.int64)
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        # Numbers of windows fit in half of the bits, and so do pieces.
        half = 2**31
        mine, wanted = self.ids * half + self.pieces, ids * half + pieces
        order = np.argsort(mine, kind="stable")
        position = order[np.minimum(np.searchsorted(mine[order], wanted), len(order) - 1)]
        return np.where(mine[position] == wanted, position, -1)


def _intervals_of(recording: Recording) -> _Intervals:
    records = recording.windows
    ids = np.array(records.ids, dtype=np.int64)
    pieces = np.array(records.pieces, dtype=np.int64).reshape(-1, 3)
    simple = ~np.isin(ids, pieces[:, 0])
    # Pieces of one window are in order, but others may be between them.
    order = np.argsort(pieces[:, 0], kind="stable")
    number = np.arange(len(pieces))
    first = np.searchsorted(pieces[order, 0], pieces[order, 0])
    number[order] = number - first
    return _Intervals(
        ids=np.concatenate([ids[simple], pieces[:, 0]]),
        pieces=np.concatenate([np.zeros(int(simple.sum()), dtype=np.int64), number]),
        starts_ns=np.concatenate([np.array(records.starts_ns, dtype=np.int64)[simple], pieces[:, 1]]),
        ends_ns=np.concatenate([np.array(records.ends_ns, dtype=np.int64)[simple], pieces[:, 2]]),
    )


def _columns_of(recording: Recording, intervals: _Intervals) -> Windows:
    """Put the session before its windows and clip everything to it."""
    records, run = recording.windows, recording.run
    ids = np.array(records.ids, dtype=np.int64)
    parents = np.array(records.parent_ids, dtype=np.int64)
    seconds = [
        (np.clip(times, run.start_ns, run.end_ns) - run.start_ns) * SECONDS_PER_NANOSECOND
        for times in (intervals.starts_ns, intervals.ends_ns)
    ]
    return Windows(
        parent=np.concatenate(([-1], _row_of(ids, parents))),
        owner=np.concatenate(([SESSION_ROW], _row_of(ids, intervals.ids))),
        start=np.concatenate(([0.0], seconds[0])),
        end=np.concatenate(([run.duration_seconds], seconds[1])),
        label=np.concatenate(([-1], np.array(records.labels, dtype=np.int64))),
    )


def _windows_by_device(recording: Recording, intervals: _Intervals, windows: Windows) -> dict[int, Windows]:
    """Return the windows by the times of each device, by CUDA's number."""
    times = recording.device
    if not len(times):
        return {}
    devices = np.array(times.devices, dtype=np.int64)
    position = intervals.positions(np.array(times.ids), np.array(times.pieces))
    found = {}
    for number, references in _references(times).items():
        mine = (devices == number) & (position >= 0)
        edges = []
        for column in (times.starts_ns, times.ends_ns):
            device_ns = np.array(column, dtype=np.int64)[mine]
            edge = np.full(len(windows.start), np.nan)
            # Row 0 is the session.
            edge[position[mine] + 1] = _host_seconds(device_ns, references, recording.run.start_ns)
            edges.append(edge)
        found[number] = on_device(windows, edges[0], edges[1], references.sigma_seconds)
    return found


def _references(times: DeviceTimes) -> dict[int, References]:
    """Return the references of each device."""
    devices = np.array(times.reference_devices, dtype=np.int64)
    device_ns = np.array(times.reference_device_ns, dtype=np.int64)
    host_ns = np.array(times.reference_host_ns, dtype=np.int64)
    half_widths_ns = np.array(times.reference_half_widths_ns, dtype=np.int64)
    return {
        number: References(device_ns[mine], host_ns[mine], half_widths_ns[mine])
        for number in np.unique(devices).tolist()
        for mine in [devices == number]
    }


def _host_seconds(
    device_ns: NDArray[np.int64], references: References, origin_ns: int
) -> NDArray[np.float64]:
    """Return a device's times in seconds; NaN where there is none, infinite where it is yet to come."""
    reached = (device_ns != NOT_MARKED) & (device_ns != NOT_REACHED)
    seconds = np.where(device_ns == NOT_REACHED, np.inf, np.nan)
    seconds[reached] = (references.host_times(device_ns[reached]) - origin_ns) * SECONDS_PER_NANOSECOND
    return seconds


def _synchronised(recording: Recording, intervals: _Intervals, metered: set[int]) -> NDArray[np.bool_]:
    """Tell which windows waited for the device, or have all their edges on one that is metered."""
    records, times = recording.windows, recording.device
    waits = np.array(records.flags, dtype=np.int64) & (SYNCHRONISED | SYNC_FAILED)
    waited = np.concatenate(([False], waits == SYNCHRONISED))
    if not len(times):
        return np.asarray(waited)
    position = intervals.positions(np.array(times.ids), np.array(times.pieces))
    marked = [np.zeros(len(intervals.ids), dtype=np.bool_) for _ in range(2)]
    for edge, column in zip(marked, (times.starts_ns, times.ends_ns), strict=True):
        device_ns = np.array(column, dtype=np.int64)
        known = (device_ns != NOT_MARKED) & (device_ns != NOT_REACHED) & (position >= 0)
        known &= np.isin(np.array(times.devices), list(metered))
        edge[position[known]] = True
    ids = np.array(records.ids, dtype=np.int64)
    complete = np.concatenate(([False], np.ones(len(ids), dtype=np.bool_)))
    complete[_row_of(ids, intervals.ids[~(marked[0] & marked[1])])] = False
    return np.asarray(waited | complete)


def _row_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows of window ids; the session's row for those that are not recorded."""
    if not len(ids):
        return np.zeros(len(wanted), dtype=np.int64)
    position = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[position] == wanted, position + 1, SESSION_ROW)
