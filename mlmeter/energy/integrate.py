"""Readings of a power gauge to rows that can be integrated.

Every reading is kept, also unchanged ones: a held value is not a ramp to the next one.
"""

from __future__ import annotations

from mlmeter.energy.counters import Remark, Remarks, Rows
from mlmeter.energy.row_columns import RowColumns
from mlmeter.energy.trapezoids import longest_step_seconds
from mlmeter.measurement import Domain, Failure, Reading


class GaugeRows:
    """Collects the readings of one power-only domain.

    Args:
        domain: the gauge.
        remedy: what to do about a sampler that was kept from reading; told with the gap.
    """

    def __init__(self, domain: Domain, remedy: str = "") -> None:
        if domain.watts_per_count is None:
            raise ValueError(f"{domain.name} is a counter, not a gauge")
        self._domain = domain
        self._watts_per_count = domain.watts_per_count
        self._remedy = remedy
        self._gap_ns = round(longest_step_seconds(domain) * 1e9)
        # Begin and end of each read.
        self.columns = RowColumns()
        self._gaps: list[tuple[int, int]] = []
        self._failing_since_ns: int | None = None
        self._largest_watts = 0.0
        self.readings = 0
        self.resets = 0
        self.remarks = Remarks()

    def add(self, reading: Reading) -> None:
        """Take one reading; one older than what is known is dropped."""
        last_ns = self.last_ns
        if last_ns is not None and reading.end_ns <= last_ns:
            return
        self.readings += 1
        failing_since_ns, self._failing_since_ns = self._failing_since_ns, None
        if last_ns is not None and reading.begin_ns - last_ns > self._gap_ns:
            self._book_gap(last_ns, reading.begin_ns, "" if failing_since_ns else self._remedy)
        elif last_ns is None and failing_since_ns and reading.begin_ns - failing_since_ns > self._gap_ns:
            # Nothing is known of the time before the first reading.
            self._book_gap(failing_since_ns, reading.begin_ns)
        self.columns.append(reading.begin_ns, reading.end_ns, reading.value, reading.driver_time_ns)
        self._largest_watts = max(self._largest_watts, reading.value * self._watts_per_count)

    def fail(self, failure: Failure) -> None:
        """Note that the domain could not be read."""
        if self._failing_since_ns is None:
            self._failing_since_ns = failure.at_ns
            kind = "lost" if failure.lost else "gap"
            self.remarks.append(Remark(failure.at_ns, kind, f"{self._domain.name}: {failure.reason}"))

    def close(self, end_ns: int) -> None:
        """Book a gap up to `end_ns` if power has not been read for long."""
        last_ns = self.last_ns
        if last_ns is not None and end_ns - last_ns > self._gap_ns:
            self._book_gap(last_ns, end_ns)

    def refreshed_since(self, time_ns: int) -> bool:
        """Return whether power has been read since `time_ns`; True if it fails."""
        rows = self.columns
        return self._failing_since_ns is not None or not rows or rows.after_ns[-1] >= time_ns

    @property
    def cross_check(self) -> None:
        """Nothing: there is no counter to compare the power with."""

    def snapshot(self, number: int = 0) -> Rows:
        """Return a copy of the rows so far, or from a number on."""
        return Rows(
            **self.columns.since(number)._asdict(),
            gaps_ns=tuple(self._gaps),
            last_ns=self.last_ns,
            readings=self.readings,
            resets=self.resets,
            largest_mean_watts=self._largest_watts,
        )

    def forget(self, number: int) -> None:
        """Forget the rows before `number`; the newest stays."""
        self.columns.forget(number)

    @property
    def content(self) -> tuple[object, ...]:
        """What differs as soon as something is known beside the rows that changes their meaning."""
        return len(self._gaps), self._gaps[-1:]

    @property
    def last_ns(self) -> int | None:
        """When it was read last; None if never."""
        return self.columns.before_ns[-1] if self.columns else None

    def _book_gap(self, start_ns: int, end_ns: int, remedy: str = "") -> None:
        self._gaps.append((start_ns, end_ns))
        text = f"{self._domain.name}: power was not read for {(end_ns - start_ns) / 1e9:.1f} s"
        self.remarks.append(Remark(end_ns, "gap", f"{text}; {remedy}" if remedy else text))
