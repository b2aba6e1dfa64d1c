"""How often all counters are read where nobody has asked for a period: less often where that is dear."""

from __future__ import annotations

# Share of one core that waking and reading may take, unless rounds come at `LONGEST_SECONDS` already. Where
# that takes less than 0.1 ms, nothing changes. In a nested virtual machine it was 0.2 to 0.4 ms, and each
# round cost a program of NumPy or pure Python 0.3 to 0.5 ms.
TICK_CPU_RATIO = 0.001
# Four of them are less than `sampler.BOOKING_NS`, within which all that has been read is to be booked.
LONGEST_SECONDS = 0.23
# How fast the mean cost of a round follows the latest.
COST_SHARE = 0.05


class Pace:
    """Learns what a regular round costs, and says how often there shall be one."""

    def __init__(self) -> None:
        self._round_ns = 0.0

    def took(self, used_ns: int) -> None:
        """Note the CPU time of waking up and of reading all counters."""
        self._round_ns += COST_SHARE * (used_ns - self._round_ns)

    def period_ns(self, least_ns: int, most_ns: int) -> int:
        """Return the time between two rounds.

        Args:
            least_ns: however cheap they are.
            most_ns: however dear they are.
        """
        return max(least_ns, min(most_ns, round(self._round_ns / TICK_CPU_RATIO)))
