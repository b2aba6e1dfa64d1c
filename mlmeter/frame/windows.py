"""Tables of phases, windows, names of windows and bursts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.bursts import burst_rows
from mlmeter.dynamic_energy import DynamicEnergy, idle_powers
from mlmeter.energy.columns import ENERGY_COLUMNS
from mlmeter.energy.windows import hulls
from mlmeter.frame.table import Table, join, ratio, repeat, sum_by
from mlmeter.frame.units import (
    metrics_by_window,
    pooled_unit_columns,
    unit_columns,
    units_by_phase,
    units_by_window,
)
from mlmeter.recording import TOTAL, Recording, Resolution
from mlmeter.time_bases import TimeBase
from mlmeter.window_log import FAILED, OPEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.columns import Columns

SESSION_NAME = "(session)"
_WINDOW_COLUMNS = (
    "session",
    "window",
    "parent",
    "name",
    "phase",
    "thread",
    "start_seconds",
    "duration_seconds",
    "concurrent",
    "failed",
    "unfinished",
    "synchronised",
)
_BURST_COLUMNS = (
    "session",
    "name",
    "phase",
    "domain",
    "kind",
    "bursts",
    "windows",
    "duration_seconds",
    "busy_ratio",
    *ENERGY_COLUMNS,
    "joules_per_window",
)


def phases_table(recording: Recording) -> Table:
    """One row per phase and domain, and the sum of the counted domains per phase."""
    resolution = recording.resolution
    count = len(resolution.phases)
    windows = np.bincount(resolution.phase_of_window[1:], minlength=count)
    units = {unit: counts for unit, counts in units_by_phase(recording).items() if counts.any()}
    blocks = []
    sessions = {domain: columns for domain, _, columns in resolution.by_domain(TOTAL)}
    dynamic = DynamicEnergy(recording, "phases") if idle_powers(recording) else None
    for domain, kind, energies in resolution.by_domain("phases"):
        joules = energies["energy_joules"]
        seconds = _phase_seconds(resolution, domain)
        blocks.append(
            {
                "session": repeat(recording.run.id, count),
                "phase": np.array(resolution.phases, dtype=object),
                "domain": repeat(domain, count),
                "kind": repeat(kind, count),
                "duration_seconds": seconds,
                "windows": windows,
                **energies,
                "mean_power_watts": ratio(joules, seconds),
                # Of a whole that is not known, no share is.
                "share_ratio": ratio(joules, np.full(count, _known(sessions[domain]))),
                **unit_columns(joules, units),
                **(dynamic.columns(domain, energies) if dynamic else {}),
            }
        )
    return join("phases", blocks)


def windows_table(recording: Recording) -> Table:
    """One row per window, domain and scope; window 0 is the session."""
    facts = _window_facts(recording)
    units, metrics = units_by_window(recording), metrics_by_window(recording)
    blocks = []
    for scope in ("exclusive", "inclusive"):
        dynamic = DynamicEnergy(recording, scope) if idle_powers(recording) else None
        for domain, kind, energies in recording.resolution.by_domain(scope):
            count = len(facts["window"])
            here = {**facts, **_times_of_windows(base_of(recording.resolution, domain))}
            left = {name: here[name] for name in _WINDOW_COLUMNS[:8]}
            right = {name: here[name] for name in _WINDOW_COLUMNS[8:]}
            blocks.append(
                {
                    **left,
                    "domain": repeat(domain, count),
                    "kind": repeat(kind, count),
                    "scope": repeat(scope, count),
                    **energies,
                    **right,
                    **unit_columns(energies["energy_joules"], units),
                    **metrics,
                    **(dynamic.columns(domain, energies) if dynamic else {}),
                }
            )
    return join("windows", blocks)


def window_names_table(recording: Recording) -> Table:
    """Windows of one name and phase pooled, children included; recursion is counted once."""
    resolution, records = recording.resolution, recording.windows
    label = resolution.windows.label
    rows = np.flatnonzero(~_inside_same_label(resolution.windows.parent, label) & (label >= 0))
    labels = np.unique(label[rows])
    group = np.searchsorted(labels, label[rows])
    size = len(labels)
    calls = np.bincount(group, minlength=size)
    counted = {unit: counts[rows] for unit, counts in units_by_window(recording).items()}
    units = {unit: sum_by(group, np.nan_to_num(counts), size) for unit, counts in counted.items()}
    inclusive = {name: columns for name, _, columns in resolution.by_domain("inclusive")}
    blocks = []
    for domain, kind, energies in resolution.pooled(rows, group, size):
        joules = energies["energy_joules"]
        durations = _times_of_windows(base_of(resolution, domain))["duration_seconds"]
        seconds = np.bincount(group, weights=durations[rows], minlength=size)
        blocks.append(
            {
                "session": repeat(recording.run.id, size),
                "name": np.array([records.label_table[number].name for number in labels], dtype=object),
                "phase": np.array([records.label_table[number].phase for number in labels], dtype=object),
                "domain": repeat(domain, size),
                "kind": repeat(kind, size),
                "windows": calls,
                "duration_seconds": seconds,
                "mean_duration_seconds": ratio(seconds, calls),
                **energies,
                "mean_energy_joules": ratio(joules, calls),
                "mean_power_watts": ratio(joules, seconds),
                **pooled_unit_columns(inclusive[domain]["energy_joules"][rows], counted, units, group),
            }
        )
    return join("window_names", blocks)


def bursts_table(recording: Recording) -> Table:
    """One row per name, phase and domain: windows that follow each other closely, as one span."""
    blocks: list[dict[str, Any]] = [{column: np.zeros(0, dtype=object) for column in _BURST_COLUMNS}]
    for row in burst_rows(recording):
        name, phase = recording.windows.label_table[row.label]
        for domain, kind, energies in row.energies:
            blocks.append(
                {
                    "session": repeat(recording.run.id, 1),
                    "name": repeat(name, 1),
                    "phase": repeat(phase, 1),
                    "domain": repeat(domain, 1),
                    "kind": repeat(kind, 1),
                    "bursts": np.array([row.bursts]),
                    "windows": np.array([row.calls]),
                    "duration_seconds": np.array([row.duration_seconds]),
                    "busy_ratio": np.array([row.busy_seconds / row.duration_seconds]),
                    **energies,
                    "joules_per_window": energies["energy_joules"] / row.calls,
                }
            )
    return join("bursts", blocks)


def _known(session: Columns) -> float:
    """Return the energy of the session, NaN if it is not resolved."""
    return float(session["energy_joules"][0]) if session["resolved"][0] else float("nan")


def _inside_same_label(parent: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which windows are inside another one of their label, however deep: recursion."""
    inside = np.zeros(len(parent), dtype=np.bool_)
    row, ancestor = np.arange(len(parent)), parent.copy()
    while len(row):
        same = (ancestor >= 0) & (label[row] == label[ancestor])
        inside[row[same]] = True
        further = (ancestor > 0) & ~same
        row, ancestor = row[further], parent[ancestor[further]]
    return inside


