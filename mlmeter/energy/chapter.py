"""One chapter of a long session: the sums that are kept of a span of time.

A chapter never changes. Two that follow each other add up to one, in any order of adding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.attribution import Energies
from mlmeter.energy.pool import Pool, added, chosen_rows
from mlmeter.energy.thinning import thinned
from mlmeter.measurement import Domain, Event, Provenance
from mlmeter.units import SECONDS_PER_NANOSECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.thinning import Samples

# Of the remarks of fits, which differ from chapter to chapter by their figures.
MOST_EVENTS = 200
_NUMBERS = ("joules", "low", "high", "covered_seconds", "duration_seconds")
_SIGMAS = ("sigma_statistical", "sigma_systematic")
_POOLS = ("session", "phases", "names", "bursts", "work")
_FLAGS = ("fitted", "told")


@dataclass(frozen=True)
class Chapter:
    """Sums of one span of a session, or of several spans that follow each other.

    Attributes:
        start_ns, end_ns: monotonic nanoseconds.
        windows: how many windows have ended in it.
        session: the energy of the whole machine, one group.
        work: what tells energy per unit of work, by phase, unit and name.
        parts: of a process, likewise, by name of the part.
        phases: sums of the phases, by phase.
        names, bursts: sums of windows, by name and phase.
        carried: of windows that were open at the end, by number, and of the session, which is number 0:
            ``"exclusive"`` and ``"inclusive"`` energies since they were opened, and in ``"work"`` work of
            windows in them that counts only if they do not count it themselves.
        samples: by domain, seconds and joules since the start.
        metrics: last value of each metric, with the number of its window.
        events: what the fits said.
        edges_ns: edges of windows near the end, for the curve of what follows.
    """

    start_ns: int
    end_ns: int
    windows: int
    session: Pool
    phases: Pool
    names: Pool
    bursts: Pool
    work: Pool = field(default_factory=Pool)
    parts: Mapping[str, Pool] = field(default_factory=dict)
    carried: Mapping[str, Pool] = field(default_factory=dict)
    samples: Mapping[str, Samples] = field(default_factory=dict)
    metrics: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    edges_ns: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the chapter."""
        return (self.end_ns - self.start_ns) * SECONDS_PER_NANOSECOND

    def plus(self, later: Chapter) -> Chapter:
        """Return this chapter and the one that follows it as one.

        Raises:
            ValueError: the other one does not begin where this one ends.
        """
        if later.start_ns != self.end_ns:
            raise ValueError("only chapters that follow each other can be added")
        return Chapter(
            self.start_ns,
            later.end_ns,
            self.windows + later.windows,
            self.session.plus(later.session),
            self.phases.plus(later.phases),
            self.names.plus(later.names),
            self.bursts.plus(later.bursts),
            self.work.plus(later.work),
            {
                name: self.parts.get(name, Pool()).plus(later.parts.get(name, Pool()))
                for name in dict.fromkeys((*self.parts, *later.parts))
            },
            later.carried,
            self._samples_with(later),
            self._metrics_with(later),
            tuple(dict.fromkeys((*self.events, *later.events)))[:MOST_EVENTS],
            later.edges_ns,
        )

    def beside(self, other: Chapter) -> Chapter:
        """Return the chapter of the same time with the domains of both."""
        names = ("session", "phases", "names", "bursts")
        pools = {name: getattr(self, name).beside(getattr(other, name)) for name in names}
        return replace(
            self,
            **pools,
            parts={name: pool.beside(other.parts[name]) for name, pool in self.parts.items()},
            carried={name: pool.beside(other.carried[name]) for name, pool in self.carried.items()},
            samples={**self.samples, **other.samples},
            events=tuple(dict.fromkeys((*self.events, *other.events))),
        )

    def carried_into(self, energies: Energies, spans: str, ids: Any) -> Energies:
        """Add what windows that were open at the end have used before.

        Args:
            energies: of the windows of what follows, row 0 that of the session.
            spans: ``"exclusive"`` or ``"inclusive"``; other spans are returned as they are.
            ids: numbers of the windows without the session.
        """
        pool = self.carried.get(spans)
        if not pool or energies.domain.name not in pool.energies:
            return energies
        numbers = np.concatenate(([0], np.array(ids, dtype=np.int64)))
        rows = np.flatnonzero(np.isin(numbers, [key[0] for key in pool.keys]))
        parts = pool.placed([(number,) for number in numbers[rows].tolist()]).energies[energies.domain.name]
        return _with_rows(energies, rows, added([parts, chosen_rows(energies, rows)]))

    def carried_column(self, spans: str, name: str, ids: Any) -> NDArray[np.float64]:
        """Return a column of what is carried, of windows by number and of the session, shape (ids + 1,)."""
        column, pool = np.zeros(len(ids) + 1), self.carried.get(spans, Pool())
        numbers = np.concatenate(([0], np.array(ids, dtype=np.int64)))
        rows = np.flatnonzero(np.isin(numbers, [key[0] for key in pool.keys]))
        places = {key[0]: place for place, key in enumerate(pool.keys)}
        column[rows] = pool.column(name)[[places[number] for number in numbers[rows].tolist()]]
        return column

    def to_json(self) -> dict[str, Any]:
        """Return the chapter as lists, texts and numbers; absent numbers are None."""
        return {
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "windows": self.windows,
            **{name: _pool_to_json(getattr(self, name)) for name in _POOLS},
            "parts": {name: _pool_to_json(pool) for name, pool in self.parts.items()},
            "carried": {spans: _pool_to_json(pool) for spans, pool in self.carried.items()},
            "samples": {name: [column.tolist() for column in pair] for name, pair in self.samples.items()},
            "metrics": {name: list(last) for name, last in self.metrics.items()},
            "events": [asdict(event) for event in self.events],
            "edges_ns": list(self.edges_ns),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Chapter:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        start_ns, end_ns, windows = (int(document[name]) for name in ("start_ns", "end_ns", "windows"))
        if end_ns < start_ns:
            raise ValueError("a chapter ends before it begins")
        return cls(
            start_ns,
            end_ns,
            windows,
            session=_pool_from_json(document["session"]),
            phases=_pool_from_json(document["phases"]),
            names=_pool_from_json(document["names"]),
            bursts=_pool_from_json(document["bursts"]),
            work=_pool_from_json(document["work"]),
            parts={str(name): _pool_from_json(pool) for name, pool in document["parts"].items()},
            carried={str(spans): _pool_from_json(pool) for spans, pool in document["carried"].items()},
            samples={str(name): _samples_from_json(pair) for name, pair in document["samples"].items()},
            metrics={
                str(name): (int(window), float(value))
                for name, (window, value) in document["metrics"].items()
            },
            events=tuple(Event(**event) for event in document["events"]),
            edges_ns=tuple(int(edge) for edge in document["edges_ns"]),
        )

    def _metrics_with(self, later: Chapter) -> dict[str, tuple[int, float]]:
        both = {**self.metrics, **later.metrics}
        return {name: max(self.metrics.get(name, last), last, key=_window_of) for name, last in both.items()}

    def _samples_with(self, later: Chapter) -> dict[str, Samples]:
        found = {}
        for name in dict.fromkeys((*self.samples, *later.samples)):
            pairs = [chapter.samples[name] for chapter in (self, later) if name in chapter.samples]
            if name in later.samples:
                whole = self.session.energies.get(name)
                before = 0.0 if whole is None else float(whole.joules[0])
                pairs[-1] = later.samples[name][0] + self.seconds, later.samples[name][1] + before
            seconds, joules = (np.concatenate(column) for column in zip(*pairs, strict=True))
            found[name] = thinned(seconds, joules)
        return found


def _window_of(last: tuple[int, float]) -> int:
    return last[0]


def _with_rows(energies: Energies, rows: NDArray[np.int64], new: Energies) -> Energies:
    """Replace some spans; what is known of sigmas of either is known of the result."""
    columns: dict[str, Any] = {}
    for name in (*_NUMBERS, *_SIGMAS, *_FLAGS, "share"):
        old, changed = getattr(energies, name), getattr(new, name)
        if old is None and changed is None:
            continue
        column = _filled(energies, name) if old is None else old.copy()
        column[rows] = _filled(new, name) if changed is None else changed
        columns[name] = column
    return replace(energies, **columns)


def _filled(energies: Energies, name: str) -> NDArray[Any]:
    """Return what a column that is None stands for."""
    size = len(energies.joules)
    values: dict[str, Any] = {
        "sigma_statistical": energies.sigma,
        "sigma_systematic": np.full(size, np.nan),
        "fitted": energies.resolved,
        "told": np.ones(size, dtype=np.bool_),
        "share": np.full(size, None, dtype=object),
    }
    return np.array(values[name])


def _pool_to_json(pool: Pool) -> dict[str, Any]:
    return {
        "keys": [list(key) for key in pool.keys],
        "columns": {name: _plain(column) for name, column in pool.columns.items()},
        "energies": {
            name: {
                "domain": asdict(energies.domain),
                "method": energies.method,
                "known": bool(energies.known),
                **{
                    column: _plain(getattr(energies, column))
                    for column in (*_NUMBERS, *_SIGMAS, *_FLAGS, "share")
                },
            }
            for name, energies in pool.energies.items()
        },
    }


def _pool_from_json(document: Mapping[str, Any]) -> Pool:
    keys = tuple(tuple(_key_part(part) for part in key) for key in document["keys"])
    size = len(keys)
    columns = {str(name): _floats(column, size) for name, column in document["columns"].items()}
    energies = {str(name): _energies_from_json(item, size) for name, item in document["energies"].items()}
    return Pool(keys, columns, energies)


def _energies_from_json(item: Mapping[str, Any], size: int) -> Energies:
    columns: dict[str, Any] = {name: _floats(item[name], size) for name in _NUMBERS}
    for name in _NUMBERS:
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"{name} is not finite")
    columns |= {name: None if item[name] is None else _floats(item[name], size) for name in _SIGMAS}
    columns |= {name: None if item[name] is None else _floats(item[name], size) > 0 for name in _FLAGS}
    share = item["share"]
    if share is not None:
        columns["share"] = np.array([None if text is None else str(text) for text in share], dtype=object)
        if len(columns["share"]) != size:
            raise ValueError("columns of a chapter differ in length")
    described = {**item["domain"], "provenance": Provenance(item["domain"]["provenance"])}
    return Energies(Domain(**described), str(item["method"]), known=bool(item["known"]), **columns)


def _samples_from_json(pair: Any) -> Samples:
    seconds, joules = pair
    return _floats(seconds, len(joules)), _floats(joules, len(seconds))


def _key_part(part: Any) -> str | int:
    return int(part) if isinstance(part, int) else str(part)


def _floats(column: Any, size: int) -> NDArray[np.float64]:
    found = np.array([np.nan if value is None else float(value) for value in column], dtype=np.float64)
    if len(found) != size:
        raise ValueError("columns of a chapter differ in length")
    return found


def _plain(column: Any) -> list[Any] | None:
    """Return a column as a list; NaN is None."""
    if column is None:
        return None
    return [None if value != value else value for value in column.tolist()]
