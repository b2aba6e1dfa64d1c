"""Made-up loads with a known truth, and what a counter shows of them.

Each replay is drawn from a seed and takes no time of its own: nothing sleeps, nothing is read.
Labels: 0 is a gap, 1 is a window of phase A, 2 one of phase B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MIN_WATTS, MAX_WATTS = 40.0, 450.0
GAP, A, B = 0, 1, 2
LABEL_WATTS = np.array([80.0, 300.0, 180.0])
LABEL_SCATTER = np.array([0.05, 0.15, 0.15])
PIECE_SECONDS, MOST_PIECES, PIECE_SCATTER = 0.7e-3, 400, 0.15
# Polls for a refresh are this far apart; some of them are late.
POLL_SECONDS = 0.5e-3
LATE_SHARE, LATE_SECONDS, LATEST_PERIODS = 0.03, 5e-3, 0.4
READ_SECONDS = 0.1
# A refresh that a read shows is at most so old.
LONGEST_PERIOD_RATIO = 1.2


@dataclass(frozen=True)
class Scenario:
    """One row of the table of accuracy.

    Attributes:
        period_seconds, jitter_seconds, count_joules: of the counter.
        seconds: how long the run is.
        window_seconds: typical length of a window.
        isolated: whether gaps are much longer than a period, instead of about as long as windows.
        fast: whether the counter is read at the edges of windows, instead of searched for refreshes.
    """

    name: str
    period_seconds: float
    jitter_seconds: float
    count_joules: float
    seconds: float
    window_seconds: float
    isolated: bool = False
    fast: bool = False


@dataclass(frozen=True)
class Replay:
    """One run: the truth and the counter's rows.

    Attributes:
        edges: boundaries of the segments, shape (segments + 1,).
        label: GAP, A or B, shape (segments,).
        joules: true energy of each segment, shape (segments,).
        refreshes, shown_joules: true instants of the refreshes and the counter's values.
        after, before, row_joules: the rows that a sampler would have written.
    """

    edges: Floats
    label: Indices
    joules: Floats
    refreshes: Floats
    shown_joules: Floats
    after: Floats
    before: Floats
    row_joules: Floats

    @property
    def windows(self) -> Indices:
        """Segments that are windows."""
        return np.flatnonzero(self.label != GAP)


@dataclass(frozen=True)
class Load:
    """Segments and their true power: `watts` from each of `times` to the next."""

    edges: Floats
    label: Indices
    times: Floats
    watts: Floats

    def energy_at(self, instants: Floats) -> Floats:
        """Return the true cumulative joules."""
        upto = np.concatenate([[0.0], np.cumsum(self.watts * np.diff(self.times))])
        return np.interp(instants, self.times, upto)


def draw(scenario: Scenario, seed: int) -> Replay:
    """Draw a load and let a counter watch it."""
    random = np.random.default_rng(seed)
    load = _mixed_load(scenario, random)
    refreshes = _refresh_instants(scenario, random)
    if scenario.fast:
        return _read_at_edges(scenario, load, refreshes)
    return _searched(scenario, load, refreshes, random)


def alternating(
    windows: int,
    window_seconds: float,
    seed: int,
    *,
    gap_follows_window: bool,
    period_seconds: float = 0.1,
    jitter_seconds: float = 5e-3,
) -> Replay:
    """Draw windows of A (400 W) and B (100 W) in turn, apart by 0 to 100 ms.

    Args:
        windows: how many there are of each.
        window_seconds: length of each.
        seed: of the lengths of the gaps and of the counter.
        gap_follows_window: whether a gap goes on at the power of the window before it, instead
            of at 60 W.
        period_seconds, jitter_seconds: of the counter.
    """
    random = np.random.default_rng(seed)
    lengths = np.full(4 * windows + 1, window_seconds)
    lengths[::2] = random.uniform(0, 0.1, 2 * windows + 1)
    label = np.zeros(len(lengths), dtype=np.int64)
    label[1::4], label[3::4] = A, B
    edges = np.concatenate([[0.0], np.cumsum(lengths)])
    watts = np.array([60.0, 400.0, 100.0])[label]
    if gap_follows_window:
        watts[2::2] = watts[1:-1:2]
    load = Load(edges, label, edges, watts)
    counter = Scenario("", period_seconds, jitter_seconds, 1e-3, edges[-1], window_seconds)
    refreshes = _refresh_instants(counter, random)
    before = refreshes + random.uniform(0, 1e-3, len(refreshes))
    return _counted(counter, load, refreshes, before - 1e-3, before)


def _mixed_load(scenario: Scenario, random: np.random.Generator) -> Load:
    """Draw gaps and windows in turn until the run is over."""
    typical = scenario.window_seconds
    pairs = int(2 * scenario.seconds / typical) + 10
    if scenario.isolated:
        gaps = 0.35 + random.exponential(0.1, pairs)
    else:
        gaps = random.exponential(0.8 * typical, pairs) + 1e-4
    lengths = np.stack([gaps, typical * np.exp(random.normal(0, 0.2, pairs))], axis=1).ravel()
    label = np.zeros(2 * pairs, dtype=np.int64)
    label[1::2] = np.where(random.random(pairs) < 0.6, A, B)
    edges = np.concatenate([[0.0], np.cumsum(lengths)])
    kept = int(np.searchsorted(edges, scenario.seconds))
    edges, label = np.append(edges[:kept], scenario.seconds), label[:kept]
    power = LABEL_WATTS[label] * (1 + LABEL_SCATTER[label] * random.standard_normal(kept))
    # Each segment is cut at random points.
    pieces = np.clip((np.diff(edges) / PIECE_SECONDS).astype(int), 1, MOST_PIECES)
    segment = np.repeat(np.arange(kept), pieces - 1)
    cuts = edges[segment] + random.random(len(segment)) * np.diff(edges)[segment]
    times = np.sort(np.concatenate([edges, cuts]))
    owner = np.repeat(np.arange(kept), pieces)
    watts = power[owner] * (1 + PIECE_SCATTER * random.standard_normal(len(owner)))
    return Load(edges, label, times, np.clip(watts, MIN_WATTS, MAX_WATTS))


def _refresh_instants(scenario: Scenario, random: np.random.Generator) -> Floats:
    count = int(scenario.seconds / scenario.period_seconds) + 1
    regular = random.uniform(0, scenario.period_seconds) + np.arange(count) * scenario.period_seconds
    instants = np.sort(regular + random.normal(0, scenario.jitter_seconds, count))
    return instants[(instants >= 0) & (instants <= scenario.seconds)]


def _searched(scenario: Scenario, load: Load, refreshes: Floats, random: np.random.Generator) -> Replay:
    """Rows of a sampler that polls about each refresh."""
    count = len(refreshes)
    late = np.where(random.random(count) < LATE_SHARE, random.exponential(LATE_SECONDS, count), 0.0)
    late = np.minimum(late, LATEST_PERIODS * scenario.period_seconds)
    before = refreshes + random.uniform(0, POLL_SECONDS, count) + late
    return _counted(scenario, load, refreshes, before - POLL_SECONDS - late, before)


def _read_at_edges(scenario: Scenario, load: Load, refreshes: Floats) -> Replay:
    """Rows of reads at the edges of windows and ten times a second: those that show a change."""
    reads = np.unique(np.concatenate([load.edges, np.arange(0, scenario.seconds, READ_SECONDS)]))
    shown = np.searchsorted(refreshes, reads, side="right") - 1
    changed = np.flatnonzero((np.diff(shown, prepend=-1) > 0) & (shown >= 0))
    before = reads[changed]
    after = np.maximum(
        reads[np.maximum(changed - 1, 0)], before - LONGEST_PERIOD_RATIO * scenario.period_seconds
    )
    whole = _counted(scenario, load, refreshes, refreshes, refreshes)
    return replace(whole, after=after, before=before, row_joules=whole.shown_joules[shown[changed]])


def _counted(scenario: Scenario, load: Load, refreshes: Floats, after: Floats, before: Floats) -> Replay:
    """Let the counter show whole counts at each refresh."""
    shown = np.floor(load.energy_at(refreshes) / scenario.count_joules) * scenario.count_joules
    joules = np.diff(load.energy_at(load.edges))
    return Replay(load.edges, load.label, joules, refreshes, shown, after, before, shown)
