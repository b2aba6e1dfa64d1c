"""Times for which the machine was suspended, and steps of the wall clock.

Neither enters a duration: the monotonic clock stands still in suspend and knows no date. But a
counter may have been reset in suspend, or have counted on, and a reader of the run's times of day must know.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from mlmeter.clock import Clock
from mlmeter.energy.counters import Remark
from mlmeter.units import NANOSECONDS_PER_SECOND, SECONDS_PER_NANOSECOND

# The clocks are read one after the other: if the thread is held up in between, the next look has to do.
LONGEST_LOOK_NS = 10_000_000
LEAST_SUSPEND_NS = 100_000_000
# A clock that is slewed moves by 0.5 ms in a second; between two looks that is nothing.
LEAST_STEP_NS = 500_000_000
# A clock that is set to and fro by two programs must not fill the memory.
MOST_CHANGES = 1_000
SECONDS_PER_DAY = 86_400


class Change(NamedTuple):
    """What happened to the clocks between two looks, in monotonic nanoseconds.

    Attributes:
        since_ns, until_ns: the two looks.
        suspended_ns: how long the machine was suspended.
        step_ns: by how much the wall clock was set forward, negative for back.
    """

    since_ns: int
    until_ns: int
    suspended_ns: int
    step_ns: int

    def remarks(self) -> list[Remark]:
        """Return what a reader of the session must know."""
        found = []
        if self.suspended_ns:
            text = f"the machine was suspended for {_span(self.suspended_ns)}"
            text += ": that time is in no duration, and what was used then in no energy"
            found.append(Remark(self.until_ns, "suspend", text))
        if self.step_ns:
            way = "forward" if self.step_ns > 0 else "back"
            text = (
                f"the wall clock was set {way} by {_span(abs(self.step_ns))}: durations and energies are not "
                "affected; the times of day of this run are those of the clock at its start"
            )
            found.append(Remark(self.until_ns, "clock", text))
        return found


class ClockChanges:
    """Compares the clocks from time to time.

    Args:
        clock: the clocks.

    Attributes:
        changes: what was found, in order of time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.changes: list[Change] = []
        self.begin()

    def begin(self) -> None:
        """Begin anew: what has happened until now concerns nobody."""
        self._looked_ns, self._suspended_ns, self._wall_ns, _ = self._read()
        # Up to when the machine is known not to have been suspended.
        self._awake_ns = self._looked_ns

    def was_suspended(self) -> bool:
        """Return whether the machine has been suspended since the last look, as it seems.

        Asked at each tick: if it has not, a suspend that a later look finds lies behind this instant.
        """
        now_ns = self._clock.now_ns()
        if self._clock.boot_ns() - now_ns - self._suspended_ns > LEAST_SUSPEND_NS:
            return True
        self._awake_ns = now_ns
        return False

    def look(self) -> Change | None:
        """Compare the clocks with the last look; return what has changed, if anything."""
        now_ns, all_suspended_ns, wall_ns, spent_ns = self._read()
        if spent_ns > LONGEST_LOOK_NS:
            return None
        suspended_ns, step_ns = all_suspended_ns - self._suspended_ns, wall_ns - self._wall_ns
        since_ns, self._looked_ns = self._looked_ns, now_ns
        # Small steps are those of a clock that is slewed: they do not add up to a large one.
        self._wall_ns = wall_ns
        if abs(step_ns) < LEAST_STEP_NS:
            step_ns = 0
        if suspended_ns < LEAST_SUSPEND_NS:
            suspended_ns = 0
        else:
            self._suspended_ns = all_suspended_ns
        if not suspended_ns and not step_ns:
            return None
        if suspended_ns:
            since_ns = max(since_ns, self._awake_ns)
        change = Change(since_ns, now_ns, suspended_ns, step_ns)
        if len(self.changes) < MOST_CHANGES:
            self.changes.append(change)
        return change

    def _read(self) -> tuple[int, int, int, int]:
        """Return the time, all time suspended, the wall clock's lead, and how long reading them took."""
        clock = self._clock
        before_ns, boot_ns, wall_ns, now_ns = clock.now_ns(), clock.boot_ns(), clock.wall_ns(), clock.now_ns()
        return now_ns, boot_ns - before_ns, wall_ns - boot_ns, now_ns - before_ns

    def facts(self, start_ns: int, end_ns: int, start_wall_ns: int) -> dict[str, Any]:
        """Return what the clocks did in a session, for its manifest.

        Args:
            start_ns, end_ns: of the session, monotonic.
            start_wall_ns: time of day at its start, nanoseconds since 1970.

        Returns:
            Seconds suspended, seconds by which the wall clock was set, and the time of day of the end by
            the clock as it was at the start.
        """
        changes = [
            change for change in self.changes if change.since_ns < end_ns and start_ns < change.until_ns
        ]
        suspended_ns = sum(change.suspended_ns for change in changes)
        end_wall_ns = start_wall_ns + end_ns - start_ns + suspended_ns
        end = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=end_wall_ns // 1_000)
        return {
            "suspended_seconds": suspended_ns * SECONDS_PER_NANOSECOND,
            "wall_clock_step_seconds": sum(change.step_ns for change in changes) * SECONDS_PER_NANOSECOND,
            "end_time_utc": end.isoformat(timespec="milliseconds"),
        }


def _span(span_ns: int) -> str:
    """Return a length of time for people, with the days if it has some."""
    days, rest_ns = divmod(span_ns, SECONDS_PER_DAY * NANOSECONDS_PER_SECOND)
    seconds = f"{rest_ns * SECONDS_PER_NANOSECOND:.1f} s"
    return f"{days} d {seconds}" if days else seconds
