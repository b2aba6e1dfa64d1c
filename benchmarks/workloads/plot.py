"""The results as a picture: ratios with intervals, study by study. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.workloads.summary import Summary

COLUMNS = 2
LESS, MORE, NEITHER = "#2b6cb0", "#b7410e", "#666666"
LIFE = "life-"
# Studies of ready models whose joules per prediction can be compared.
READY_MODELS = (("model-kind", "o"), ("distillation", "s"), ("pruning", "^"))
PREDICTIONS = np.logspace(2, 8, 200)


def draw(summaries: Sequence[Summary], output: Path) -> None:
    """Write the picture; what kind its name says."""
    mpl.use("agg")
    mpl.rcParams |= {"svg.hashsalt": "mlmeter", "figure.facecolor": "#fbfbfa", "axes.facecolor": "#fbfbfa"}
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    from matplotlib import pyplot

    panels = [one for one in summaries if not one.key.startswith(LIFE)]
    lives = [one for one in summaries if one.key.startswith(LIFE)]
    models = [(one, marker) for key, marker in READY_MODELS for one in summaries if one.key == key]
    count = len(panels) + bool(lives) + bool(models)
    lines = -(-count // COLUMNS)
    figure, grid = pyplot.subplots(
        lines, COLUMNS, figsize=(11, 2.3 * lines), layout="constrained", squeeze=False
    )
    axes = iter(grid.flat)
    for one in panels:
        _draw_ratios(next(axes), one)
    if lives:
        _draw_lives(next(axes), lives)
    if models:
        _draw_models(next(axes), models)
    for rest in axes:
        rest.set_axis_off()
    figure.savefig(output, metadata={"Date": None})
    pyplot.close(figure)


def _draw_ratios(axes: Any, summary: Summary) -> None:
    names = []
    for position, row in enumerate(summary.rows):
        accuracy = "" if row.accuracy is None else f"  {100 * row.accuracy:.1f} %"
        names.append(f"{row.variant}{accuracy}")
        if row.ratio is None:
            axes.plot(1, position, "D", color="#222222", markersize=4)
            continue
        found = row.ratio
        colour = LESS if found.high < 1 else MORE if found.low > 1 else NEITHER
        axes.plot([found.low, found.high], [position, position], color=colour, linewidth=3, alpha=0.5)
        axes.plot(found.value, position, "o", color=colour, markersize=4)
    axes.axvline(1, color="#222222", linewidth=0.6)
    axes.set(xscale="log", yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticklabels(names, fontsize=8)
    _plain_decades(axes, summary)
    axes.set_title(f"{summary.key}: joules per {summary.unit}", fontsize=9, loc="left")


def _plain_decades(axes: Any, summary: Summary) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ends = [end for row in summary.rows if row.ratio for end in (row.ratio.low, row.ratio.high)]
    axes.set_xlim(min([0.5, *ends]) / 1.3, max([2.0, *ends]) * 1.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(ends) / min(ends) < 50 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_lives(axes: Any, lives: Sequence[Summary]) -> None:
    for one, colour in zip(lives, (LESS, MORE), strict=False):
        found = one.rows[1].ratio
        if found is None:
            continue
        axes.fill_between(
            PREDICTIONS,
            100 * found.low / (found.low + PREDICTIONS),
            100 * found.high / (found.high + PREDICTIONS),
            color=colour,
            alpha=0.25,
            linewidth=0,
        )
        share = 100 * found.value / (found.value + PREDICTIONS)
        axes.plot(PREDICTIONS, share, color=colour, label=f"batches of {one.key.removeprefix(LIFE)}")
    axes.axhline(50, color="#222222", linewidth=0.6)
    axes.set(xscale="log", xlabel="predictions made with the model", ylabel="training, % of all joules")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("life: share of training", fontsize=9, loc="left")


def _draw_models(axes: Any, models: Sequence[tuple[Summary, str]]) -> None:
    for (one, marker), colour in zip(models, (LESS, MORE, "#8a6d00"), strict=False):
        shown = [row for row in one.rows if row.accuracy is not None]
        joules = [row.joules_per_sample.value for row in shown]
        axes.plot(joules, [100 * row.accuracy for row in shown], marker, color=colour, label=one.key)
    axes.set(xscale="log", xlabel="joules per prediction", ylabel="accuracy, %")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title("ready models: energy and accuracy", fontsize=9, loc="left")
