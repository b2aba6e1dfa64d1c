"""Statistical variances of the energies of groups of segments under a fit.

The variance of a group is that of its own deviations, less what the counter tells of them, plus
that of the labels' powers. Windows in one interval of the counter are anticorrelated: the
variance of a sum cannot be had from those of its parts, so each group is asked for as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.banded import factorise, halfway, inverse_band, rest_of_the_way
from mlmeter.energy.label_power import Design
from mlmeter.energy.membership import Membership, join
from mlmeter.energy.occupancy import Occupancy
from mlmeter.energy.phase_power import PhasePowerFit, chunk_blocks, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Groups that are long in one block, as when very many windows overlap; the others of them are
# not told.
MOST_LONG_GROUPS = 400
# Groups x intervals / cells, up to which a table of all is made.
MOST_CELLS_RATIO = 4


@dataclass(frozen=True, slots=True)
class _Cells:
    """Covariance of each group's energy with that of each interval that it is in.

    Ordered by chunk of blocks, group and interval, without duplicates; shape (cells,).
    """

    group: Indices
    interval: Indices
    joules: Floats

    def __getitem__(self, where: slice | NDArray[np.bool_]) -> _Cells:
        return _Cells(self.group[where], self.interval[where], self.joules[where])


def group_variances(fit: PhasePowerFit, members: Membership) -> Floats:
    """Return the variance of each group's energy in J^2; infinite where it is not told.

    Cost and memory grow with the number of memberships.

    Args:
        fit: the fitted session.
        members: the groups.
    """
    parts, scatter = fit.occupancy, fit.scatter
    # Time before all segments has number 0, and time after them the last one.
    numbers = parts.part_segment + 1
    numbers[-1] = numbers[-1] or len(parts.segments.label) + 1
    order = np.argsort(members.segment, kind="stable")
    member, part = join(numbers, members.segment[order] + 1)
    group, weight = members.group[order][member], members.weight[order][member]
    seconds, label = parts.part_seconds[part] * weight, parts.part_label[part]
    # Covariance of a part's energy with its mean power, as the counter sees it.
    gain = (scatter.watts[label] ** 2 * parts.part_seconds[part] + scatter.noise_density) * weight
    variances = np.bincount(group, gain * seconds, minlength=members.groups).astype(np.float64)
    exposure = np.bincount(
        group * parts.labels + label, seconds, minlength=members.groups * parts.labels
    ).astype(np.float64)
    cells = _cells_of(fit, part, group, gain)
    per_chunk = chunk_blocks(parts) * parts.size
    chosen_chunks = chunks(parts)
    bounds = np.searchsorted(cells.interval // per_chunk, np.arange(len(chosen_chunks) + 1))
    for number, chosen in enumerate(chosen_chunks):
        own = cells[bounds[number] : bounds[number + 1]]
        if len(own.group):
            _tell(fit, chosen, own, variances, exposure)
    exposure = exposure.reshape(members.groups, parts.labels)
    variances += np.einsum("gi,gi->g", exposure @ fit.means.covariance, exposure)
    return np.maximum(variances, 0.0)


def _cells_of(fit: PhasePowerFit, part: Indices, group: Indices, gain: Floats) -> _Cells:
    """Return the cells of groups of parts.

    Args:
        fit: the fitted session.
        part, group, gain: of each member, in order of the parts, shape (members,).
    """
    parts = fit.occupancy
    member, piece = join(parts.piece_part, part)
    interval = parts.piece_interval[piece].astype(np.int64)
    joules = parts.piece_sensed_seconds[piece] * gain[member]
    group = group[member]
    intervals = max(len(parts.joules), 1)
    groups = int(group.max(initial=0)) + 1
    if groups * intervals <= MOST_CELLS_RATIO * len(group):
        # Few groups that are everywhere, as phases are: counting is faster than sorting.
        flat = np.bincount(group * intervals + interval, joules).astype(np.float64)
        return _dense_cells(flat, groups, intervals, parts)
    chunk = interval // (chunk_blocks(parts) * parts.size)
    key = (chunk * groups + group) * intervals + interval
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    summed = np.add.reduceat(joules[order], first) if len(first) else np.zeros(0)
    return _Cells(group[order][first], interval[order][first], summed)


def _dense_cells(joules: Floats, groups: int, intervals: int, parts: Occupancy) -> _Cells:
    """Return the cells of a table of groups and intervals, shape (groups x intervals,), by chunks."""
    table = np.pad(joules, (0, groups * intervals - len(joules))).reshape(groups, intervals)
    per_chunk = chunk_blocks(parts) * parts.size
    found = []
    for start in range(0, intervals, per_chunk):
        group, interval = np.nonzero(table[:, start : start + per_chunk])
        found.append(_Cells(group, interval + start, table[group, interval + start]))
    return _Cells(
        np.concatenate([cells.group for cells in found]),
        np.concatenate([cells.interval for cells in found]),
        np.concatenate([cells.joules for cells in found]),
    )


def _tell(fit: PhasePowerFit, chosen: Indices, cells: _Cells, variances: Floats, exposure: Floats) -> None:
    """Take from variances and exposures what some blocks tell of groups."""
    parts = fit.occupancy
    design = Design.of(parts, chosen)
    factor = factorise(design.covariance(fit.scatter))
    powers = rest_of_the_way(factor, halfway(factor, design.columns[:-1]))
    place = parts.cells_of(cells.interval, chosen)
    for label, column in enumerate(powers):
        told = cells.joules * column.ravel()[place]
        np.subtract.at(exposure, cells.group * parts.labels + label, told)
    width = len(factor) - 1
    block = cells.interval // parts.size
    begins = np.flatnonzero((np.diff(cells.group, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0))
    run = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(block)))
    last = np.append(begins[1:], len(block)) - 1
    long = (cells.interval[last] - cells.interval[begins] > width)[run]
    _tell_short(inverse_band(factor), cells[~long], place[~long], run[~long], variances)
    if long.any():
        _tell_long(factor, cells[long], place[long], run[long], variances)


def _tell_short(inverse: Floats, cells: _Cells, place: Indices, run: Indices, variances: Floats) -> None:
    """Groups in few intervals: products of their cells with the inverse of the covariance."""
    flat = inverse.reshape(len(inverse), -1)
    np.subtract.at(variances, cells.group, cells.joules**2 * flat[0][place])
    late = np.arange(1, len(run))
    for distance in range(1, len(inverse)):
        late = late[late >= distance]
        late = late[run[late] == run[late - distance]]
        if not len(late):
            return
        early = late - distance
        entry = flat[cells.interval[late] - cells.interval[early], place[early]]
        np.subtract.at(variances, cells.group[late], 2 * cells.joules[late] * cells.joules[early] * entry)


def _tell_long(factor: Floats, cells: _Cells, place: Indices, run: Indices, variances: Floats) -> None:
    """Groups in many intervals: columns to solve for, of as few as there are in each block."""
    size, blocks = factor.shape[1:]
    column = place % blocks
    first = np.flatnonzero(np.diff(run, prepend=-1))
    slot_of_run = np.zeros(len(first), dtype=np.int64)
    by_block = np.argsort(column[first], kind="stable")
    starts = np.searchsorted(column[first][by_block], np.arange(blocks))
    slot_of_run[by_block] = np.arange(len(first)) - starts[column[first][by_block]]
    slot = np.repeat(slot_of_run, np.diff(first, append=len(run)))
    untold = slot >= MOST_LONG_GROUPS
    variances[cells.group[untold]] = np.inf
    slots = min(int(slot.max()) + 1, MOST_LONG_GROUPS)
    columns = np.zeros((slots, size * blocks))
    columns[slot[~untold], place[~untold]] = cells.joules[~untold]
    told = (halfway(factor, columns.reshape(slots, size, blocks)) ** 2).sum(axis=1)
    kept = slot_of_run < MOST_LONG_GROUPS
    np.subtract.at(variances, cells.group[first][kept], told[slot_of_run[kept], column[first][kept]])
