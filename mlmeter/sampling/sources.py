"""Opened backends and the rows that they have given; meters share them."""

from __future__ import annotations

import json
import math
import random
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlmeter.backends.base import Backend
from mlmeter.backends.registry import Opened, Probe, probe
from mlmeter.energy.counters import DEFAULT_MAX_POWER_WATTS, FAST_PERIOD_SECONDS, CounterRows, Remark, Rows
from mlmeter.energy.integrate import GaugeRows
from mlmeter.energy.trapezoids import longest_step_seconds
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.sampling.edge_permit import EdgePermit
from mlmeter.sampling.errands import READ_LIMIT_SECONDS, HangingError, answer_of
from mlmeter.sampling.poll_budget import PollBudget
from mlmeter.sampling.power_process import PROCESS, REMEDY, THREAD, PowerProcess, with_power_process
from mlmeter.sampling.read_cost import SLOW_SECONDS, ReadCost
from mlmeter.sampling.refresh_lock import NEVER_NS, RefreshLock

FIRST_RETRY_SECONDS = 1.0
# Reads per wrap of the shortest counter, whatever period the user asked for.
READS_PER_WRAP = 4
# Rows kept from before a session or window: their slope tells the power at its start.
ROWS_BEFORE = 8
# Reads within the time from which on a gauge has a gap.
READS_PER_STEP = 2
# A tick does not read again what the edge of a window has read within this part of a period.
EDGE_IS_TICK_SHARE = 8
# A counter that is refreshed more slowly than this is not read at the edges of windows.
SLOW_PERIOD_SECONDS = 0.01


