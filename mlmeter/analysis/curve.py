"""Power and energy of a session over time, all counted domains together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.analysis.figure import Figure, unknown, worst
from mlmeter.measurement import Provenance
from mlmeter.recording import Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.counters import Rows
    from mlmeter.energy.timeline import Timeline
    from mlmeter.measurement import Domain

    Floats = NDArray[np.float64]

# The sampler's own default: a shorter time shows the steps of a counter rather than power.
SHORTEST_BIN_SECONDS = 0.1
PEAK_PERCENT, P95_PERCENT = 100.0, 95.0


def energy_until(recording: Recording, seconds: Floats) -> list[Figure]:
    """Return the energy from the start of the session to each of these times.

    Not known where a counted domain was not read, and for a part of the machine, whose power over time
    nobody knows.
    """
    found = _timelines(recording)
    if isinstance(found, str):
        return [unknown(found)] * len(seconds)
    start = np.zeros(len(seconds))
    joules = sum((timeline.energy_at(seconds) - timeline.energy_at(start)) for timeline, _ in found)
    bounds = [timeline.bounds(start, seconds) for timeline, _ in found]
    low, high = (sum(pair[end] for pair in bounds) for end in (0, 1))
    provenance = worst(Figure(value=0.0, provenance=kind) for _, kind in found)
    return [
        Figure(value=float(v), low=float(min(a, v)), high=float(max(b, v)), provenance=provenance)
        for v, a, b in zip(np.atleast_1d(joules), np.atleast_1d(low), np.atleast_1d(high), strict=True)
    ]


class PowerCurve:
    """Mean power of a session in bins of equal length.

    Attributes:
        bin_seconds: their length: no shorter than 0.1 s and than the slowest sensor's steps.
        watts: mean power in each bin, shape (bins,); none if it is not known.
    """

    def __init__(self, recording: Recording) -> None:
        found = _timelines(recording)
        self.watts, self.bin_seconds = np.zeros(0), SHORTEST_BIN_SECONDS
        if isinstance(found, str):
            return
        steps = [_step_seconds(domain, rows) for domain, rows in recording.domains if domain.counted]
        self.bin_seconds = max(SHORTEST_BIN_SECONDS, *steps)
        edges = np.arange(0.0, recording.run.duration_seconds, self.bin_seconds)
        if len(edges) > 1:
            joules = sum(timeline.energy_at(edges) for timeline, _ in found)
            self.watts = np.diff(np.asarray(joules)) / self.bin_seconds

    def percentile(self, starts: Floats, ends: Floats, percent: float) -> float | None:
        """Return the power that is not exceeded in so many percent of the bins within some spans.

        A bin counts where its middle lies in a span. None where there is no such bin.

        Args:
            starts, ends: seconds since the start of the session, ascending, shape (spans,).
            percent: 100 for the peak.
        """
        middles = (np.arange(len(self.watts)) + 0.5) * self.bin_seconds
        # One more from the first bin of a span on, one less behind its last one.
        steps = np.zeros(len(middles) + 1, dtype=np.int64)
        np.add.at(steps, np.searchsorted(middles, starts), 1)
        np.add.at(steps, np.searchsorted(middles, ends), -1)
        inside = np.cumsum(steps[:-1]) > 0
        return float(np.percentile(self.watts[inside], percent)) if inside.any() else None


def _timelines(recording: Recording) -> list[tuple[Timeline, Provenance]] | str:
    """Return the counted domains' curves, or why their sum is not known."""
    if recording.process is not None:
        return 'with scope="process" the power over time is not known'
    counted = [domain for domain, _ in recording.domains if domain.counted]
    if not counted:
        return "no energy could be read"
    found = []
    for domain in counted:
        timeline = recording.resolution.timelines[domain.name]
        if timeline is None or not timeline.known:
            return f"{domain.name} could not be read"
        found.append((timeline, domain.provenance))
    return found


def _step_seconds(domain: Domain, rows: Rows) -> float:
    """Return the typical time between two rows of a domain, or its update period if that is longer."""
    steps = np.diff(np.array(rows.before_ns, dtype=np.int64)) * 1e-9
    return max(float(np.median(steps)) if len(steps) else 0.0, domain.update_period_seconds)
