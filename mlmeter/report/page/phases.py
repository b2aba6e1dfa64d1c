"""Tables of phases, of windows by name, and of energy per unit of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlmeter.chapters.tables import build_table
from mlmeter.chapters.whole import results
from mlmeter.dynamic_energy import NOT_DISTINGUISHABLE
from mlmeter.energy.process_share import PARTS
from mlmeter.recording import TOTAL, Recording
from mlmeter.report.above_idle import above_idle_records
from mlmeter.report.page.cells import Bar, Cell, Name, PageTable, Plain, Value, Worth
from mlmeter.report.page.quantities import (
    ABSENT,
    Quantity,
    Scale,
    duration,
    energy,
    known,
    largest,
    power,
    share,
)
from mlmeter.work import is_metric, singular

SESSION = "session"
MOST_ROWS = 100

Record = Mapping[str, Any]


def headline_domain(recording: Recording) -> str | None:
    """Return the domain that stands for the session: the total, else the first; None without any."""
    names = [domain.name for domain, _ in recording.domains]
    counted = [domain.name for domain, _ in recording.domains if domain.counted]
    return TOTAL if counted else next(iter(names), None)


def session_records(recording: Recording) -> dict[str, Record]:
    """Return the energy of the session as rows of a table, by domain."""
    return {
        name: {"domain": name, **{column: values[0] for column, values in columns.items()}}
        for name, _, columns in results(recording).by_domain(TOTAL)
    }


def phase_tables(recording: Recording) -> list[PageTable]:
    """Return the phases' energies and shares; with several domains a second table of each domain."""
    headline = headline_domain(recording)
    sessions = session_records(recording)
    records = [r for r in build_table(recording, "phases").records() if r["duration_seconds"] > 0]
    if headline not in sessions:
        return []
    main = [record for record in records if record["domain"] == headline]
    tables = [_phases(main, sessions[headline], recording.run.duration_seconds)]
    parts = [record for record in records if record["domain"] != TOTAL]
    if len(sessions) > 2:
        tables.append(_phases_by_domain(parts, [sessions[name] for name in sessions if name != TOTAL]))
    return tables


def _phases(records: Sequence[Record], session: Record, seconds: float) -> PageTable:
    shown = records[:MOST_ROWS]
    joules, watts = Scale.of(_longest(session), "J"), _watt_scale(records, session, seconds)
    longest = largest(record["high_joules"] for record in records)
    rows: list[list[Cell]] = [
        [
            Name(record["phase"], bar=_bar(record, longest)),
            Value(energy(record, joules)),
            Plain(share(record["share_ratio"]) if record["resolved"] else ABSENT, number=True),
            Plain(duration(record["duration_seconds"]), number=True),
            Value(power(record, record["duration_seconds"], watts)),
        ]
        for record in shown
    ]
    rows.append(
        [
            Name("whole session"),
            Value(energy(session, joules)),
            Plain("100 %" if session["resolved"] else ABSENT, number=True),
            Plain(duration(seconds), number=True),
            Value(power(session, seconds, watts)),
        ]
    )
    return PageTable(
        caption="Energy, share, time and mean power of each phase. The line across a bar is the interval.",
        header=("phase", "energy", "share", "time", "mean power"),
        rows=rows,
        last_is_sum=True,
        left_out=len(records) - len(shown),
    )


def _phases_by_domain(records: Sequence[Record], sessions: Sequence[Record]) -> PageTable:
    phases = list(dict.fromkeys(record["phase"] for record in records))[:MOST_ROWS]
    by_place = {(record["phase"], record["domain"]): record for record in records}
    scales = {session["domain"]: Scale.of(_longest(session), "J") for session in sessions}
    rows: list[list[Cell]] = []
    for phase in phases:
        found = [by_place.get((phase, domain)) for domain in scales]
        values = [energy(r, scales[r["domain"]]) if r else Quantity(ABSENT, "", "J") for r in found]
        rows.append([Name(phase), *map(Value, values)])
    rows.append([Name("whole session"), *(Value(energy(s, scales[s["domain"]])) for s in sessions)])
    return PageTable(
        caption="Energy of each phase by domain. What is part of another domain is not added to the total.",
        header=("phase", *scales),
        rows=rows,
        last_is_sum=True,
        matrix=True,
    )


