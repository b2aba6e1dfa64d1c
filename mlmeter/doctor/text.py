"""The diagnosis as a page for terminals: what is measured, what would give more, then the details."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from mlmeter.doctor.advice import APPLY
from mlmeter.doctor.source_lines import WIDTH, sources_text, wrap
from mlmeter.doctor.surroundings import UNKNOWN
from mlmeter.foreign_files import visible
from mlmeter.measurement import Provenance
from mlmeter.report.text import fitting_table, number, shorten, table

LABEL_WIDTH = 14
NAMES = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
# Smaller errors are not worth a number: the sensor's gain is worse.
SMALLEST_PERCENT = 0.1
LONGEST_FIRST = 50
JOULE_UNITS = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"))
SECOND_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
# Beside six columns of errors.
LONGEST_NAME = 28


def report_text(diagnosis: dict[str, Any], *, everything: bool = False) -> str:
    """Return the diagnosis as text of at most 80 columns, commands of remedies excepted.

    Args:
        diagnosis: what `diagnose` found.
        everything: whether to tell the details of sources that are not on this machine, too.
    """
    parts = [_head(diagnosis), sources_text(diagnosis, everything=everything)]
    if diagnosis["domains"]:
        parts += [_domains(diagnosis, everything=everything), _errors(diagnosis)]
    if diagnosis["notes"]:
        parts.append("\n".join(["Notes", *(wrap(f"- {note}") for note in diagnosis["notes"])]))
    parts += _advice(diagnosis)
    return "\n\n".join(part for part in parts if part)


def _head(diagnosis: dict[str, Any]) -> str:
    """The first lines: the machine, what is worth what, and the first thing to do."""
    machine, verdict = diagnosis["machine"], diagnosis["verdict"]
    facts = [machine["cpu"] or "unknown processor", NAMES.get(machine["system"], machine["system"])]
    if machine["container"]:
        facts.append(f"container ({machine['container']})")
    if machine["hypervisor"]:
        known = machine["hypervisor"] != UNKNOWN
        facts.append(f"virtual machine ({machine['hypervisor']})" if known else "virtual machine")
    lines = [wrap(f"mlmeter doctor: {', '.join(facts)}"), ""]
    words = {
        "measured": "MEASURED",
        "derived": "FROM POWER",
        "estimated": "ESTIMATED",
        "missing": "NOT METERED",
    }
    for worth, word in words.items():
        if verdict[worth]:
            text = f"{', '.join(verdict[worth])}{_by(diagnosis, worth)}"
            lines.append(_labelled(word, text))
    first = next((item for item in diagnosis["advice"] if item["kinds"]), None)
    if first is not None:
        where = "" if first["where"] == "on this machine" else f", {first['where']}"
        command = _first_command(first)
        lines.append(_labelled("FOR MORE", f"{command}  ({first['gives']}{where})"))
    return "\n".join([*lines, "", wrap(verdict["text"])])


def _first_command(advice: dict[str, Any]) -> str:
    if advice["applies"]:
        return APPLY
    command = next(iter(advice["commands"]), "")
    short = 0 < len(command) <= LONGEST_FIRST and "\n" not in command
    return command if short else "see 1 at the end"


def _by(diagnosis: dict[str, Any], worth: str) -> str:
    used = [d for d in diagnosis["domains"] if d["used"] and d["counted"] and d["provenance"] == worth]
    sources = list(dict.fromkeys(facts["source"] for facts in used))
    if worth == Provenance.ESTIMATED:
        low = min(facts["interval_low_ratio"] for facts in used)
        high = max(facts["interval_high_ratio"] for facts in used)
        return f"  (by a formula; the truth is {number(low, 2)} to {number(high, 2)} times the value)"
    return f"  (by {', '.join(sources)})" if sources else ""


def _labelled(label: str, text: str) -> str:
    return textwrap.fill(
        visible(text),
        WIDTH,
        initial_indent=f"  {label:{LABEL_WIDTH}}",
        subsequent_indent=" " * (LABEL_WIDTH + 2),
    )


def _domains(diagnosis: dict[str, Any], *, everything: bool) -> str:
    """The table of what a session reads, and why the rest is left out."""
    found = diagnosis["domains"]
    # Where it is not known what a session would read, all is shown.
    shown = [facts for facts in found if everything or facts["used"]] or found
    lines = [_domain_table(shown)]
    lines += _left_out(found)
    if any(facts["measured_period_seconds"] for facts in shown):
        lines.append("* measured just now; the others are what is known beforehand")
    still = [facts["domain"] for facts in shown if facts["moves"] is False]
    if still:
        text = "the counter did not move; a virtual machine shows such ones for nothing"
        lines.append(wrap(f"{', '.join(still)}: {text}"))
    return "\n".join(lines)


def _domain_table(domains: list[dict[str, Any]]) -> str:
    """Return the table with as many columns as fit: names are worth more than the last of them."""
    columns = {
        "domain": [facts["domain"] for facts in domains],
        "source": [facts["source"] for facts in domains],
        "worth": [
            facts["provenance"] if facts["moves"] else "STUCK" if facts["readable"] else "NOT READ"
            for facts in domains
        ],
        "refreshed": [_period(facts) for facts in domains],
        "step": [_step(facts) for facts in domains],
        "wraps after": [_duration(facts["wrap_horizon_seconds"]) for facts in domains],
        "in total": ["yes" if facts["used"] and facts["counted"] else "no" for facts in domains],
    }
    for column, empty in (("wraps after", "never"), ("step", "-")):
        if set(columns[column]) == {empty}:
            del columns[column]
    rows = list(zip(*columns.values(), strict=True))
    drop = ("wraps after", "step", "source", "refreshed")
    return fitting_table(list(columns), rows, left=3, width=WIDTH, drop=drop)


def _left_out(domains: list[dict[str, Any]]) -> list[str]:
    """Say what is not added up and why: domains of what is used, and sources of which nothing is."""
    used = {facts["source"] for facts in domains if facts["used"]}
    found: dict[str, dict[str, list[str]]] = {"not in the total": {}, "not used": {}}
    for facts in domains:
        if facts["ignored_because"]:
            is_used = facts["source"] in used
            names = found["not in the total" if is_used else "not used"].setdefault(
                facts["ignored_because"], []
            )
            name = facts["domain"] if is_used else facts["source"]
            if name not in names:
                names.append(name)
    return [
        wrap(
            f"{title}: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
        )
        for title, by_reason in found.items()
        if by_reason
    ]


def _errors(diagnosis: dict[str, Any]) -> str:
    """Expected errors of the domains that are added up; of an estimate its interval says all."""
    rows = []
    seconds: list[float] = []
    for facts in diagnosis["domains"]:
        told = facts["expected_error"]
        added = facts["used"] and facts["counted"] and facts["moves"]
        if facts["provenance"] == Provenance.ESTIMATED or not added:
            continue
        seconds = [item["window_seconds"] for item in told]
        cells = [_percent(item[column]) for column in ("single", "phase") for item in told]
        rows.append((shorten(facts["domain"], LONGEST_NAME), *cells))
    if not rows:
        return ""
    lengths = [_duration(length) for length in seconds]
    head = "Expected error of one window (left), and of a phase of many such windows (right)"
    body = table(("domain", *lengths, *lengths), rows)
    foot = wrap(
        "One standard error, for windows of one name that differ by 15 %; the sensor's own gain (GPUs: "
        "about 5 %) comes on top."
    )
    return f"{head}\n{body}\n{foot}"


def _advice(diagnosis: dict[str, Any]) -> list[str]:
    if not diagnosis["advice"]:
        return []
    parts = ["What would give more"]
    for position, item in enumerate(diagnosis["advice"], 1):
        lines = [wrap(f"{position}. {item['gives']} ({item['where']})", indent="")]
        lines.append(wrap(item["why"], indent="   "))
        # Flush left and without a prompt, so that the lines can be copied whole.
        if item["commands"]:
            lines += ["", *item["commands"], ""]
        if item["applies"]:
            lines += ["   All of it at once, after a question:", "", APPLY, ""]
        lines.append(f"   docs: {item['page']}")
        parts.append("\n".join(lines))
    return parts


def _period(facts: dict[str, Any]) -> str:
    measured = facts["measured_period_seconds"]
    return f"{_duration(measured)}*" if measured else _duration(facts["update_period_seconds"])


def _step(facts: dict[str, Any]) -> str:
    # Those of a formula say nothing.
    estimated = facts["provenance"] == Provenance.ESTIMATED
    return "-" if estimated else _joules(facts["measured_step_joules"] or facts["resolution_joules"])


def _joules(joules: float | None) -> str:
    return "-" if joules is None else _scaled(joules, JOULE_UNITS)


def _duration(seconds: float | None) -> str:
    return "never" if seconds is None else _scaled(seconds, SECOND_UNITS)


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """Return a value in the largest unit that it fills, or in the last one."""
    factor, unit = next((pair for pair in units if value >= pair[0]), units[-1])
    return f"{number(value / factor, 2)} {unit}"


def _percent(ratio: float | None) -> str:
    if ratio is None:
        return "untold"
    if 100 * ratio < SMALLEST_PERCENT:
        return f"<{SMALLEST_PERCENT} %"
    return f"{number(100 * ratio, 2)} %"
