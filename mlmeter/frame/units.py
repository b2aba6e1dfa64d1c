"""Counts of work in windows and phases, and energy per unit of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.frame.table import ratio, sum_by
from mlmeter.recording import Recording
from mlmeter.work import is_metric, rate_names

if TYPE_CHECKING:
    from numpy.typing import NDArray


def units_by_window(recording: Recording) -> dict[str, NDArray[np.float64]]:
    """Counts of work of each window, NaN where a window has none of the unit."""
    ids = np.array(recording.windows.ids, dtype=np.int64)
    table = {}
    for unit, (window_ids, counts) in sorted(recording.windows.units.items()):
        if is_metric(unit):
            continue
        rows = np.searchsorted(ids, np.array(window_ids, dtype=np.int64)) + 1
        valid = np.isin(np.array(window_ids, dtype=np.int64), ids)
        sums = np.zeros(len(ids) + 1)
        seen = np.zeros(len(ids) + 1, dtype=np.bool_)
        np.add.at(sums, rows[valid], np.array(counts)[valid])
        seen[rows[valid]] = True
        table[unit] = np.where(seen, sums, np.nan)
    return table


def metrics_by_window(recording: Recording) -> dict[str, NDArray[np.float64]]:
    """Metrics of each window, the last value of each; NaN where a window has none."""
    ids = np.array(recording.windows.ids, dtype=np.int64)
    table = {}
    for name, (window_ids, values) in sorted(recording.windows.units.items()):
        if not is_metric(name):
            continue
        column = np.full(len(ids) + 1, np.nan)
        of_windows = np.array(window_ids, dtype=np.int64)
        valid = np.isin(of_windows, ids)
        # Later ones overwrite.
        column[np.searchsorted(ids, of_windows[valid]) + 1] = np.array(values)[valid]
        table[name] = column
    return table


def units_by_phase(recording: Recording) -> dict[str, NDArray[np.float64]]:
    """Counts of work of each phase; a count that an enclosing window of the phase has too is not added."""
    resolution = recording.resolution
    parent, phase = resolution.windows.parent, resolution.phase_of_window
    table = {}
    for unit, counts in units_by_window(recording).items():
        sums = np.zeros(len(resolution.phases))
        for row in np.flatnonzero(~np.isnan(counts)):
            ancestor = parent[row]
            while ancestor > 0 and (phase[ancestor] != phase[row] or np.isnan(counts[ancestor])):
                ancestor = parent[ancestor]
            if ancestor <= 0:
                sums[phase[row]] += counts[row]
        table[unit] = sums
    return table


def unit_columns(
    joules: NDArray[np.float64], units: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return counts and energies per unit, of rows with these energies."""
    columns, rates = {}, rate_names(units)
    for unit, counts in units.items():
        columns[unit] = np.where(counts > 0, counts, np.nan)
        columns[rates[unit]] = ratio(joules, counts)
    return columns


def pooled_unit_columns(
    joules: NDArray[np.float64],
    counted: dict[str, NDArray[np.float64]],
    units: dict[str, NDArray[np.float64]],
    group: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Pooled energy of the windows that counted a unit, over their pooled count."""
    columns, rates = {}, rate_names(units)
    for unit, counts in units.items():
        with_unit = np.where(np.isnan(counted[unit]), 0.0, joules)
        columns[unit] = np.where(counts > 0, counts, np.nan)
        columns[rates[unit]] = ratio(sum_by(group, with_unit, len(counts)), counts)
    return columns
