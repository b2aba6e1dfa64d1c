"""A baseline as a table for terminals."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlmeter.foreign_files import visible
from mlmeter.report.text import number, table

if TYPE_CHECKING:
    from mlmeter.baseline import Baseline

WIDTH = 80
HEADER = ("domain", "source", "worth", "idle watts", "scatter", "drift")


def baseline_text(baseline: Baseline, objections: Sequence[str]) -> str:
    """Return the baseline as text of at most 80 columns.

    Args:
        baseline: what was measured.
        objections: why it is not used any more.
    """
    day = baseline.measured_at.strftime("%Y-%m-%d %H:%M UTC")
    rows = [
        (
            item.name,
            item.source,
            item.provenance,
            number(item.power.watts, 3),
            number(item.power.scatter_watts, 2),
            number(item.power.systematic_watts, 2),
        )
        for item in baseline.domains.values()
    ]
    notes = [f"remark: {remark}" for remark in baseline.remarks]
    if objections:
        notes.append(f"NOT USED any more: {'; '.join(objections)}. Measure again with `mlmeter baseline`.")
    else:
        notes.append("Sessions on this machine now tell energy above idle.")
    head = f"Idle power of this machine, measured {day} for {number(baseline.seconds, 3)} s"
    return "\n\n".join(
        [head, table(HEADER, rows, left=3), "\n".join(textwrap.fill(visible(note), WIDTH) for note in notes)]
    )
