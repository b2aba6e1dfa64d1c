"""What looking after refreshes may cost: a share of one core, and what looks have cost so far."""

from __future__ import annotations

from collections import deque

# Share of one core that looking after refreshes may take while windows open and close, and its
# savings at most. In a nested virtual machine, where a poll costs 0.3 ms with its wake-up, that is
# not two polls for each refresh of a GPU's counter: they are placed coarsely there.
CPU_RATIO = 0.005
CPU_SAVED_NS = 3_000_000
# A process takes that for three minutes of windows, which is what fits need. Afterwards a share that no
# program feels has to do: looks cost it about twice their CPU time, for they take the interpreter from
# it and, on hyper-threads, a part of its core.
FIRST_LOOKS_NS = 900_000_000
LATER_CPU_RATIO = 0.002
# Where the thread mostly wakes so much too late, no look hits its instant, and each takes the interpreter
# from the program; and where a poll costs so much, that share places the refreshes of a GPU's counter within
# 50 to 70 ms, where reads at each tick give 100 ms: then a small share has to do. Python lets go of the
# interpreter after 5 ms when asked.
CROWDED_NS = 4_000_000
DEAR_POLL_NS = 80_000
SMALL_CPU_RATIO = 0.0005
# Once: learning the period of a counter takes a row of polls without rests.
FIRST_SAVED_NS = 40_000_000
# Polls that have used up everything rest until so much is saved: a row of polls that follow each
# other places refreshes, single ones do not.
REST_UNTIL_NS = 1_000_000
# Until that is known.
FIRST_POLL_NS = 75_000
# How fast the mean cost of a poll follows its latest.
COST_SHARE = 0.05
WAKE_DELAYS = 64
WAKE_DELAY_QUANTILE = 0.9


class PollBudget:
    """CPU time saved for looks at counters, the mean cost of a poll, and how late the thread wakes.

    Attributes:
        locks: counters that are waited for separately and share the budget.
        saved_ns: CPU time that may be used now; below 0 if the last look took more than was left.
        wake_delay_ns: 90th percentile of the last 64 delays between due time and poll.
    """

    def __init__(self) -> None:
        self.locks = 1
        self.saved_ns = FIRST_SAVED_NS
        self.wake_delay_ns = 0
        self._typical_delay_ns = self._spent_ns = 0
        self._resting = False
        self._poll_ns: float = FIRST_POLL_NS
        self._delays: deque[int] = deque(maxlen=WAKE_DELAYS)
        self._wakes = 0

    @property
    def crowded(self) -> bool:
        """Whether the thread wakes too late to look at an instant."""
        return self._typical_delay_ns >= CROWDED_NS

    @property
    def first_looks(self) -> bool:
        """Whether the process has not used up yet what it may spend at first."""
        return self._spent_ns < FIRST_LOOKS_NS

    @property
    def cpu_ratio(self) -> float:
        """Share of one core that looks may take at present."""
        if self.crowded:
            return SMALL_CPU_RATIO
        if self.first_looks:
            return CPU_RATIO
        return LATER_CPU_RATIO if self._poll_ns < DEAR_POLL_NS else SMALL_CPU_RATIO

    @property
    def polls_per_second(self) -> float:
        """How often a poll of the mean cost can be made for ever."""
        return self.cpu_ratio * 1e9 / max(self._poll_ns, 1.0)

    @property
    def plenty(self) -> float:
        """What is saved, as a multiple of half of what can be saved: 0 to 2."""
        return 2 * min(max(0, self.saved_ns), CPU_SAVED_NS) / CPU_SAVED_NS

    def polls_within(self, nanoseconds: float) -> float:
        """Return how many polls can follow each other in a time, from what is saved after a rest."""
        return (max(REST_UNTIL_NS, self.saved_ns) + self.cpu_ratio * nanoseconds) / max(self._poll_ns, 1.0)

    def may_poll(self) -> bool:
        """Return whether there is CPU time for polls."""
        if self.saved_ns <= 0:
            self._resting = True
        elif self.saved_ns >= REST_UNTIL_NS:
            self._resting = False
        return not self._resting

    def may_locate(self) -> bool:
        """Return whether the thread shall be woken for the refresh after a window's edge.

        Later, only where that leaves something for polls of slow counters.
        """
        # Asked at the edges of windows: without the properties, which are calls.
        needed_ns = 0 if self._spent_ns < FIRST_LOOKS_NS else REST_UNTIL_NS
        return self.saved_ns > needed_ns and self._typical_delay_ns < CROWDED_NS

    def earn(self, elapsed_ns: int) -> None:
        """Save the share of the time that has passed, up to the most that may be saved."""
        earned_ns = min(self.saved_ns + round(self.cpu_ratio * elapsed_ns), CPU_SAVED_NS)
        self.saved_ns = max(self.saved_ns, earned_ns)

    def spend(self, used_ns: int) -> None:
        """Take CPU time away."""
        self.saved_ns -= used_ns
        self._spent_ns += used_ns

    def spend_poll(self, used_ns: int) -> None:
        """Take away the CPU time of one poll and learn what polls cost."""
        self.spend(used_ns)
        self._poll_ns += COST_SHARE * (used_ns - self._poll_ns)

    def woke(self, late_ns: int) -> None:
        """Note by how much the thread woke after the time that it was to wake at."""
        self._delays.append(max(0, late_ns))
        self._wakes += 1
        # Sorting at every poll would cost more than the freshest value is worth.
        if self._wakes % 8 == 0 or len(self._delays) < 8:
            ordered = sorted(self._delays)
            self.wake_delay_ns = ordered[int(WAKE_DELAY_QUANTILE * (len(ordered) - 1))]
            self._typical_delay_ns = ordered[len(ordered) // 2]
