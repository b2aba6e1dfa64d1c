"""Which segment spends how much time in which interval of a counter.

A *segment* is a stretch of time in which the set of open windows does not change; an *interval*
is the time from one refresh of the counter to the next. Segments are cut into *parts*, so that no
part lies in many intervals, and parts are cut into *pieces* where an interval ends. Intervals are
collected in *blocks* of one size, which are independent of each other: parts are cut at their ends
too. All times are float64 seconds since the session started.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.uncertainty import UNIFORM_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]
    # There are many pieces: their numbers are held in half of the memory.
    Compact = NDArray[np.int32]

BLOCK_INTERVALS = 100
# The power of a segment is taken to be constant, which is not true for long ones: what is known
# at one end says little about the other. It bounds the width of the covariance, too.
LONGEST_PART_INTERVALS = 12
END_PART_INTERVALS = 6
# The scale of a counter that stood still: any power will do that is not 0.
LEAST_WATTS = 1e-6
# Two refreshes closer than this are one.
ROUNDING_SECONDS = 1e-9
# Of an interval at the end of a session that tells the energy of its part in the session.
MOSTLY_INSIDE_RATIO = 0.9


@dataclass(frozen=True, slots=True)
class CounterRecord:
    """When a counter changed, what it showed then, and the limits of what it counts.

    Attributes:
        after, before: bracket of each refresh in seconds, shape (rows,); `before` ascending.
        joules: cumulative energy, shape (rows,).
        resolution_joules: one count.
        min_watts, max_watts: limits of the domain's power.
        lag_seconds: a refresh shows what had been used so long before it.
        sensed_ratio: share of each interval, at its end, that the counter watches; it takes the
            rest to be like it.
        gap_starts, gap_ends: spans in which energy may be missing, shape (gaps,).
    """

    after: Floats
    before: Floats
    joules: Floats
    resolution_joules: float
    min_watts: float
    max_watts: float
    lag_seconds: float = 0.0
    sensed_ratio: float = 1.0
    gap_starts: Floats = field(default_factory=lambda: np.zeros(0))
    gap_ends: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def centres(self) -> Floats:
        """Instants that the rows tell about, shape (rows,)."""
        return (self.after + self.before) / 2 - self.lag_seconds

    @property
    def prior_variance(self) -> float:
        """Variance of a power of which only the limits are known."""
        return ((self.max_watts - self.min_watts) * UNIFORM_SIGMA) ** 2

    def about(self, start: float, end: float) -> CounterRecord:
        """Return the rows from the last one before `start` to the first one after `end`."""
        centres = self.centres
        first = max(int(np.searchsorted(centres, start, side="right")) - 1, 0)
        rows = slice(first, int(np.searchsorted(centres, end)) + 1)
        return replace(self, after=self.after[rows], before=self.before[rows], joules=self.joules[rows])


@dataclass(frozen=True, slots=True)
class Segments:
    """Consecutive stretches of time, each with a label.

    Attributes:
        edges: boundaries in seconds, ascending, shape (segments + 1,).
        label: number of the label of each segment, from 0, shape (segments,).
        labels: how many labels there are.
    """

    edges: Floats
    label: Indices
    labels: int

    @property
    def seconds(self) -> Floats:
        """Length of each segment, shape (segments,)."""
        return np.diff(self.edges)

    def about(self, start: float, end: float) -> Segments:
        """Return the segments that `start` to `end` touches, with the same labels."""
        first = max(int(np.searchsorted(self.edges, start, side="right")) - 1, 0)
        last = min(int(np.searchsorted(self.edges, end)), len(self.label))
        return Segments(self.edges[first : last + 1], self.label[first:last], self.labels)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """All parts of a session and the counter's intervals, ready to be fitted.

    Attributes:
        record, segments: what this was made from.
        instants: refreshes as the fit takes them, ascending, shape (intervals + 1,).
        instant_sigma_seconds: uncertainty of each of them, shape (intervals + 1,).
        instant_watts: power about each of them, shape (intervals + 1,).
        seconds, joules: length and energy of each interval, shape (intervals,).
        usable: whether an interval is free of gaps and of time outside all segments, shape
            (intervals,); others say nothing of powers.
        within: whether an interval belongs to segments, but for a small part, shape (intervals,).
        timing_variance, shared_variance: variance of the energy of each interval from errors of
            time and counting, and its covariance with the next one, shape (intervals,).
        mean_watts: mean power between the first and the last refresh; the middle of what is
            possible if there are not two.
        part_segment: segment of each part, -1 for time outside all segments, shape (parts,).
        part_label: label of each part, shape (parts,).
        part_seconds: length of each part, shape (parts,).
        piece_interval, piece_part: where each piece lies, in order of time, shape (pieces,).
        piece_seconds: length of each piece.
        piece_sensed_seconds: by how much its power enters the energy of the interval: its length,
            or the part of it that is watched, as a share of all that is; 0 where not usable.
        size, blocks: intervals per block; how many blocks there are.
    """

    record: CounterRecord
    segments: Segments
    instants: Floats
    instant_sigma_seconds: Floats
    instant_watts: Floats
    seconds: Floats
    joules: Floats
    usable: NDArray[np.bool_]
    within: NDArray[np.bool_]
    timing_variance: Floats
    shared_variance: Floats
    mean_watts: float
    part_segment: Compact
    part_label: Indices
    part_seconds: Floats
    piece_interval: Compact
    piece_part: Compact
    piece_seconds: Floats
    piece_sensed_seconds: Floats
    size: int
    blocks: int

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return self.segments.labels

    @property
    def all_blocks(self) -> Indices:
        """Numbers of the blocks, shape (blocks,)."""
        return np.arange(self.blocks)

    @property
    def period_seconds(self) -> float:
        """Mean time from refresh to refresh."""
        return float(self.instants[-1] - self.instants[0]) / max(len(self.joules), 1)

    @property
    def scale_watts(self) -> float:
        """The mean power, or what the counter could not tell from none: one count a period."""
        count_watts = self.record.resolution_joules / max(self.period_seconds, ROUNDING_SECONDS)
        return max(self.mean_watts, count_watts, LEAST_WATTS)

    def occupied_seconds(self) -> Floats:
        """Return the seconds that each label spends in each interval, shape (intervals, labels)."""
        cells = self.piece_interval * self.labels + self.part_label[self.piece_part]
        flat = np.bincount(cells, self.piece_seconds, minlength=len(self.joules) * self.labels)
        return flat.reshape(len(self.joules), self.labels).astype(np.float64)

    def pieces_of(self, chosen: Indices) -> slice | Indices:
        """Return which pieces are in some blocks, in order of time."""
        # Numbers of another type would have all pieces converted.
        ends = (np.stack([chosen, chosen + 1]) * self.size).astype(self.piece_interval.dtype)
        if _consecutive(chosen):
            return slice(*np.searchsorted(self.piece_interval, ends[[0, -1], [0, -1]]).tolist())
        bounds = np.searchsorted(self.piece_interval, ends)
        return ranges(bounds[0], bounds[1])

    def cells_of(self, interval: Compact | Indices, chosen: Indices) -> Indices:
        """Return the places of intervals in an array of shape (size, chosen blocks), flat."""
        block, within = np.divmod(interval, self.size)
        if _consecutive(chosen):
            return np.asarray(within * len(chosen) + (block - int(chosen[0])), dtype=np.int64)
        column = np.zeros(self.blocks, dtype=np.int64)
        column[chosen] = np.arange(len(chosen))
        return np.asarray(within * len(chosen) + column[block], dtype=np.int64)

    def by_block(self, values: Floats | NDArray[np.bool_], chosen: Indices, beyond: float = 0.0) -> Floats:
        """Arrange one value per interval by blocks, with `beyond` where the last block is not full.

        Returns:
            Shape (size, chosen blocks).
        """
        if _consecutive(chosen) and (chosen[-1] + 1) * self.size <= len(values):
            first, last = int(chosen[0]) * self.size, int(chosen[-1] + 1) * self.size
            table = values[first:last].reshape(len(chosen), self.size).T
            return np.ascontiguousarray(table, dtype=np.float64)
        interval = chosen * self.size + np.arange(self.size)[:, None]
        if not len(values):
            return np.full(interval.shape, beyond)
        found = values[np.minimum(interval, len(values) - 1)]
        return np.asarray(np.where(interval < len(values), found, beyond), dtype=np.float64)


def _consecutive(chosen: Indices) -> bool:
    return len(chosen) > 0 and int(chosen[-1] - chosen[0]) + 1 == len(chosen)


def ranges(starts: Indices, ends: Indices) -> Indices:
    """Return the integers of half-open ranges, one range after the other."""
    counts = np.maximum(ends - starts, 0)
    skipped = np.cumsum(counts) - counts
    return np.asarray(np.arange(int(counts.sum())) + np.repeat(starts - skipped, counts), dtype=np.int64)


def occupancy(
    record: CounterRecord, segments: Segments, *, block_intervals: int = BLOCK_INTERVALS
) -> Occupancy:
    """Merge refreshes and segments into parts, pieces and blocks.

    Args:
        record: rows of the counter, not many more than the session has.
        segments: stretches of the session, at least one.
        block_intervals: about how many intervals a block has.
    """
    instants, sigma, joules = _instants(record, segments.edges[0])
    intervals = len(instants) - 1
    # Without any interval all powers are equally likely.
    mean_watts = (record.min_watts + record.max_watts) / 2
    if intervals:
        mean_watts = float(joules[-1] - joules[0]) / float(instants[-1] - instants[0])
    blocks = max(1, round(intervals / block_intervals))
    size = max(1, -(-intervals // blocks))
    blocks = max(1, -(-intervals // size))
    cuts, segment, label = _parts(segments, instants, size)
    interval, part, edges = _pieces(instants, cuts)
    inside, lengths = _inside_ratio(segments, instants), np.diff(edges)
    usable = _gapless(record, instants) & (inside > 1 - ROUNDING_SECONDS)
    watts = _instant_watts(instants, joules, mean_watts, record)
    own, shared = _timing_variances((watts * sigma) ** 2, usable, record.resolution_joules)
    return Occupancy(
        record=record,
        segments=segments,
        instants=instants,
        instant_sigma_seconds=sigma,
        instant_watts=watts,
        seconds=np.diff(instants),
        joules=np.diff(joules),
        usable=usable,
        within=inside >= MOSTLY_INSIDE_RATIO,
        timing_variance=own,
        shared_variance=shared,
        mean_watts=mean_watts,
        part_segment=segment,
        part_label=label,
        part_seconds=np.diff(cuts),
        piece_interval=interval,
        piece_part=part,
        piece_seconds=lengths,
        piece_sensed_seconds=_sensed_seconds(record, instants, edges, interval, usable),
        size=size,
        blocks=blocks,
    )


def _instants(record: CounterRecord, start: float) -> tuple[Floats, Floats, Floats]:
    """Return instant, its standard uncertainty and joules of each refresh; `start` if there is none."""
    if not len(record.joules):
        return np.array([start]), np.zeros(1), np.zeros(1)
    centres = np.maximum.accumulate(record.centres)
    kept = np.append(np.diff(centres) > ROUNDING_SECONDS, True)
    sigma = (record.before - record.after) * UNIFORM_SIGMA
    return centres[kept], sigma[kept], record.joules[kept]


def _parts(segments: Segments, instants: Floats, size: int) -> tuple[Floats, Compact, Indices]:
    """Return the cuts between parts and the segment and label of each part."""
    edges = segments.edges
    # The counter's time outside all segments takes the label of the segment beside it.
    outer = np.array([min(edges[0], instants[0]), max(edges[-1], instants[-1])])
    behind = np.searchsorted(instants, edges)
    on_instant = instants[np.minimum(behind, len(instants) - 1)] == edges
    first, last = behind[:-1] + on_instant[:-1], behind[1:]
    long = last - first >= LONGEST_PART_INTERVALS
    # Cut a long segment near both ends, and what is between into lengths that are allowed.
    near_end = last[long] - END_PART_INTERVALS
    lengths = near_end - (first[long] + END_PART_INTERVALS - 1)
    count = -(-lengths // LONGEST_PART_INTERVALS)
    step = ranges(np.zeros(len(count), dtype=np.int64), count)
    inner = np.repeat(first[long] + END_PART_INTERVALS - 1, count) + LONGEST_PART_INTERVALS * step
    cut_at = np.concatenate([inner, near_end, np.arange(size, len(instants) - 1, size)])
    cuts, _, segment = _merged(np.unique(np.concatenate([outer, instants[cut_at]])), edges)
    segment = segment[:-1]
    label = segments.label[np.clip(segment, 0, len(segments.label) - 1)]
    segment[segment == len(segments.label)] = -1
    return cuts, segment, label


def _merged(one: Floats, other: Floats) -> tuple[Floats, Compact, Compact]:
    """Merge two ascending arrays, each value once.

    Returns:
        The values, and of each the number of the last one in either array that is not above it, -1
        without any.
    """
    both = np.concatenate([one, other])
    # A stable sort takes what is sorted already as it is.
    order = np.argsort(both, kind="stable")
    both = both[order]
    of_other = order >= len(one)
    kept = np.append(both[1:] > both[:-1], True)
    numbers = (np.cumsum(which, dtype=np.int32)[kept] - 1 for which in (~of_other, of_other))
    return both[kept], *numbers


def _pieces(instants: Floats, cuts: Floats) -> tuple[Compact, Compact, Floats]:
    """Return interval and part of each piece, and the edges between pieces.

    Args:
        instants: refreshes, ascending, shape (intervals + 1,).
        cuts: between parts, ascending, from the first instant or before to the last or after.
    """
    # Cuts before the first refresh are all clipped to it: the last of them counts.
    edges, part, interval = _merged(np.clip(cuts, instants[0], instants[-1]), instants)
    return interval[:-1], np.minimum(part[:-1], len(cuts) - 2), edges


def _gapless(record: CounterRecord, instants: Floats) -> NDArray[np.bool_]:
    """Tell of each interval whether no gap touches it."""
    begun = np.searchsorted(record.gap_starts, instants[1:])
    ended = np.searchsorted(record.gap_ends, instants[:-1], side="right")
    return np.asarray(begun <= ended)


def _inside_ratio(segments: Segments, instants: Floats) -> Floats:
    """Return which part of each interval belongs to segments: what else is in it is not known."""
    inside = np.clip(instants, segments.edges[0], segments.edges[-1])
    return np.asarray(np.diff(inside) / np.maximum(np.diff(instants), ROUNDING_SECONDS), dtype=np.float64)


def _timing_variances(
    errors: Floats, usable: NDArray[np.bool_], resolution_joules: float
) -> tuple[Floats, Floats]:
    """Return what neighbouring intervals have of errors at refreshes: each its own, and with the next.

    Args:
        errors: variance of the energy up to each refresh, shape (intervals + 1,).
        usable: whether an interval says anything, shape (intervals,); of others any variance will do.
        resolution_joules: one count.
    """
    errors = errors + (resolution_joules * UNIFORM_SIGMA) ** 2
    own = np.where(usable, errors[:-1] + errors[1:], 1.0)
    shared = np.zeros(len(own))
    shared[:-1] = np.where(usable[:-1] & usable[1:], -errors[1:-1], 0.0)
    return own, shared


def _sensed_seconds(
    record: CounterRecord,
    instants: Floats,
    edges: Floats,
    interval: Compact,
    usable: NDArray[np.bool_],
) -> Floats:
    """Return by how much the power of each piece enters the energy of its interval, in seconds."""
    lengths = np.diff(edges)
    if record.sensed_ratio < 1.0:
        watched_from = instants[1:] - record.sensed_ratio * np.diff(instants)
        watched = edges[1:] - np.maximum(edges[:-1], watched_from[interval])
        lengths = np.maximum(watched, 0.0) / record.sensed_ratio
    return lengths if usable.all() else lengths * usable[interval]


def _instant_watts(instants: Floats, joules: Floats, mean_watts: float, record: CounterRecord) -> Floats:
    """Return the power about each refresh, at least the mean: an error of time x it is one of energy.

    It is that of both intervals beside the refresh together. Of each alone it would be wrong by
    the very error of time that it is to weigh, and intervals that seem to draw little would count
    for more: 2 % of the phase at windows of one period of a fast counter.
    """
    rows = np.arange(len(instants))
    before, after = np.maximum(rows - 1, 0), np.minimum(rows + 1, len(rows) - 1)
    seconds = instants[after] - instants[before]
    watts = np.full(len(instants), mean_watts)
    np.divide(joules[after] - joules[before], seconds, out=watts, where=seconds > 0)
    return np.asarray(np.maximum(np.clip(watts, record.min_watts, record.max_watts), mean_watts))
