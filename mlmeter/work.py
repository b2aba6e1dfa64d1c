"""Counts of work, such as samples or tokens: their names and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from mlmeter.errors import ArgumentError

# Columns of the tables that have unit columns: a unit of the same name would overwrite them.
RESERVED_NAMES = frozenset(
    {
        "session",
        "window",
        "parent",
        "name",
        "phase",
        "thread",
        "start_seconds",
        "duration_seconds",
        "domain",
        "kind",
        "scope",
        "energy_joules",
        "low_joules",
        "high_joules",
        "sigma_statistical_joules",
        "sigma_systematic_joules",
        "provenance",
        "method",
        "resolved",
        "coverage_ratio",
        "concurrent",
        "failed",
        "unfinished",
        "synchronised",
        "windows",
        "mean_duration_seconds",
        "mean_energy_joules",
        "mean_power_watts",
        "share_ratio",
        "idle_joules",
        "dynamic_joules",
        "dynamic_low_joules",
        "dynamic_high_joules",
        "sigma_dynamic_joules",
        "above_idle",
    }
)
RATE_PREFIX = "joules_per_"
# Numbers of windows that are no counts, such as an accuracy: kept beside them, never added up.
METRIC_PREFIX = "metric_"
# Unit of work of windows as such: each is one.
WINDOWS = "windows"
# More than any count of work; an integer above it would not survive the way into a table.
LARGEST_COUNT = 2**63
IRREGULAR = {"flops": "flop", "queries": "query", "indices": "index"}
# "class", "status", "basis", "gas" end in s and are not plural.
SINGULAR_ENDINGS = ("ss", "us", "is", "as")
HISSING_ENDINGS = ("ches", "shes", "xes", "sses", "zzes")


# Windows of one loop have the same names.
@lru_cache(maxsize=1_000)
def check_names(names: tuple[str, ...]) -> None:
    """Check names of units.

    Raises:
        ArgumentError: a name is no identifier, or that of a column of the tables.
    """
    for name in names:
        if not name.isidentifier():
            raise ArgumentError(f"{name!r} cannot name a count of work: use letters, digits and underscores")
        if name in RESERVED_NAMES or name.startswith((RATE_PREFIX, METRIC_PREFIX)):
            raise ArgumentError(f"{name!r} cannot name a count of work: it is a column of the tables")


def check_counts(units: Mapping[str, Any]) -> None:
    """Check counts of work.

    Raises:
        ArgumentError: a count is not a finite number of 0 or more.
    """
    for name, count in units.items():
        if type(count) is int and 0 <= count < LARGEST_COUNT:
            continue
        try:
            usable = not isinstance(count, (bool, str, bytes)) and math.isfinite(count) and count >= 0
        except (TypeError, ValueError, OverflowError):
            usable = False
        if not usable:
            raise ArgumentError(f"{name}={count!r}: a count of work is a finite number of 0 or more")


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics under the names that they are kept by.

    Raises:
        ArgumentError: a name is no identifier, or a value is not a finite number.
    """
    found = {}
    for name, value in metrics.items():
        if not name.isidentifier():
            raise ArgumentError(f"{name!r} cannot name a metric: use letters, digits and underscores")
        try:
            number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ArgumentError(f"{name}={value!r}: a metric is a finite number")
        found[f"{METRIC_PREFIX}{name}"] = number
    return found


def is_metric(name: str) -> bool:
    """Tell a metric from a count of work."""
    return name.startswith(METRIC_PREFIX)


def singular(unit: str) -> str:
    """Return the unit of one: ``samples`` gives ``sample``; what is no plural stays."""
    if unit in IRREGULAR:
        return IRREGULAR[unit]
    if unit.endswith(HISSING_ENDINGS):
        return unit[:-2]
    if unit.endswith("ies") and len(unit) > len("dies"):
        return f"{unit[:-3]}y"
    plural = unit.endswith("s") and len(unit) > 2 and not unit.endswith(SINGULAR_ENDINGS)
    return unit[:-1] if plural else unit


def rate_names(units: Iterable[str]) -> dict[str, str]:
    """Return the name of the column of joules per unit, by unit; no two are the same."""
    units = list(units)
    names = {unit: f"{RATE_PREFIX}{singular(unit)}" for unit in units}
    return {
        unit: name if list(names.values()).count(name) == 1 else f"{RATE_PREFIX}{unit}"
        for unit, name in names.items()
    }
