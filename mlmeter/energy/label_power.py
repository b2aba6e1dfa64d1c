"""Likelihood of the powers of labels and of how much they scatter.

The model of `mlmeter.energy.phase_power`, many blocks at once; the labels' powers are integrated
out, each with a uniform prior's variance over what is possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.banded import beside, factorise, halfway, log_determinants
from mlmeter.energy.occupancy import Occupancy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Where the likelihood is searched, and what is taken to be likely before.
SCATTER_RATIOS = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.8, 1.5)
NOISE_RATIOS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 100.0, 300.0)
USUAL_SCATTER_RATIO, SCATTER_LOG_SIGMA = 0.15, 0.7
USUAL_NOISE_RATIO, NOISE_LOG_SIGMA = 1.0, 1.5
# The search looks at some blocks of the whole session and at some with most of each label.
SEARCH_BLOCKS, SEARCH_BLOCKS_PER_LABEL = 8, 1
SEARCH_SWEEPS = 3
# A label of low power still scatters by a share of this share of the mean power.
LEAST_SCATTER_WATTS_RATIO = 0.2
# White noise of ratio 1: a tenth of the mean power, in pieces of 1 ms.
NOISE_WATTS_RATIO, NOISE_SECONDS = 0.1, 1e-3


@dataclass(frozen=True, slots=True)
class Scatter:
    """How much power varies within a label and within a segment.

    Attributes:
        ratios: relative scatter of each label, shape (labels,).
        watts: scatter of each label, shape (labels,).
        noise_ratio: strength of the white noise, 1 is usual.
        noise_density: the same in W^2 s.
    """

    ratios: Floats
    watts: Floats
    noise_ratio: float
    noise_density: float

    @classmethod
    def of(cls, ratios: Floats, noise_ratio: float, means_watts: Floats, scale_watts: float) -> Scatter:
        """Turn ratios into watts."""
        watts = ratios * np.maximum(means_watts, LEAST_SCATTER_WATTS_RATIO * scale_watts)
        density = noise_ratio * (NOISE_WATTS_RATIO * scale_watts) ** 2 * NOISE_SECONDS
        return cls(ratios, watts, noise_ratio, density)


@dataclass(frozen=True, slots=True)
class Means:
    """Powers of the labels, given the scatter.

    Attributes:
        watts: best power of each label, shape (labels,).
        covariance: of these, shape (labels, labels).
        log_likelihood: of the scatter, up to a constant of the counter's rows.
    """

    watts: Floats
    covariance: Floats
    log_likelihood: float


def search_blocks(parts: Occupancy, most: int = SEARCH_BLOCKS) -> Indices:
    """Return the blocks that a search looks at: evenly spread ones and those with most of a label."""
    spread = np.linspace(0, parts.blocks - 1, min(most, parts.blocks)).round().astype(np.int64)
    cells = parts.piece_interval // parts.size * parts.labels + parts.part_label[parts.piece_part]
    flat = np.bincount(cells, parts.piece_seconds, minlength=parts.blocks * parts.labels)
    fullest = np.argsort(flat.reshape(parts.blocks, parts.labels), axis=0)[-SEARCH_BLOCKS_PER_LABEL:]
    return np.unique(np.concatenate([spread, fullest.ravel()]))


def find_scatter(parts: Occupancy) -> Scatter:
    """Find the likeliest scatter of each label and of the noise, on a few blocks.

    Coordinate ascent on fixed grids, with a mild preference for what is usual: few events then
    give usual scatter instead of false certainty.
    """
    design = Design.of(parts, search_blocks(parts))
    ratios, noise_ratio = np.full(parts.labels, USUAL_SCATTER_RATIO), USUAL_NOISE_RATIO
    watts = np.full(parts.labels, parts.mean_watts)
    scatter = Scatter.of(ratios, noise_ratio, watts, parts.scale_watts)
    present = np.unique(design.label)
    for _ in range(SEARCH_SWEEPS):
        start = scatter
        white = design.whitened(scatter)
        watts = means_of(parts, white.products, white.log_determinant).watts
        for label in present:
            trials = np.tile(scatter.ratios, (len(SCATTER_RATIOS), 1))
            trials[:, label] = SCATTER_RATIOS
            candidates = [
                Scatter.of(trial, scatter.noise_ratio, watts, parts.scale_watts) for trial in trials
            ]
            amplitudes = np.array([candidate.watts[label] ** 2 for candidate in candidates])
            penalties = _penalties(SCATTER_RATIOS, USUAL_SCATTER_RATIO, SCATTER_LOG_SIGMA)
            scatter = _likeliest(parts, design, candidates, amplitudes, design.unit(label), penalties)
        candidates = [Scatter.of(scatter.ratios, ratio, watts, parts.scale_watts) for ratio in NOISE_RATIOS]
        amplitudes = np.array([candidate.noise_density for candidate in candidates])
        penalties = _penalties(NOISE_RATIOS, USUAL_NOISE_RATIO, NOISE_LOG_SIGMA)
        scatter = _likeliest(parts, design, candidates, amplitudes, design.noise[None], penalties)
        if scatter.noise_ratio == start.noise_ratio and (scatter.ratios == start.ratios).all():
            break
    return scatter


@dataclass(frozen=True, slots=True)
class Design:
    """Some blocks with what does not depend on the scatter.

    Attributes:
        chosen: which blocks, shape (blocks,).
        label, cell, seconds: label, place in (size, blocks) and seconds of each piece.
        neighbours: per distance 1, 2, ... in intervals, pairs of pieces of one part: those that
            have a piece so long before them.
        columns: seconds of each label and, last, energies beyond the mean power; shape
            (labels + 1, size, blocks).
        part_seconds: length of each piece's part; 0 for time outside all segments.
        fixed: band of the covariance from timing and counting, which neighbours share with
            opposite signs, shape (2, size, blocks).
        noise: covariance of white noise of density 1, shape (size, blocks).
    """

    chosen: Indices
    label: Indices
    cell: Indices
    seconds: Floats
    neighbours: tuple[Indices, ...]
    columns: Floats
    part_seconds: Floats
    fixed: Floats
    noise: Floats

    @classmethod
    def of(cls, parts: Occupancy, chosen: Indices) -> Design:
        """Collect what some blocks say."""
        pieces = parts.pieces_of(chosen)
        part, seconds = parts.piece_part[pieces], parts.piece_sensed_seconds[pieces]
        label = parts.part_label[part]
        cell = parts.cells_of(parts.piece_interval[pieces], chosen)
        shape = parts.labels + 1, parts.size, len(chosen)
        size = shape[1] * shape[2]
        flat = np.bincount(label * size + cell, seconds, minlength=shape[0] * size)
        columns = flat.reshape(shape).astype(np.float64)
        usable = parts.by_block(parts.usable, chosen)
        joules = parts.by_block(parts.joules, chosen) * usable
        columns[-1] = joules - parts.mean_watts * columns[:-1].sum(axis=0)
        fixed = parts.by_block(parts.timing_variance, chosen, beyond=1.0)
        shared = parts.by_block(parts.shared_variance, chosen)
        shared[-1] = 0.0
        return cls(
            chosen,
            label,
            cell,
            seconds,
            _neighbours(part),
            columns,
            parts.part_seconds[part] * (parts.part_segment[part] >= 0),
            np.stack([fixed, shared]),
            parts.by_block(parts.seconds, chosen) * usable / parts.record.sensed_ratio,
        )

    def unit(self, label: int | None = None, variances: Floats | None = None) -> Floats:
        """Return the band of the covariance of deviations.

        Args:
            label: the only one that deviates, by 1 W.
            variances: of all labels, shape (labels,), instead.
        """
        own = (self.label == label).astype(np.float64) if variances is None else variances[self.label]
        band = np.zeros((max(len(self.neighbours), 1) + 1, self.noise.size))
        band[0] = np.bincount(self.cell, own * self.seconds**2, minlength=self.noise.size)
        for distance, late in enumerate(self.neighbours, start=1):
            early = late - distance
            products = own[late] * self.seconds[late] * self.seconds[early]
            band[distance] = np.bincount(self.cell[early], products, minlength=self.noise.size)
        return band.reshape(-1, *self.noise.shape)

    def covariance(self, scatter: Scatter) -> Floats:
        """Return the band of V, shape (width + 1, size, blocks)."""
        band = self.unit(variances=scatter.watts**2)
        band[:2] += self.fixed
        band[0] += scatter.noise_density * self.noise
        return band

    def gains(self, scatter: Scatter) -> Floats:
        """Return the covariance of each label's energy with that of each interval.

        Returns:
            Shape (labels, size, blocks).
        """
        watts2 = scatter.watts[self.label] ** 2 * self.part_seconds + scatter.noise_density
        joules = watts2 * self.seconds * (self.part_seconds > 0)
        labels, size = len(self.columns) - 1, self.noise.size
        flat = np.bincount(self.label * size + self.cell, joules, minlength=labels * size)
        return flat.reshape(labels, *self.noise.shape).astype(np.float64)

    def whitened(self, scatter: Scatter, more: Floats | None = None) -> Whitened:
        """Return the columns in units of their standard deviations.

        Args:
            scatter: of labels and noise.
            more: further columns, shape (columns, size, blocks).
        """
        factor = factorise(self.covariance(scatter))
        columns = self.columns if more is None else np.concatenate([self.columns, more])
        found = halfway(factor, columns)
        return Whitened(factor, found[: len(self.columns)], found[len(self.columns) :])


def whitened_together(designs: Sequence[Design], scatter: Scatter) -> Whitened:
    """Return the columns of small designs, their blocks beside each other: a step for each costs more."""
    factor = factorise(beside([design.covariance(scatter) for design in designs], diagonal=1.0))
    columns = halfway(factor, beside([design.columns for design in designs]))
    return Whitened(factor, columns, columns[:0])


@dataclass(frozen=True, slots=True)
class Whitened:
    """Columns, and further ones, in units of their standard deviations; the band of the factor of V."""

    factor: Floats
    columns: Floats
    more: Floats

    def of_blocks(self, blocks: slice) -> Whitened:
        """Return some of the blocks."""
        return Whitened(self.factor[..., blocks], self.columns[..., blocks], self.more[..., blocks])

    @property
    def products(self) -> Floats:
        """Sums over all intervals of products of columns, shape (columns, columns)."""
        flat = self.columns.reshape(len(self.columns), -1)
        return np.asarray(flat @ flat.T, dtype=np.float64)

    @property
    def log_determinant(self) -> float:
        """Of the covariances of all blocks."""
        return float(log_determinants(self.factor).sum())


def _neighbours(part: NDArray[np.int32]) -> tuple[Indices, ...]:
    """Return, per distance, the pieces whose part also has the piece so long before."""
    found: list[Indices] = []
    late = np.arange(1, len(part))
    while len(late):
        distance = len(found) + 1
        late = late[late >= distance]
        late = late[part[late] == part[late - distance]]
        found.append(late)
    return tuple(found[:-1])


def means_of(parts: Occupancy, products: Floats, log_determinant: float) -> Means:
    """Return the powers of the labels from sums over blocks.

    Args:
        parts: what is fitted.
        products: of whitened columns, shape (labels + 1, labels + 1).
        log_determinant: of the covariance.
    """
    information, above_mean, scores = _solved(parts, products[None], np.array([log_determinant]))
    return Means(
        watts=parts.mean_watts + above_mean[0],
        covariance=np.asarray(np.linalg.inv(information[0]), dtype=np.float64),
        log_likelihood=float(scores[0]),
    )


def _solved(parts: Occupancy, products: Floats, log_determinants: Floats) -> tuple[Floats, Floats, Floats]:
    """Return information, powers beyond the mean power and log-likelihood of each of some candidates.

    Args:
        parts: what is fitted.
        products: of whitened columns, shape (candidates, labels + 1, labels + 1).
        log_determinants: of the covariances, shape (candidates,).
    """
    labels, prior_variance = parts.labels, parts.record.prior_variance
    information = products[:, :-1, :-1] + np.eye(labels) / prior_variance
    solved = np.linalg.solve(information, products[:, :-1, -1:])
    above_mean = np.asarray(solved[:, :, 0], dtype=np.float64)
    determinants = log_determinants + np.linalg.slogdet(information)[1] + labels * np.log(prior_variance)
    misfits = products[:, -1, -1] - (above_mean * products[:, :-1, -1]).sum(axis=1)
    return information, above_mean, np.asarray(-(determinants + misfits) / 2, dtype=np.float64)


def _likeliest(
    parts: Occupancy,
    design: Design,
    candidates: Sequence[Scatter],
    amplitudes: Floats,
    unit: Floats,
    penalties: Floats,
) -> Scatter:
    """Return the best of some candidates that differ in one term of the covariance only.

    Args:
        parts, design: what is fitted.
        candidates: what to choose from.
        amplitudes: of the term, shape (candidates,).
        unit: band of the term for amplitude 1; it may have fewer diagonals.
        penalties: taken from the log-likelihoods, shape (candidates,).
    """
    first = design.covariance(candidates[0])
    count, blocks = len(candidates), first.shape[2]
    # All candidates are factorised together, as blocks beside each other.
    bands = np.tile(first, count)
    added = (amplitudes - amplitudes[0])[:, None] * np.ones(blocks)
    bands[: len(unit)] += np.tile(unit, count) * added.ravel()
    factor = factorise(bands)
    white = halfway(factor, np.tile(design.columns, count))
    white = white.reshape(len(design.columns), -1, count, blocks).transpose(2, 0, 1, 3)
    white = np.ascontiguousarray(white).reshape(count, len(design.columns), -1)
    products = white @ white.transpose(0, 2, 1)
    determinants = log_determinants(factor).reshape(count, blocks).sum(axis=1)
    _, _, scores = _solved(parts, products, determinants)
    return candidates[int((scores - penalties).argmax())]


def _penalties(ratios: Sequence[float], usual: float, log_sigma: float) -> Floats:
    return np.asarray(np.log(np.array(ratios) / usual) ** 2 / (2 * log_sigma**2))