@dataclass(slots=True, eq=False)
class Source:
    """One open backend and what it has given so far.

    Attributes:
        cheap: windows may read it at their edges, on the program's threads, as long as `edge_permit` is open.
        blocking: a read may take long, so it is read on a thread of its own.
        ordered: its readings come in order of time.
        gate: held by the thread that reads it.
        reading_ns: since when a thread of ours has been reading it; long ago if none is.
        hanging: a read has not come back: it is left alone until then.
        last_ns: time of the newest reading of each domain.
        stuck: methods of the backend that have not come back once.
    """

    backend: Backend
    domains: tuple[Domain, ...]
    rows: tuple[CounterRows | GaugeRows, ...]
    cheap: bool
    blocking: bool = False
    ordered: bool = True
    edge_permit: EdgePermit = field(default_factory=EdgePermit)
    gate: threading.Lock = field(default_factory=threading.Lock)
    reading_ns: int = -NEVER_NS
    hanging: bool = False
    last_ns: dict[int, int] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    subscribers: int = 0
    failing: bool = False
    retry_at_ns: int = 0
    retry_seconds: float = FIRST_RETRY_SECONDS
    read_ns: int = 0
    cost: ReadCost = field(init=False)
    told_slow: bool = False
    locks: tuple[RefreshLock | None, ...] = ()
    # Another way to the same counters, read at the ends of sessions only.
    second: Opened | None = None
    # Measured update periods of fast counters; None while they have not been measured.
    fast_periods_seconds: list[float | None] | None = None

    def __post_init__(self) -> None:
        start_seconds = seconds_of(self.backend, "call_seconds", otherwise=0.0)
        self.cost = ReadCost(start_seconds, len(self.domains), self.longest_safe_period_seconds())

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backend, and the one that only checks it."""
        return (self.backend,) if self.second is None else (self.backend, self.second.backend)

    @classmethod
    def of(cls, backend: Backend, domains: Sequence[Domain], second: Opened | None = None) -> Source:
        """Prepare the rows of an opened backend."""
        remedy = "" if isinstance(backend, PowerProcess) else REMEDY
        rows = tuple(
            CounterRows(domain) if domain.watts_per_count is None else GaugeRows(domain, remedy)
            for domain in domains
        )
        cheap = bool(domains) and all(
            domain.cheap_read and domain.update_period_seconds <= FAST_PERIOD_SECONDS for domain in domains
        )
        blocking = not cheap and getattr(backend, "blocking", False) is True
        # What a process has read arrives later than what the thread has read in its place.
        ordered = not cheap and not isinstance(backend, PowerProcess)
        return cls(backend, tuple(domains), rows, cheap, blocking, ordered, second=second)

    def prepare(
        self, budget: PollBudget, known_seconds: Mapping[str, float], rng: random.Random, now_ns: int
    ) -> None:
        """Get ready to be read: lock slow hardware counters, which windows can be shorter than.

        Args:
            budget: what polls may cost.
            known_seconds: update periods that this process has measured, by id of the domain.
            rng: of the times of coarse polls.
            now_ns: the time.
        """
        known = [known_seconds.get(domain.id) for domain in self.domains]
        if self.cheap:
            counted = [period for period, domain in zip(known, self.domains, strict=True) if domain.counted]
            if None not in counted:
                self.learn_fast_periods(known, budget, rng, now_ns)
            return
        self._lock(known, budget, rng)

    def _lock(self, known: Sequence[float | None], budget: PollBudget, rng: random.Random) -> None:
        self.locks = tuple(
            RefreshLock(
                domain.update_period_seconds * 1e9,
                budget,
                known_ns=None if seconds is None else seconds * 1e9,
                rng=rng,
            )
            if _is_measured_counter(domain)
            and (seconds or domain.update_period_seconds) > FAST_PERIOD_SECONDS
            else None
            for domain, seconds in zip(self.domains, known, strict=True)
        )

    def learn_fast_periods(
        self, periods_seconds: Sequence[float | None], budget: PollBudget, rng: random.Random, now_ns: int
    ) -> None:
        """Take the measured periods; counters that turn out to be slow are locked, not read at edges."""
        self.fast_periods_seconds = list(periods_seconds)
        counted = [
            period for period, domain in zip(periods_seconds, self.domains, strict=True) if domain.counted
        ]
        if not counted or not all(period is not None and period >= SLOW_PERIOD_SECONDS for period in counted):
            return
        self.cheap = False
        self._lock(periods_seconds, budget, rng)
        for rows, period in zip(self.rows, periods_seconds, strict=True):
            if isinstance(rows, CounterRows) and period is not None and period > FAST_PERIOD_SECONDS:
                rows.distrust_period(period, now_ns)

    def rests(self, now_ns: int, period_ns: int) -> bool:
        """Return whether a regular tick need not read it: its calls are slow, or a window's edge just did."""
        if self.cheap:
            return now_ns - self.read_ns < period_ns // EDGE_IS_TICK_SHARE
        rest_ns = self.cost.rest_ns(period_ns)
        # A tick may come a little early.
        return rest_ns > 0 and now_ns - self.read_ns < rest_ns - period_ns // 2

    def timed(self, elapsed_ns: int, now_ns: int, period_ns: int) -> None:
        """Note how long a read took, and say it once if that is why it is read less often from now on."""
        self.cost.took(elapsed_ns)
        if elapsed_ns < SLOW_SECONDS * 1e9 or self.told_slow or not self.rows:
            return
        if (text := self.slow_remark(period_ns)) is not None:
            self.rows[0].remarks.append(Remark(now_ns, "note", text))

    def note(self, text: str | None, now_ns: int) -> None:
        """Note something about the reads as an event; None is nothing."""
        if text is not None and self.rows:
            self.rows[0].remarks.append(Remark(now_ns, "note", f"{self.backend.name}: {text}"))

    def slow_remark(self, period_ns: int) -> str | None:
        """Return a sentence about calls so slow that they are made less often; None if they are not."""
        text = self.cost.remark(self.backend.name, period_ns)
        self.told_slow = self.told_slow or text is not None
        return text

    def due_ns(self, active_ns: int) -> int:
        """Return when the first of its locks wants a poll."""
        return min((lock.due_ns(active_ns) for lock in self.locks if lock is not None), default=NEVER_NS)

    def observe(self, items: Sequence[Reading | Failure], now_ns: int, active_ns: int) -> None:
        """Show what has just been read to the locks that are at work."""
        readings: dict[int, Reading] = {}
        for position, lock in enumerate(self.locks):
            due_ns = NEVER_NS if lock is None else lock.due_ns(active_ns)
            if lock is None or due_ns == NEVER_NS:
                continue
            readings = readings or {item.position: item for item in items if isinstance(item, Reading)}
            if position in readings:
                lock.observe(readings[position], polled=due_ns <= now_ns)
            elif due_ns <= now_ns:
                lock.postpone(now_ns)

    def period_seconds(self, position: int) -> float | None:
        """Return the update period of a domain as measured, None where it was not."""
        lock = self.locks[position] if self.locks else None
        if lock is not None and lock.measured_ns is not None:
            return lock.measured_ns * 1e-9
        return self.fast_periods_seconds[position] if self.fast_periods_seconds else None

    def polls(self) -> Counter[str]:
        """Return how often its slow counters were polled, by mode."""
        found: Counter[str] = Counter()
        for lock in filter(None, self.locks):
            found.update({str(mode): count for mode, count in lock.polls.items()})
        return found

    def suspended(self, since_ns: int, until_ns: int) -> None:
        """Note that the machine was suspended at some instant between two others."""
        for rows in self.rows:
            if isinstance(rows, CounterRows):
                rows.suspended(since_ns, until_ns)

    def close_rows(self, end_ns: int) -> None:
        """Book what could not be read up to the end of a session as gaps; say what was never read."""
        for domain, rows in zip(self.domains, self.rows, strict=True):
            rows.close(end_ns)
            if not rows.readings and not rows.remarks:
                text = f"{domain.name}: no read had come back when the session ended"
                rows.remarks.append(Remark(end_ns, "gap", text))

    def held_rows(self) -> int:
        """Return how many rows of all its domains are in memory."""
        return sum(len(rows.columns.counts) for rows in self.rows)

    def forget(self, time_ns: int) -> None:
        """Forget the rows from before a time, but for some, whose slope tells the power then."""
        for rows in self.rows:
            columns = rows.columns
            rows.forget(columns.first + bisect_right(columns.before_ns, time_ns) - ROWS_BEFORE)

    def ask(self, method: str) -> Any:
        """Call a method that backends need not have, for no longer than a read may take.

        One that has not come back is not called again.

        Raises:
            HangingError: it has not come back.
            Exception: whatever the backend raises.
        """
        if method in self.stuck:
            raise HangingError("it has not come back before")
        try:
            return answer_of(getattr(self.backend, method), READ_LIMIT_SECONDS)
        except HangingError:
            self.stuck.add(method)
            raise

    def device_states(self) -> dict[str, dict[str, Any]]:
        """Return what devices tell of clocks, heat and limits, by domain; absent if they tell nothing."""
        if not hasattr(self.backend, "device_states"):
            return {}
        try:
            states = self.ask("device_states")
            return {
                domain.name: _as_json(state)
                for domain, state in zip(self.domains, states, strict=True)
                if state
            }
        # Facts for readers of the manifest: no run may suffer from their lack.
        except Exception:
            return {}

    def snapshot(self, numbers: Sequence[int] | None = None) -> list[tuple[Domain, Rows]]:
        """Return the rows of every domain so far, or from a number on."""
        return [
            (domain, rows.snapshot(number)._replace(period_seconds=self.period_seconds(position)))
            for position, (domain, rows, number) in enumerate(
                zip(self.domains, self.rows, numbers or [0] * len(self.rows), strict=True)
            )
        ]

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
            min(horizons, default=infinite) / READS_PER_WRAP,
            min(steps, default=infinite) / READS_PER_STEP,
            seconds_of(self.backend, "longest_period_seconds", otherwise=infinite),
        )


def seconds_of(backend: Backend, attribute: str, *, otherwise: float) -> float:
    """Return what a backend says of itself; something else where it is no time."""
    seconds = getattr(backend, attribute, None)
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    return float(seconds) if number and 0 < seconds < math.inf else otherwise  # type: ignore[arg-type,operator]


def _as_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that the manifest can hold.

    Raises:
        ValueError: it holds what is no number.
    """
    copy: dict[str, Any] = json.loads(json.dumps(dict(state), default=str, allow_nan=False))
    return copy


def _is_measured_counter(domain: Domain) -> bool:
    return domain.watts_per_count is None and domain.provenance is Provenance.MEASURED


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
            sources = tuple(Source.of(*item[:2], item.second) for item in found.opened)
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
