"""When a session used its energy: the power curve of its readings, by phase and step of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.recording import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.timeline import Timeline
    from mlmeter.energy.windows import Ownership


def phase_steps(recording: Recording, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return joules of each phase in each step, shape (phases, steps).

    They are those of the whole machine and without an interval: weights for what changes with time.

    Args:
        recording: of the session.
        edges: ascending, in seconds since the start of the session, shape (steps + 1,).
    """
    resolution = recording.resolution
    found = np.zeros((len(resolution.phases), len(edges) - 1))
    for domain, _ in recording.domains:
        attribution = resolution.attributions.get(domain.name)
        if attribution is None or not domain.counted or not attribution.timeline.known:
            continue
        ownership = resolution.bases[domain.name].ownership
        found += _of_domain(attribution.timeline, ownership, resolution.phase_of_window, edges, found.shape)
    return found


def _of_domain(
    timeline: Timeline,
    ownership: Ownership,
    phase_of_window: NDArray[np.int64],
    edges: NDArray[np.float64],
    shape: tuple[int, ...],
) -> NDArray[np.float64]:
    """Cut time at the edges of both, and give each cut to the phases that own it."""
    inside = edges[(edges > ownership.edges[0]) & (edges < ownership.edges[-1])]
    cuts = np.union1d(ownership.edges, inside)
    joules = np.maximum(np.diff(timeline.energy_at(cuts)), 0.0)
    step = np.clip(np.searchsorted(edges, cuts[:-1], side="right") - 1, 0, shape[1] - 1)
    span = np.clip(np.searchsorted(ownership.edges, cuts[:-1], side="right") - 1, 0, None)
    found = np.zeros(shape)
    phase_of_piece = phase_of_window[ownership.owner]
    for phase in np.unique(phase_of_piece):
        weights = ownership.weights(phase_of_piece == phase)
        found[phase] = np.bincount(step, weights=joules * weights[span], minlength=shape[1])
    return found
