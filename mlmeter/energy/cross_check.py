"""Energy counter against integrated power, where one read gives both; and against its twin.

Boards are known whose counter shows half of what their power integrates to
(ml-energy/zeus issue 181: 187 J against 327 J at idle). Which of the two is wrong no program
can tell; that they disagree a reader of the numbers must know.
"""

from __future__ import annotations

from typing import NamedTuple

from mlmeter.energy.trapezoids import longest_step_seconds
from mlmeter.measurement import Domain, Reading
from mlmeter.units import SECONDS_PER_NANOSECOND

LOWEST_RATIO, HIGHEST_RATIO = 0.85, 1.15
# What a part-time sensor misses and the last refresh of the counter matter in shorter spans.
SHORTEST_SECONDS = 10.0
FEWEST_PERIODS = 100
# Below this, both are mostly rounding: a laptop's GPU that is asleep.
LOWEST_WATTS = 1.0
# More than this times the limit between two reads is a counter that was set anew.
PLAUSIBLE_POWER_RATIO = 2.5
DEFAULT_LIMIT_WATTS = 2_000.0
# Two ways to one register: the kernel's units of server DRAM differ by 0.3 %, nothing else does.
TWIN_RATIO = 1.02
LEAST_TWIN_JOULES = 1.0


class BothEnergies(NamedTuple):
    """What counter and power gave for the time in which both could be read."""

    seconds: float
    counter_joules: float
    power_joules: float

    def since(self, earlier: BothEnergies) -> BothEnergies:
        """Return what has been added since an earlier state."""
        return BothEnergies(*(now - then for now, then in zip(self, earlier, strict=True)))


NOTHING = BothEnergies(0.0, 0.0, 0.0)


class CrossCheck:
    """Adds up both energies of one counter domain from its readings; needs no memory of them.

    A step between two readings counts for both or for neither: not where one of them has no
    power, where they are too far apart for a trapezoid, or where the counter was set anew.

    Attributes:
        both: the sums so far; None until a reading carried power.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._longest_seconds = longest_step_seconds(domain)
        limit_watts = domain.max_power_watts or DEFAULT_LIMIT_WATTS
        self._plausible_watts = PLAUSIBLE_POWER_RATIO * limit_watts
        self._last: Reading | None = None
        self.both: BothEnergies | None = None

    def add(self, reading: Reading) -> None:
        """Take the next reading, in order of time."""
        last, self._last = self._last, reading
        if reading.power_counts is None:
            return
        self.both = self.both or NOTHING
        if last is None or last.power_counts is None:
            return
        seconds = (
            (reading.begin_ns + reading.end_ns - last.begin_ns - last.end_ns) / 2 * SECONDS_PER_NANOSECOND
        )
        joules = self._step_joules(last, reading)
        if not 0 < seconds <= self._longest_seconds or not self._plausible(joules, seconds):
            return
        watts = (reading.power_counts + last.power_counts) / 2 * (self._domain.power_watts_per_count or 0.0)
        self.both = BothEnergies(
            self.both.seconds + seconds,
            self.both.counter_joules + joules,
            self.both.power_joules + watts * seconds,
        )

    def _step_joules(self, last: Reading, reading: Reading) -> float:
        step = reading.value - last.value
        if step < 0 and self._domain.modulus is not None:
            step += self._domain.modulus
        return step * (self._domain.joules_per_count or 0.0)

    def _plausible(self, joules: float, seconds: float) -> bool:
        # The whole energy of the last period may come with one step.
        since_refresh = seconds + 2 * self._domain.update_period_seconds
        return 0 <= joules <= self._plausible_watts * since_refresh


def disagreement(domain: Domain, both: BothEnergies | None) -> str | None:
    """Return a sentence with both figures if they disagree; None if not, or if nothing can be said."""
    if both is None or both.seconds < max(SHORTEST_SECONDS, FEWEST_PERIODS * domain.update_period_seconds):
        return None
    largest, power = max(both.counter_joules, both.power_joules), both.power_joules
    if largest < LOWEST_WATTS * both.seconds:
        return None
    if LOWEST_RATIO * power <= both.counter_joules <= HIGHEST_RATIO * power:
        return None
    return (
        f"{domain.name}: its energy counter shows {both.counter_joules:.4g} J for {both.seconds:.4g} s in "
        f"which its power adds up to {power:.4g} J: one of the two is wrong by more than 15 %"
    )


def twins_disagree(
    name: str, other: str, seconds: float, counter_joules: float, other_joules: float
) -> str | None:
    """Return a sentence with both figures if two ways to one counter disagree.

    None if they agree, or if nothing can be said: of less than 10 s, or of less than 1 J.

    Args:
        name: of the domain.
        other: name of the other way.
        seconds: time for which both figures are.
        counter_joules, other_joules: energy by the counter that is reported, and by the other way.
    """
    low, high = sorted((counter_joules, other_joules))
    if seconds < SHORTEST_SECONDS or high < LEAST_TWIN_JOULES or high <= TWIN_RATIO * low:
        return None
    return (
        f"{name}: its counter shows {counter_joules:.4g} J for {seconds:.4g} s in which {other}, another way "
        f"to the same register, shows {other_joules:.4g} J: one of the two is wrong"
    )
