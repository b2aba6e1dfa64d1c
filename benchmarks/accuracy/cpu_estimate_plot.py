"""A picture of the machine estimate and the truth, for servers that the fits have not seen.

    python benchmarks/accuracy/cpu_estimate_plot.py [--data FILE.csv] [--output FILE.svg]

Left: estimate against measured wall power. Right: mean error by load, beside the formulas of other
tools. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cpu_estimate import SHIPPED, other_tools
from cpu_estimate_fit import cross_validated
from cpu_servers import Floats, read_servers, truth_of

from mlmeter.backends.cpu_power.machine_model import LOADS

OUTPUT = Path(__file__).parents[1] / "results" / "cpu_estimate.svg"
SHOWN = ((0, "idle", "#2b6cb0", "o"), (5, "50 % load", "#8a6d00", "s"), (10, "full load", "#b7410e", "^"))
STYLES = (("#2b6cb0", "o", "-"), ("#b7410e", "v", ":"), ("#8a6d00", "s", "--"))
LIMITS = (8.0, 12_000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHIPPED)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    mpl.use("agg")
    mpl.rcParams |= {"svg.hashsalt": "mlmeter", "figure.facecolor": "#fbfbfa", "axes.facecolor": "#fbfbfa"}
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    from matplotlib import pyplot

    servers = read_servers(options.data)
    truth, found = truth_of(servers), cross_validated(servers, 0, tdp="found")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.4, 4.4), layout="constrained")
    _draw_scatter(left, found.watts, truth)
    _draw_errors(right, [("mlmeter machine-estimate", found), *other_tools(servers)], truth)
    figure.savefig(options.output, dpi=130, metadata={"Date": None})


def _draw_scatter(axes: Any, watts: Floats, truth: Floats) -> None:
    line = np.array(LIMITS)
    axes.fill_between(
        line, line / 1.5, line * 1.5, color="#dddddd", linewidth=0, label="within a factor of 1.5"
    )
    axes.plot(line, line, color="#222222", linewidth=1)
    for column, title, colour, marker in SHOWN:
        # As an image: a thousand markers as curves are a large file.
        style = {"s": 9, "alpha": 0.55, "linewidths": 0, "rasterized": True}
        axes.scatter(truth[:, column], watts[:, column], color=colour, marker=marker, label=title, **style)
    axes.set(xscale="log", yscale="log", xlim=LIMITS, ylim=LIMITS)
    axes.set(xlabel="measured wall power (W)", ylabel="estimated (W)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_errors(axes: Any, methods: list[tuple[str, Any]], truth: Floats) -> None:
    loads = 100 * np.array(LOADS)
    for (title, estimates), (colour, marker, dash) in zip(methods, STYLES, strict=True):
        errors = 100 * np.nanmean(np.abs(estimates.watts / truth - 1), axis=0)
        axes.plot(loads, errors, color=colour, marker=marker, linestyle=dash, label=title)
    axes.set(xlabel="load (%)", ylabel="mean absolute error against the wall (%)", ylim=(0, 115))
    axes.legend(frameon=False, fontsize=8, loc="upper right")


if __name__ == "__main__":
    main()