def _window_facts(recording: Recording) -> dict[str, NDArray[Any]]:
    """Columns of windows that do not depend on a domain; row 0 is the session."""
    run, records, resolution = recording.run, recording.windows, recording.resolution
    count = len(records) + 1
    labels = [records.label_table[number] for number in records.labels]
    ids = np.concatenate(([0], np.array(records.ids, dtype=np.int64)))
    flags = np.concatenate(([0], np.array(records.flags, dtype=np.int64)))
    parents = np.array([None, *ids[resolution.windows.parent[1:]].tolist()], dtype=object)
    names = [records.thread_names[number] for number in records.threads]
    return {
        "session": repeat(run.id, count),
        "window": ids,
        "parent": parents,
        "name": np.array([SESSION_NAME, *(label.name for label in labels)], dtype=object),
        "phase": np.array([run.base_phase, *(label.phase for label in labels)], dtype=object),
        "thread": np.array([None, *names], dtype=object),
        "failed": (flags & FAILED) > 0,
        "unfinished": (flags & OPEN) > 0,
        "synchronised": resolution.synchronised,
    }


def base_of(resolution: Resolution, domain: str) -> TimeBase:
    """Return the windows by the clock that counts for a domain; by the host's for the total."""
    return resolution.bases.get(domain, resolution.host)


def _times_of_windows(base: TimeBase) -> dict[str, NDArray[Any]]:
    """Columns of windows that depend on whose times they are; row 0 is the session."""
    windows = base.windows
    return {
        "start_seconds": hulls(windows)[0],
        "duration_seconds": np.bincount(
            windows.owner, weights=windows.end - windows.start, minlength=len(windows)
        ),
        "concurrent": base.ownership.concurrent,
    }


def _phase_seconds(resolution: Resolution, domain: str) -> NDArray[np.float64]:
    """Time of each phase; an instant with several owners counts in parts, so phases fill the session."""
    ownership = base_of(resolution, domain).ownership
    phase = resolution.phase_of_window[ownership.owner]
    return sum_by(phase, ownership.share_out(np.diff(ownership.edges)), len(resolution.phases))
