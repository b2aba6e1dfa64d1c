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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.banded import halfway, log_determinants, rest_of_the_way
from mlmeter.energy.label_power import Design, Means, Scatter, Whitened, find_scatter, means_of
from mlmeter.energy.occupancy import CounterRecord, Occupancy, Segments, occupancy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Blocks that are solved at a time: many enough for speed, few enough for the processor's cache.
CHUNK_BLOCKS = 256
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
        label_covariance: of the energies of all segments of each label, statistical, in J^2, shape
            (labels, labels); None if not asked for.
        closure_ratio: sum of the energies before they were scaled / the counter's energy; more
            than 0.005 from 1 says that the model is wrong.
    """

    occupancy: Occupancy
    scatter: Scatter
    means: Means
    energies_joules: Floats
    closure_ratio: float
    label_covariance: Floats | None = None


def fit_phase_power(record: CounterRecord, segments: Segments) -> PhasePowerFit:
    """Fit the powers of all labels and the energies of all segments of a session.

    Args:
        record: rows of one counter.
        segments: the whole session, gaps included, each with its label; at least one.
    """
    parts = occupancy(record.about(segments.edges[0], segments.edges[-1]), segments)
    return solve(parts, find_scatter(parts))


def chunks(parts: Occupancy) -> list[Indices]:
    """Return the blocks, some hundreds at a time."""
    return [
        np.arange(first, min(first + CHUNK_BLOCKS, parts.blocks))
        for first in range(0, parts.blocks, CHUNK_BLOCKS)
    ]


def solve(parts: Occupancy, scatter: Scatter) -> PhasePowerFit:
    """Find powers and energies, given the scatter."""
    labels, weighted = parts.labels, []
    # Products of the covariances with each label's energy, and with each label's power.
    told, exposed = np.zeros((labels, labels)), np.zeros((labels, labels))

    def keep(_: int, design: Design, white: Whitened) -> None:
        gains = halfway(white.factor, design.gains(scatter)).reshape(labels, -1)
        np.add(told, gains @ gains.T, out=told)
        np.add(exposed, gains @ white.columns[:-1].reshape(labels, -1).T, out=exposed)
        weighted.append(rest_of_the_way(white.factor, white.columns))

    means = common_means([parts], scatter, keep)
    fit = _fit_of(parts, scatter, means, weighted)
    own = np.where(parts.part_segment >= 0, parts.part_seconds, 0.0)
    seconds = np.bincount(parts.part_label, own, minlength=labels)
    squares = np.bincount(parts.part_label, own**2, minlength=labels)
    exposure = np.diag(seconds) - exposed
    covariance = np.diag(scatter.watts**2 * squares + scatter.noise_density * seconds) - told
    covariance += exposure @ means.covariance @ exposure.T
    return replace(fit, label_covariance=covariance)


def solve_together(excerpts: Sequence[Occupancy], scatter: Scatter) -> list[PhasePowerFit]:
    """Find the powers that some parts of a session have in common, and the energies of each."""
    weighted: list[list[Floats]] = [[] for _ in excerpts]

    def keep(number: int, _: Design, white: Whitened) -> None:
        weighted[number].append(rest_of_the_way(white.factor, white.columns))

    means = common_means(excerpts, scatter, keep)
    return [
        _fit_of(parts, scatter, means, columns) for parts, columns in zip(excerpts, weighted, strict=True)
    ]


def common_means(
    excerpts: Sequence[Occupancy],
    scatter: Scatter,
    keep: Callable[[int, Design, Whitened], object] | None = None,
) -> Means:
    """Find the powers that some parts of a session have in common.

    Args:
        excerpts: the parts.
        scatter: of their labels.
        keep: called with the number of the excerpt and some of its blocks, chunk by chunk.
    """
    labels = excerpts[0].labels
    products, log_determinant = np.zeros((labels + 1, labels + 1)), 0.0
    for number, parts in enumerate(excerpts):
        for chosen in chunks(parts):
            design = Design.of(parts, chosen)
            white = design.whitened(scatter)
            products += white.products
            log_determinant += float(log_determinants(white.factor).sum())
            if keep is not None:
                keep(number, design, white)
    return means_of(excerpts[0], products, log_determinant)


def _fit_of(parts: Occupancy, scatter: Scatter, means: Means, weighted: Sequence[Floats]) -> PhasePowerFit:
    """Find the energies, given the powers.

    Args:
        parts, scatter, means: what is known.
        weighted: of each chunk V^-1 times its columns.
    """
    # What each interval has beyond what is expected of it, in units of its variance.
    excess = np.append(-(means.watts - parts.mean_watts), 1.0)
    pull = np.zeros(len(parts.part_label))
    for chosen, columns in zip(chunks(parts), weighted, strict=True):
        of_interval = np.tensordot(excess, columns, axes=1).ravel()
        pieces = parts.pieces_of(chosen)
        cell = parts.cells_of(parts.piece_interval[pieces], chosen)
        part = parts.piece_part[pieces]
        first = int(part[0]) if len(part) else 0
        summed = np.bincount(part - first, parts.piece_sensed_seconds[pieces] * of_interval[cell])
        pull[first : first + len(summed)] += summed
    energies, closure_ratio = _part_energies(parts, scatter, means, pull)
    by_segment = np.bincount(parts.part_segment + 1, energies, minlength=len(parts.segments.label) + 1)[1:]
    return PhasePowerFit(parts, scatter, means, by_segment.astype(np.float64), closure_ratio)


def _part_energies(parts: Occupancy, scatter: Scatter, means: Means, pull: Floats) -> tuple[Floats, float]:
    """Return the energy of each part, and the sum before it was made the counter's / the counter's.

    Args:
        parts, scatter, means: the fit.
        pull: A' V^-1 (y - X mu), shape (parts,).
    """
    limits = parts.record.min_watts, parts.record.max_watts
    watts, gain = means.watts[parts.part_label], scatter.watts[parts.part_label] ** 2
    inside, given = _fitted_seconds(parts)
    within = inside * watts + (gain * inside + scatter.noise_density) * pull
    # Beyond the first and the last refresh a segment goes on at its own power.
    beyond = parts.part_seconds - np.bincount(parts.piece_part, parts.piece_seconds, minlength=len(watts))
    energies = given + np.clip(watts + gain * pull, *limits) * np.maximum(beyond, 0.0)
    block = np.zeros(len(watts), dtype=np.int64)
    block[parts.piece_part] = parts.piece_interval // parts.size
    interval_block = np.arange(len(parts.joules)) // parts.size
    counted = np.bincount(interval_block, parts.joules * parts.usable, minlength=parts.blocks).astype(float)
    energies += _conserved(within, limits[0] * inside, limits[1] * inside, block, counted)
    total = float(counted.sum())
    return energies, float(within.sum()) / total if total > 0 else 1.0


def _fitted_seconds(parts: Occupancy) -> tuple[Floats, Floats]:
    """Return the seconds of each part in intervals that are fitted, and its joules in the others.

    Where a gap is, an interval's energy goes to its pieces by their lengths.
    """
    usable = parts.usable[parts.piece_interval]
    size = len(parts.part_label)
    inside = np.bincount(parts.piece_part, parts.piece_seconds * usable, minlength=size)
    if usable.all():
        return inside.astype(np.float64), np.zeros(size)
    watts = parts.joules / parts.seconds
    joules = parts.piece_seconds * watts[parts.piece_interval] * ~usable
    given = np.bincount(parts.piece_part, joules, minlength=size)
    return inside.astype(np.float64), given.astype(np.float64)


def _conserved(energies: Floats, low: Floats, high: Floats, block: Indices, totals: Floats) -> Floats:
    """Scale energies to the total of their block within limits, unless the limits contradict it.

    Args:
        energies, low, high: of each part, shape (parts,).
        block: of each part.
        totals: of each block, shape (blocks,).
    """

    def summed(values: Floats) -> Floats:
        return np.bincount(block, values, minlength=len(totals)).astype(np.float64)

    energies = np.clip(energies, low, high)
    # Where the limits contradict the counter, the counter is right and the limits are wrong.
    contradicted = ~((summed(low) < totals) & (totals < summed(high)))
    for _ in range(CLIP_ROUNDS):
        missing = totals - summed(energies)
        rising = (missing >= 0)[block]
        free = np.where(rising, energies < high, energies > low) | contradicted[block]
        base = summed(energies * free)
        open_blocks = (np.abs(missing) > CONSERVED_RATIO * totals) & (base > 0)
        if not open_blocks.any():
            break
        change = np.divide(missing, base, out=np.zeros_like(base), where=open_blocks)
        scaled = energies * (1 + change[block] * free)
        energies = np.where(contradicted[block], scaled, np.clip(scaled, low, high))
    return energies
