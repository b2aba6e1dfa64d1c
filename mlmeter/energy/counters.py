"""Raw readings of one cumulative counter to rows of a timeline: unwrap, resets, stuck.

A row says: the refresh that brought the total to `total_counts` happened in the bracket
``(after_ns, before_ns]``. Rows are written when the counter changes; a reading that shows
the old value only moves the next bracket's start. Gaps are spans in which energy may be
missing; they never change a total, they lower the coverage and raise the upper bound.
"""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple

from mlmeter.energy.cross_check import LOWEST_WATTS, NOTHING, BothEnergies, CrossCheck
from mlmeter.energy.row_columns import RowColumns
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import NANOSECONDS_PER_SECOND, SECONDS_PER_NANOSECOND

# A counter that refreshes every 2 ms or faster is read at window edges, and its last refresh
# is taken to be at most LONGEST_PERIOD_RATIO periods old.
FAST_PERIOD_SECONDS = 0.002
LONGEST_PERIOD_RATIO = 1.2
# Without a limit from the hardware: more than any package or board draws.
DEFAULT_MAX_POWER_WATTS = 2_000.0
# A power limit is a mean over seconds; short turbo peaks reach several times a laptop's.
PLAUSIBLE_POWER_RATIO = 2.5
STUCK_PERIODS = 10
STUCK_SECONDS = 1.0
# Power takes the place of a counter that stands still if it was read for so much of that time.
INTEGRATED_RATIO = 0.9
# A counter that goes on with less than this part of that energy has missed the time.
CAUGHT_UP_RATIO = 0.5
MOST_REMARKS = 1_000
# Shorter means are dominated by the refresh time of the counter.
SHORTEST_MEAN_SECONDS = 0.01


class Remark(NamedTuple):
    """An event before it is bound to a session: absolute time, kind, sentence."""

    at_ns: int
    kind: str
    message: str


class Remarks(list[Remark]):
    """The remarks about one domain, not more than `MOST_REMARKS`: a fault can come again for weeks."""

    def append(self, remark: Remark) -> None:
        """Add a remark; the last one that there is room for says that further ones are missing."""
        if len(self) == MOST_REMARKS - 1:
            remark = Remark(remark.at_ns, "note", "further events of this domain are not kept")
        if len(self) < MOST_REMARKS:
            super().append(remark)


class Rows(NamedTuple):
    """Immutable copy of what has been collected of one domain.

    For a counter: `after_ns`, `before_ns` and cumulative counts since the first reading.
    For a gauge: begin and end of each read and the raw value.
    `driver_ns` is the driver's own time of each value, nanoseconds since 1970, or
    `NO_DRIVER_TIME`; None if no reading had one. `cross_check` is what a counter and the power
    read with it give for the same time; None without power.
    `period_seconds` is the counter's mean update period as measured, None where it was not.
    `integrated_ns` is when power was last integrated because the counter stood still, None if
    it never was.
    """

    after_ns: array[int]
    before_ns: array[int]
    counts: array[int]
    gaps_ns: tuple[tuple[int, int], ...]
    last_ns: int | None
    readings: int
    resets: int
    largest_mean_watts: float
    driver_ns: array[int] | None = None
    cross_check: BothEnergies | None = None
    period_seconds: float | None = None
    integrated_ns: int | None = None


