"""Which segment spends how much time in which interval of a counter.

A *segment* is a stretch of time in which the set of open windows does not change; an *interval*
is the time from one refresh of the counter to the next. Segments are cut into *parts* where a
block of intervals ends, so that blocks can be solved one by one, and parts are cut into *pieces*
where an interval ends. All times are float64 seconds since the session started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.uncertainty import UNIFORM_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

BLOCK_INTERVALS = 200
# The power of a segment is taken to be constant, which is not true for long ones: what is known
# at one end says little about the other.
LONGEST_PART_PERIODS = 12
END_PART_PERIODS = 6
# The scale of a counter that stood still: any power will do that is not 0.
LEAST_WATTS = 1e-6
# Two refreshes closer than this are one.
ROUNDING_SECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class CounterRecord:
    """When a counter changed, what it showed then, and the limits of what it counts.

    Attributes:
        after, before: bracket of each refresh in seconds, shape (rows,); `before` ascending.
        joules: cumulative energy, shape (rows,).
        resolution_joules: one count.
        min_watts, max_watts: limits of the domain's power.
        lag_seconds: a refresh shows what had been used so long before it.
    """

    after: Floats
    before: Floats
    joules: Floats
    resolution_joules: float
    min_watts: float
    max_watts: float
    lag_seconds: float = 0.0

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
        first = max(int(np.searchsorted(self.centres, start, side="right")) - 1, 0)
        rows = slice(first, int(np.searchsorted(self.centres, end)) + 1)
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


@dataclass(frozen=True, slots=True)
class Block:
    """A run of intervals that is solved at once.

    Attributes:
        seconds, joules: length and energy of each interval, shape (intervals,).
        instant_sigma_seconds: uncertainty of each refresh instant, shape (intervals + 1,).
        instant_watts: power about each refresh instant, shape (intervals + 1,).
        first_part: number of the block's first part among all parts.
        parts: how many parts the block has.
        interval, part: where each piece lies, from 0 within the block, shape (pieces,).
        piece_seconds: length of each piece, shape (pieces,).
    """

    seconds: Floats
    joules: Floats
    instant_sigma_seconds: Floats
    instant_watts: Floats
    first_part: int
    parts: int
    interval: Indices
    part: Indices
    piece_seconds: Floats

    @property
    def own(self) -> slice:
        """The block's parts among all parts."""
        return slice(self.first_part, self.first_part + self.parts)

    def collect(self, values: Floats) -> Floats:
        """Return the sum over intervals of value x occupancy, per part: A' v.

        Args:
            values: one per interval, shape (intervals,).
        """
        weights = self.piece_seconds * values[self.interval]
        return np.bincount(self.part, weights, minlength=self.parts).astype(np.float64)

    def occupancy_of(self, group: Indices, columns: int, weights: Floats | None = None) -> Floats:
        """Return the weighted seconds that groups of parts spend in each interval.

        Args:
            group: column of each part of the block, shape (parts,).
            columns: how many groups there are.
            weights: of each part, 1 if omitted.

        Returns:
            Shape (intervals, columns).
        """
        seconds = self.piece_seconds if weights is None else self.piece_seconds * weights[self.part]
        cells = self.interval * columns + group[self.part]
        flat = np.bincount(cells, seconds, minlength=len(self.seconds) * columns)
        return flat.reshape(len(self.seconds), columns).astype(np.float64)

    def scatter(self, variances: Floats) -> Floats:
        """Return A diag(variances) A', shape (intervals, intervals).

        A part within one interval adds to the diagonal only. Every other part contains a refresh
        instant, so there are no more of those than intervals: a small dense matrix.
        """
        size = len(self.seconds)
        crossing = np.bincount(self.part, minlength=self.parts) > 1
        across = crossing[self.part]
        column = np.cumsum(crossing) - 1
        wide = np.zeros((size, int(crossing.sum())))
        wide[self.interval[across], column[self.part[across]]] = self.piece_seconds[across]
        covariance = (wide * variances[crossing]) @ wide.T
        within = self.piece_seconds**2 * variances[self.part]
        within[across] = 0.0
        covariance[np.diag_indices(size)] += np.bincount(self.interval, within, minlength=size)
        return np.asarray(covariance, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """All parts of a session and the counter's intervals, ready to be fitted.

    Attributes:
        instants: refreshes as the fit takes them, ascending, shape (intervals + 1,).
        mean_watts: mean power between the first and the last refresh; the middle of what is
            possible if there are not two.
        record, segments: what this was made from.
        part_segment: segment of each part, -1 for time outside all segments, shape (parts,).
        part_label: label of each part, shape (parts,).
        part_seconds: length of each part, shape (parts,).
        inside_seconds: that of it which lies between the first and the last refresh.
        blocks: runs of intervals, in order of time.
    """

    instants: Floats
    mean_watts: float
    record: CounterRecord
    segments: Segments
    part_segment: Indices
    part_label: Indices
    part_seconds: Floats
    inside_seconds: Floats
    blocks: tuple[Block, ...]

    @property
    def labels(self) -> int:
        """How many labels there are."""
        return self.segments.labels

    @property
    def period_seconds(self) -> float:
        """Mean time from refresh to refresh."""
        return float(self.instants[-1] - self.instants[0]) / max(len(self.instants) - 1, 1)

    @property
    def scale_watts(self) -> float:
        """The mean power, or what the counter could not tell from none: one count a period."""
        count_watts = self.record.resolution_joules / max(self.period_seconds, ROUNDING_SECONDS)
        return max(self.mean_watts, count_watts, LEAST_WATTS)

    def chosen_blocks(self, most: int) -> tuple[Block, ...]:
        """Return at most so many blocks, evenly spread over the session."""
        picks = np.linspace(0, len(self.blocks) - 1, min(most, len(self.blocks)))
        return tuple(self.blocks[k] for k in np.unique(picks.round().astype(int)))


def occupancy(
    record: CounterRecord, segments: Segments, *, block_intervals: int = BLOCK_INTERVALS
) -> Occupancy:
    """Merge refreshes and segments into parts, pieces and blocks.

    Args:
        record: rows of the counter, not many more than the session has.
        segments: stretches of the session, at least one.
        block_intervals: intervals solved at once; the cost per interval grows with its square.
    """
    instants, sigma, joules = _instants(record, segments.edges[0])
    intervals = len(instants) - 1
    # Without any interval all powers are equally likely.
    mean_watts = (record.min_watts + record.max_watts) / 2
    period = 0.0
    if intervals:
        duration = float(instants[-1] - instants[0])
        mean_watts, period = float(joules[-1] - joules[0]) / duration, duration / intervals
    bounds = np.linspace(0, intervals, max(1, round(intervals / block_intervals)) + 1).round().astype(int)
    cuts, segment, label = _parts(segments, instants, instants[bounds[1:-1]], period)
    watts = _instant_watts(instants, joules, mean_watts, record)
    rows = np.stack([instants, joules, sigma, watts])
    return Occupancy(
        instants=instants,
        mean_watts=mean_watts,
        record=record,
        segments=segments,
        part_segment=segment,
        part_label=label,
        part_seconds=np.diff(cuts),
        inside_seconds=np.diff(np.clip(cuts, instants[0], instants[-1])),
        blocks=_blocks(rows, cuts, bounds) if intervals else (),
    )


def _instants(record: CounterRecord, start: float) -> tuple[Floats, Floats, Floats]:
    """Return instant, its standard uncertainty and joules of each refresh; `start` if there is none."""
    if not len(record.joules):
        return np.array([start]), np.zeros(1), np.zeros(1)
    centres = np.maximum.accumulate(record.centres)
    kept = np.append(np.diff(centres) > ROUNDING_SECONDS, True)
    sigma = (record.before - record.after) * UNIFORM_SIGMA
    return centres[kept], sigma[kept], record.joules[kept]


def _parts(
    segments: Segments, instants: Floats, block_ends: Floats, period: float
) -> tuple[Floats, Indices, Indices]:
    """Return the cuts between parts and the segment and label of each part."""
    edges = segments.edges
    long = np.diff(edges) > LONGEST_PART_PERIODS * period if period > 0 else np.zeros(len(edges) - 1, bool)
    ends = END_PART_PERIODS * period
    # The counter's time outside all segments takes the label of the segment beside it.
    outer = np.array([min(edges[0], instants[0]), max(edges[-1], instants[-1])])
    cuts = np.unique(
        np.concatenate([outer, edges, block_ends, edges[:-1][long] + ends, edges[1:][long] - ends])
    )
    segment = np.searchsorted(edges, cuts[:-1], side="right") - 1
    nearest = np.clip(segment, 0, len(segments.label) - 1)
    segment[segment == len(segments.label)] = -1
    return cuts, segment.astype(np.int64), segments.label[nearest]


def _blocks(rows: Floats, cuts: Floats, bounds: Indices) -> tuple[Block, ...]:
    """Cut parts into pieces and collect them by block.

    Args:
        rows: instant, joules, uncertainty of the instant and power there, shape (4, instants).
        cuts: between parts, shape (parts + 1,).
        bounds: instants at which blocks begin and end, shape (blocks + 1,).
    """
    instants = rows[0]
    edges = np.unique(np.concatenate([np.clip(cuts, instants[0], instants[-1]), instants]))
    middles = (edges[:-1] + edges[1:]) / 2
    # The middle of two neighbouring floats is one of them.
    part = np.clip(np.searchsorted(cuts, middles) - 1, 0, len(cuts) - 2)
    interval = np.clip(np.searchsorted(instants, middles) - 1, 0, len(instants) - 2)
    part_bounds = np.searchsorted(cuts, instants[bounds])
    # What lies before the first and after the last refresh belongs to the blocks beside it.
    part_bounds[0], part_bounds[-1] = 0, len(cuts) - 1
    piece_bounds = np.searchsorted(interval, bounds)
    blocks = []
    for number, (first, last) in enumerate(pairwise(bounds)):
        own, joules, sigma, watts = rows[:, first : last + 1]
        pieces = slice(piece_bounds[number], piece_bounds[number + 1])
        blocks.append(
            Block(
                seconds=np.diff(own),
                joules=np.diff(joules),
                instant_sigma_seconds=sigma,
                instant_watts=watts,
                first_part=int(part_bounds[number]),
                parts=int(part_bounds[number + 1] - part_bounds[number]),
                interval=interval[pieces] - first,
                part=part[pieces] - part_bounds[number],
                piece_seconds=np.diff(edges)[pieces],
            )
        )
    return tuple(blocks)


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
