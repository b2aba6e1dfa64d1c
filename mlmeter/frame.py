"""Results as tidy tables, and those as pandas frames.

A table is plain columns, so that CSV files need no pandas. An absent number is NaN or None
here, an empty cell in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.bursts import burst_rows
from mlmeter.dynamic_energy import DynamicEnergy, idle_powers
from mlmeter.energy.columns import ENERGY_COLUMNS
from mlmeter.energy.process_share import PARTS, UNATTRIBUTED
from mlmeter.energy.windows import hulls
from mlmeter.recording import TOTAL, Recording, Resolution, Run
from mlmeter.time_bases import TimeBase
from mlmeter.window_log import FAILED, OPEN
from mlmeter.work import rate_names

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from mlmeter.energy.columns import Columns
    from mlmeter.energy.counters import Rows
    from mlmeter.measurement import Domain

SESSION_NAME = "(session)"
# The idea of MLPerf Power's shortest run.
SHORTEST_SECONDS, FEWEST_REFRESHES = 60.0, 100


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns of equal length."""

    name: str
    columns: dict[str, Sequence[Any] | NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows in order."""
        return zip(*self.columns.values(), strict=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dictionary."""
        for row in self.rows():
            yield dict(zip(self.columns, row, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a pandas frame (imports pandas)."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))


def build_table(recording: Recording, name: str) -> Table:
    """Build one of `TABLES` from a recording."""
    builders: dict[str, Callable[[Recording], Table]] = {
        "phases": phases_table,
        "windows": windows_table,
        "window_names": window_names_table,
        "bursts": bursts_table,
        "domains": domains_table,
        "shares": shares_table,
        "samples": samples_table,
        "events": events_table,
    }
    return builders[name](recording)


def phases_table(recording: Recording) -> Table:
    """One row per phase and domain, and the sum of the counted domains per phase."""
    resolution = recording.resolution
    count = len(resolution.phases)
    windows = np.bincount(resolution.phase_of_window[1:], minlength=count)
    units = {unit: counts for unit, counts in _units_by_phase(recording).items() if counts.any()}
    blocks = []
    sessions = {domain: columns for domain, _, columns in resolution.by_domain(TOTAL)}
    dynamic = DynamicEnergy(recording, "phases") if idle_powers(recording) else None
    for domain, kind, energies in resolution.by_domain("phases"):
        joules = energies["energy_joules"]
        seconds = _phase_seconds(resolution, domain)
        blocks.append(
            {
                "session": _repeat(recording.run.id, count),
                "phase": np.array(resolution.phases, dtype=object),
                "domain": _repeat(domain, count),
                "kind": _repeat(kind, count),
                "duration_seconds": seconds,
                "windows": windows,
                **energies,
                "mean_power_watts": _ratio(joules, seconds),
                # Of a whole that is not known, no share is.
                "share_ratio": _ratio(joules, np.full(count, _known(sessions[domain]))),
                **_unit_columns(joules, units),
                **(dynamic.columns(domain, energies) if dynamic else {}),
            }
        )
    return _join("phases", blocks)


def windows_table(recording: Recording) -> Table:
    """One row per window, domain and scope; window 0 is the session."""
    facts = _window_facts(recording)
    units = _units_by_window(recording)
    blocks = []
    for scope in ("exclusive", "inclusive"):
        dynamic = DynamicEnergy(recording, scope) if idle_powers(recording) else None
        for domain, kind, energies in recording.resolution.by_domain(scope):
            count = len(facts["window"])
            here = {**facts, **_times_of_windows(_base(recording.resolution, domain))}
            left = {name: here[name] for name in _WINDOW_COLUMNS[:8]}
            right = {name: here[name] for name in _WINDOW_COLUMNS[8:]}
            blocks.append(
                {
                    **left,
                    "domain": _repeat(domain, count),
                    "kind": _repeat(kind, count),
                    "scope": _repeat(scope, count),
                    **energies,
                    **right,
                    **_unit_columns(energies["energy_joules"], units),
                    **(dynamic.columns(domain, energies) if dynamic else {}),
                }
            )
    return _join("windows", blocks)


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


def window_names_table(recording: Recording) -> Table:
    """Windows of one name and phase pooled, children included; recursion is counted once."""
    resolution, records = recording.resolution, recording.windows
    label = resolution.windows.label
    rows = np.flatnonzero(~_inside_same_label(resolution.windows.parent, label) & (label >= 0))
    labels = np.unique(label[rows])
    group = np.searchsorted(labels, label[rows])
    size = len(labels)
    calls = np.bincount(group, minlength=size)
    counted = {unit: counts[rows] for unit, counts in _units_by_window(recording).items()}
    units = {unit: _sum_by(group, np.nan_to_num(counts), size) for unit, counts in counted.items()}
    inclusive = {name: columns for name, _, columns in resolution.by_domain("inclusive")}
    blocks = []
    for domain, kind, energies in resolution.pooled(rows, group, size):
        joules = energies["energy_joules"]
        durations = _times_of_windows(_base(resolution, domain))["duration_seconds"]
        seconds = np.bincount(group, weights=durations[rows], minlength=size)
        blocks.append(
            {
                "session": _repeat(recording.run.id, size),
                "name": np.array([records.label_table[number].name for number in labels], dtype=object),
                "phase": np.array([records.label_table[number].phase for number in labels], dtype=object),
                "domain": _repeat(domain, size),
                "kind": _repeat(kind, size),
                "windows": calls,
                "duration_seconds": seconds,
                "mean_duration_seconds": _ratio(seconds, calls),
                **energies,
                "mean_energy_joules": _ratio(joules, calls),
                "mean_power_watts": _ratio(joules, seconds),
                **_pooled_unit_columns(inclusive[domain]["energy_joules"][rows], counted, units, group),
            }
        )
    return _join("window_names", blocks)


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


def bursts_table(recording: Recording) -> Table:
    """One row per name, phase and domain: windows that follow each other closely, as one span."""
    blocks: list[dict[str, Any]] = [{column: np.zeros(0, dtype=object) for column in _BURST_COLUMNS}]
    for row in burst_rows(recording):
        name, phase = recording.windows.label_table[row.label]
        for domain, kind, energies in row.energies:
            blocks.append(
                {
                    "session": _repeat(recording.run.id, 1),
                    "name": _repeat(name, 1),
                    "phase": _repeat(phase, 1),
                    "domain": _repeat(domain, 1),
                    "kind": _repeat(kind, 1),
                    "bursts": np.array([row.bursts]),
                    "windows": np.array([row.calls]),
                    "duration_seconds": np.array([row.duration_seconds]),
                    "busy_ratio": np.array([row.busy_seconds / row.duration_seconds]),
                    **energies,
                    "joules_per_window": energies["energy_joules"] / row.calls,
                }
            )
    return _join("bursts", blocks)


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


def domains_table(recording: Recording) -> Table:
    """One row per domain, and one per source that gave nothing, with the reason."""
    rows = []
    run = recording.run
    totals = recording.resolution.wholes()
    for domain, collected in recording.domains:
        energies = totals.get(domain.name)
        readable = energies is not None and energies["provenance"][0] is not None
        check = collected.cross_check if collected.cross_check and collected.cross_check.seconds > 0 else None
        gaps = sum(_overlap(span, (run.start_ns, run.end_ns)) for span in collected.gaps_ns)
        rows.append(
            {
                "session": run.id,
                "domain": domain.name,
                "kind": domain.kind,
                "source": domain.source,
                "uuid": domain.uuid,
                "model_name": domain.model_name,
                "host": run.facts.get("host"),
                "update_period_seconds": domain.update_period_seconds,
                "resolution_joules": domain.resolution_joules,
                "provenance": str(domain.provenance) if readable else None,
                "energy_joules": float(energies["energy_joules"][0]) if energies else np.nan,
                "coverage_ratio": float(energies["coverage_ratio"][0]) if energies else 0.0,
                "readings": collected.readings,
                "resets": collected.resets,
                "gaps_seconds": gaps * 1e-9,
                "parent": domain.parent,
                "counted": domain.counted,
                "shared": domain.shared,
                "reason": None if readable else unread_reason(recording, domain.name),
                "cross_check_counter_joules": check.counter_joules if check else np.nan,
                "cross_check_power_joules": check.power_joules if check else np.nan,
                "measured_period_seconds": collected.period_seconds,
                "short": _is_short(run, domain, collected) if readable else None,
            }
        )
    for missing in recording.unavailable:
        reason = f"{missing.reason}. {missing.remedy}" if missing.remedy else missing.reason
        rows.append(
            {
                "session": run.id,
                "domain": missing.source,
                "kind": "/".join(missing.kinds),
                "source": missing.source,
                "host": run.facts.get("host"),
                "coverage_ratio": 0.0,
                "counted": False,
                "reason": reason,
            }
        )
    return Table("domains", {name: [row.get(name) for row in rows] for name in _DOMAIN_COLUMNS})


def _is_short(run: Run, domain: Domain, collected: Rows) -> bool:
    """Whether a session is too short for figures that another run would give again."""
    period = collected.period_seconds or domain.update_period_seconds
    return run.duration_seconds < max(SHORTEST_SECONDS, FEWEST_REFRESHES * period)


def unread_reason(recording: Recording, domain_name: str) -> str:
    """Say why a domain gave no energy: its first trouble, or that its counter stood still."""
    for event in recording.events:
        if event.domain == domain_name and event.kind in ("lost", "gap"):
            return event.message.removeprefix(f"{domain_name}: ")
    return "its counter stood still"


_DOMAIN_COLUMNS = (
    "session",
    "domain",
    "kind",
    "source",
    "uuid",
    "model_name",
    "host",
    "update_period_seconds",
    "resolution_joules",
    "provenance",
    "energy_joules",
    "coverage_ratio",
    "readings",
    "resets",
    "gaps_seconds",
    "parent",
    "counted",
    "shared",
    "reason",
    "cross_check_counter_joules",
    "cross_check_power_joules",
    "measured_period_seconds",
    "short",
)


_SHARE_COLUMNS = ("session", "domain", "kind", "part", *ENERGY_COLUMNS, "share_ratio", "reason")


def shares_table(recording: Recording) -> Table:
    """One row per domain and part of the session's energy: the process', others', idle, not attributed."""
    resolution = recording.resolution
    blocks: list[dict[str, Any]] = [{column: np.zeros(0, dtype=object) for column in _SHARE_COLUMNS}]
    domains = {domain.name: domain for domain, _ in recording.domains}
    wholes = resolution.wholes()
    for number, part in enumerate(PARTS):
        for name, kind, energies in resolution.session_parts(number):
            scope = resolution.process if number == UNATTRIBUTED and name in domains else None
            blocks.append(
                {
                    "session": _repeat(recording.run.id, 1),
                    "domain": _repeat(name, 1),
                    "kind": _repeat(kind, 1),
                    "part": _repeat(part, 1),
                    **energies,
                    "share_ratio": _ratio(energies["energy_joules"], wholes[name]["energy_joules"]),
                    "reason": _object(None if scope is None else scope.reason(domains[name])),
                }
            )
    parts = _join("shares", blocks)
    # Part by part is how they are found; domain by domain is how they are read.
    order = np.argsort([list(wholes).index(name) for name in parts.columns["domain"]], kind="stable")
    return Table("shares", {name: np.asarray(column)[order] for name, column in parts.columns.items()})


def samples_table(recording: Recording) -> Table:
    """Time series: joules since the start and mean watts since the row before."""
    duration = recording.run.duration_seconds
    blocks = []
    for domain, rows in recording.domains:
        attribution = recording.resolution.attributions.get(domain.name)
        if attribution is None or not attribution.timeline.known:
            continue
        timeline = attribution.timeline
        read_at = (np.array(rows.before_ns, dtype=np.int64) - recording.run.start_ns) * 1e-9
        inside = read_at[(read_at > 0) & (read_at < duration)]
        times = np.unique(np.concatenate(([0.0], inside, [duration])))
        joules = timeline.energy_at(times) - timeline.energy_at(np.zeros(1))
        watts = np.concatenate(([np.nan], _ratio(np.diff(joules), np.diff(times))))
        blocks.append(
            {
                "session": _repeat(recording.run.id, len(times)),
                "time_seconds": times,
                "domain": _repeat(domain.name, len(times)),
                "kind": _repeat(domain.kind, len(times)),
                "energy_joules": joules,
                "power_watts": watts,
            }
        )
    empty: dict[str, Sequence[Any] | NDArray[Any]] = {
        name: [] for name in ("session", "time_seconds", "domain", "kind", "energy_joules", "power_watts")
    }
    return _join("samples", blocks) if blocks else Table("samples", empty)


def events_table(recording: Recording) -> Table:
    """One row per event, in order of time."""
    found = (*recording.events, *recording.resolution.events)
    events = sorted(found, key=lambda event: event.time_seconds)
    return Table(
        "events",
        {
            "session": [recording.run.id] * len(events),
            "time_seconds": [event.time_seconds for event in events],
            "kind": [event.kind for event in events],
            "domain": [event.domain for event in events],
            "message": [event.message for event in events],
        },
    )


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
        "session": _repeat(run.id, count),
        "window": ids,
        "parent": parents,
        "name": np.array([SESSION_NAME, *(label.name for label in labels)], dtype=object),
        "phase": np.array([run.base_phase, *(label.phase for label in labels)], dtype=object),
        "thread": np.array([None, *names], dtype=object),
        "failed": (flags & FAILED) > 0,
        "unfinished": (flags & OPEN) > 0,
        "synchronised": resolution.synchronised,
    }


def _base(resolution: Resolution, domain: str) -> TimeBase:
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


def _units_by_window(recording: Recording) -> dict[str, NDArray[np.float64]]:
    """Counts of work of each window, NaN where a window has none of the unit."""
    ids = np.array(recording.windows.ids, dtype=np.int64)
    table = {}
    for unit, (window_ids, counts) in sorted(recording.windows.units.items()):
        rows = np.searchsorted(ids, np.array(window_ids, dtype=np.int64)) + 1
        valid = np.isin(np.array(window_ids, dtype=np.int64), ids)
        sums = np.zeros(len(ids) + 1)
        seen = np.zeros(len(ids) + 1, dtype=np.bool_)
        np.add.at(sums, rows[valid], np.array(counts)[valid])
        seen[rows[valid]] = True
        table[unit] = np.where(seen, sums, np.nan)
    return table


def _units_by_phase(recording: Recording) -> dict[str, NDArray[np.float64]]:
    """Counts of work of each phase; a count that an enclosing window of the phase has too is not added."""
    resolution = recording.resolution
    parent, phase = resolution.windows.parent, resolution.phase_of_window
    table = {}
    for unit, counts in _units_by_window(recording).items():
        sums = np.zeros(len(resolution.phases))
        for row in np.flatnonzero(~np.isnan(counts)):
            ancestor = parent[row]
            while ancestor > 0 and (phase[ancestor] != phase[row] or np.isnan(counts[ancestor])):
                ancestor = parent[ancestor]
            if ancestor <= 0:
                sums[phase[row]] += counts[row]
        table[unit] = sums
    return table


def _unit_columns(
    joules: NDArray[np.float64], units: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    columns, rates = {}, rate_names(units)
    for unit, counts in units.items():
        columns[unit] = np.where(counts > 0, counts, np.nan)
        columns[rates[unit]] = _ratio(joules, counts)
    return columns


def _pooled_unit_columns(
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
        columns[rates[unit]] = _ratio(_sum_by(group, with_unit, len(counts)), counts)
    return columns


def _phase_seconds(resolution: Resolution, domain: str) -> NDArray[np.float64]:
    """Time of each phase; an instant with several owners counts in parts, so phases fill the session."""
    ownership = _base(resolution, domain).ownership
    phase = resolution.phase_of_window[ownership.owner]
    return _sum_by(phase, ownership.share_out(np.diff(ownership.edges)), len(resolution.phases))


def _sum_by(group: NDArray[np.int64], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(group, weights=values, minlength=size), dtype=np.float64)


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; NaN where there is nothing to divide by."""
    result = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=np.nan_to_num(denominator) > 0)
    return result


def _overlap(span: tuple[int, int], session: tuple[int, int]) -> int:
    return max(0, min(span[1], session[1]) - max(span[0], session[0]))


def _object(value: object) -> NDArray[Any]:
    return np.array([value], dtype=object)


def _repeat(value: str, count: int) -> NDArray[Any]:
    return np.full(count, value, dtype=object)


def _join(name: str, blocks: Sequence[dict[str, Any]]) -> Table:
    return Table(name, {column: np.concatenate([block[column] for block in blocks]) for column in blocks[0]})
