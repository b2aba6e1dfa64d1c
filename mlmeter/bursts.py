"""Energies of bursts: joules per call, also where single calls are too short to be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlmeter.measurement import Provenance

if TYPE_CHECKING:
    from mlmeter.energy.attribution import Energies
    from mlmeter.energy.bursts import Bursts
    from mlmeter.energy.columns import Columns
    from mlmeter.measurement import Domain
    from mlmeter.recording import Recording

METHOD = "burst"
# Each name is resolved for itself: of more names, those of most calls count.
MOST_LABELS = 20


@dataclass(frozen=True)
class BurstCounts:
    """Counts of all bursts of one name and phase.

    Attributes:
        bursts, calls: how many bursts, and windows in them.
        duration_seconds, busy_seconds: length of the bursts, and of the windows in them.
    """

    bursts: int
    calls: int
    duration_seconds: float
    busy_seconds: float


@dataclass(frozen=True)
class BurstRow(BurstCounts):
    """All bursts of one name and phase.

    Attributes:
        label: number of the name and phase.
        energies: of each domain that could be read, shape (1,).
    """

    label: int
    energies: tuple[tuple[Domain, Energies], ...]

    def columns(self) -> Iterator[tuple[str, str, Columns]]:
        """Yield name, kind and energy columns of one row per domain, the total last."""
        from mlmeter.energy.columns import energy_columns, total_columns
        from mlmeter.recording import TOTAL

        counted = []
        for domain, energies in self.energies:
            columns = energy_columns(energies)
            if domain.counted:
                counted.append(columns)
            yield domain.name, domain.kind, columns
        if counted:
            yield TOTAL, TOTAL, total_columns(counted, 1)


def slowest_seconds(recording: Recording) -> float:
    """Return the time between refreshes of the slowest counter that is added to a total."""
    periods = [
        domain.update_period_seconds
        for domain, _ in recording.domains
        if domain.provenance is Provenance.MEASURED and domain.counted
    ]
    return max(periods, default=0.0)


def burst_rows(recording: Recording, period_seconds: float | None = None) -> Iterator[BurstRow]:
    """Yield the bursts of each name and phase, those with most calls first.

    Args:
        recording: whose windows and domains.
        period_seconds: time between refreshes of the slowest counter; None for that of the recording.
    """
    import numpy as np

    from mlmeter.energy.bursts import bursts_of

    if period_seconds is None:
        period_seconds = slowest_seconds(recording)
    found = bursts_of(recording.resolution.windows, period_seconds)
    calls = np.bincount(found.label, found.calls, minlength=1)
    for label in np.argsort(-calls, kind="stable")[:MOST_LABELS].tolist():
        own = found.label == label
        if own.any():
            yield BurstRow(
                int(own.sum()),
                int(found.calls[own].sum()),
                float((found.end - found.start)[own].sum()),
                float(found.busy_seconds[own].sum()),
                label,
                tuple(_energies(recording, found, label)),
            )


def _energies(recording: Recording, found: Bursts, label: int) -> Iterator[tuple[Domain, Energies]]:
    """Yield each domain with its energy: the bursts as windows of their own."""
    import numpy as np

    from mlmeter.energy.attribution import Attribution
    from mlmeter.energy.labels import LabelledWindows
    from mlmeter.energy.pool import chosen_rows
    from mlmeter.energy.timeline import timeline_of
    from mlmeter.energy.windows import resolve_ownership

    resolution = recording.resolution
    windows = found.as_windows(label, resolution.windows)
    ownership = resolve_ownership(windows)
    # Phase 0 is the rest of the session, phase 1 the bursts.
    labelled = LabelledWindows(windows, ownership, np.minimum(np.arange(len(windows)), 1))
    for domain, rows in recording.domains:
        timeline = timeline_of(domain, rows, recording.run.start_ns, ownership.edges)
        if timeline is None:
            continue
        attribution = Attribution(domain, timeline, labelled)
        phases = attribution.phases
        if resolution.process is not None:
            phases = resolution.process.of_phases(attribution, labelled, phases)
        if domain.provenance is not Provenance.ESTIMATED:
            phases = replace(phases, method=METHOD)
        yield domain, chosen_rows(phases, np.array([1]))
