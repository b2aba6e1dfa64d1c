"""Energies of groups of windows that are added up over time.

E(a, c) = E(a, b) + E(b, c): of a session that is resolved chapter by chapter, energies, bounds, times
and counts add. Errors of different chapters are independent: statistical uncertainties add as the
root of squares; systematic ones, which all chapters may share, add as they are. Whether a sum is
resolved is judged anew by the rule for all energies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.attribution import Energies
from mlmeter.energy.uncertainty import RESOLVED_RATIO
from mlmeter.measurement import Domain, Provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

# What identifies a group: a phase, a name and a phase, the number of a window.
Key = tuple[str | int, ...]

# The method of a domain that was never read in a chapter: only its bounds count.
NOT_READ = "not_read"
SUM = "sum"
_ADDED = ("joules", "low", "high", "covered_seconds", "duration_seconds")
_RANKS = {provenance: rank for rank, provenance in enumerate(Provenance)}


@dataclass(frozen=True, slots=True)
class Pool:
    """Groups of windows with their sums so far.

    Attributes:
        keys: of the groups.
        columns: counts and times by name, each of shape (groups,).
        energies: by name of the domain, each of shape (groups,).
    """

    keys: tuple[Key, ...] = ()
    columns: Mapping[str, Floats] = field(default_factory=dict)
    energies: Mapping[str, Energies] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def column(self, name: str) -> Floats:
        """Return a column; zeros if nothing was added to it."""
        return self.columns.get(name, np.zeros(len(self)))

    def plus(self, other: Pool) -> Pool:
        """Return the sums of both, groups of this one first."""
        keys = tuple(dict.fromkeys((*self.keys, *other.keys)))
        return _sum_of([self.placed(keys), other.placed(keys)], keys)

    def beside(self, other: Pool) -> Pool:
        """Return the same groups with the columns of both."""
        return Pool(self.keys, {**self.columns, **other.columns}, {**self.energies, **other.energies})

    def placed(self, keys: Sequence[Key]) -> Pool:
        """Return the sums of these groups in this order; zeros for those that are not here."""
        rows = {key: row for row, key in enumerate(self.keys)}
        chosen = np.array([rows.get(key, -1) for key in keys], dtype=np.int64)
        return Pool(
            tuple(keys),
            {name: _placed(column, chosen) for name, column in self.columns.items()},
            {name: _energies_placed(energies, chosen) for name, energies in self.energies.items()},
        )


def _sum_of(parts: Sequence[Pool], keys: tuple[Key, ...]) -> Pool:
    names = dict.fromkeys(name for part in parts for name in part.columns)
    domains = dict.fromkeys(name for part in parts for name in part.energies)
    return Pool(
        keys,
        {name: np.sum([part.column(name) for part in parts], axis=0) for name in names},
        {name: added([part.energies[name] for part in parts if name in part.energies]) for name in domains},
    )


def added(parts: Sequence[Energies]) -> Energies:
    """Return the energies of spans of which each part has a piece; all of one domain and shape (spans,)."""
    read = [part for part in parts if part.method != NOT_READ] or list(parts)
    domain = max((part.domain for part in read), key=lambda domain: _RANKS[domain.provenance])
    sums = {name: np.sum([getattr(part, name) for part in parts], axis=0) for name in _ADDED}
    found = Energies(
        domain, _one_of([part.method for part in read]), **sums, known=any(p.known for p in parts)
    )
    statistical, systematic = _sigmas(parts)
    fitted = None
    if any(part.fitted is not None for part in parts):
        sigma = np.hypot(np.nan_to_num(statistical), np.nan_to_num(systematic))
        fitted = np.asarray(sigma < RESOLVED_RATIO * found.joules)
    told = [part.told for part in parts if part.told is not None]
    estimated = domain.provenance is Provenance.ESTIMATED
    return replace(
        found,
        # The factors of an estimate are wrong by the same everywhere: its interval tells all.
        sigma_statistical=None if estimated else statistical,
        sigma_systematic=None if estimated else systematic,
        fitted=fitted,
        told=None if not told else np.any(told, axis=0),
        share=_shares(parts),
    )


def unread(domain: Domain, seconds: Floats, max_power_watts: float) -> Energies:
    """Return what is known of a domain that was never read: its power limit."""
    nothing = np.zeros(len(seconds))
    high = seconds * max_power_watts
    return Energies(domain, NOT_READ, nothing, nothing, high, nothing, seconds, known=False)


def chosen_rows(energies: Energies, rows: Indices) -> Energies:
    """Return some of the spans."""
    return _energies_placed(energies, np.asarray(rows, dtype=np.int64))


def _sigmas(parts: Sequence[Energies]) -> tuple[Floats, Floats]:
    """Return the statistical and the systematic uncertainty of the sum; NaN where none is known."""
    squares = np.zeros(len(parts[0].joules))
    systematic = np.full(len(squares), np.nan)
    for part in parts:
        sigma = part.sigma if part.sigma_statistical is None else part.sigma_statistical
        squares = squares + np.nan_to_num(sigma) ** 2
        if part.sigma_systematic is not None:
            there = ~np.isnan(part.sigma_systematic)
            systematic[there] = np.nan_to_num(systematic[there]) + part.sigma_systematic[there]
    return np.sqrt(squares), systematic


def _shares(parts: Sequence[Energies]) -> NDArray[np.object_] | None:
    found: NDArray[np.object_] | None = None
    for share in (part.share for part in parts):
        if share is not None:
            found = share if found is None else np.where(found == np.array(None), share, found)
    return found


def _one_of(methods: Sequence[str]) -> str:
    return methods[0] if len(set(methods)) == 1 else SUM


def _placed(column: NDArray[Any], chosen: Indices, empty: Any = 0) -> NDArray[Any]:
    if not len(column):
        return np.full(len(chosen), empty, dtype=column.dtype)
    return np.where(chosen >= 0, column[chosen], np.array(empty, dtype=column.dtype))


def _energies_placed(energies: Energies, chosen: Indices) -> Energies:
    columns: dict[str, Any] = {name: _placed(getattr(energies, name), chosen) for name in _ADDED}
    for name, empty in (
        ("sigma_statistical", 0.0),
        ("sigma_systematic", np.nan),
        ("fitted", True),
        ("told", False),
        ("share", None),
    ):
        column = getattr(energies, name)
        columns[name] = None if column is None else _placed(column, chosen, empty)
    return replace(energies, **columns)
