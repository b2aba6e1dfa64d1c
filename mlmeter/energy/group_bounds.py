"""Bounds of groups of windows as wholes: many short windows together are known better than each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.windows import pieces_within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Attribution

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# The work grows with groups times windows: so many groups are bounded, fewer if there are many windows.
MOST_GROUPS = 200
MOST_GROUPS_TIMES_WINDOWS = 5_000_000


def group_bounds(
    attributions: Mapping[str, Attribution], rows: Indices, group: Indices, groups: int
) -> dict[str, Floats]:
    """Bound each domain's energy of the largest groups; of the others nothing is known.

    A single window is bounded as well by itself.

    Args:
        attributions: of one session, by domain.
        rows: windows, none inside another one of its group, shape (chosen,).
        group: the group of each, shape (chosen,).
        groups: how many there are.

    Returns:
        low and high in joules by domain, each of shape (2, groups).
    """
    bounds = {name: np.array([[0.0] * groups, [np.inf] * groups]) for name in attributions}
    sizes = np.bincount(group, minlength=groups)
    windows = max((len(attribution.labelled.windows) for attribution in attributions.values()), default=1)
    most = min(MOST_GROUPS, 1 + MOST_GROUPS_TIMES_WINDOWS // windows)
    for number in np.argsort(-sizes, kind="stable")[:most]:
        if sizes[number] < 2:
            break
        for name, (low, high) in _bounds_of_one(attributions, rows[group == number]).items():
            bounds[name][:, number] = low, high
    return bounds


def _bounds_of_one(attributions: Mapping[str, Attribution], rows: Indices) -> dict[str, tuple[float, float]]:
    """Bound each domain's energy of one group, if its counter tells anything."""
    found = {}
    # Domains of one clock share what does not depend on the counter.
    weights: dict[int, Floats] = {}
    for name, attribution in attributions.items():
        timeline, labelled = attribution.timeline, attribution.labelled
        ownership = labelled.ownership
        if not timeline.known or len(ownership.edges) < 2:
            continue
        if id(labelled) not in weights:
            chosen = np.zeros(len(labelled.windows), dtype=np.bool_)
            chosen[rows] = True
            pieces = pieces_within(labelled.windows, ownership, chosen)
            weights[id(labelled)] = ownership.weights(pieces)
        found[name] = timeline.share_bounds(ownership.edges, weights[id(labelled)])
    return found
