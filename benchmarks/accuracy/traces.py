"""Metered power of real boards under load, and what counters would have shown of it.

The true power (4.87 kHz, from a meter at the slot and the cables) is integrated, and counters of any
refresh period, phase, lag and sensor window are made from it. Labels: GAP is the load's pause, ON
the load, IDLE the long pauses before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scenarios import POLL_SECONDS, Floats, Indices

TRACES = Path(__file__).parent / "traces"
GAP, ON, IDLE = 0, 1, 2
LONGEST_PAUSE_SECONDS = 0.3
MARGIN_SECONDS = 0.05
COUNT_JOULES = 1e-3


@dataclass(frozen=True)
class Board:
    """A trace: which file it is, and what is known of it.

    Attributes:
        name: short name.
        file: stem of its files.
        edge_offset_seconds: from the host's clock, which stamped the edges, to that of the power.
        min_watts, max_watts: limits that the power kept.
        windows, joules, on_watts, gap_watts: of the load, to tell that the set-up is right.
    """

    name: str
    file: str
    edge_offset_seconds: float
    min_watts: float
    max_watts: float
    windows: int
    joules: float
    on_watts: float
    gap_watts: float


BOARDS = (
    Board("A100", "yang-a100-square52ms", 0.104, 50.0, 375.0, 76, 757.2, 190.7, 65.9),
    Board("RTX 3090", "yang-rtx3090-square50ms", 0.004, 100.0, 525.0, 80, 1724.8, 435.0, 166.6),
)


@dataclass(frozen=True)
class Trace:
    """True power of one board and the edges of its load.

    Attributes:
        board: which one.
        times, watts, joules: true power and cumulative energy, shape (samples,).
        edges: boundaries of the segments, shape (segments + 1,).
        label: GAP, ON or IDLE, shape (segments,).
    """

    board: Board
    times: Floats
    watts: Floats
    joules: Floats
    edges: Floats
    label: Indices

    def energy_at(self, instants: Floats) -> Floats:
        """Return the true cumulative joules; before the trace the power is that of its beginning."""
        before = np.minimum(instants - self.times[0], 0.0)
        beginning = self.times < self.times[0] + MARGIN_SECONDS
        return np.interp(instants, self.times, self.joules) + before * self.watts[beginning].mean()

    def spans_of(self, label: int) -> tuple[Floats, Floats]:
        """Return starts and ends of the segments of a label."""
        chosen = self.label == label
        return self.edges[:-1][chosen], self.edges[1:][chosen]

    def true_joules(self, starts: Floats, ends: Floats) -> Floats:
        """Return the true energy of spans."""
        return self.energy_at(ends) - self.energy_at(starts)


@dataclass(frozen=True)
class Counter:
    """How a counter sees the power.

    Attributes:
        period_seconds: from refresh to refresh.
        phase: the first refresh, in periods after the trace begins.
        lag_seconds: a refresh shows what had been used so long before.
        seen_ratio: share of each period that the sensor sees; it takes the rest to be alike.
    """

    period_seconds: float
    phase: float
    lag_seconds: float = 0.0
    seen_ratio: float = 1.0


@dataclass(frozen=True)
class Rows:
    """What a sampler would have written of a counter; shown are the true instants of its refreshes."""

    refreshes: Floats
    after: Floats
    before: Floats
    joules: Floats


@cache
def trace_of(board: Board) -> Trace:
    """Load a trace.

    Raises:
        FileNotFoundError: the data is not there; a source distribution leaves it out.
    """
    times, watts = columns(f"{board.file}-truth.csv.gz").T
    steps = np.diff(times) * (watts[1:] + watts[:-1]) / 2
    load_edges = np.unique(columns(f"{board.file}-edges.csv").ravel()) + board.edge_offset_seconds
    outer = times[0] + MARGIN_SECONDS, times[-1] - MARGIN_SECONDS
    edges = np.concatenate([outer[:1], load_edges, outer[1:]])
    label = np.where(np.arange(len(edges) - 1) % 2, ON, GAP)
    label[np.diff(edges) > LONGEST_PAUSE_SECONDS] = IDLE
    return Trace(board, times, watts, np.append(0.0, np.cumsum(steps)), edges, label)


def columns(file: str) -> Floats:
    """Read a table with one line of headings, shape (rows, columns)."""
    return np.loadtxt(TRACES / file, delimiter=",", skiprows=1, ndmin=2)


def rows_of(trace: Trace, counter: Counter, seed: int) -> Rows:
    """Let a counter watch a trace.

    Args:
        trace: the true power.
        counter: how it is seen.
        seed: of the instants of the polls.
    """
    period = counter.period_seconds
    refreshes = np.arange(counter.phase * period, trace.times[-1], period)
    seen = trace.energy_at(refreshes - counter.lag_seconds)
    if counter.seen_ratio < 1:
        window = counter.seen_ratio * period
        steps = (seen - trace.energy_at(refreshes - counter.lag_seconds - window)) / counter.seen_ratio
        seen = np.cumsum(steps)
    shown = np.floor((seen - seen[0]) / COUNT_JOULES) * COUNT_JOULES
    before = refreshes + np.random.default_rng(seed).uniform(0, POLL_SECONDS, len(refreshes))
    return Rows(refreshes, before - POLL_SECONDS, before, shown)
