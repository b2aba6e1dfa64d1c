"""Opened backends and the rows that they have given; meters share them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mlmeter.backends.base import Backend
from mlmeter.backends.registry import Probe, probe
from mlmeter.energy.counters import DEFAULT_MAX_POWER_WATTS, FAST_PERIOD_SECONDS, CounterRows, Rows
from mlmeter.energy.integrate import GaugeRows
from mlmeter.energy.trapezoids import longest_step_seconds
from mlmeter.measurement import Domain, Provenance
from mlmeter.power_process import PROCESS, REMEDY, THREAD, PowerProcess, with_power_process

FIRST_RETRY_SECONDS = 1.0
# Reads per wrap of the shortest counter, whatever period the user asked for.
READS_PER_WRAP = 4
# Reads within the time from which on a gauge has a gap.
READS_PER_STEP = 2


@dataclass(slots=True, eq=False)
class Source:
    """One open backend and what it has given so far."""

    backend: Backend
    domains: tuple[Domain, ...]
    rows: tuple[CounterRows | GaugeRows, ...]
    cheap: bool
    subscribers: int = 0
    failing: bool = False
    retry_at_ns: int = 0
    retry_seconds: float = FIRST_RETRY_SECONDS

    @classmethod
    def of(cls, backend: Backend, domains: Sequence[Domain]) -> Source:
        """Prepare the rows of an opened backend."""
        remedy = "" if isinstance(backend, PowerProcess) else REMEDY
        rows = tuple(
            CounterRows(domain) if domain.watts_per_count is None else GaugeRows(domain, remedy)
            for domain in domains
        )
        cheap = bool(domains) and all(
            domain.cheap_read and domain.update_period_seconds <= FAST_PERIOD_SECONDS for domain in domains
        )
        return cls(backend, tuple(domains), rows, cheap)

    @property
    def slow(self) -> bool:
        """Whether it has a hardware counter that windows can be shorter than."""
        return any(
            domain.watts_per_count is None
            and domain.update_period_seconds > FAST_PERIOD_SECONDS
            and domain.provenance is Provenance.MEASURED
            for domain in self.domains
        )

    def snapshot(self) -> list[tuple[Domain, Rows]]:
        """Return the rows of every domain so far."""
        return [(domain, rows.snapshot()) for domain, rows in zip(self.domains, self.rows, strict=True)]

    def longest_safe_period_seconds(self) -> float:
        """Return the time between reads at which no counter can wrap unseen and no gauge has gaps."""
        horizons = [
            domain.modulus * domain.joules_per_count / (domain.max_power_watts or DEFAULT_MAX_POWER_WATTS)
            for domain in self.domains
            if domain.modulus is not None and domain.joules_per_count is not None
        ]
        steps = [
            longest_step_seconds(domain) for domain in self.domains if domain.watts_per_count is not None
        ]
        infinite = float("inf")
        return min(
            min(horizons, default=infinite) / READS_PER_WRAP, min(steps, default=infinite) / READS_PER_STEP
        )


class SourcePool:
    """Opens backends once, however many meters of the process want them at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._opened: dict[object, tuple[tuple[Source, ...], Probe]] = {}

    def open(
        self, selection: tuple[str | Backend, ...] | None, power_sampling: str = THREAD
    ) -> tuple[tuple[Source, ...], Probe]:
        """Open the selection, or take what another running meter has opened of the same.

        The caller holds `lock` until it has subscribed to the sources.

        Args:
            selection: names and backends; None for the best source of every domain.
            power_sampling: who reads power gauges, one of `POWER_SAMPLINGS`.
        """
        self._opened = {
            key: found for key, found in self._opened.items() if all(s.subscribers for s in found[0])
        }
        # A backend object can be open once only: opening it again would close it under the other meter.
        items = None if selection is None else tuple(_identity(item) for item in selection)
        key = (items, power_sampling)
        if key not in self._opened:
            found = probe(selection)
            if power_sampling == PROCESS:
                found = _with_power_processes(found)
            sources = tuple(Source.of(opened.backend, opened.domains) for opened in found.opened)
            if not sources:
                return sources, found
            self._opened[key] = (sources, found)
        return self._opened[key]

    def after_fork_in_child(self) -> None:
        """Start afresh: sources of the parent are read by the parent."""
        self.__init__()  # type: ignore[misc]  # the plainest way to forget everything


def _with_power_processes(found: Probe) -> Probe:
    """Let processes read the gauges of what was opened, where they can, and note where not."""
    opened, notes = [], list(found.notes)
    for item in found.opened:
        backend, note = with_power_process(item)
        opened.append(item._replace(backend=backend))
        notes += [note] if note else []
    return found._replace(opened=tuple(opened), notes=tuple(notes))


def _identity(item: str | Backend) -> object:
    return item if isinstance(item, str) else id(item)


POOL = SourcePool()
