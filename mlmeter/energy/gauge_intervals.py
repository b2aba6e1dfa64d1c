"""Uncertainties of windows and phases whose energy is integrated power.

The counterpart of `mlmeter.energy.split` for gauges: it leaves every value as it is and gives
it standard uncertainties and a 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.gauge_timeline import GaugeTimeline
from mlmeter.energy.groups import NORMAL_FACTOR
from mlmeter.energy.membership import Membership
from mlmeter.energy.uncertainty import RESOLVED_RATIO, UNIFORM_SIGMA
from mlmeter.energy.windows import Ownership, Windows, pieces_by_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies
    from mlmeter.energy.timeline import Timeline

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# The scatter of fewer values than this is itself not known.
FEWEST_UPDATES = 10


@dataclass(frozen=True, slots=True)
class GaugeIntervals:
    """What can be told about the energies of one session of one gauge."""

    timeline: GaugeTimeline
    windows: Windows
    ownership: Ownership

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield nothing: readings of power say all there is."""
        return iter(())

    def owned(self, energies: Energies) -> Energies:
        """Return the energies that windows have for themselves, with uncertainties."""
        pieces = np.arange(len(self.ownership.owner))
        return self._told(energies, self.ownership.owner, pieces)

    def enclosed(self, energies: Energies) -> Energies:
        """Return the energies of windows with what is inside them, with uncertainties."""
        return self._told(energies, *pieces_by_window(self.windows, self.ownership))

    def by_phase(self, energies: Energies, phase_of_window: Indices) -> Energies:
        """Return the energies of phases, with uncertainties."""
        pieces = np.arange(len(self.ownership.owner))
        return self._told(energies, phase_of_window[self.ownership.owner], pieces)

    def pooled(self, energies: Energies, rows: Indices, group: Indices) -> Energies:
        """Return the energies of groups of windows, none inside another one of its group."""
        group_of_window = np.full(len(self.windows), -1)
        group_of_window[rows] = group
        window, piece = pieces_by_window(self.windows, self.ownership)
        chosen = group_of_window[window] >= 0
        return self._told(energies, group_of_window[window[chosen]], piece[chosen])

    def whole(self, energies: Energies) -> Energies:
        """Return the energy of the session, with its uncertainty."""
        pieces = np.arange(len(self.ownership.owner))
        return self._told(energies, np.zeros(len(pieces), dtype=np.int64), pieces)

    def _told(self, energies: Energies, group: Indices, piece: Indices) -> Energies:
        """Return energies with uncertainties and the 95 % interval.

        Args:
            energies: of the groups, shape (groups,).
            group, piece: which piece belongs to which group, shape (memberships,).
        """
        timeline, groups = self.timeline, len(energies.joules)
        number, start, end, weight = self._runs(group, piece)

        def added(column: Floats) -> Floats:
            return np.bincount(number, column, minlength=groups).astype(np.float64)

        statistical = np.sqrt(np.maximum(added(weight**2 * timeline.variances(start, end)), 0.0))
        # The age of the readings is wrong at all edges alike: these errors add up.
        edges = added(weight * timeline.systematic_joules(start, end))
        unread = timeline.max_power_watts * np.maximum(
            energies.duration_seconds - energies.covered_seconds, 0.0
        )
        half = NORMAL_FACTOR * np.hypot(statistical, edges)
        low, high = energies.joules - half, energies.joules + half + unread
        few = added(timeline.updates(start, end)) < FEWEST_UPDATES
        low = np.where(few, np.minimum(low, energies.low), low)
        high = np.where(few, np.maximum(high, energies.high), high)
        systematic = np.hypot(edges, unread * UNIFORM_SIGMA)
        long_enough = energies.duration_seconds >= timeline.resolution_seconds
        sharp = np.hypot(statistical, systematic) < RESOLVED_RATIO * energies.joules
        return replace(
            energies,
            low=np.minimum(np.maximum(low, 0.0), energies.joules),
            high=np.maximum(
                np.minimum(high, timeline.max_power_watts * energies.duration_seconds), energies.joules
            ),
            sigma_statistical=statistical,
            sigma_systematic=systematic,
            fitted=long_enough & sharp,
        )

    def _runs(self, group: Indices, piece: Indices) -> tuple[Indices, Floats, Floats, Floats]:
        """Join what follows each other in a group: edges inside of it do not matter.

        Returns:
            group, start, end and share in the energy of each run.
        """
        ownership = self.ownership
        spans = Membership.of_spans(ownership.edges, ownership.start[piece], ownership.end[piece])
        order = np.lexsort((spans.segment, group[spans.group]))
        number, segment = group[spans.group[order]], spans.segment[order]
        owners = np.maximum(ownership.owners[segment], 1)
        if not len(number):
            nothing = np.zeros(0)
            return number, nothing, nothing, nothing
        new = (np.diff(number) != 0) | (np.diff(segment) != 1) | (np.diff(owners) != 0)
        first = np.concatenate(([0], np.flatnonzero(new) + 1))
        last = np.concatenate((first[1:] - 1, [len(number) - 1]))
        start, end = ownership.edges[segment[first]], ownership.edges[segment[last] + 1]
        return number[first], start, end, 1.0 / owners[first]


def gauge_intervals_of(timeline: Timeline, windows: Windows, ownership: Ownership) -> GaugeIntervals | None:
    """Return what judges the energies of a gauge; None for a counter, or if nothing was read."""
    if not isinstance(timeline, GaugeTimeline) or not timeline.known:
        return None
    return GaugeIntervals(timeline, windows, ownership)
