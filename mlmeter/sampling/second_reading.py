"""A second way to counters that a session meters: read at both of its ends, and compared."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Iterable

from mlmeter.backends.registry import Opened
from mlmeter.energy.counters import Rows
from mlmeter.energy.cross_check import twins_disagree
from mlmeter.measurement import Domain, Reading
from mlmeter.sampling.sources import Source, seconds_of
from mlmeter.units import SECONDS_PER_NANOSECOND

logger = logging.getLogger("mlmeter")


class SecondReadings:
    """Compares the counters of sources with their second ways, over one session.

    Args:
        sources: those of the session; without a second way there is nothing to do.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._seconds = [source.second for source in sources if source.second is not None]
        self._before = self.read()
        self._read_ns = 0
        # By id of the domain, the count at the beginning; None where a gap makes it useless.
        self._first: dict[str, float | None] = {}

    def __bool__(self) -> bool:
        return bool(self._seconds)

    def read(self) -> list[dict[str, Reading]]:
        """Read all second ways once: per way, the readings by id of the domain."""
        return [_readings(second) for second in self._seconds]

    def keep_up(self, now_ns: int) -> None:
        """Read a way that must be read from time to time; its kernel side may miss wraps else."""
        periods = (
            seconds_of(second.backend, "longest_period_seconds", otherwise=math.inf)
            for second in self._seconds
        )
        seconds = min(periods, default=math.inf)
        if (now_ns - self._read_ns) * SECONDS_PER_NANOSECOND >= seconds:
            self._read_ns = now_ns
            self.read()

    def keep_up_rows(self, rows: Iterable[tuple[Domain, Rows]]) -> None:
        """Take from rows that are about to be forgotten what the comparison at the end needs."""
        begins = {name: reading for before in self._before for name, reading in before.items()}
        for domain, found in rows:
            if domain.id in begins:
                known, begin_ns = (
                    self._first_count(domain, found, begins[domain.id]),
                    _middle_ns(begins[domain.id]),
                )
                lost = any(end > begin_ns for _, end in found.gaps_ns)
                self._first[domain.id] = None if lost else known

    def _first_count(self, domain: Domain, rows: Rows, begin: Reading) -> float | None:
        """Return the domain's count at the beginning."""
        if domain.id in self._first:
            return self._first[domain.id]
        return _count_at(rows, _middle_ns(begin))

    def disagreements(
        self, after: list[dict[str, Reading]], rows: Iterable[tuple[Domain, Rows]]
    ) -> list[tuple[str, str]]:
        """Return domain and sentence of each counted domain whose ways disagree since the beginning.

        Args:
            after: what `read` gave at the end.
            rows: what the session has collected, with readings after that, too.
        """
        collected = {domain.id: (domain, found) for domain, found in rows if domain.counted}
        texts: list[tuple[str, str]] = []
        for second, begin, end in zip(self._seconds, self._before, after, strict=True):
            for other in second.domains:
                if other.id in collected and other.id in begin and other.id in end:
                    domain, found = collected[other.id]
                    first = self._first_count(domain, found, begin[other.id])
                    text = _disagreement(domain, found, other, (begin[other.id], end[other.id]), first)
                    texts += [] if text is None else [(collected[other.id][0].name, text)]
        return texts


def _readings(second: Opened) -> dict[str, Reading]:
    try:
        items = second.backend.read()
    except Exception as error:  # only a check: what fails is not compared
        logger.info("reading %s for a comparison failed: %s", second.backend.name, error)
        return {}
    return {second.domains[item.position].id: item for item in items if isinstance(item, Reading)}


def _middle_ns(reading: Reading) -> int:
    return (reading.begin_ns + reading.end_ns) // 2


def _disagreement(
    domain: Domain, rows: Rows, other: Domain, ends: tuple[Reading, Reading], first: float | None
) -> str | None:
    begin, end = ends
    begin_ns, end_ns = _middle_ns(begin), _middle_ns(end)
    # What a counter does not tell for certain cannot be compared.
    if any(start < end_ns and stop > begin_ns for start, stop in rows.gaps_ns):
        return None
    last = _count_at(rows, end_ns)
    if first is None or last is None or end.value < begin.value:
        return None
    return twins_disagree(
        domain.name,
        other.source,
        (end_ns - begin_ns) * SECONDS_PER_NANOSECOND,
        (last - first) * (domain.joules_per_count or 0.0),
        (end.value - begin.value) * (other.joules_per_count or 0.0),
    )


def _count_at(rows: Rows, time_ns: int) -> float | None:
    """Return the count at a time, on the line between two rows; None before the first one."""
    after = bisect_right(rows.before_ns, time_ns)
    if after == 0:
        return None
    if after == len(rows.before_ns):
        return float(rows.counts[-1])
    before_ns, next_ns = rows.before_ns[after - 1], rows.before_ns[after]
    share = (time_ns - before_ns) / (next_ns - before_ns)
    return rows.counts[after - 1] + share * (rows.counts[after] - rows.counts[after - 1])