class CounterRows:
    """Collects the readings of one counter domain, in any order of arrival."""

    def __init__(self, domain: Domain) -> None:
        if domain.joules_per_count is None:
            raise ValueError(f"{domain.name} is a gauge, not a counter")
        self._domain = domain
        self._joules_per_count = domain.joules_per_count
        self._fast = domain.update_period_seconds <= FAST_PERIOD_SECONDS
        # The period of a slow hardware counter is a first guess; an estimate's is known.
        self._trusted = self._fast or domain.provenance is Provenance.ESTIMATED
        self._period_ns = round(domain.update_period_seconds * NANOSECONDS_PER_SECOND)
        self._longest_period_ns = round(self._period_ns * LONGEST_PERIOD_RATIO)
        self._stuck_ns = round(max(STUCK_PERIODS * domain.update_period_seconds, STUCK_SECONDS) * 1e9)
        self.columns = RowColumns()
        self._check = CrossCheck(domain)
        self._gaps: list[tuple[int, int]] = []
        self._last: Reading | None = None
        self._failing_since_ns: int | None = None
        self._suspended_ns: tuple[int, int] | None = None
        self._stuck_reported = False
        # The last row of the counter's own, when it was written, and both energies up to then.
        self._own_row = self._own_ns = 0
        self._both_at_own = NOTHING
        self._integrated_ns: int | None = None
        self._integrated_before_ns: int | None = None
        self._learn_power(0.0)
        self._mean_anchor = 0
        self.readings = 0
        self.resets = 0
        self.remarks = Remarks()

    def add(self, reading: Reading) -> None:
        """Take one reading; one older than what is known is dropped."""
        last = self._last
        # Reads of two threads can overlap: which value is the newer one is then not known.
        if last is not None and (reading.end_ns <= last.end_ns or reading.begin_ns < last.end_ns):
            return
        self.readings += 1
        if self._failing_since_ns is not None:
            self._end_of_failures(reading, self._failing_since_ns)
        if reading.power_counts is not None or self._check.both is not None:
            self._check.add(reading)
        if last is not None and reading.value == last.value:
            self._unchanged(last, reading)
        else:
            if last is None:
                self._append(reading.begin_ns - self._longest_period_ns, reading, 0)
            else:
                if self.columns.end != self._own_row + 1:
                    self._resumed(last, reading)
                self._changed(last, reading)
            self._own_row, self._own_ns = self.columns.end - 1, reading.end_ns
            self._both_at_own = self._check.both or NOTHING
        self._last = reading

    def fail(self, failure: Failure) -> None:
        """Note that the domain could not be read; the next reading covers the time in between."""
        if self._failing_since_ns is None:
            self._failing_since_ns = failure.at_ns
            kind = "lost" if failure.lost else "gap"
            self.remarks.append(Remark(failure.at_ns, kind, f"{self._domain.name}: {failure.reason}"))

    def suspended(self, since_ns: int, until_ns: int) -> None:
        """Note that the machine was suspended at some instant between two others.

        What the counter counted then, or forgot, belongs to no time of the session: the step over it is
        not counted.
        """
        self._suspended_ns = since_ns, until_ns

    def close(self, end_ns: int) -> None:
        """Book a gap up to `end_ns` if the counter could no longer be read at the end."""
        if self._failing_since_ns is not None:
            start = self._last.begin_ns if self._last is not None else self._failing_since_ns
            self._add_gap(start, end_ns)

    def refreshed_since(self, time_ns: int) -> bool:
        """Return whether the counter has been seen to count up to `time_ns`; True if it fails."""
        if self._failing_since_ns is not None or not self.columns:
            return True
        rows = self.columns
        return (rows.before_ns if self._trusted else rows.after_ns)[-1] >= time_ns

    def distrust_period(self, period_seconds: float, now_ns: int) -> None:
        """Take back that the last refresh is always recent: the counter is slower than was thought.

        Args:
            period_seconds: mean time between refreshes as measured.
            now_ns: when that was found, for the remark.
        """
        text = (
            f"{self._domain.name}: counter is refreshed every {1e3 * period_seconds:.0f} ms only; "
            "windows are not read at their edges, short ones are uncertain"
        )
        self.remarks.append(Remark(now_ns, "note", text))
        assumed_ns = self._longest_period_ns
        self._fast = self._trusted = False
        self._longest_period_ns = max(assumed_ns, round(LONGEST_PERIOD_RATIO * period_seconds * 1e9))
        rows, rewritten = self.columns, {}
        for row, (after, before) in enumerate(zip(rows.after_ns, rows.before_ns, strict=True)):
            if before - after >= assumed_ns:
                earliest = rows.before_ns[row - 1] if row else before - self._longest_period_ns
                rewritten[row] = min(after, max(earliest, before - self._longest_period_ns))
        rows.rewrite_after(rewritten)

    def snapshot(self, number: int = 0) -> Rows:
        """Return a copy of the rows so far, or from a number on."""
        return Rows(
            **self.columns.since(number)._asdict(),
            gaps_ns=tuple(self._gaps),
            last_ns=self.last_ns,
            readings=self.readings,
            resets=self.resets,
            largest_mean_watts=self._largest_mean_watts,
            cross_check=self.cross_check,
            integrated_ns=self._integrated_ns,
        )

    @property
    def cross_check(self) -> BothEnergies | None:
        """What the counter and the power read with it have given so far."""
        return self._check.both

    @property
    def last_ns(self) -> int | None:
        """When it was read last; None if never."""
        return self._last.end_ns if self._last is not None else None

    @property
    def content(self) -> tuple[object, ...]:
        """What differs as soon as something is known beside the rows that changes their meaning."""
        return len(self._gaps), self._gaps[-1:], self.resets, self._integrated_ns

    def _changed(self, last: Reading, reading: Reading) -> None:
        """Book a step: plain, wrapped, or a reset after which the count starts anew."""
        step = reading.value - last.value
        if step < 0 and self._domain.modulus is not None:
            step += self._domain.modulus
        # From the earliest possible time of the last refresh: a late refresh is a big step, not a reset.
        elapsed_seconds = (reading.end_ns - self.columns.after_ns[-1]) * SECONDS_PER_NANOSECOND
        plausible_joules = (
            1.2 * self._plausible_watts * (elapsed_seconds + self._domain.update_period_seconds)
            + self._joules_per_count
        )
        after = last.begin_ns
        if self._trusted:
            # The value is that of some instant of the read, which can have been interrupted.
            after = max(after, reading.begin_ns - self._longest_period_ns)
        if self._suspended_ns is not None and self._spans(self._suspended_ns, reading):
            what = "may have been reset or have counted on while the machine was suspended"
            self._lose(last, reading, "suspend", what)
            step = 0
        elif reading.end_ns - last.end_ns > self._shortest_wrap_ns:
            self._lose(last, reading, "gap", "was not read for longer than it takes to wrap")
            step = 0
        elif step < 0 or step * self._joules_per_count > plausible_joules:
            self.resets += 1
            self._lose(last, reading, "reset", f"fell or jumped from {last.value} to {reading.value} counts")
            step = 0
        self._append(after, reading, self.columns.counts[-1] + step)
        self._stuck_reported = False

    def _unchanged(self, last: Reading, reading: Reading) -> None:
        """Notice a slow refresh or a counter that stands still."""
        since_change_ns = reading.begin_ns - self._own_ns
        if self._fast and since_change_ns < self._stuck_ns:
            # The counter has shown that its period can be longer than assumed.
            self._longest_period_ns = max(
                self._longest_period_ns, round(LONGEST_PERIOD_RATIO * since_change_ns)
            )
        if since_change_ns < self._stuck_ns:
            return
        joules = self._power_joules(reading)
        if not self._stuck_reported:
            self._stuck_reported = True
            text = f"{self._domain.name}: counter has stood still for {since_change_ns / 1e9:.1f} s"
            text += "" if joules is None else "; its power is integrated instead"
            self.remarks.append(Remark(reading.end_ns, "stuck", text))
        if joules is None:
            self._add_gap(self.columns.before_ns[-1], reading.begin_ns)
            return
        total = self._own_total + round(joules / self._joules_per_count)
        self._integrated_ns = reading.end_ns
        self._append(last.begin_ns, reading, max(total, self.columns.counts[-1]))

    def _power_joules(self, reading: Reading) -> float | None:
        """Return what power says was used since the counter last moved; None if it says too little."""
        if self.cross_check is None:
            return None
        added = self.cross_check.since(self._both_at_own)
        seconds = (reading.end_ns - self._own_ns) * SECONDS_PER_NANOSECOND
        if added.seconds < INTEGRATED_RATIO * seconds or added.power_joules < LOWEST_WATTS * seconds:
            return None
        return added.power_joules

    def _resumed(self, last: Reading, reading: Reading) -> None:
        """See whether a counter that goes on has counted while it stood still.

        If so, it is better than the power that was integrated in its place.
        """
        own, rows = self._own_row, self.columns
        integrated, step = rows.counts[-1] - self._own_total, reading.value - last.value
        elapsed_seconds = (reading.end_ns - rows.after_ns[own - rows.first]) * SECONDS_PER_NANOSECOND
        most = 1.2 * self._plausible_watts * elapsed_seconds / self._joules_per_count
        if not CAUGHT_UP_RATIO * integrated <= step <= most:
            self._integrated_before_ns = self._integrated_ns
            return
        rows.take_back(own + 1)
        self._mean_anchor = min(self._mean_anchor, own)
        self._integrated_ns = self._integrated_before_ns

    def _end_of_failures(self, reading: Reading, since_ns: int) -> None:
        seconds = (reading.end_ns - since_ns) / 1e9
        known = "that time is known as one sum"
        if self._last is None:
            # A counter that was never read before tells nothing of the time before.
            self._add_gap(since_ns, reading.begin_ns)
            known = "the energy of that time is not known"
        text = f"{self._domain.name}: readable after {seconds:.3f} s; {known}"
        self.remarks.append(Remark(reading.end_ns, "gap", text))
        self._failing_since_ns = None

    def _spans(self, suspended_ns: tuple[int, int], reading: Reading) -> bool:
        """Whether the machine may have been suspended since the last row."""
        since_ns, until_ns = suspended_ns
        return self.columns.before_ns[-1] < until_ns and since_ns < reading.end_ns

    def _lose(self, last: Reading, reading: Reading, kind: str, what: str) -> None:
        # What was used since the last refresh was never shown, however often it has been looked for.
        start_ns = min(last.end_ns, self.columns.before_ns[-1])
        self._add_gap(start_ns, reading.end_ns)
        seconds = (reading.end_ns - start_ns) / 1e9
        text = f"{self._domain.name}: counter {what}; energy of {seconds:.3f} s is not known"
        self.remarks.append(Remark(reading.end_ns, kind, text))

    def _add_gap(self, start_ns: int, end_ns: int) -> None:
        """Add a gap, joined with the last one if they touch."""
        if self._gaps and start_ns <= self._gaps[-1][1]:
            start_ns = min(start_ns, self._gaps[-1][0])
            end_ns = max(end_ns, self._gaps[-1][1])
            self._gaps.pop()
        if end_ns > start_ns:
            self._gaps.append((start_ns, end_ns))

    @property
    def _own_total(self) -> int:
        return self.columns.counts[self._own_row - self.columns.first]

    def _append(self, after_ns: int, reading: Reading, total: int) -> None:
        rows, before_ns = self.columns, reading.end_ns
        rows.append(after_ns, before_ns, total, reading.driver_time_ns)
        anchor = self._mean_anchor - rows.first
        seconds = (before_ns - rows.before_ns[anchor]) * SECONDS_PER_NANOSECOND
        if seconds >= max(SHORTEST_MEAN_SECONDS, self._domain.update_period_seconds / 2):
            watts = (total - rows.counts[anchor]) * self._joules_per_count / seconds
            if watts > self._largest_mean_watts:
                self._learn_power(watts)
            self._mean_anchor = rows.end - 1

    def forget(self, number: int) -> None:
        """Forget the rows before `number`, but for those that the next reading is compared with."""
        self.columns.forget(min(number, self._own_row, self._mean_anchor))

    def _learn_power(self, watts: float) -> None:
        """Note the largest mean power so far, and what that says of power and of the time to a wrap."""
        self._largest_mean_watts = watts
        limit, modulus = self._domain.max_power_watts, self._domain.modulus
        self._plausible_watts = DEFAULT_MAX_POWER_WATTS
        if limit is not None:
            self._plausible_watts = max(PLAUSIBLE_POWER_RATIO * limit, 1.5 * watts)
        self._shortest_wrap_ns = math.inf
        if modulus is not None:
            most_watts = max(limit or DEFAULT_MAX_POWER_WATTS, 1.5 * watts)
            self._shortest_wrap_ns = modulus * self._joules_per_count / most_watts * NANOSECONDS_PER_SECOND
