"""Energies as the columns that frames and files show; absent numbers are NaN here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.measurement import Energy, Provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Energies

PROVENANCES = tuple(Provenance)
# Of a span in and after which a slow counter was not refreshed: its value is a guess.
BOUNDS_ONLY = "bounds_only"
ENERGY_COLUMNS = (
    "energy_joules",
    "low_joules",
    "high_joules",
    "sigma_statistical_joules",
    "sigma_systematic_joules",
    "provenance",
    "method",
    "resolved",
    "coverage_ratio",
)

Columns = dict[str, "NDArray[Any]"]


def energy_columns(energies: Energies) -> Columns:
    """Return the energy columns of one domain, each of shape (spans,)."""
    readable = energies.readable
    estimated = energies.domain.provenance is Provenance.ESTIMATED
    nothing = np.full(len(readable), np.nan)
    sigma = np.where(readable, energies.sigma, np.nan)
    statistical, systematic = (nothing, sigma) if estimated else (sigma, nothing)
    if energies.sigma_statistical is not None and energies.sigma_systematic is not None:
        statistical = np.where(readable, energies.sigma_statistical, np.nan)
        systematic = np.where(readable, energies.sigma_systematic, np.nan)
    method = _text(readable, "load_estimate" if estimated else energies.method)
    if energies.told is not None:
        method[readable & ~energies.told] = BOUNDS_ONLY
    if energies.share is not None:
        method[readable] = method[readable] + "*" + energies.share[readable]
    return {
        "energy_joules": np.where(readable, energies.joules, np.nan),
        "low_joules": np.where(readable, energies.low, np.nan),
        "high_joules": np.where(readable, energies.high, np.nan),
        "sigma_statistical_joules": statistical,
        "sigma_systematic_joules": systematic,
        "provenance": _text(readable, str(energies.domain.provenance)),
        "method": method,
        "resolved": energies.resolved,
        "coverage_ratio": np.where(readable, energies.coverage_ratio, 0.0),
    }


def hidden_joules(parts: Sequence[Energies], spans: int) -> NDArray[np.float64]:
    """Return what domains can have used at most in spans in which they could not be read, shape (spans,).

    Args:
        parts: energies of the domains of a sum.
        spans: their length.
    """
    hidden = np.zeros(spans)
    for energies in parts:
        if energies.known:
            hidden += np.where(energies.readable, 0.0, energies.high)
    return hidden


def total_columns(
    parts: Sequence[Columns],
    spans: int,
    unread_joules: NDArray[Any] | None = None,
    hidden: NDArray[np.float64] | None = None,
) -> Columns:
    """Add the columns of distinct domains, span by span.

    Statistical uncertainties of different sensors are independent (root of the sum of
    squares); systematic ones are added, which is the safe side. A sum is as well covered,
    as resolved and of the provenance as its worst part.

    Args:
        parts: columns of the domains that could be read.
        spans: their length.
        unread_joules: what domains that belong to the sum but were never read can have used
            at most, shape (spans,); None if there are none.
        hidden: of `hidden_joules`.
    """
    if not parts:
        return _nothing(spans)
    stacked = {name: np.stack([part[name] for part in parts]) for name in ENERGY_COLUMNS}
    readable = ~np.isnan(stacked["energy_joules"])
    some = readable.any(axis=0)
    ranks = np.zeros(readable.shape, dtype=np.int64)
    for rank, provenance in enumerate(PROVENANCES):
        ranks[stacked["provenance"] == str(provenance)] = rank
    names = np.array([str(provenance) for provenance in PROVENANCES], dtype=object)
    methods = _first(stacked["method"], readable)
    methods[readable.sum(axis=0) > 1] = "sum"
    total = {
        **{name: _sum(stacked[name], some) for name in ("energy_joules", "low_joules", "high_joules")},
        "sigma_statistical_joules": np.sqrt(_sum(stacked["sigma_statistical_joules"] ** 2)),
        "sigma_systematic_joules": _sum(stacked["sigma_systematic_joules"]),
        "provenance": _text(some, names[ranks.max(axis=0)]),
        "method": _text(some, methods),
        "resolved": np.where(readable, stacked["resolved"], True).all(axis=0) & some,
        "coverage_ratio": stacked["coverage_ratio"].min(axis=0),
    }
    if hidden is not None:
        total["high_joules"] = total["high_joules"] + hidden
        total["resolved"] = total["resolved"] & (hidden <= 0)
    if unread_joules is not None:
        total["high_joules"] = total["high_joules"] + unread_joules
        total["resolved"] = np.zeros(spans, dtype=np.bool_)
        total["coverage_ratio"] = np.zeros(spans)
    return total


def energy_value(columns: Columns, row: int) -> Energy:
    """Return one row as a value, absent numbers as None."""
    values = {name: columns[name][row] for name in ENERGY_COLUMNS}
    numbers = {
        name: None if np.isnan(value) else float(value)
        for name, value in values.items()
        if name.endswith("_joules")
    }
    provenance = values["provenance"]
    return Energy(
        energy_joules=numbers["energy_joules"],
        low_joules=numbers["low_joules"],
        high_joules=numbers["high_joules"],
        sigma_statistical_joules=numbers["sigma_statistical_joules"],
        sigma_systematic_joules=numbers["sigma_systematic_joules"],
        provenance=None if provenance is None else Provenance(provenance),
        method=values["method"],
        resolved=bool(values["resolved"]),
        coverage_ratio=float(values["coverage_ratio"]),
    )


def _sum(values: NDArray[np.float64], some: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Add what is there; NaN where nothing is."""
    there = ~np.isnan(values).all(axis=0) if some is None else some
    return np.where(there, np.nansum(values, axis=0), np.nan)


def _text(where: NDArray[np.bool_], text: str | NDArray[Any]) -> NDArray[Any]:
    """Return `text` where it applies, None elsewhere."""
    texts = np.full(len(where), None, dtype=object)
    texts[where] = text if isinstance(text, str) else text[where]
    return texts


def _first(values: NDArray[Any], readable: NDArray[np.bool_]) -> NDArray[Any]:
    """Return of each span the value of its first readable part."""
    return np.array(values[readable.argmax(axis=0), np.arange(values.shape[1])], dtype=object)


def _nothing(spans: int) -> Columns:
    columns: Columns = {name: np.full(spans, np.nan) for name in ENERGY_COLUMNS if name.endswith("_joules")}
    return {
        **columns,
        "provenance": np.full(spans, None, dtype=object),
        "method": np.full(spans, None, dtype=object),
        "resolved": np.zeros(spans, dtype=np.bool_),
        "coverage_ratio": np.zeros(spans),
    }