def work_table(recording: Recording) -> PageTable | None:
    """Return energy per unit of work of the windows that counted some; None if none did."""
    headline = headline_domain(recording)
    units = [unit for unit in results(recording).unit_names if not is_metric(unit)]
    found: list[list[Cell]] = []
    for record in _window_names(recording, headline):
        for unit in units:
            count = record[unit]
            # NaN, where the windows of this name have none of the unit, is not above 0.
            if not count > 0:
                continue
            each = energy(record, divisor=count)
            found.append(
                [
                    Name(record["name"], record["phase"]),
                    Plain(f"{count:,.10g} {unit}", number=True),
                    Value(replace(each, unit=f"{each.unit}/{singular(unit)}")),
                    Worth(each.provenance),
                ]
            )
    if not found:
        return None
    return PageTable(
        caption="Energy per unit of work, from the windows that counted it, with 95 % intervals.",
        header=("window", "work done", "energy each", "worth"),
        rows=found[:MOST_ROWS],
        left_out=max(0, len(found) - MOST_ROWS),
    )


def windows_table(recording: Recording) -> PageTable | None:
    """Return windows pooled by name and phase, those with the most energy first; None without windows."""
    records = _window_names(recording, headline_domain(recording))
    if not records:
        return None
    records = sorted(records, key=lambda record: -_longest(record, "energy_joules"))
    shown = records[:MOST_ROWS]
    joules = Scale.of(largest(_longest(record) for record in records), "J")
    rows: list[list[Cell]] = [
        [
            Name(record["name"], record["phase"]),
            Plain(f"{record['windows']:,}", number=True),
            Plain(duration(record["duration_seconds"]), number=True),
            Value(energy(record, joules)),
            Value(energy(record, divisor=record["windows"])),
            Worth(record["provenance"] or ""),
        ]
        for record in shown
    ]
    return PageTable(
        caption="Windows of one name and phase, with what ran inside them. A window inside another one "
        "counts in both.",
        header=("window", "times", "time", "energy", "mean of one", "worth"),
        rows=rows,
        left_out=len(records) - len(shown),
    )


def above_idle_table(recording: Recording) -> PageTable | None:
    """Return energy above idle by phase; None without a baseline that has the domains."""
    headline = headline_domain(recording)
    records = above_idle_records(recording, session="whole session")
    shown = [record for record in records if record["domain"] == headline] or records
    if not shown:
        return None
    joules = Scale.of(largest(record["dynamic_high_joules"] for record in shown), "J")
    rows: list[list[Cell]] = []
    for record in shown[-MOST_ROWS:]:
        value = joules.number(record["dynamic_joules"]) if record["above_idle"] else NOT_DISTINGUISHABLE
        interval = joules.interval(record["dynamic_low_joules"], record["dynamic_high_joules"])
        idle = Quantity(joules.number(record["idle_joules"]), "", joules.unit)
        above = Quantity(value, interval, joules.unit if record["above_idle"] else "")
        note = "" if record["domain"] == headline else record["domain"]
        rows.append([Name(record["phase"], note), Value(idle), Value(above)])
    return PageTable(
        caption="Energy less idle power times time, with 95 % intervals.",
        header=("phase", "idle", "above idle"),
        rows=rows,
        last_is_sum=True,
    )


def shares_table(recording: Recording) -> PageTable | None:
    """Return whose each domain's energy is; None for the energy of the whole machine."""
    if recording.process is None:
        return None
    by_domain: dict[str, dict[str, Record]] = {}
    for record in build_table(recording, "shares").records():
        by_domain.setdefault(record["domain"], {})[record["part"]] = record
    rows: list[list[Cell]] = []
    for domain, parts in by_domain.items():
        scale = Scale.of(largest(_longest(record) for record in parts.values()), "J")
        rows.append([Name(domain), *(Value(energy(parts[part], scale)) for part in PARTS)])
    return PageTable(
        caption="Energy of each device by whose it is: this process and its children, other programs, "
        "the idle machine, and what could not be attributed.",
        header=("domain", *PARTS),
        rows=rows,
        matrix=True,
    )


def _window_names(recording: Recording, domain: str | None) -> list[Record]:
    return [r for r in build_table(recording, "window_names").records() if r["domain"] == domain]


def _longest(record: Record, *names: str) -> float:
    """Return the size of a row's value, or of its interval where there is no value; 0 if unknown."""
    chosen = names or (("energy_joules",) if record["resolved"] else ("high_joules",))
    return max((float(record[name]) for name in chosen if known(record[name])), default=0.0)


def _watt_scale(records: Sequence[Record], session: Record, seconds: float) -> Scale:
    rows = [(record, record["duration_seconds"]) for record in records] + [(session, seconds)]
    return Scale.of(largest(_longest(record) / time for record, time in rows if time > 0), "W")


def _bar(record: Record, longest: float | None) -> Bar | None:
    """Return the bar of a phase as shares of the highest value that an interval holds."""
    if not longest or longest == float("inf") or not record["provenance"]:
        return None

    def place(value: float) -> float | None:
        return max(value / longest, 0.0) if known(value) else None

    length = place(record["energy_joules"]) if record["resolved"] else None
    return Bar(length, place(record["low_joules"]), place(record["high_joules"]))
