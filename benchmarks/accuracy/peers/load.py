"""A load drawn beforehand: which windows there are, when, and what the machine draws at any time.

Every process of a run (the counters', the tool's, its children) knows the same load by a file and
its beginning by eight shared bytes, so that counters and truth integrate the same power over
CLOCK_MONOTONIC. Standard library only: the tools' environments have nothing else in common.
"""

from __future__ import annotations

import json
import math
import mmap
import random
import struct
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

TRAINING, INFERENCE = "training", "inference"
IDLE_WATTS = 40.0
PHASE_WATTS = {TRAINING: 210.0, INFERENCE: 90.0}
TRAINING_SHARE = 0.6
# Relative scatter: from window to window, from gap to gap, and from piece to piece inside them.
WINDOW_SCATTER, GAP_SCATTER, PIECE_SCATTER = 0.15, 0.05, 0.15
LEAST_WATTS, MOST_WATTS = 10.0, 450.0
LENGTH_SCATTER = 0.2
PIECE_SECONDS = 0.7e-3
# Slow tools need some time between two windows; longer gaps than this would only cost time.
LEAST_GAP_SECONDS, MOST_MEAN_GAP_SECONDS = 2.5e-3, 0.25
GAP_PER_WINDOW = 0.8
# Before each block, for tools that start a session for it.
PAUSE_SECONDS = 1.0
NS = 1_000_000_000
_BEGIN = struct.Struct("<q")
NOT_BEGUN = 0


@dataclass(frozen=True)
class Window:
    """One window of the schedule, in seconds since the load began."""

    number: int
    block: int
    milliseconds: int
    phase: str
    begin: float
    end: float


@dataclass(frozen=True)
class Load:
    """Windows, and the power from each of `times` to the next; idle before and after."""

    windows: tuple[Window, ...]
    times: tuple[float, ...]
    watts: tuple[float, ...]
    joules: tuple[float, ...]

    @property
    def blocks(self) -> list[list[Window]]:
        """The windows by block."""
        found: dict[int, list[Window]] = {}
        for window in self.windows:
            found.setdefault(window.block, []).append(window)
        return list(found.values())

    def energy_at(self, seconds: float) -> float:
        """Return the joules since the load began; negative before that."""
        if seconds <= 0:
            return seconds * IDLE_WATTS
        if seconds >= self.times[-1]:
            return self.joules[-1] + (seconds - self.times[-1]) * IDLE_WATTS
        piece = bisect_right(self.times, seconds) - 1
        return self.joules[piece] + (seconds - self.times[piece]) * self.watts[piece]

    def save(self, path: Path) -> None:
        """Write the file that all processes read."""
        windows = [tuple(vars(window).values()) for window in self.windows]
        path.write_text(json.dumps({"windows": windows, "times": self.times, "watts": self.watts}))


def load_from(path: Path) -> Load:
    """Read what `Load.save` wrote."""
    content = json.loads(path.read_text())
    return _load([Window(*row) for row in content["windows"]], content["times"], content["watts"])


def draw(blocks: Sequence[tuple[int, float]], seed: int) -> Load:
    """Draw a load.

    Args:
        blocks: milliseconds of a typical window and seconds, of each block.
        seed: the same gives the same load.
    """
    chance = random.Random(seed)
    windows: list[Window] = []
    times, watts, now = [0.0], [], 0.0

    def segment(seconds: float, mean_watts: float, scatter: float) -> None:
        nonlocal now
        mean = mean_watts * (1 + scatter * chance.gauss(0, 1))
        pieces = max(1, int(seconds / PIECE_SECONDS))
        cuts = sorted(now + seconds * chance.random() for _ in range(pieces - 1))
        now += seconds
        for cut in (*cuts, now):
            times.append(cut)
            power = mean * (1 + PIECE_SCATTER * chance.gauss(0, 1))
            watts.append(min(max(power, LEAST_WATTS), MOST_WATTS))

    for block, (milliseconds, seconds) in enumerate(blocks):
        typical = milliseconds / 1e3
        mean_gap = min(GAP_PER_WINDOW * typical, MOST_MEAN_GAP_SECONDS)
        count = max(2, round(seconds / (typical + mean_gap + LEAST_GAP_SECONDS)))
        training = max(1, min(count - 1, round(TRAINING_SHARE * count)))
        phases = [TRAINING] * training + [INFERENCE] * (count - training)
        chance.shuffle(phases)
        segment(PAUSE_SECONDS, IDLE_WATTS, 0.0)
        for phase in phases:
            segment(LEAST_GAP_SECONDS + chance.expovariate(1 / mean_gap), IDLE_WATTS, GAP_SCATTER)
            begin = now
            segment(typical * math.exp(chance.gauss(0, LENGTH_SCATTER)), PHASE_WATTS[phase], WINDOW_SCATTER)
            windows.append(Window(len(windows), block, milliseconds, phase, begin, now))
    segment(LEAST_GAP_SECONDS, IDLE_WATTS, 0.0)
    return _load(windows, times, watts)


def _load(windows: Sequence[Window], times: Sequence[float], watts: Sequence[float]) -> Load:
    pieces = (power * (end - begin) for power, (begin, end) in zip(watts, pairwise(times), strict=True))
    return Load(tuple(windows), tuple(times), tuple(watts), tuple(accumulate(pieces, initial=0.0)))


class Beginning:
    """When the load begins: eight bytes that all processes of a run share."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_BEGIN.pack(NOT_BEGUN))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), _BEGIN.size)

    @property
    def ns(self) -> int:
        """CLOCK_MONOTONIC; `NOT_BEGUN` until it is known."""
        return int(_BEGIN.unpack_from(self._bytes)[0])

    def set(self, ns: int) -> None:
        """Tell it; it must lie in the future, so that no counter has to go back."""
        _BEGIN.pack_into(self._bytes, 0, ns)


class Machine:
    """What all counters of a run show: the energy since an instant before the load began."""

    def __init__(self, folder: Path, epoch_ns: int) -> None:
        self.load = load_from(folder / "load.json")
        self.beginning = Beginning(folder / "beginning")
        self.epoch_ns = epoch_ns

    def joules(self, at_ns: int) -> float:
        """Return the energy from the epoch to an instant that is not in the future."""
        begin_ns = self.beginning.ns
        if begin_ns == NOT_BEGUN or at_ns < begin_ns:
            return (at_ns - self.epoch_ns) / NS * IDLE_WATTS
        idle = (begin_ns - self.epoch_ns) / NS * IDLE_WATTS
        return idle + self.load.energy_at((at_ns - begin_ns) / NS)


def now_ns() -> int:
    """Return CLOCK_MONOTONIC, which all processes share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
