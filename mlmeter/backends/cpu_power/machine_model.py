"""Wall power of a whole server from its processors, age and memory; comparable with a wall meter.

Idle power, full power and nine points between them are log-linear in thermal design power (or
cores, where that is unknown), sockets and year, plus what servers near it drew more or less: a
sum of kernels round groups of servers::

    ln P = b · (ln T, ln s, y, y², 1) + sum_j w_j k(|x - x_j|)
    k(d) = (1 + √3 d / l) exp(-√3 d / l)

The coefficients were fitted to published SPECpower_ssj2008 results by
``benchmarks/accuracy/cpu_estimate_fit.py``. Far from all servers the sum vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlmeter.backends.cpu_power.spreads import Spread

LOADS = tuple(level / 10 for level in range(11))
YEARS = (2006.0, 2025.0)
# What servers of the fit have; of more nobody knows what follows.
GIGABYTES_PER_CORE = (0.5, 16.0)
TYPICAL_GIGABYTES_PER_CORE = 2.7
TYPICAL_BASE_GHZ = 2.4
# Full power is above idle power, whatever the sums say.
LEAST_FULL_TO_IDLE = 1.02

SPREAD_LOADS = (0.05, 0.35, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineInputs:
    """What the formula needs of a machine.

    Attributes:
        sockets, cores, threads: of the whole machine, positive.
        year: in which the processor came out.
        tdp_watts: thermal design power of one socket; None if unknown.
        memory_gigabytes, base_ghz: None if unknown.
        intel: whether the processor is Intel's.
    """

    sockets: int
    cores: int
    threads: int
    year: float
    tdp_watts: float | None = None
    memory_gigabytes: float | None = None
    base_ghz: float | None = None
    intel: bool = True


class Surface(NamedTuple):
    """Coefficients of the eleven quantities: idle, nine rises, full.

    Attributes:
        linear: shape (11, 5).
        centres: shape (groups, features).
        weights: shape (groups, 11).
        spreads: of idle, 10 to 30 %, 40 to 70 %, and 80 to 100 % load.
    """

    linear: Sequence[Sequence[float]]
    centres: Sequence[Sequence[float]]
    weights: Sequence[Sequence[float]]
    spreads: Sequence[Spread]


class Coefficients(NamedTuple):
    """All coefficients of the machine formula.

    Attributes:
        kernel_length: l above.
        with_tdp, without_tdp: of machines whose thermal design power is known or unknown.
        implied_tdp: ln T = c · (ln cores, ln sockets, y, y², 1), for packages of unknown TDP.
        implied_tdp_spread: of true to implied TDP.
    """

    kernel_length: float
    with_tdp: Surface
    without_tdp: Surface
    implied_tdp: Sequence[float]
    implied_tdp_spread: Spread


@dataclass(frozen=True, slots=True)
class MachineCurve:
    """Wall power against load.

    Attributes:
        watts_at: power at `LOADS`, rising.
        spreads: as of `Surface`.
    """

    watts_at: tuple[float, ...]
    spreads: tuple[Spread, ...]

    def watts(self, load_ratio: float) -> float:
        """Return the power at a load; loads outside 0..1 are taken to its ends."""
        position = min(max(load_ratio, 0.0), 1.0) * (len(self.watts_at) - 1)
        left = min(int(position), len(self.watts_at) - 2)
        low, high = self.watts_at[left], self.watts_at[left + 1]
        return low + (high - low) * (position - left)

    def spread(self, load_ratio: float) -> Spread:
        """Return how far the truth may lie from `watts` at this load."""
        return self.spreads[sum(load_ratio >= limit for limit in SPREAD_LOADS)]


def scaled_year(year: float) -> float:
    """Return decades since 2016; years outside those of the fit are taken to its ends."""
    return (min(max(year, YEARS[0]), YEARS[1]) - 2016) / 10


def linear_terms(inputs: MachineInputs) -> tuple[float, ...]:
    """Return the terms of the log-linear part, shape (5,)."""
    size = inputs.cores if inputs.tdp_watts is None else inputs.sockets * inputs.tdp_watts
    year = scaled_year(inputs.year)
    return (math.log(size), math.log(inputs.sockets), year, year * year, 1.0)


def features(inputs: MachineInputs) -> tuple[float, ...]:
    """Return where a machine stands among others, shape (8,), or (7,) without a TDP."""
    per_core = TYPICAL_GIGABYTES_PER_CORE
    if inputs.memory_gigabytes is not None:
        low, high = GIGABYTES_PER_CORE
        per_core = min(max(inputs.memory_gigabytes / inputs.cores, low), high)
    base_ghz = TYPICAL_BASE_GHZ if inputs.base_ghz is None else inputs.base_ghz
    position = (
        1.5 * math.log(inputs.sockets),
        math.log(inputs.cores / inputs.sockets),
        0.4 * math.log(per_core),
        2.5 * scaled_year(inputs.year),
        0.0 if inputs.intel else 0.5,
        math.log(base_ghz / TYPICAL_BASE_GHZ),
        0.5 if inputs.threads > inputs.cores else 0.0,
    )
    return position if inputs.tdp_watts is None else (1.5 * math.log(inputs.tdp_watts), *position)


def kernel(distance: float, length: float) -> float:
    """Return how much of a neighbour's deviation holds at a distance: 1 at none, 0 far away."""
    scaled = math.sqrt(3) * distance / length
    return (1 + scaled) * math.exp(-scaled)


def machine_curve(inputs: MachineInputs, coefficients: Coefficients) -> MachineCurve:
    """Return the wall power of a machine against its load."""
    surface = coefficients.without_tdp if inputs.tdp_watts is None else coefficients.with_tdp
    terms, position = linear_terms(inputs), features(inputs)
    near = [kernel(math.dist(position, centre), coefficients.kernel_length) for centre in surface.centres]
    logs = [_dot(terms, row) for row in surface.linear]
    for column in range(len(logs)):
        logs[column] += _dot(near, [row[column] for row in surface.weights])
    return MachineCurve(curve_watts(logs), tuple(surface.spreads))


def curve_watts(logs: Sequence[float]) -> tuple[float, ...]:
    """Return power at `LOADS` from ln idle, ln of nine rises (share of full less idle), ln full."""
    idle = math.exp(logs[0])
    full = max(math.exp(logs[-1]), idle * LEAST_FULL_TO_IDLE)
    rise, watts = 0.0, [idle]
    for log in logs[1:-1]:
        rise = max(rise, math.exp(min(log, 0.0)))
        # Rounding can put idle + (full - idle) above full.
        watts.append(min(idle + (full - idle) * rise, full))
    return (*watts, full)


def implied_tdp_watts(inputs: MachineInputs, coefficients: Coefficients) -> float:
    """Return a thermal design power per socket that goes with the cores and the year."""
    year = scaled_year(inputs.year)
    terms = (math.log(inputs.cores), math.log(inputs.sockets), year, year * year, 1.0)
    return math.exp(_dot(terms, coefficients.implied_tdp)) / inputs.sockets


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))
