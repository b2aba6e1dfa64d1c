"""Energy of segments shorter than a counter's period, from many of them: a linear fit.

The power of a segment is that of its label plus a deviation of its own plus white noise. Each
interval of the counter then says something about the segments in it, and all intervals together
about the labels. For segments much longer than the period the fit becomes interpolation with
corrected edges, for much shorter ones regression on occupancies; there is no threshold between.

The model, for intervals k, parts j (see `mlmeter.energy.occupancy`) and labels g(j):

    y = A p + noise,  p_j = mu_g(j) + e_j,  e_j ~ N(0, sd_g(j)^2),  mu_g ~ N(mean power, s0)
    V = A diag(sd^2) A' + D diag(watts^2 sigma_t^2 + q^2/12) D' + S diag(tau)

Its best linear unbiased prediction (Robinson 1991, doi:10.1214/ss/1177011926) with the labels'
powers integrated out gives values, covariances and the likelihood of the scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.banded import rest_of_the_way
from mlmeter.energy.label_power import Design, Means, Scatter, find_scatter, means_of, whitened_together
from mlmeter.energy.occupancy import LEAST_WATTS, CounterRecord, Occupancy, Segments, occupancy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Blocks that are solved at a time: many enough for speed, few enough for the processor's cache.
MOST_CHUNK_BLOCKS, FEWEST_CHUNK_BLOCKS, MOST_CHUNK_PIECES = 512, 16, 1 << 18
# Each round fixes at least one more part at a limit; few are needed.
CLIP_ROUNDS = 50
CONSERVED_RATIO = 1e-12


@dataclass(frozen=True, slots=True)
class PhasePowerFit:
    """What the counter says about the segments.

    Attributes:
        occupancy: what was fitted.
        scatter, means: the fitted parameters.
        energies_joules: of each segment, shape (segments,); with the counter's time outside all
            segments they add up to the counter.
        closure_ratio: sum of the energies before they were scaled / the counter's energy; more
            than 0.005 from 1 says that the model is wrong.
        label_covariance: of the energies of all segments of each label, statistical, in J^2, shape
            (labels, labels).
    """

    occupancy: Occupancy
    scatter: Scatter
    means: Means
    energies_joules: Floats
    closure_ratio: float
    label_covariance: Floats


@dataclass(frozen=True, slots=True)
class CommonFit:
    """What some parts of a session say together.

    Attributes:
        log_likelihood: of what they were fitted with; comparable for the same rows.
        label_joules: energy of each label in all of them, shape (labels,).
    """

    log_likelihood: float
    label_joules: Floats


def fit_phase_power(record: CounterRecord, segments: Segments) -> PhasePowerFit:
    """Fit the powers of all labels and the energies of all segments of a session.

    Args:
        record: rows of one counter.
        segments: the whole session, gaps included, each with its label; at least one.
    """
    parts = occupancy(record.about(segments.edges[0], segments.edges[-1]), segments)
    return solve(parts, find_scatter(parts))


def chunk_blocks(parts: Occupancy) -> int:
    """Return how many blocks are solved at a time."""
    blocks = MOST_CHUNK_PIECES * parts.blocks // max(len(parts.piece_part), 1)
    return min(max(blocks, FEWEST_CHUNK_BLOCKS), MOST_CHUNK_BLOCKS)


def chunks(parts: Occupancy) -> list[Indices]:
    """Return the blocks, some at a time."""
    step = chunk_blocks(parts)
    return [parts.all_blocks[first : first + step] for first in range(0, parts.blocks, step)]


def solve(parts: Occupancy, scatter: Scatter) -> PhasePowerFit:
    """Find powers and energies, given the scatter."""
    labels, weighted = parts.labels, []
    products, log_determinant = np.zeros((labels + 1, labels + 1)), 0.0
    # Products of the covariances with each label's energy, and with each label's power.
    told, exposed = np.zeros((labels, labels)), np.zeros((labels, labels))
    for chosen in chunks(parts):
        design = Design.of(parts, chosen)
        white = design.whitened(scatter, design.gains(scatter))
        products += white.products
        log_determinant += white.log_determinant
        gains = white.more.reshape(labels, -1)
        told += gains @ gains.T
        exposed += gains @ white.columns[:-1].reshape(labels, -1).T
        weighted.append((chosen, rest_of_the_way(white.factor, white.columns)))
    means = means_of(parts, products, log_determinant)
    energies, closure_ratio = _energies_of(parts, scatter, means, weighted)
    own = np.where(parts.part_segment >= 0, parts.part_seconds, 0.0)
    seconds = np.bincount(parts.part_label, own, minlength=labels)
    squares = np.bincount(parts.part_label, own**2, minlength=labels)
    exposure = np.diag(seconds) - exposed
    covariance = np.diag(scatter.watts**2 * squares + scatter.noise_density * seconds) - told
    covariance += exposure @ means.covariance @ exposure.T
    return PhasePowerFit(parts, scatter, means, energies, closure_ratio, covariance)


def solve_together(excerpts: Sequence[Occupancy], scatter: Scatter) -> CommonFit:
    """Find the powers that some parts of a session have in common, and the energies with these."""
    white = whitened_together([Design.of(parts, parts.all_blocks) for parts in excerpts], scatter)
    means = means_of(excerpts[0], white.products, white.log_determinant)
    weighted = rest_of_the_way(white.factor, white.columns)
    joules, first = np.zeros(excerpts[0].labels), 0
    for parts in excerpts:
        own = weighted[:, : parts.size, first : first + parts.blocks]
        first += parts.blocks
        energies, _ = _energies_of(parts, scatter, means, [(parts.all_blocks, own)])
        joules += label_joules(parts.segments, energies)
    return CommonFit(means.log_likelihood, joules)


def log_likelihoods(candidates: Sequence[Sequence[Occupancy]], scatter: Scatter) -> list[float]:
    """Return the log-likelihood of each candidate: some parts of a session with powers in common."""
    designs = [Design.of(parts, parts.all_blocks) for excerpts in candidates for parts in excerpts]
    white, first, found = whitened_together(designs, scatter), 0, []
    for excerpts in candidates:
        last = first + sum(parts.blocks for parts in excerpts)
        own, first = white.of_blocks(slice(first, last)), last
        found.append(means_of(excerpts[0], own.products, own.log_determinant).log_likelihood)
    return found


def label_joules(segments: Segments, energies_joules: Floats) -> Floats:
    """Add the energies of segments by label, shape (labels,)."""
    return np.bincount(segments.label, energies_joules, minlength=segments.labels).astype(np.float64)


def _energies_of(
    parts: Occupancy, scatter: Scatter, means: Means, weighted: Sequence[tuple[Indices, Floats]]
) -> tuple[Floats, float]:
    """Find the energy of each segment, given the powers, and the closure ratio.

    Args:
        parts, scatter, means: what is known.
        weighted: some blocks at a time, and V^-1 times their columns.
    """
    limits = parts.record.min_watts, parts.record.max_watts
    # What no interval tells of goes on at the power of its label.
    energies = np.clip(means.watts, *limits)[parts.part_label] * parts.part_seconds
    before_scaling = 0.0
    for chosen, columns in weighted:
        own = _ChunkParts.of(parts, chosen)
        if own is None:
            continue
        energies[own.parts], fitted = _chunk_energies(own, parts, scatter, means, columns)
        before_scaling += fitted
    counted = float(parts.joules[parts.usable].sum())
    by_segment = np.bincount(parts.part_segment + 1, energies, minlength=len(parts.segments.label) + 1)[1:]
    return by_segment.astype(np.float64), before_scaling / counted if counted > 0 else 1.0


@dataclass(frozen=True, slots=True)
class _ChunkParts:
    """Parts in some consecutive blocks: few enough for the processor's cache.

    Attributes:
        parts, pieces: which of all.
        part: of each piece, counted from 0 within the chunk, shape (pieces,).
        cell: place of each piece in an array of shape (size, blocks).
        block: of each part, counted from 0 within the chunk, shape (parts,).
        totals: counter's energy in each block, without gaps, shape (blocks,).
    """

    parts: slice
    pieces: slice | Indices
    part: NDArray[np.int32]
    cell: Indices
    block: Indices
    totals: Floats

    @classmethod
    def of(cls, parts: Occupancy, chosen: Indices) -> _ChunkParts | None:
        """Collect the parts; None if there are none."""
        first, last = int(chosen[0]) * parts.size, (int(chosen[-1]) + 1) * parts.size
        pieces = parts.pieces_of(chosen)
        part, interval = parts.piece_part[pieces], parts.piece_interval[pieces]
        if not len(part):
            return None
        own = slice(int(part[0]), int(part[-1]) + 1)
        block = np.zeros(own.stop - own.start, dtype=np.int64)
        block[part - own.start] = interval // parts.size - chosen[0]
        joules = parts.joules[first:last] * parts.usable[first:last]
        totals = np.add.reduceat(joules, np.arange(0, len(joules), parts.size))
        cell = parts.cells_of(interval, chosen)
        return cls(own, pieces, part - own.start, cell, block, totals)

    def collect(self, values: Floats) -> Floats:
        """Return the sum of values of pieces by part, shape (parts,)."""
        return np.bincount(self.part, values, minlength=len(self.block)).astype(np.float64)


def _chunk_energies(
    own: _ChunkParts, parts: Occupancy, scatter: Scatter, means: Means, columns: Floats
) -> tuple[Floats, float]:
    """Return the energy of each part of a chunk, and their sum before it was made the counter's."""
    least, most = parts.record.min_watts, parts.record.max_watts
    label, lengths = parts.part_label[own.parts], parts.piece_seconds[own.pieces]
    watts, gain = means.watts[label], (scatter.watts**2)[label]
    # What each interval has beyond what is expected of it, in units of its variance.
    excess = np.append(-(means.watts - parts.mean_watts), 1.0)
    of_interval = np.tensordot(excess, columns, axes=1).ravel()
    pull = own.collect(parts.piece_sensed_seconds[own.pieces] * of_interval[own.cell])
    interval = parts.piece_interval[own.pieces]
    usable = parts.usable[interval]
    inside, given = own.collect(lengths * usable), np.zeros(len(label))
    beyond = parts.part_seconds[own.parts] - inside
    if not usable.all():
        # An interval with a gap gives its energy to its pieces in proportion to what is expected of
        # them. One that is not in the session for the most part says nothing: a segment goes on at
        # its own power.
        broken = lengths * ~usable * parts.within[interval]
        expected = broken * np.clip(watts, LEAST_WATTS, None)[own.part]
        first = int(interval[0])
        sums = np.bincount(interval - first, expected)[interval - first]
        ratio = np.divide(parts.joules[interval], sums, out=np.zeros(len(sums)), where=sums > 0)
        given = own.collect(expected * ratio)
        beyond -= own.collect(broken)
    within = inside * watts + (gain * inside + scatter.noise_density) * pull
    # Beyond the first and the last refresh a segment goes on at its own power.
    given += np.clip(watts + gain * pull, least, most) * np.maximum(beyond, 0.0)
    scaled = _conserved(within, least * inside, most * inside, own.block, own.totals)
    return given + scaled, float(within.sum())


def _conserved(energies: Floats, low: Floats, high: Floats, block: Indices, totals: Floats) -> Floats:
    """Scale energies to the total of their block within limits, unless the limits contradict it.

    Args:
        energies, low, high: of each part, shape (parts,).
        block: of each part.
        totals: of each block, shape (blocks,).
    """

    def summed(values: Floats) -> Floats:
        return np.bincount(block, values, minlength=len(totals)).astype(np.float64)

    # Where the limits contradict the counter, the counter is right and the limits are wrong.
    contradicted = (~((summed(low) < totals) & (totals < summed(high))))[block]
    low, high = np.where(contradicted, 0.0, low), np.where(contradicted, np.inf, high)
    energies = np.clip(energies, low, high)
    for _ in range(CLIP_ROUNDS):
        missing = totals - summed(energies)
        free = np.where((missing >= 0)[block], energies < high, energies > low)
        base = summed(energies * free)
        open_blocks = (np.abs(missing) > CONSERVED_RATIO * totals) & (base > 0)
        if not open_blocks.any():
            break
        change = np.divide(missing, base, out=np.zeros_like(base), where=open_blocks)
        energies = np.clip(energies * (1 + change[block] * free), low, high)
    return energies
