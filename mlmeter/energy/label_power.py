"""Likelihood of the powers of labels and of how much they scatter.

The model of `mlmeter.energy.phase_power`, block by block; the labels' powers are integrated out,
each with a uniform prior's variance over what is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.occupancy import Block, Occupancy
from mlmeter.energy.uncertainty import UNIFORM_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# Where the likelihood is searched, and what is taken to be likely before.
SCATTER_RATIOS = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45)
NOISE_RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
USUAL_SCATTER_RATIO, SCATTER_LOG_SIGMA = 0.15, 0.7
USUAL_NOISE_RATIO, NOISE_LOG_SIGMA = 1.0, 1.5
SEARCH_BLOCKS = 4
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


def find_scatter(parts: Occupancy) -> Scatter:
    """Find the likeliest scatter of each label and of the noise, on a few blocks.

    Coordinate ascent on fixed grids, with a mild preference for what is usual: few events then
    give usual scatter instead of false certainty.
    """
    design = [Design.of(parts, block) for block in parts.chosen_blocks(SEARCH_BLOCKS)]
    ratios, noise_ratio = np.full(parts.labels, USUAL_SCATTER_RATIO), USUAL_NOISE_RATIO
    watts = np.full(parts.labels, parts.mean_watts)
    scatter = Scatter.of(ratios, noise_ratio, watts, parts.scale_watts)
    present = [label for label in range(parts.labels) if any((item.label == label).any() for item in design)]
    for _ in range(SEARCH_SWEEPS):
        start = scatter
        whitened = [whiten(item.covariance(scatter), item.columns) for item in design]
        watts = label_means(parts, whitened).watts
        for label in present:
            trials = np.tile(scatter.ratios, (len(SCATTER_RATIOS), 1))
            trials[:, label] = SCATTER_RATIOS
            candidates = [
                Scatter.of(trial, scatter.noise_ratio, watts, parts.scale_watts) for trial in trials
            ]
            amplitudes = [candidate.watts[label] ** 2 for candidate in candidates]
            units = [item.block.scatter((item.label == label).astype(np.float64)) for item in design]
            penalties = _penalties(SCATTER_RATIOS, USUAL_SCATTER_RATIO, SCATTER_LOG_SIGMA)
            scatter = _likeliest(parts, design, candidates, amplitudes, units, penalties)
        candidates = [Scatter.of(scatter.ratios, ratio, watts, parts.scale_watts) for ratio in NOISE_RATIOS]
        amplitudes = [candidate.noise_density for candidate in candidates]
        units = [np.diag(item.block.seconds) for item in design]
        penalties = _penalties(NOISE_RATIOS, USUAL_NOISE_RATIO, NOISE_LOG_SIGMA)
        scatter = _likeliest(parts, design, candidates, amplitudes, units, penalties)
        if scatter.noise_ratio == start.noise_ratio and (scatter.ratios == start.ratios).all():
            break
    return scatter


@dataclass(frozen=True, slots=True)
class Design:
    """A block with what does not depend on the scatter.

    `columns` are the occupancies of the labels and, last, the energies beyond the mean power;
    `fixed` is the covariance from timing and counting, which neighbours share with opposite signs.
    """

    block: Block
    label: Indices
    columns: Floats
    fixed: Floats

    @classmethod
    def of(cls, parts: Occupancy, block: Block) -> Design:
        """Collect what one block says."""
        label = parts.part_label[block.own]
        seconds = block.occupancy_of(label, parts.labels)
        excess = block.joules - parts.mean_watts * seconds.sum(axis=1)
        counting = (parts.record.resolution_joules * UNIFORM_SIGMA) ** 2
        instants = (block.instant_watts * block.instant_sigma_seconds) ** 2 + counting
        shared = -np.diag(instants[1:-1], 1)
        fixed = np.diag(instants[:-1] + instants[1:]) + shared + shared.T
        return cls(block, label, np.column_stack([seconds, excess]), fixed)

    def covariance(self, scatter: Scatter) -> Floats:
        """Return V, shape (intervals, intervals)."""
        noise = np.diag(scatter.noise_density * self.block.seconds)
        return self.fixed + noise + self.block.scatter(scatter.watts[self.label] ** 2)


@dataclass(frozen=True, slots=True)
class Whitened:
    """Columns in units of their standard deviations: factor factor' = V."""

    factor: Floats
    columns: Floats


def solved(matrix: Floats, columns: Floats) -> Floats:
    """Return the inverse of a matrix times columns."""
    return np.asarray(np.linalg.solve(matrix, columns), dtype=np.float64)


def whiten(covariance: Floats, columns: Floats) -> Whitened:
    """Divide columns by the square root of a covariance."""
    factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    return Whitened(factor, solved(factor, columns))


def label_means(parts: Occupancy, whitened: Iterable[Whitened]) -> Means:
    """Sum over blocks and solve for the powers of the labels."""
    labels, prior_variance = parts.labels, parts.record.prior_variance
    products = np.zeros((labels + 1, labels + 1))
    log_determinant = 0.0
    for white in whitened:
        products += white.columns.T @ white.columns
        log_determinant += 2 * float(np.log(np.diag(white.factor)).sum())
    information = products[:-1, :-1] + np.eye(labels) / prior_variance
    above_mean = solved(information, products[:-1, -1])
    log_determinant += float(np.linalg.slogdet(information)[1]) + labels * np.log(prior_variance)
    misfit = float(products[-1, -1] - above_mean @ products[:-1, -1])
    return Means(
        watts=parts.mean_watts + above_mean,
        covariance=solved(information, np.eye(labels)),
        log_likelihood=-(log_determinant + misfit) / 2,
    )


def _likeliest(
    parts: Occupancy,
    design: Sequence[Design],
    candidates: Sequence[Scatter],
    amplitudes: Sequence[float],
    units: Sequence[Floats],
    penalties: Floats,
) -> Scatter:
    """Return the best of some candidates that differ in one term of the covariance only.

    Args:
        parts, design: what is fitted.
        candidates: the first has the smallest amplitude.
        amplitudes: of the term, shape (candidates,).
        units: the term's covariance for amplitude 1, one per block.
        penalties: taken from the log-likelihoods, shape (candidates,).
    """
    covariances = [item.covariance(candidates[0]) for item in design]
    scores = -penalties
    for number, amplitude in enumerate(amplitudes):
        whitened = [
            whiten(covariance + (amplitude - amplitudes[0]) * unit, item.columns)
            for item, covariance, unit in zip(design, covariances, units, strict=True)
        ]
        scores[number] += label_means(parts, whitened).log_likelihood
    return candidates[int(scores.argmax())]


def _penalties(ratios: Sequence[float], usual: float, log_sigma: float) -> Floats:
    return np.asarray(np.log(np.array(ratios) / usual) ** 2 / (2 * log_sigma**2))
