"""A made-up GPU whose counter, lag, sensor window and clock are known; seconds pass at once."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gpu_device import Sample

WALL_SECONDS = 1.7e9
IDLE_WATTS, FULL_WATTS, SCATTER = 70.0, 330.0, 0.01
# Work begins and ends a little after it was asked to.
LATEST_EDGE_SECONDS = 1e-3
CALL_SECONDS, WAKE_UP_SECONDS = 0.25e-3, 0.1e-3
COUNT_MILLIJOULES = 1
POWER_LAG_SECONDS, POWER_NOISE_WATTS = 5e-3, 0.5
RING_SAMPLES, LATENCY_MICROSECONDS = 120, 150


@dataclass(frozen=True)
class Truth:
    """What the experiments have to find.

    Attributes:
        period_seconds, jitter_seconds: of the refreshes of counter and power.
        lag_seconds: how old what the counter shows is.
        seen_ratio: share of each period that the counter's sensor sees.
        power_window_seconds: what the instant power averages.
    """

    period_seconds: float = 0.1
    jitter_seconds: float = 1e-3
    lag_seconds: float = 0.03
    seen_ratio: float = 1.0
    power_window_seconds: float = 0.025


class SimulatedGpu:
    """Stands in for `gpu_device.NvidiaGpu`, on a clock of its own.

    Args:
        truth: how the GPU is.
        seed: of all that is random.
    """

    simulated = True
    no_load_reason = ""

    def __init__(self, truth: Truth, seed: int = 0) -> None:
        self.truth = truth
        seen = "all of the time" if truth.seen_ratio == 1 else f"{truth.seen_ratio:.0%} of the time"
        self.facts = {
            "device": f"SIMULATED GPU, its counter sees {seen}",
            "driver": "none: simulated",
            "persistence mode": "none: simulated",
            "MIG mode": "none: simulated",
        }
        self.max_watts = 1.5 * FULL_WATTS
        self._random = np.random.default_rng(seed)
        self._now = 0.0
        self._times, self._watts = [-10.0], [IDLE_WATTS]
        self._joules, self._shown_joules, self._instant_watts = [0.0], 0.0, IDLE_WATTS
        self._count, self._last, self._upcoming = 0, 0.0, truth.period_seconds * 0.37
        self._ring: deque[tuple[float, float]] = deque(maxlen=RING_SAMPLES)

    def now(self) -> float:
        """Return the made-up time in seconds."""
        return self._now

    def sleep_until(self, seconds: float) -> None:
        """Let the time pass, and a little more."""
        self._pass(max(self._now, seconds) + self._random.exponential(WAKE_UP_SECONDS))

    def read(self) -> Sample:
        """Read counter and instant power."""
        begin = self._now
        self._pass(begin + CALL_SECONDS * self._random.uniform(0.5, 1.0))
        called = self._now
        count = int(self._shown_joules * 1e3 / COUNT_MILLIJOULES) * COUNT_MILLIJOULES
        milliwatts = round(self._instant_watts * 1e3)
        self._pass(called + CALL_SECONDS * self._random.uniform(0.0, 0.5))
        stamp = round((WALL_SECONDS + called) * 1e6)
        return Sample(begin, self._now, WALL_SECONDS + begin, count, milliwatts, stamp, LATENCY_MICROSECONDS)

    def play(self, spans: Sequence[tuple[float, float]], strength: float = 1.0) -> PlayedLoad:
        """Put a load on the GPU in these spans, which lie ahead."""
        for start, end in spans:
            late = self._random.uniform(0, LATEST_EDGE_SECONDS, 2)
            watts = IDLE_WATTS + strength * (FULL_WATTS - IDLE_WATTS)
            self._add_power(start + late[0], watts * (1 + SCATTER * self._random.standard_normal()))
            self._add_power(end + late[1], IDLE_WATTS)
        return PlayedLoad(list(spans))

    def power_ring(self) -> list[tuple[float, float]]:
        """Return wall time in seconds and watts of the power samples that the driver keeps."""
        return list(self._ring)

    def state(self) -> str:
        """Return performance state and clock."""
        return "P0, simulated clock"

    def close(self) -> None:
        """Do nothing."""

    def _add_power(self, time: float, watts: float) -> None:
        self._joules.append(self._joules[-1] + self._watts[-1] * (time - self._times[-1]))
        self._times.append(time)
        self._watts.append(watts)

    def _energy_at(self, time: float) -> float:
        at = bisect_right(self._times, time) - 1
        return self._joules[at] + self._watts[at] * (time - self._times[at])

    def _pass(self, now: float) -> None:
        while self._upcoming <= now:
            self._refresh(self._upcoming)
            self._count += 1
            regular = self.truth.period_seconds * (self._count + 0.37)
            jitter = self._random.normal(0, self.truth.jitter_seconds)
            self._upcoming = max(regular + jitter, self._upcoming + 1e-4)
        self._now = now

    def _refresh(self, instant: float) -> None:
        """Bring counter, power and ring up to date."""
        truth = self.truth
        upto = instant - truth.lag_seconds
        seen_seconds = truth.seen_ratio * (instant - self._last)
        step = self._energy_at(upto) - self._energy_at(upto - seen_seconds)
        self._shown_joules += step / truth.seen_ratio
        upto = instant - POWER_LAG_SECONDS
        window_joules = self._energy_at(upto) - self._energy_at(upto - truth.power_window_seconds)
        noise = self._random.normal(0, POWER_NOISE_WATTS)
        self._instant_watts = window_joules / truth.power_window_seconds + noise
        self._ring.append((WALL_SECONDS + instant, self._instant_watts))
        self._last = instant


@dataclass(frozen=True)
class PlayedLoad:
    """A load that is exactly what was asked for."""

    spans: list[tuple[float, float]]

    def finish(self) -> list[tuple[float, float]]:
        """Return when the load was on."""
        return self.spans
