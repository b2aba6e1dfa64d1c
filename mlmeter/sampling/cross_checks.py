"""Which counters of a session disagree with the power read beside them, or with a second way to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlmeter.energy.counters import Rows
from mlmeter.energy.cross_check import NOTHING, BothEnergies, disagreement
from mlmeter.measurement import Domain
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.second_reading import SecondReadings
from mlmeter.sampling.sources import Source


class CrossChecks:
    """Compares the sources of one session, from its start to its end.

    Args:
        sampler: reads them.
        sources: those of the session, which may have been read before it.
    """

    def __init__(self, sampler: Sampler, sources: Sequence[Source] = ()) -> None:
        self._sampler, self._sources = sampler, sources
        self._before = {domain.name: both for domain, both in self._both()}
        self._second = SecondReadings(sources)

    def keep_up(self) -> None:
        """Read a second way that must be read from time to time."""
        self._second.keep_up(self._sampler.clock.now_ns())

    def keep_up_rows(self) -> None:
        """Take what is needed at the end from rows that are about to be forgotten."""
        if self._second:
            self._second.keep_up_rows(self._sampler.snapshot(self._sources))

    def disagreements(self) -> Iterator[tuple[str, str]]:
        """Yield domain and sentence of each disagreement, at the end of the session."""
        for domain, both in self._both():
            text = disagreement(domain, both.since(self._before.get(domain.name, NOTHING)))
            if text is not None:
                yield domain.name, text
        if self._second:
            after = self._second.read()
            self._sampler.tick()
            yield from self._second.disagreements(after, self._sampler.snapshot(self._sources))

    def of_session(self, domain: Domain, rows: Rows) -> Rows:
        """Take off what counter and power gave before the session."""
        if rows.cross_check is None:
            return rows
        return rows._replace(cross_check=rows.cross_check.since(self._before.get(domain.name, NOTHING)))

    def _both(self) -> list[tuple[Domain, BothEnergies]]:
        """What counters and the power read with them have given since their sources were opened."""
        return [
            (domain, rows.cross_check)
            for source in self._sources
            for domain, rows in zip(source.domains, source.rows, strict=True)
            if rows.cross_check is not None
        ]
