"""Plot the errors of the phase sums: python plot.py benchmarks/results/peers.json FILE.png."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

# Colours that people with a colour vision deficiency tell apart (Okabe and Ito); markers help too.
STYLES = {
    "mlmeter": ("#000000", "o", 2.4),
    "zeus": ("#0072b2", "s", 1.2),
    "zeus_instant": ("#56b4e9", "D", 1.2),
    "codecarbon": ("#009e73", "^", 1.2),
    "pyjoules": ("#e69f00", "v", 1.2),
    "pyrapl": ("#cc79a7", "P", 1.2),
    "perun": ("#d55e00", "X", 1.2),
}
LEAST_PERCENT = 0.01


def main() -> None:
    """Draw one panel for each counter."""
    figures = json.loads(Path(sys.argv[1]).read_text())
    modes = figures["modes"]
    figure, panels = plt.subplots(1, len(modes), figsize=(4.2 * len(modes), 4.2), sharey=True, squeeze=False)
    for axes, (name, mode) in zip(panels[0], modes.items(), strict=True):
        _panel(axes, [row for row in figures["rows"] if row["mode"] == name], figures["versions"])
        axes.set_title(mode["title"].replace(", ", ",\n", 1), fontsize=9)
    panels[0][0].set_ylabel("error of a phase's energy, %\n(the greater of training and inference)")
    # A tool may be missing where it does not read that counter.
    labelled = {
        label: line
        for axes in panels[0]
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="lower center", ncols=4, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(sys.argv[2], dpi=120)


def _panel(axes: Any, rows: Iterable[dict[str, Any]], versions: dict[str, str]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["sums"]:
            worst = 100 * max(abs(value) for value in row["sums"] if value is not None)
            lines.setdefault(row["tool"], []).append((row["milliseconds"], max(worst, LEAST_PERCENT)))
    for tool, points in lines.items():
        colour, marker, width = STYLES[tool]
        label = f"{tool} {versions[tool]}"
        x, y = zip(*sorted(points), strict=True)
        order = 3 if tool == "mlmeter" else 2
        axes.plot(x, y, marker=marker, color=colour, linewidth=width, markersize=5, label=label, zorder=order)
    axes.set(xscale="log", yscale="log", xlabel="typical window, ms", ylim=(LEAST_PERCENT, 300))
    axes.xaxis.set_major_locator(FixedLocator([3, 10, 30, 100, 1000]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
