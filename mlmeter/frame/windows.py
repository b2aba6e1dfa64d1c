"""Tables of phases, windows, names of windows and bursts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlmeter.bursts import BurstCounts, burst_rows
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
from mlmeter.window_records import FAILED, OPEN

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
BURST_COLUMNS = (
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
    sessions = {domain: columns for domain, _, columns in resolution.by_domain(TOTAL)}
    dynamic = DynamicEnergy(recording, "phases") if idle_powers(recording) else None
    return join(
        "phases",
        [
            phase_block(
                PhaseFacts(recording.run.id, resolution.phases, windows, units),
                (domain, kind),
                phase_seconds(resolution, domain),
                energies,
                sessions[domain],
                dynamic,
            )
            for domain, kind, energies in resolution.by_domain("phases")
        ],
    )


class PhaseFacts(NamedTuple):
    """What rows of phases have in common for all domains: windows and units are of shape (phases,)."""

    session: str
    phases: Sequence[str]
    windows: NDArray[Any]
    units: Mapping[str, NDArray[np.float64]]


def phase_block(
    facts: PhaseFacts,
    domain: tuple[str, str],
    seconds: NDArray[np.float64],
    energies: Columns,
    session: Columns,
    dynamic: DynamicEnergy | None,
) -> dict[str, Any]:
    """Return the rows of one domain, one per phase.

    Args:
        facts: of the phases.
        domain: name and kind.
        seconds: length of each phase.
        energies: of the phases.
        session: of the whole session.
        dynamic: what tells energies above idle; None without a baseline.
    """
    count, joules = len(facts.phases), energies["energy_joules"]
    return {
        "session": repeat(facts.session, count),
        "phase": np.array(facts.phases, dtype=object),
        "domain": repeat(domain[0], count),
        "kind": repeat(domain[1], count),
        "duration_seconds": seconds,
        "windows": facts.windows,
        **energies,
        "mean_power_watts": ratio(joules, seconds),
        # Of a whole that is not known, no share is.
        "share_ratio": ratio(joules, np.full(count, _known(session))),
        **unit_columns(joules, dict(facts.units)),
        **(dynamic.columns(domain[0], energies) if dynamic else {}),
    }


def windows_table(recording: Recording) -> Table:
    """One row per window, domain and scope; window 0 is the session."""
    facts = _window_facts(recording)
    units, metrics = units_by_window(recording), metrics_by_window(recording)
    blocks = []
    for scope in ("exclusive", "inclusive"):
        dynamic = DynamicEnergy(recording, scope) if idle_powers(recording) else None
        for domain, kind, energies in recording.resolution.by_domain(scope):
            count = len(facts["window"])
            here = {**facts, **times_of_windows(base_of(recording.resolution, domain))}
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
    rows = np.flatnonzero(~inside_same_label(resolution.windows.parent, label) & (label >= 0))
    labels = np.unique(label[rows])
    group = np.searchsorted(labels, label[rows])
    size = len(labels)
    calls = np.bincount(group, minlength=size)
    counted = {unit: counts[rows] for unit, counts in units_by_window(recording).items()}
    units = {unit: sum_by(group, np.nan_to_num(counts), size) for unit, counts in counted.items()}
    # The energy of each window matters only where it has done some work.
    inclusive = resolution.by_domain("inclusive") if counted else ()
    each = {name: columns["energy_joules"] for name, _, columns in inclusive}
    blocks = []
    for domain, kind, energies in resolution.pooled(rows, group, size):
        durations = times_of_windows(base_of(resolution, domain))["duration_seconds"]
        seconds = np.bincount(group, weights=durations[rows], minlength=size)
        blocks.append(
            name_block(
                (recording.run.id, domain, kind),
                [records.label_table[number] for number in labels],
                (calls, seconds),
                energies,
                pooled_unit_columns(each[domain][rows], counted, units, group) if counted else {},
            )
        )
    return join("window_names", blocks)


def name_block(
    texts: tuple[str, str, str],
    labels: Sequence[tuple[str, str]],
    counts: tuple[NDArray[Any], NDArray[Any]],
    energies: Columns,
    units: Mapping[str, NDArray[np.float64]],
) -> dict[str, Any]:
    """Return the rows of one domain, one per name and phase.

    Args:
        texts: session, name of the domain and its kind.
        labels: names and phases.
        counts: windows, and their length in seconds, shape (labels,) each.
        energies: of the labels.
        units: columns of work and of energy per unit.
    """
    size, joules, (calls, seconds) = len(labels), energies["energy_joules"], counts
    session, domain, kind = texts
    return {
        "session": repeat(session, size),
        "name": np.array([name for name, _ in labels], dtype=object),
        "phase": np.array([phase for _, phase in labels], dtype=object),
        "domain": repeat(domain, size),
        "kind": repeat(kind, size),
        "windows": calls,
        "duration_seconds": seconds,
        "mean_duration_seconds": ratio(seconds, calls),
        **energies,
        "mean_energy_joules": ratio(joules, calls),
        "mean_power_watts": ratio(joules, seconds),
        **units,
    }


def bursts_table(recording: Recording) -> Table:
    """One row per name, phase and domain: windows that follow each other closely, as one span."""
    blocks: list[dict[str, Any]] = [{column: np.zeros(0, dtype=object) for column in BURST_COLUMNS}]
    for row in burst_rows(recording):
        label = recording.windows.label_table[row.label]
        blocks.extend(
            burst_block((recording.run.id, *label, domain, kind), row, energies)
            for domain, kind, energies in row.columns()
        )
    return join("bursts", blocks)


def burst_block(
    texts: tuple[str, str, str, str, str], counts: BurstCounts, energies: Columns
) -> dict[str, Any]:
    """Return the row of one name, phase and domain.

    Args:
        texts: session, name, phase, name of the domain and its kind.
        counts: of the bursts.
        energies: of all of them, shape (1,).
    """
    return {
        **{column: repeat(text, 1) for column, text in zip(BURST_COLUMNS[:5], texts, strict=True)},
        "bursts": np.array([counts.bursts]),
        "windows": np.array([counts.calls]),
        "duration_seconds": np.array([counts.duration_seconds]),
        "busy_ratio": np.array([counts.busy_seconds / counts.duration_seconds]),
        **energies,
        "joules_per_window": energies["energy_joules"] / counts.calls,
    }


def _known(session: Columns) -> float:
    """Return the energy of the session, NaN if it is not resolved."""
    return float(session["energy_joules"][0]) if session["resolved"][0] else float("nan")


def inside_same_label(parent: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.bool_]:
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


def times_of_windows(base: TimeBase) -> dict[str, NDArray[Any]]:
    """Columns of windows that depend on whose times they are; row 0 is the session."""
    windows = base.windows
    starts = hulls(windows)[0]
    return {
        # A window without any time in the session has none.
        "start_seconds": np.where(np.isfinite(starts), starts, np.nan),
        "duration_seconds": np.bincount(
            windows.owner, weights=windows.end - windows.start, minlength=len(windows)
        ),
        "concurrent": base.ownership.concurrent,
    }


def phase_seconds(resolution: Resolution, domain: str) -> NDArray[np.float64]:
    """Time of each phase; an instant with several owners counts in parts, so phases fill the session."""
    ownership = base_of(resolution, domain).ownership
    phase = resolution.phase_of_window[ownership.owner]
    return sum_by(phase, ownership.share_out(np.diff(ownership.edges)), len(resolution.phases))
