"""A comparison as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlmeter.report.text import fitting_table, number, shorten, table
from mlmeter.work import singular

if TYPE_CHECKING:
    from mlmeter.analysis.compare import Comparison, Difference

WIDTH = 80
HEADER = ("variant", "phase", "unit", "first", "this", "ratio", "95 % interval", "verdict")
MOST_ROWS = 60


def comparison_text(found: Comparison) -> str:
    """Return the table of ratios, the qualities, and what is missing."""
    parts = [f"against {found.variants[0]}:"]
    rows = [_row(difference, several=len(found.variants) > 2) for difference in found.differences[:MOST_ROWS]]
    header = HEADER if len(found.variants) > 2 else HEADER[1:]
    if rows:
        left = header.index("first")
        parts.append(fitting_table(header, rows, left=left, width=WIDTH, drop=("first", "this")))
    if qualities := _quality_rows(found):
        parts.append(table(("variant", "metric", "mean", "deviation", "runs", "front"), qualities, left=2))
    parts.append("\n".join(textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in _notes(found)))
    return "\n\n".join(part for part in parts if part)


def _row(difference: Difference, *, several: bool) -> tuple[str, ...]:
    ratio = difference.ratio
    limits = "-" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f} .. {ratio.high:.3f}"
    unit = difference.unit if difference.unit == "run" else singular(difference.unit)
    row = (
        shorten(difference.phase, 12),
        shorten(unit, 10),
        number(difference.base_joules),
        number(difference.joules),
        "-" if ratio.value is None else f"{ratio.value:.3f}",
        limits,
        str(difference.verdict),
    )
    return (shorten(difference.variant, 12), *row) if several else row


def _quality_rows(found: Comparison) -> list[tuple[str, ...]]:
    return [
        (
            shorten(name, 16),
            shorten(quality.metric, 16),
            number(quality.mean),
            number(quality.deviation, 2),
            str(quality.runs),
            "" if found.quality != quality.metric else "yes" if name in (found.front or ()) else "no",
        )
        for name, qualities in found.qualities.items()
        for quality in qualities
    ]


def _notes(found: Comparison) -> Iterator[str]:
    runs = sorted({count for difference in found.differences for count in difference.runs})
    counts = " to ".join(dict.fromkeys(str(count) for count in runs[:1] + runs[-1:]))
    yield f"Runs of each: {counts}. Joules are means, per unit where there is one."
    few = [
        difference for difference in found.differences if difference.repeats is None and not difference.reason
    ]
    if few:
        yield (
            "One run tells nothing about how much runs scatter: a ratio of single runs may be noise. "
            "Make at least 5 of each, in turns."
        )
    missing = [(d.missing or 0, d) for d in found.differences if d.missing]
    if missing:
        most, difference = max(missing, key=lambda pair: pair[0])
        yield (
            f"To find {100 * found.effect:g} % in 80 % of trials ({difference.phase}, {difference.unit}): "
            f"{difference.repeats} runs of each, {most} more."
        )
    for reason in dict.fromkeys(d.reason for d in found.differences if d.reason):
        yield f"Not comparable: {reason}."
    yield from found.notes
