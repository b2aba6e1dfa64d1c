"""The summary of a session: text for terminals, a table for notebooks."""

from __future__ import annotations

import html
import textwrap
from typing import Any

from mlmeter.chapters.tables import build_table
from mlmeter.chapters.whole import results
from mlmeter.dynamic_energy import NOT_DISTINGUISHABLE, idle_powers
from mlmeter.energy.process_share import PARTS
from mlmeter.foreign_files import visible
from mlmeter.frame.sources import unread_reason
from mlmeter.measurement import COUNTED_KINDS, Provenance
from mlmeter.recording import TOTAL, Recording
from mlmeter.report.above_idle import above_idle_records
from mlmeter.report.text import fitting_table, interval, number, percent, shorten, table
from mlmeter.work import is_metric, singular

WIDTH = 80
MOST_EVENTS = 5
MOST_UNIT_ROWS = 20
MOST_PHASES = 20
HEADER = ("phase", "domain", "joules", "95 % interval", "share", "seconds", "watts")
SHARE_HEADER = ("joules of", "process", "others", "idle", "unattributed")


def summary_text(recording: Recording, impact: str = "") -> str:
    """Return the summary as text of at most 80 columns.

    Args:
        recording: the session.
        impact: emissions and cost, as a paragraph before the notes.
    """
    rows = _phase_rows(recording)
    # Watts are joules / seconds, and shares are joules by those of the session.
    phases = fitting_table(HEADER, rows, left=2, drop=("watts", "share")) if rows else table(HEADER, rows)
    parts = [textwrap.fill(_title(recording), WIDTH), phases]
    above = _above_idle_rows(recording)
    if above:
        parts.append(table(("phase", "domain", "idle J", "above idle J", "95 % interval"), above, left=2))
    if recording.process is not None:
        parts.append(table(SHARE_HEADER, _share_rows(recording)))
    units = _unit_rows(recording)
    if units:
        header = ("window", "unit", "count", "joules each", "95 % interval")
        parts.append(table(header, units[:MOST_UNIT_ROWS], left=2))
        if len(units) > MOST_UNIT_ROWS:
            parts.append(f"and {len(units) - MOST_UNIT_ROWS} more rows: see session.window_names()")
    if impact:
        parts.append(impact)
    notes = [
        textwrap.fill(note, WIDTH, subsequent_indent="  ", break_long_words=False)
        for note in _notes(recording)
    ]
    parts.append("\n".join(notes))
    return "\n\n".join(parts)


