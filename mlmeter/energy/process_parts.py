"""Energies of windows, phases and the session for one process, out of those of the whole machine.

Each interval between two readings of CPU time has one ratio (`mlmeter.energy.process_share`). A
span gets, from each interval that it touches, its energy there times that ratio. So the parts of
a span add up to its energy, and the parts of spans to those of the session.

A span that is only a part of an interval may have had all of the process's work, or none of it:
its interval reaches from the least to the greatest energy that the process can have used in it,
given what it used in the whole interval. For long spans that concerns the two ends only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.cached import cached_property
from mlmeter.energy.occupancy import ranges
from mlmeter.energy.process_share import IDLE, NOT_ATTRIBUTED, PARTS, PROCESS, UNATTRIBUTED
from mlmeter.energy.uncertainty import RESOLVED_RATIO, UNIFORM_SIGMA
from mlmeter.energy.windows import pieces_by_window
from mlmeter.measurement import Provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Attribution, Energies
    from mlmeter.energy.idle_power import IdlePower
    from mlmeter.energy.process_share import Shares
    from mlmeter.energy.windows import Ownership, Windows

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# A tick that may be anywhere within its length; errors of intervals are independent.
SIGMAS = 2.0
HALF_WIDTH_SIGMA = 3**-0.5
# Ends the name of the rule for a span that is shorter than the time between readings.
NEARBY = "_nearby"
# Of a span: so little that it is rounding.
NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class Ratios:
    """Which part of spans is whose, as columns of shape (spans,).

    Attributes:
        parts: ratios of the four `PARTS`, which add up to 1, shape (4, spans).
        low, high: interval of the first, that of the process tree.
        idle_half: how far off the part that is idle may be, as its power is known that badly.
        nearby: whether a span is within intervals of readings that are longer than it, and has
            their ratios only because nothing tells more.
    """

    parts: Floats
    low: Floats
    high: Floats
    idle_half: Floats
    nearby: NDArray[np.bool_]

    def of(self, part: int) -> tuple[Floats, Floats, Floats]:
        """Return ratio, low and high of one part; what others used and idling are known as well as it."""
        ratio = self.parts[part]
        if part == UNATTRIBUTED:
            return ratio, ratio, ratio
        if part == PROCESS:
            return ratio, self.low, self.high
        below = self.parts[PROCESS] - self.low + self.idle_half
        above = self.high - self.parts[PROCESS] + self.idle_half
        return (
            ratio,
            np.maximum(ratio - above, 0.0),
            np.minimum(ratio + below + self.parts[UNATTRIBUTED], 1.0),
        )


class ProcessParts:
    """The process tree's part of one domain's energies.

    Args:
        attribution: energies of the whole domain.
        windows, ownership: the same that these come from.
        shares: of the process tree; None if they are not known at all.
        idle: power of the domain without any work; None if not known.
    """

    def __init__(
        self,
        attribution: Attribution,
        windows: Windows,
        ownership: Ownership,
        shares: Shares | None,
        idle: IdlePower | None,
    ) -> None:
        self._windows, self._ownership = windows, ownership
        self._shares = shares
        self._idle_watts = None if idle is None else idle.watts
        self._idle_sigma_watts = 0.0 if idle is None else idle.sigma_watts
        if shares is not None:
            self._cut(attribution, shares)

    def _cut(self, attribution: Attribution, shares: Shares) -> None:
        """Cut the session at edges of windows and at readings."""
        edges, timeline = self._ownership.edges, attribution.timeline
        # A session of no length has no edges.
        inside = (shares.times > edges[:1].sum()) & (shares.times < edges[-1:].sum())
        cuts = np.union1d(edges, shares.times[inside])
        step = np.searchsorted(edges, cuts[:-1], side="right") - 1
        last = len(shares.times) - 2
        self._interval = np.clip(np.searchsorted(shares.times, cuts[:-1], side="right") - 1, 0, last)
        seconds = np.diff(cuts)
        curve = np.maximum(np.diff(timeline.energy_at(cuts)), 0.0) if timeline.known else np.zeros(len(step))
        size = max(len(edges) - 1, 0)
        whole, length = np.bincount(step, curve, size), np.bincount(step, seconds, size)
        weight = np.divide(seconds, length[step], out=np.zeros(len(step)), where=length[step] > 0)
        np.divide(curve, whole[step], out=weight, where=whole[step] > 0)
        # A fit may place the energy of windows otherwise than the curve: its steps count.
        self._joules = np.maximum(attribution.steps, 0.0)[step] * weight
        self._owners = np.maximum(self._ownership.owners, 1)[step]
        self._first_cell = np.searchsorted(cuts, edges)
        self._interval_joules = _added(self._interval, self._joules, last + 1)
        elapsed = _added(self._interval, seconds, last + 1)
        self._parts = shares.parts(self._interval_joules, elapsed, self._idle_watts)
        self._half = shares.half(self._parts, self._idle_watts)
        # An idle power that is wrong is wrong in all intervals alike.
        self._idle_half = np.zeros(last + 1)
        split = (self._parts[IDLE] > 0) & (self._parts[UNATTRIBUTED] < 1) & (self._interval_joules > 0)
        wrong_joules = SIGMAS * self._idle_sigma_watts * elapsed
        np.divide(wrong_joules, self._interval_joules, out=self._idle_half, where=split)

    @cached_property
    def method(self) -> str:
        """How the energy is split."""
        return NOT_ATTRIBUTED if self._shares is None else self._shares.method(self._idle_watts)

    def exclusive(self) -> Ratios:
        """Ratios of what each window has for itself, shape (windows,)."""
        return self._ratios(self._ownership.owner, self._all_pieces(), len(self._windows))

    def inclusive(self) -> Ratios:
        """Ratios of each window with all inside it, shape (windows,)."""
        window, piece = pieces_by_window(self._windows, self._ownership)
        return self._ratios(window, piece, len(self._windows))

    def phases(self, phase_of_window: Indices, phases: int) -> Ratios:
        """Ratios of each phase, shape (phases,)."""
        return self._ratios(phase_of_window[self._ownership.owner], self._all_pieces(), phases)

    def total(self) -> Ratios:
        """Ratios of the session, shape (1,)."""
        pieces = self._all_pieces()
        return self._ratios(np.zeros(len(pieces), dtype=np.int64), pieces, 1)

    def pooled(self, rows: Indices, group: Indices, groups: int) -> Ratios:
        """Ratios of groups of windows, none inside another one of its group, shape (groups,)."""
        group_of_window = np.full(len(self._windows), -1)
        group_of_window[rows] = group
        window, piece = pieces_by_window(self._windows, self._ownership)
        chosen = group_of_window[window] >= 0
        return self._ratios(group_of_window[window[chosen]], piece[chosen], groups)

    def _all_pieces(self) -> Indices:
        return np.arange(len(self._ownership.owner))

    def _ratios(self, group: Indices, piece: Indices, groups: int) -> Ratios:
        """Return the ratios of groups of pieces."""
        if self._shares is None:
            return _not_known(groups)
        number, interval, joules = self._by_interval(group, piece)

        def added(column: Floats) -> Floats:
            return _added(number, column, groups)

        parts = np.stack([added(joules * ratio) for ratio in self._parts[:, interval]])
        whole = self._interval_joules[interval]
        own = whole * self._parts[PROCESS, interval]
        low, high = added(np.maximum(own - (whole - joules), 0.0)), added(np.minimum(own, joules))
        half = SIGMAS * np.sqrt(added((joules * self._half[interval] * HALF_WIDTH_SIGMA) ** 2))
        wrong = joules * self._idle_half[interval]
        half += added(wrong * self._shares.work[interval])
        energy = added(joules)
        some = energy > 0
        # A span with an interval to itself is told by it; where all is one user's, the others do not matter.
        told = added(np.where(joules >= whole * (1 - NOTHING), joules, 0.0)) > 0
        idle_half = np.zeros(groups)
        np.divide(added(wrong), energy, out=idle_half, where=some)
        nearby = some & ~told & (high - low > NOTHING * energy)
        # Of a span without energy nothing is known but that it is all idle, or all unknown.
        known = bool((self._parts[UNATTRIBUTED] < 1).any())
        columns = np.zeros((len(PARTS), groups))
        columns[IDLE if known else UNATTRIBUTED] = 1.0
        least, most = np.zeros(groups), np.ones(groups)
        np.divide(parts, energy, out=columns, where=some)
        np.divide(low - half, energy, out=least, where=some)
        np.divide(high + half + parts[UNATTRIBUTED], energy, out=most, where=some)
        ratio = columns[PROCESS]
        return Ratios(columns, np.clip(least, 0.0, ratio), np.clip(most, ratio, 1.0), idle_half, nearby)

    def _by_interval(self, group: Indices, piece: Indices) -> tuple[Indices, Indices, Floats]:
        """Return the energy that groups have in intervals: group, interval and joules of each pair."""
        first = self._first_cell[self._ownership.first[piece]]
        last = self._first_cell[self._ownership.last[piece]]
        cell = ranges(first, last)
        intervals = len(self._interval_joules)
        key = np.repeat(group, np.maximum(last - first, 0)) * intervals + self._interval[cell]
        pairs, place = np.unique(key, return_inverse=True)
        joules = _added(place, self._joules[cell] / self._owners[cell], len(pairs))
        return pairs // intervals, pairs % intervals, joules


def _added(index: Indices, values: Floats, size: int) -> Floats:
    # Sums of nothing come back as integers.
    return np.asarray(np.bincount(index, values, size), dtype=np.float64)


def _not_known(groups: int) -> Ratios:
    parts = np.zeros((len(PARTS), groups))
    parts[UNATTRIBUTED] = 1.0
    return Ratios(
        parts, np.zeros(groups), np.ones(groups), np.zeros(groups), np.zeros(groups, dtype=np.bool_)
    )


def part_of(energies: Energies, ratios: Ratios, method: str, part: int = PROCESS) -> Energies:
    """Return one part of energies; attributed ones are `derived` at best.

    Args:
        energies: of the whole domain, shape (spans,).
        ratios: of the same spans.
        method: name of the rule.
        part: number of one of the `PARTS`.
    """
    ratio, low, high = ratios.of(part)
    # Rounding leaves a little where all or nothing is unattributed.
    missing = ratios.parts[UNATTRIBUTED]
    missing = np.where(missing > 1 - NOTHING, 1.0, missing) if part != UNATTRIBUTED else np.zeros(len(ratio))
    joules = energies.joules * ratio
    fitted = energies.fitted
    sigma, systematic = energies.sigma_statistical, energies.sigma_systematic
    if sigma is not None and systematic is not None:
        sigma = np.hypot(sigma * ratio, energies.joules * (high - low) * UNIFORM_SIGMA)
        systematic = systematic * ratio
    if fitted is not None:
        fitted = fitted & ((high - low) * UNIFORM_SIGMA < RESOLVED_RATIO * ratio)
    domain = energies.domain
    if domain.provenance is Provenance.MEASURED:
        domain = replace(domain, provenance=Provenance.DERIVED)
    return replace(
        energies,
        domain=domain,
        joules=joules,
        low=np.minimum(energies.low * low, joules),
        high=np.maximum(energies.high * high, joules),
        covered_seconds=energies.covered_seconds * (1 - missing),
        sigma_statistical=sigma,
        sigma_systematic=systematic,
        fitted=fitted,
        share=np.where(ratios.nearby, method + NEARBY, method).astype(object),
    )
