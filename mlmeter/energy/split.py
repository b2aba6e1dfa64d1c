"""The energy of a slow counter split among windows that are shorter than its refresh.

Interpolation between refreshes smears one window into the next. Where a session has enough
refreshes and windows, their powers are fitted instead (`mlmeter.energy.phase_power`): right on
average, with an uncertainty that tells when the split cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.groups import GroupEnergies, group_energies, refreshed
from mlmeter.energy.membership import Membership
from mlmeter.energy.phase_power import PhasePowerFit
from mlmeter.energy.timeline import CounterTimeline
from mlmeter.energy.uncertainty import RESOLVED_RATIO, UNIFORM_SIGMA
from mlmeter.energy.wandering_lag import WanderingLag
from mlmeter.energy.windows import Ownership, Windows, pieces_by_window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

METHOD = "phase_power"
# A fit whose energies have to be scaled by more is told to users.
REMARKED_CLOSURE_ERROR = 0.005


@dataclass(frozen=True, slots=True)
class Split:
    """A fitted session of one counter.

    Attributes:
        timeline: the curve, in the counter's own time if it lags.
        fit: powers and energies of all segments.
        systematic_joules: of each label, shape (labels,).
        degrees: of freedom of each label, shape (labels,).
        edge_joules: standard uncertainty of each segment's energy because its power at the
            edges is not its mean, shape (segments,).
        windows, ownership: what the segments were made from.
        lag: whether the counter's lag changes during the session.
    """

    timeline: CounterTimeline
    fit: PhasePowerFit
    systematic_joules: Floats
    degrees: Floats
    edge_joules: Floats
    windows: Windows
    ownership: Ownership
    lag: WanderingLag

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield kind and sentence of what users of the energies must know."""
        record, closure = self.fit.occupancy.record, self.fit.closure_ratio
        if self.lag.wanders:
            span = f"{1e3 * self.lag.shortest_seconds:.1f} to {1e3 * self.lag.longest_seconds:.1f} ms"
            yield "lag", f"the counter's lag seems to change, from {span}: windows are less certain"
        elif record.lag_seconds > 0:
            lag = f"{1e3 * record.lag_seconds:.0f} ms"
            yield "lag", f"the counter seems to lag by {lag}, by its fit to the windows; they are placed so"
        if record.sensed_ratio < 1:
            share = f"{record.sensed_ratio:.0%}"
            yield "part-time", f"the counter seems to watch {share} of the time, by its fit to the windows"
        if abs(closure - 1) > REMARKED_CLOSURE_ERROR:
            text = f"fitted energies were {100 * (closure - 1):+.1f} % off the counter and were scaled to it"
            yield "closure", text

    @property
    def steps(self) -> Floats:
        """Energy of each segment, from edge to edge."""
        return self.fit.energies_joules

    def owned(self, energies: Energies) -> Energies:
        """Sharpen the energies that windows have for themselves."""
        pieces = np.arange(len(self.ownership.owner))
        return self._sharpened(energies, self.ownership.owner, pieces, len(self.windows))

    def enclosed(self, energies: Energies) -> Energies:
        """Sharpen the energies of windows with what is inside them."""
        return self._sharpened(energies, *self._by_window(), len(self.windows))

    def by_phase(self, energies: Energies, phase_of_window: Indices) -> Energies:
        """Sharpen the energies of phases."""
        phase_of_piece = phase_of_window[self.ownership.owner]
        if self.ownership.concurrent_piece.any():
            pieces = np.arange(len(phase_of_piece))
            return self._sharpened(energies, phase_of_piece, pieces, len(energies.joules))
        segments = self.fit.occupancy.segments
        # Each label has one phase, that of the piece which any of its segments is in.
        any_segment = np.zeros(segments.labels, dtype=np.int64)
        any_segment[segments.label] = np.arange(len(segments.label))
        piece = np.searchsorted(self.ownership.first, any_segment, side="right") - 1
        phase_of_label = phase_of_piece[piece]
        return self._by_label(energies, phase_of_label)

    def whole(self, energies: Energies) -> Energies:
        """Return the energy of the session: the counter itself tells it."""
        return energies

    def pooled(self, energies: Energies, rows: Indices, group: Indices) -> Energies:
        """Sharpen the energies of groups of windows, none inside another one of its group."""
        group_of_window = np.full(len(self.windows), -1)
        group_of_window[rows] = group
        window, piece = self._by_window()
        chosen = group_of_window[window] >= 0
        return self._sharpened(energies, group_of_window[window[chosen]], piece[chosen], len(energies.joules))

    def _by_window(self) -> tuple[Indices, Indices]:
        return pieces_by_window(self.windows, self.ownership)

    def _by_label(self, energies: Energies, group: Indices) -> Energies:
        """Sharpen the energies of groups of labels.

        Args:
            energies: of the groups.
            group: of each label, shape (labels,).
        """
        segments, covariance = self.fit.occupancy.segments, self.fit.label_covariance
        groups = len(energies.joules)
        indicator = (group == np.arange(groups)[:, None]).astype(np.float64)
        structure = np.bincount(segments.label, self.edge_joules**2, minlength=segments.labels)
        found = GroupEnergies(
            joules=energies.joules,
            sigma_statistical_joules=np.sqrt(
                np.maximum(np.einsum("gi,gi->g", indicator @ covariance, indicator), 0.0)
                + indicator @ structure
            ),
            sigma_systematic_joules=indicator @ self.systematic_joules,
        )
        degrees = np.full(groups, np.inf)
        np.minimum.at(degrees, group, self.degrees)
        edges = segments.edges
        starts, ends = np.full(groups, edges[0]), np.full(groups, edges[-1])
        return self._told(energies, found, degrees, starts, ends)

    def _sharpened(self, energies: Energies, group: Indices, piece: Indices, groups: int) -> Energies:
        """Sharpen the energies of groups of pieces."""
        ownership = self.ownership
        spans = Membership.of_ranges(ownership.first[piece], ownership.last[piece])
        weight = 1.0 / np.maximum(ownership.owners[spans.segment], 1)
        members = Membership(spans.segment, group[spans.group], groups, weight)
        found = group_energies(self.fit, self.systematic_joules, members)
        label = self.fit.occupancy.segments.label
        # A group of several labels is as uncertain as the least known of them.
        degrees = np.full(groups, np.inf)
        np.minimum.at(degrees, members.group, self.degrees[label[members.segment]])
        starts, ends = np.full(groups, np.inf), np.full(groups, -np.inf)
        np.minimum.at(starts, members.group, ownership.edges[members.segment])
        np.maximum.at(ends, members.group, ownership.edges[members.segment + 1])
        structure = np.bincount(
            members.group, (members.weight * self.edge_joules[members.segment]) ** 2, minlength=groups
        )
        statistical = np.sqrt(found.sigma_statistical_joules**2 + structure)
        found = replace(found, sigma_statistical_joules=statistical)
        return self._told(energies, found, degrees, starts, ends)

    def _told(
        self, energies: Energies, found: GroupEnergies, degrees: Floats, starts: Floats, ends: Floats
    ) -> Energies:
        """Return energies with the interval of the fit, within their hard bounds."""
        low, high = found.interval(degrees, energies.low, energies.high)
        # In gaps nothing is fitted: any power was possible there.
        lost_seconds = np.maximum(energies.duration_seconds - energies.covered_seconds, 0.0)
        lost_joules = self.timeline.max_power_watts * lost_seconds
        high = np.minimum(high + lost_joules, energies.high)
        told = refreshed(self.timeline.before, starts, ends, self.timeline.period_seconds)
        return replace(
            energies,
            low=np.minimum(low, energies.joules),
            high=np.maximum(high, energies.joules),
            # Of groups too many to be told of only the bounds are known.
            sigma_statistical=np.where(np.isfinite(sigma := found.sigma_statistical_joules), sigma, np.nan),
            sigma_systematic=found.sigma_systematic_joules,
            fitted=found.resolved(told) & (lost_joules * UNIFORM_SIGMA < RESOLVED_RATIO * energies.joules),
        )