def summary_html(recording: Recording, impact: str = "") -> str:
    """Return the summary as an HTML fragment, every text escaped; arguments as of `summary_text`."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>"
        for row in _phase_rows(recording)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(recording))
    title = html.escape(_title(recording))
    emissions = f"<pre>{html.escape(impact)}</pre>" if impact else ""
    return (
        f"<div><strong>{title}</strong><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{emissions}<ul>{notes}</ul></div>"
    )


def _title(recording: Recording) -> str:
    run = recording.run
    state = "" if run.finished else ", still running"
    whose = "the whole machine" if recording.process is None else "this process and its children"
    return f"{visible(run.name)}: {number(run.duration_seconds)} s{state}, energy of {whose}"


def _phase_rows(recording: Recording) -> list[tuple[str, ...]]:
    """Rows of every phase and domain, then of the session."""
    rows: list[tuple[str, ...]] = []
    shown = _shown_domains(recording)
    by_phase: dict[str, list[dict[str, Any]]] = {}
    for record in build_table(recording, "phases").records():
        if record["domain"] in shown:
            by_phase.setdefault(record["phase"], []).append(record)
    for phase, records in list(by_phase.items())[:MOST_PHASES]:
        # A base phase that windows leave no time for says nothing.
        rows.extend(_row(phase, record) for record in records if record["duration_seconds"] > 0)
    if len(by_phase) > MOST_PHASES:
        rows.append((f"and {len(by_phase) - MOST_PHASES} more", *[""] * (len(HEADER) - 1)))
    run = recording.run
    for domain, _, energies in results(recording).by_domain("total"):
        if domain not in shown:
            continue
        record = {name: column[0] for name, column in energies.items()}
        record.update(domain=domain, duration_seconds=run.duration_seconds, share_ratio=1.0)
        if run.duration_seconds > 0:
            record["mean_power_watts"] = record["energy_joules"] / run.duration_seconds
        rows.append(_row("session", record))
    return rows


def _shown_domains(recording: Recording) -> set[str]:
    """Return the domains that have rows: those that are added up, and their total if they are several.

    Of the others, such as a whole machine, the notes tell the energy of the session.
    """
    names = [domain.name for domain, _ in recording.domains]
    counted = [domain.name for domain, _ in recording.domains if domain.counted]
    return set(counted or names or [TOTAL]) | ({TOTAL} if len(counted) > 1 else set())


def _row(phase: str, record: dict[str, Any]) -> tuple[str, ...]:
    read = record["provenance"] is not None
    value = number(record["energy_joules"]) if record["resolved"] else "unresolved"
    return (
        shorten(phase, 18),
        shorten(record["domain"], 18),
        value if read else "-",
        interval(record["low_joules"], record["high_joules"]),
        percent(record["share_ratio"]) if read and record["resolved"] else "-",
        number(record["duration_seconds"]),
        number(record.get("mean_power_watts")) if record["resolved"] else "-",
    )


def _above_idle_rows(recording: Recording) -> list[tuple[str, ...]]:
    """Energy above idle of phases and the session, where a baseline is known."""
    records = above_idle_records(recording, session="session")
    single = len(recording.domains) == 1
    shown = [record for record in records if (record["domain"] == TOTAL) is not single]
    parts = [record for record in records if record["domain"] != TOTAL]
    return [
        (
            shorten(record["phase"], 14),
            shorten(record["domain"], 14),
            number(record["idle_joules"]),
            number(record["dynamic_joules"]) if record["above_idle"] else NOT_DISTINGUISHABLE,
            interval(record["dynamic_low_joules"], record["dynamic_high_joules"]),
        )
        for record in (shown or parts)[-MOST_PHASES:]
    ]


def _share_rows(recording: Recording) -> list[tuple[str, ...]]:
    """Rows of every domain, and of all: whose its energy is."""
    by_domain: dict[str, dict[str, str]] = {}
    for record in build_table(recording, "shares").records():
        known = record["resolved"] or record["low_joules"] == record["high_joules"]
        told = known or record["provenance"] is None
        joules = number(record["energy_joules"]) if told else "unresolved"
        by_domain.setdefault(record["domain"], {})[record["part"]] = joules
    if len(recording.domains) == 1:
        by_domain.pop(TOTAL, None)
    return [(shorten(domain, 18), *(parts[part] for part in PARTS)) for domain, parts in by_domain.items()]


def _unit_rows(recording: Recording) -> list[tuple[str, ...]]:
    """Energy per unit of work, from the windows that did the work."""
    rows: list[tuple[str, ...]] = []
    units = [unit for unit in results(recording).unit_names if not is_metric(unit)]
    if not units:
        return rows
    for record in build_table(recording, "window_names").records():
        name = record["name"]
        for unit in units:
            count = record[unit]
            # NaN, where the windows of this name have none of the unit, is not above 0.
            if record["domain"] != TOTAL or not count > 0:
                continue
            # Of floats, not of NumPy's numbers, which warn when a quotient overflows.
            joules, low, high = (
                float(record[column]) / float(count)
                for column in ("energy_joules", "low_joules", "high_joules")
            )
            rows.append(
                (
                    shorten(name),
                    singular(unit),
                    f"{count:,.10g}",
                    number(joules) if record["resolved"] else "unresolved",
                    interval(low, high),
                )
            )
    return rows


def _session_energy(columns: dict[str, Any]) -> str:
    low, high = columns["low_joules"][0], columns["high_joules"][0]
    if not columns["resolved"][0]:
        return f"unresolved, {interval(low, high)} J in all"
    return f"{number(columns['energy_joules'][0])} J ({interval(low, high)}) in all"


def _notes(recording: Recording) -> list[str]:
    """Say of every number where it comes from, and what is missing."""
    notes, shown = [], _shown_domains(recording)
    energies = {name: columns for name, _, columns in results(recording).by_domain(TOTAL)}
    totals = results(recording).wholes()
    for domain, _ in recording.domains:
        scope = results(recording).process
        unknown = None if scope is None else scope.reason(domain)
        if unknown is not None:
            notes.append(f"{domain.name}: NOT ATTRIBUTED to processes, or not all of it: {unknown}")
        if domain.name not in totals or totals[domain.name]["provenance"][0] is None:
            notes.append(f"{domain.name}: NOT READ, {unread_reason(recording, domain.name)}")
            continue
        if domain.provenance is Provenance.ESTIMATED:
            what = "ESTIMATED from load, not measured; the truth may lie anywhere in the interval"
        else:
            what = "measured" if domain.provenance is Provenance.MEASURED else "derived from measured power"
        what = what if domain.name in shown else f"{_session_energy(energies[domain.name])}, {what}"
        inside = f" (part of {domain.parent}, not added)" if domain.parent else ""
        alone = " (never added to a total)" if domain.kind not in COUNTED_KINDS else ""
        notes.append(f"{domain.name}: {what}, source {domain.source}{inside}{alone}")
    if idle_powers(recording):
        facts = recording.run.facts["baseline"]
        when = f"measured {facts['measured_at']}" if "measured_at" in facts else "as given"
        notes.append(f"above idle: energy less idle power x time; idle power {when}")
    if not recording.domains:
        notes.append("No energy could be read on this machine: times only. Try `mlmeter doctor`.")
    notes.extend(
        f"not metered: {missing.source} ({'/'.join(missing.kinds) or 'domains'}): {missing.reason}"
        for missing in recording.unavailable
    )
    events = [event for event in recording.events if event.kind not in ("unavailable", "estimate")]
    notes.extend(
        f"{event.kind} at {event.time_seconds:.3f} s: {event.message}" for event in events[:MOST_EVENTS]
    )
    if len(events) > MOST_EVENTS:
        notes.append(f"and {len(events) - MOST_EVENTS} more events: see session.events()")
    return [visible(note) for note in notes]
