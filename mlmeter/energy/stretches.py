"""Stretches of a session that stand for all of it, fitted again with a changed counter.

What a lag, a sensed share or power that trails edges would do is tried many times. Together the
stretches do not grow with the session, and they are cut out of it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.label_power import Scatter, search_blocks
from mlmeter.energy.occupancy import CounterRecord, Occupancy, Segments, occupancy
from mlmeter.energy.phase_power import (
    CommonFit,
    PhasePowerFit,
    label_joules,
    log_likelihoods,
    solve_together,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Span = tuple[float, float]
    # Fields of the counter's record.
    Changes = Mapping[str, Any]

# With fewer blocks than this there is no need to look at a part of the session only.
FEW_BLOCKS = 12
# Where very many windows are in each block, fewer blocks tell as much.
LEAST_BLOCKS, MOST_PIECES = 3, 20_000
UNCHANGED: Changes = {}


@dataclass(frozen=True, slots=True)
class Stretches:
    """Some stretches of a session.

    Attributes:
        parts: the session.
        cut: rows and segments of each stretch.
    """

    parts: Occupancy
    cut: tuple[tuple[CounterRecord, Segments], ...]

    @classmethod
    def of(cls, parts: Occupancy, spans: Sequence[Span]) -> Stretches:
        """Cut out what is from one time to another, in seconds."""
        return cls(parts, tuple((parts.record.about(*span), parts.segments.about(*span)) for span in spans))

    def changed(self, changes: Changes = UNCHANGED) -> list[Occupancy]:
        """Return the same rows with another lag or sensed share."""
        return [
            replace(occupancy(replace(record, **changes), segments), mean_watts=self.parts.mean_watts)
            for record, segments in self.cut
        ]

    def log_likelihoods(self, scatter: Scatter, candidates: Sequence[Changes]) -> list[float]:
        """Return the log-likelihood of each of some changes; comparable for the same stretches."""
        return log_likelihoods([self.changed(changes) for changes in candidates], scatter)

    def refitted(self, scatter: Scatter, changes: Changes = UNCHANGED) -> CommonFit:
        """Fit the stretches again."""
        return solve_together(self.changed(changes), scatter)


def excerpts(parts: Occupancy, most_blocks: int = FEW_BLOCKS) -> list[Span]:
    """Return spans of the session, all of it if it is short, that stand for it.

    Each label is in one of them; together they do not grow with the session.

    Args:
        parts: the session.
        most_blocks: of a session that counts as short.
    """
    most_blocks = min(
        most_blocks, max(LEAST_BLOCKS, MOST_PIECES * parts.blocks // max(len(parts.piece_part), 1))
    )
    if parts.blocks <= most_blocks:
        return [(float(parts.segments.edges[0]), float(parts.segments.edges[-1]))]
    chosen = search_blocks(parts, most_blocks)
    breaks = np.flatnonzero(np.diff(chosen) > 1)
    first, last = np.append(chosen[:1], chosen[breaks + 1]), np.append(chosen[breaks], chosen[-1:])
    ends = np.minimum((last + 1) * parts.size, len(parts.joules))
    return list(zip(parts.instants[first * parts.size].tolist(), parts.instants[ends].tolist(), strict=True))


def session_changes(fit: PhasePowerFit, before: CommonFit, after: Sequence[CommonFit]) -> Floats:
    """Return the largest change of each label's energy in the session, in J, shape (labels,).

    Args:
        fit: the session.
        before: what stretches of it say as they are; their changes stand for the others.
        after: what they say when something is changed.
    """
    whole, part = label_joules(fit.occupancy.segments, fit.energies_joules), before.label_joules
    scale = np.divide(whole, part, out=np.ones_like(whole), where=part > 0)
    largest = np.max([np.abs(changed.label_joules - part) for changed in after], axis=0)
    return np.asarray(largest * np.maximum(scale, 1.0), dtype=np.float64)
