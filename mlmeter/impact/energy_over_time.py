"""When a session used its energy: the power curve of its readings, by phase and step of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.chapters.whole import WholeSession, results
from mlmeter.recording import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.timeline import Timeline
    from mlmeter.energy.windows import Ownership
    from mlmeter.recording import Resolution


def phase_steps(recording: Recording, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return joules of each phase in each step, shape (phases, steps).

    They are those of the whole machine and without an interval: weights for what changes with time.
    Of chapters only the curve of the session is kept: each phase has its share of all of their steps.

    Args:
        recording: of the session.
        edges: ascending, in seconds since the start of the session, shape (steps + 1,).
    """
    whole = results(recording)
    if not isinstance(whole, WholeSession):
        return _phase_steps(recording.resolution, recording, edges)
    found = _steps_of_past(whole, recording, edges)
    rest = _phase_steps(whole.rest, recording, edges - recording.past_seconds)
    for phase, joules in zip(whole.rest.phases, rest, strict=True):
        found[whole.phases.index(phase)] += joules
    return found


def _steps_of_past(
    whole: WholeSession, recording: Recording, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    found = np.zeros((len(whole.phases), len(edges) - 1))
    past, samples = whole.past, whole.samples()
    phases = past.phases.placed([(phase,) for phase in whole.phases])
    for domain, _ in recording.domains:
        if not domain.counted or domain.name not in samples or domain.name not in phases.energies:
            continue
        joules = np.diff(np.interp(np.minimum(edges, past.seconds), *samples[domain.name]))
        of_phases = phases.energies[domain.name].joules
        if of_phases.sum() > 0:
            found += np.outer(of_phases / of_phases.sum(), np.maximum(joules, 0.0))
    return found


def _phase_steps(
    resolution: Resolution, recording: Recording, edges: NDArray[np.float64]
) -> NDArray[np.float64]:
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
