"""The result of all runs as Markdown of at most 80 columns, and as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from compare import MOST_LATE_SECONDS, Row, Run, compare
from load import Load, draw

COLUMNS = 80
INTRODUCTION = """
{versions}.

{machine}. {repeats} fresh processes of each tool on each counter, in random order; loads of seeds
{seed} to {last_seed}, the same for all tools. No real counter is read: this says how right the
tools are about windows, not about hardware.
"""
LEGEND = f"""
ms: typical length of a window; training (210 W) and inference (90 W) windows in random order, with
gaps (40 W); power scatters from window to window (15 %) and inside it.

n: windows that count, of all repeats.

median, RMS: error of one window, in % of the mean true energy of its phase; absolute value, and
root mean square.

train, infer: error of the energy of all training and of all inference windows together, in %.

0 J: share of windows reported as 0 J or less, in %.

in: share of windows whose 95 % interval contains the truth, in %; -: the tool gives no interval.

told: share of windows that the tool itself calls not known (mlmeter: resolved is false; Zeus: its
warning), in %; -: it has no such word.

miss: share of the schedule entered or left more than {MOST_LATE_SECONDS * 1e3:.0f} ms late, left
out for every tool alike, in %.

call: median time of entering and leaving together, in ms. An edge counts as the middle of its call.
"""
PERUN = """
perun samples ten times a second, the shortest period that it accepts (default: 1 s), and gives mean
power and runtime of a region: the energy is their product.
"""
INSTANT = """
zeus_instant is Zeus with approx_instant_energy, the option that its warning recommends: power times
duration where the counter did not move.
"""


@cache
def _load(blocks: tuple[tuple[int, float], ...], seed: int) -> Load:
    return draw(blocks, seed)


def report(runs: Sequence[Run], facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the result as Markdown, and its figures."""
    lines = ["# mlmeter and its peers on live counters of known energy", "", *_introduction(facts)]
    rows: list[Row] = []
    repeats: list[dict[str, Any]] = []
    for name, mode in facts["modes"].items():
        of_mode = [run for run in runs if run.mode == name]
        found = _rows(of_mode, name, facts)
        for seed in sorted({run.seed for run in of_mode}):
            alone = _rows([run for run in of_mode if run.seed == seed], name, facts)
            repeats += [{"seed": seed, **_figures(row)} for row in alone]
        rows += found
        lines += ["", f"## {mode['title']}", "", *_table(found), *_nothing(runs, name, mode["kind"], facts)]
    lines += ["", *_notes(runs, rows), ""]
    figures = {
        **facts,
        "rows": [_figures(row) for row in rows],
        "rows_of_each_repeat": repeats,
        "runs": [{key: value for key, value in vars(run).items() if key != "result"} for run in runs],
    }
    return "\n".join(lines), figures


def _rows(runs: Sequence[Run], mode: str, facts: dict[str, Any]) -> list[Row]:
    settings = facts["modes"][mode]
    blocks = tuple((ms, seconds * settings["seconds_share"]) for ms, seconds in settings["blocks"])
    return [row for tool in facts["versions"] for row in compare(runs, mode, tool, partial(_load, blocks))]


def _figures(row: Row) -> dict[str, Any]:
    """Return what the JSON file says of a row; more digits than these are noise."""
    figures = {}
    for name, value in asdict(row).items():
        if isinstance(value, float):
            figures[name] = round(value, 6)
        elif name == "sums":
            # JSON knows no NaN.
            figures[name] = [None if math.isnan(item) else round(item, 6) for item in value]
        else:
            figures[name] = value
    return figures


def _wrapped(text: str, start: str = "") -> list[str]:
    """Break a paragraph into lines of at most 80 characters; `start` begins the first."""
    lines, line = [], start
    for word in text.split():
        if len(line) + len(word) + 1 > COLUMNS and line.strip():
            lines.append(line.rstrip())
            line = " " * len(start)
        line += f"{word} "
    return [*lines, line.rstrip()]


def _introduction(facts: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{tool} {version}" for tool, version in facts["versions"].items())
    last_seed = facts["seed"] + facts["repeats"] - 1
    text = INTRODUCTION.format(**{**facts, "versions": versions, "last_seed": last_seed})
    lines = [line for paragraph in text.split("\n\n") for line in [*_wrapped(paragraph), ""]]
    return lines + [line for item in LEGEND.split("\n\n") for line in _wrapped(item, "* ")]


def _percent(value: float | None, digits: int = 0, *, signed: bool = False) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:+.{digits}f}" if signed else f"{100 * value:.{digits}f}"


def _error(value: float | None, *, signed: bool = False) -> str:
    digits = 0 if value is None or abs(value) >= 0.0995 else 1 if abs(value) >= 0.00995 else 2
    return _percent(value, digits, signed=signed)


def _table(rows: Sequence[Row]) -> list[str]:
    names = ("tool", "ms", "n", "median", "RMS", "train", "infer", "0 J", "in", "told", "miss", "call")
    widths = (12, 4, 4, 6, 5, 5, 5, 4, 4, 4, 4, 5)
    rule = "|".join(["-" * 12, *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = [_cells(names, widths), f"|{rule}|"]
    for row in rows:
        sums = [_error(value, signed=True) for value in row.sums] or ["-", "-"]
        cells = (
            row.tool,
            str(row.milliseconds),
            str(row.windows),
            _error(row.median),
            _error(row.rms),
            *sums,
            _percent(row.zero),
            _percent(row.inside),
            _percent(row.unknown),
            _percent(row.missed),
            "-" if row.call_milliseconds is None else f"{row.call_milliseconds:.2f}",
        )
        lines.append(_cells(cells, widths))
    return lines


def _cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if position == 0 else cell.rjust(width)
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "|".join(["", first, *others, ""])


def _nothing(runs: Sequence[Run], mode: str, kind: str, facts: dict[str, Any]) -> list[str]:
    """Say which tools are not in the table, and why."""
    lines = [
        line
        for tool, other, reason in facts["not_offered"]
        if other == kind
        for line in _wrapped(f"{tool}: - ({reason}).", "* ")
    ]
    for run in runs:
        if run.mode == mode and run.failure is not None:
            lines += _wrapped(f"{run.tool}, a run without result: {run.failure}.", "* ")
    return ["", *lines] if lines else []


def _notes(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    held = [row.sums_inside for row in rows if row.sums_inside is not None]
    absent = sorted({(row.tool, row.mode) for row in rows if row.absent > 0})
    updates, late = (sum(run.counter[name] for run in runs) for name in ("updates", "late"))
    notes = []
    if held:
        inside, of = (sum(pair[position] for pair in held) for position in (0, 1))
        notes.append(
            f"Phase sums inside mlmeter's 95 % interval: {inside} of {of} (both phases of each length, "
            "counter and repeat). No other tool gives an interval."
        )
    if absent:
        names = ", ".join(f"{tool} on {mode}" for tool, mode in absent)
        notes.append(f"Windows for which a tool gave no value are left out of its errors: {names}.")
    late_percent = _percent(late / max(updates, 1), 1)
    notes.append(
        f"Of {updates:,} updates of the powercap counter {late_percent} % came more than half a period late."
    )
    tools = {row.tool for row in rows}
    notes += [PERUN] * ("perun" in tools) + [INSTANT] * ("zeus_instant" in tools)
    return [line for text in notes for line in _wrapped(text, "* ")]
