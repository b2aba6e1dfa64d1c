"""All tables of a session by their names, with or without chapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.bursts import BurstCounts
from mlmeter.chapters.pooling import GAPS, INCLUSIVE, LENGTH, SECONDS, UNIT_JOULES, UNITS
from mlmeter.chapters.whole import WholeSession, results
from mlmeter.dynamic_energy import DynamicEnergy, idle_powers
from mlmeter.frame import build
from mlmeter.frame.sources import domains_table, events_table, samples_table, shares_table
from mlmeter.frame.table import Table, join, ratio
from mlmeter.frame.windows import (
    BURST_COLUMNS,
    PhaseFacts,
    burst_block,
    name_block,
    phase_block,
    windows_table,
)
from mlmeter.recording import TOTAL, Recording
from mlmeter.units import SECONDS_PER_NANOSECOND
from mlmeter.work import rate_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.pool import Pool


def build_table(recording: Recording, name: str) -> Table:
    """Build one of `TABLES` of a session."""
    whole = results(recording)
    if not isinstance(whole, WholeSession):
        return build.build_table(recording, name)
    builders: dict[str, Callable[[Recording, WholeSession], Table]] = {
        "phases": _phases,
        "windows": _windows,
        "window_names": _window_names,
        "bursts": _bursts,
        "domains": _domains,
        "shares": shares_table,
        "samples": lambda recording, whole: samples_table(recording, whole.samples()),
        "events": lambda recording, whole: events_table(recording, whole.events),
    }
    return builders[name](recording, whole)


def _phases(recording: Recording, whole: WholeSession) -> Table:
    pool = whole.phase_pool
    units = {unit: counts for unit, counts in whole.phase_units.items() if counts.any()}
    facts = PhaseFacts(recording.run.id, whole.phases, pool.column("windows").astype(np.int64), units)
    sessions = {domain: columns for domain, _, columns in whole.by_domain(TOTAL)}
    dynamic = None
    if idle_powers(recording):
        dynamic = DynamicEnergy(recording, "phases", lambda domain: pool.column(f"{SECONDS}{domain}"))
    return join(
        "phases",
        [
            phase_block(
                facts, (domain, kind), pool.column(f"{SECONDS}{domain}"), energies, sessions[domain], dynamic
            )
            for domain, kind, energies in whole.columns(pool)
        ],
    )


def _windows(recording: Recording, whole: WholeSession) -> Table:
    """Return the windows that are in memory; those that began before have all their time and energy."""
    table = windows_table(recording)
    past, records, run = whole.past, recording.windows, recording.run
    boundary = (past.end_ns - run.start_ns) * SECONDS_PER_NANOSECOND
    started = (np.array([run.start_ns, *records.starts_ns]) - run.start_ns) * SECONDS_PER_NANOSECOND
    starts = np.asarray(table.columns["start_seconds"], dtype=np.float64) + boundary
    lengths = np.array(table.columns["duration_seconds"], dtype=np.float64)
    domains = np.asarray(table.columns["domain"])
    size = len(records) + 1
    for block in range(0, len(table), size):
        rows = slice(block, block + size)
        name = f"{LENGTH}{domains[block]}"
        lengths[rows] += past.carried_column(INCLUSIVE, name, records.ids)
        starts[rows] = np.where(started < boundary, started, starts[rows])
    return Table("windows", {**table.columns, "start_seconds": starts, "duration_seconds": lengths})


def _window_names(recording: Recording, whole: WholeSession) -> Table:
    pool = whole.name_pool
    calls = pool.column("windows").astype(np.int64)
    labels = [(str(name), str(phase)) for name, phase in pool.keys]
    return join(
        "window_names",
        [
            name_block(
                (recording.run.id, domain, kind),
                labels,
                (calls, pool.column(f"{SECONDS}{domain}")),
                energies,
                _unit_columns(recording, pool, domain),
            )
            for domain, kind, energies in whole.columns(pool)
        ],
    )


def _bursts(recording: Recording, whole: WholeSession) -> Table:
    blocks: list[dict[str, Any]] = [{column: np.zeros(0, dtype=object) for column in BURST_COLUMNS}]
    pool = whole.burst_pool
    for row in np.argsort(-pool.column("windows"), kind="stable").tolist():
        one = pool.placed([pool.keys[row]])
        bursts, calls, seconds, busy = (
            float(one.column(name)[0]) for name in ("bursts", "windows", "seconds", "busy_seconds")
        )
        name, phase = map(str, pool.keys[row])
        counts = BurstCounts(int(bursts), int(calls), seconds, busy)
        blocks.extend(
            burst_block((recording.run.id, name, phase, domain, kind), counts, energies)
            for domain, kind, energies in whole.columns(one)
        )
    return join("bursts", blocks)


def _domains(recording: Recording, whole: WholeSession) -> Table:
    session = whole.session_pool
    gaps = {domain.name: float(session.column(f"{GAPS}{domain.name}")[0]) for domain, _ in recording.domains}
    return domains_table(recording, whole.wholes(), gaps)


def _unit_columns(recording: Recording, pool: Pool, domain: str) -> dict[str, NDArray[np.float64]]:
    """Return work, and the energy of the windows that did it per unit."""
    columns_of_units = sorted(name for name in pool.columns if name.startswith(UNITS))
    units = {name.removeprefix(UNITS): pool.column(name) for name in columns_of_units}
    columns, rates = {}, rate_names(units)
    names = [one.name for one, _ in recording.domains if one.counted] if domain == TOTAL else [domain]
    for unit, counts in units.items():
        joules = np.sum([pool.column(f"{UNIT_JOULES}{unit}:{name}") for name in names], axis=0)
        columns[unit] = np.where(counts > 0, counts, np.nan)
        columns[rates[unit]] = ratio(joules, counts)
    return columns
