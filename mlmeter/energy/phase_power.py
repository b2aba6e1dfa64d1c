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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.label_power import (
    Design,
    Means,
    Scatter,
    Whitened,
    find_scatter,
    label_means,
    solved,
    whiten,
)
from mlmeter.energy.occupancy import CounterRecord, Occupancy, Segments, occupancy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

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
    """

    occupancy: Occupancy
    scatter: Scatter
    means: Means
    energies_joules: Floats
    closure_ratio: float

    def variances(
        self, segment: Indices, group: Indices, groups: int, weights: Floats | None = None
    ) -> Floats:
        """Return the statistical variance of the energies of groups of segments, in J^2.

        It is their own scatter, less what the counter tells of it, plus that of the labels' powers.
        Energies of windows in one interval are anticorrelated: variances of a sum cannot be had
        from those of its parts. Ask for all groups at once: the cost is mostly that of the blocks.

        Args:
            segment, group: which segment belongs to which group, at most once, shape
                (memberships,).
            groups: how many groups there are.
            weights: part of the segment's energy that belongs to the group, 0 to 1, shape
                (memberships,); 1 if omitted.
        """
        parts, scatter = self.occupancy, self.scatter
        weights = np.ones(len(segment)) if weights is None else weights
        order = np.argsort(segment, kind="stable")
        part, member = _join(segment[order], parts.part_segment)
        group, weights = group[order][member], weights[order][member]
        seconds, label = parts.part_seconds[part] * weights, parts.part_label[part]
        # Covariance of a part's energy with its mean power, as the counter sees it.
        gain = (scatter.watts[label] ** 2 * parts.part_seconds[part] + scatter.noise_density) * weights
        variances = np.bincount(group, gain * seconds, minlength=groups).astype(np.float64)
        cells = group * parts.labels + label
        by_label = np.bincount(cells, seconds, minlength=groups * parts.labels)
        exposure = by_label.reshape(groups, parts.labels).astype(np.float64)
        for block in parts.blocks:
            chosen = slice(*np.searchsorted(part, [block.own.start, block.own.stop]))
            touched, column = np.unique(group[chosen], return_inverse=True)
            at, piece = _join(block.part, part[chosen] - block.first_part)
            cells = block.interval[piece] * len(touched) + column[at]
            shape = len(block.seconds), len(touched)
            shares = np.bincount(cells, block.piece_seconds[piece] * gain[chosen][at], shape[0] * shape[1])
            design = Design.of(parts, block)
            columns = np.column_stack([design.columns[:, :-1], shares.reshape(shape)])
            white = whiten(design.covariance(scatter), columns).columns
            powers, told = white[:, : parts.labels], white[:, parts.labels :]
            variances[touched] -= (told**2).sum(axis=0)
            exposure[touched] -= told.T @ powers
        variances += np.einsum("gi,ij,gj->g", exposure, self.means.covariance, exposure)
        return np.maximum(variances, 0.0)


def fit_phase_power(record: CounterRecord, segments: Segments) -> PhasePowerFit:
    """Fit the powers of all labels and the energies of all segments of a session.

    Args:
        record: rows of one counter.
        segments: the whole session, gaps included, each with its label; at least one.
    """
    parts = occupancy(record.about(segments.edges[0], segments.edges[-1]), segments)
    return solve(parts, find_scatter(parts))


def solve(parts: Occupancy, scatter: Scatter) -> PhasePowerFit:
    """Find powers and energies, given the scatter."""
    weighted: list[Floats] = []

    def whitened() -> Iterator[Whitened]:
        # Of each block only V^-1 times its columns is kept: a long session has many blocks.
        for block in parts.blocks:
            design = Design.of(parts, block)
            white = whiten(design.covariance(scatter), design.columns)
            weighted.append(solved(white.factor.T, white.columns))
            yield white

    means = label_means(parts, whitened())
    limits = parts.record.min_watts, parts.record.max_watts
    label_watts = means.watts[parts.part_label]
    energies = parts.part_seconds * np.clip(label_watts, *limits)
    gain = scatter.watts[parts.part_label] ** 2
    before_scaling = 0.0
    for block, columns in zip(parts.blocks, weighted, strict=True):
        own = block.own
        pull = block.collect(columns[:, -1] - columns[:, :-1] @ (means.watts - parts.mean_watts))
        inside = parts.inside_seconds[own]
        within = inside * label_watts[own] + (gain[own] * inside + scatter.noise_density) * pull
        before_scaling += float(within.sum())
        # Beyond the first and the last refresh a segment goes on at its own power.
        beyond = np.clip(label_watts[own] + gain[own] * pull, *limits) * (parts.part_seconds[own] - inside)
        energies[own] = beyond + _conserved(
            within, limits[0] * inside, limits[1] * inside, float(block.joules.sum())
        )
    by_segment = np.bincount(parts.part_segment + 1, energies, minlength=len(parts.segments.label) + 1)[1:]
    counted = sum(float(block.joules.sum()) for block in parts.blocks)
    closure_ratio = before_scaling / counted if counted > 0 else 1.0
    return PhasePowerFit(parts, scatter, means, by_segment.astype(np.float64), closure_ratio)


def _conserved(energies: Floats, low: Floats, high: Floats, total: float) -> Floats:
    """Scale energies to a total within limits, unless the limits contradict the total."""
    energies = np.clip(energies, low, high)
    if not low.sum() < total < high.sum():
        # The counter is right and the limits are wrong.
        base = energies.sum()
        return energies * (total / base) if base > 0 else energies
    for _ in range(CLIP_ROUNDS):
        missing = total - float(energies.sum())
        free = (energies > low) if missing < 0 else (energies < high)
        base = float(energies[free].sum())
        if abs(missing) <= CONSERVED_RATIO * total or base <= 0:
            break
        energies = np.where(free, np.clip(energies * (1 + missing / base), low, high), energies)
    return energies


def _join(keys: Indices, wanted: Indices) -> tuple[Indices, Indices]:
    """Return all pairs (place in `wanted`, place in the ascending `keys`) of equal values."""
    first = np.searchsorted(keys, wanted)
    count = np.searchsorted(keys, wanted, side="right") - first
    left = np.repeat(np.arange(len(wanted)), count)
    skipped = np.cumsum(count) - count - first
    return left, np.arange(len(left)) - skipped[left]
