"""Two pictures of the accuracy of short windows.

    python benchmarks/accuracy/plots.py [--seeds 4] [--directory benchmarks/results]

`accuracy.svg`: errors of three methods against the length of windows, for three counters, and how
often the 95 % intervals of the fit hold the truth. `windows.svg`: a second of metered power of an
A100, what a counter showed of it, and three estimates of each window. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from judge import judge, rms
from progress import progress
from scenarios import Floats, Scenario, draw
from trace_table import resolve_trace, simpler
from traces import BOARDS, ON, Counter, Trace, trace_of

SEEDS = 4
RESULTS = Path(__file__).parents[1] / "results"
# Told apart without colour vision too; shape and dash differ besides.
NAIVE, INTERPOLATED, FIT, TRUTH = "#b7410e", "#8a6d00", "#2b6cb0", "#222222"
STYLES = {
    "naive": (NAIVE, "v", ":", "difference of two readings"),
    "interpolated": (INTERPOLATED, "s", "--", "interpolation"),
    "window": (FIT, "o", "-", "mlmeter's fit"),
}
FAST_STYLE = "half-period correction"
WINDOWS_SECONDS = (1e-3, 3e-3, 10e-3, 30e-3, 100e-3, 300e-3, 1.0)
COUNTERS = (
    Scenario("GPU counter, T = 100 ms", 0.1, 1e-3, 1e-3, 30.0, 0.0),
    Scenario("GPU counter, T = 20 ms", 0.02, 0.5e-3, 1e-3, 15.0, 0.0),
    Scenario("RAPL, T = 1 ms, read at edges", 1e-3, 20e-6, 61e-6, 3.0, 0.0, fast=True),
)
# A run is so long that it has so many windows and periods, and not many more.
FEWEST_WINDOWS, MOST_WINDOWS, FEWEST_PERIODS = 25, 5_000, 120
# The picture of windows: which counter, and what of the trace.
SHOWN_COUNTER, SHOWN_SECONDS = Counter(0.07, 0.4), (4.55, 5.33)


@dataclass(frozen=True)
class Point:
    """Errors of windows of one length, relative to their mean energy, and the share of truths held."""

    seconds: float
    naive: float
    interpolated: float
    window: float
    inside: float


def points(counter: Scenario, seeds: int) -> list[Point]:
    """Replay loads of windows from 1 ms to 1 s."""
    found = []
    for length in WINDOWS_SECONDS:
        seconds = min(counter.seconds, 2 * MOST_WINDOWS * length)
        seconds = max(seconds, 2 * FEWEST_WINDOWS * length, FEWEST_PERIODS * counter.period_seconds)
        fields = counter.period_seconds, counter.jitter_seconds, counter.count_joules, seconds, length
        scenario = Scenario(counter.name, *fields, fast=counter.fast)
        runs = []
        for seed in range(seeds):
            progress(f"{counter.name}, windows of {1e3 * length:g} ms, seed {seed}")
            runs.append(judge(draw(scenario, seed), scenario))
        progress("")
        errors = (
            rms(np.array([rms(getattr(run, name)) for run in runs]))
            for name in ("naive", "interpolated", "window")
        )
        inside = float(np.concatenate([run.inside for run in runs]).mean())
        found.append(Point(length, *errors, inside))
    return found


def accuracy_figure(plt: Any, seeds: int) -> Any:
    """Draw errors above and shares of truths held below, one column per counter."""
    figure, axes = plt.subplots(
        2, len(COUNTERS), figsize=(10, 5.6), sharex=True, sharey="row", height_ratios=(3, 1)
    )
    for column, counter in enumerate(COUNTERS):
        found = points(counter, seeds)
        lengths = 1e3 * np.array([point.seconds for point in found])
        above, below = axes[:, column]
        for name, (colour, marker, dash, usual) in STYLES.items():
            values = [100 * getattr(point, name) for point in found]
            label = FAST_STYLE if counter.fast and name == "interpolated" else usual
            above.plot(lengths, values, dash, color=colour, marker=marker, markersize=5, label=label)
        inside = [100 * point.inside for point in found]
        below.plot(lengths, inside, "-", color=FIT, marker="o", markersize=5)
        below.axhline(95, color=TRUTH, linewidth=0.8, linestyle=":")
        above.axvline(1e3 * counter.period_seconds, color=TRUTH, linewidth=0.8, linestyle=":")
        above.set(xscale="log", yscale="log", title=counter.name)
        below.set(ylim=(85, 101), xlabel="length of windows, ms")
        above.legend(loc="lower left", fontsize=8, frameon=False)
        for axis in (above, below):
            axis.grid(color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
        beside = above.get_xaxis_transform()
        above.text(1.12e3 * counter.period_seconds, 0.95, "T", fontsize=9, transform=beside)
    axes[0, 0].set_ylabel("RMS error of one window, %")
    axes[1, 0].set_ylabel("truths in the\n95 % interval, %")
    percent = mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axes[0, 0].yaxis.set_major_formatter(percent)
    axes[0, 0].xaxis.set_major_formatter(percent)
    figure.suptitle("How right the energy of one window is (made-up loads of known energy)", fontsize=11)
    figure.tight_layout()
    return figure


def windows_figure(plt: Any) -> Any:
    """Draw metered power, refreshes and windows above, and the estimates of each window below."""
    trace = trace_of(BOARDS[0])
    found = resolve_trace(trace, SHOWN_COUNTER)
    starts, ends = trace.spans_of(ON)
    shown = (starts >= SHOWN_SECONDS[0]) & (ends <= SHOWN_SECONDS[1])
    # Row 0 is the session; windows come in order of time.
    exclusive = found.attribution.exclusive
    windows = 1 + np.flatnonzero(trace.label[trace.label != 0] == ON)
    fit, low, high = (column[windows] for column in (exclusive.joules, exclusive.low, exclusive.high))
    naive, interpolated = simpler(found.rows, starts, ends)
    truth = trace.true_joules(starts, ends)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 6.2), sharex=True, height_ratios=(1, 1), layout="constrained"
    )
    _draw_power(above, trace, found.rows.refreshes)
    middles, length = ((starts + ends) / 2)[shown], float(np.median(ends - starts))
    below.bar(middles, truth[shown], length, color="#dfe7ef", label="true energy")
    below.hlines(truth[shown], starts[shown], ends[shown], color=TRUTH, linewidth=1.6)
    for name, values, offset in (("naive", naive, -0.3), ("interpolated", interpolated, 0.0)):
        colour, marker, _, label = STYLES[name]
        # Readings without a refresh between them say 0.
        places = middles + offset * length
        below.plot(places, values[shown], marker, color=colour, label=label, clip_on=False, zorder=3)
    error = np.stack([fit - low, high - fit])[:, shown]
    colour, marker, _, label = STYLES["window"]
    below.errorbar(
        middles + 0.3 * length,
        fit[shown],
        error,
        fmt=marker,
        color=colour,
        capsize=3,
        label=f"{label}, with its 95 % interval",
    )
    below.set(xlabel="time, s", ylabel="energy of each window, J", ylim=(0, None), xlim=SHOWN_SECONDS)
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=9, frameon=False)
    return figure


def _draw_power(axis: Any, trace: Trace, refreshes: Floats) -> None:
    inside = (trace.times >= SHOWN_SECONDS[0]) & (trace.times <= SHOWN_SECONDS[1])
    for number, (start, end) in enumerate(zip(*trace.spans_of(ON), strict=True)):
        label = "windows" if number == 0 else None
        axis.axvspan(start, end, color="#f7eede", linewidth=0, label=label)
    axis.plot(
        trace.times[inside], trace.watts[inside], color=TRUTH, linewidth=0.7, label="true power, 4.87 kHz"
    )
    shown = refreshes[(refreshes >= SHOWN_SECONDS[0]) & (refreshes <= SHOWN_SECONDS[1])]
    axis.vlines(shown, 0, 240, color=FIT, linewidth=1.2, linestyle="--", label="the counter is refreshed")
    axis.set(ylabel="power, W", ylim=(0, 240))
    period = 1e3 * SHOWN_COUNTER.period_seconds
    axis.set_title(
        f"An A100 under load for about 52 ms at a time, and a counter that changes every {period:g} ms",
        fontsize=11,
    )
    axis.legend(loc="lower center", ncols=3, fontsize=9, framealpha=1.0, edgecolor="none")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the accuracy of short windows.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"replays per point (default {SEEDS})")
    parser.add_argument("--directory", type=Path, default=RESULTS, help="where the pictures go")
    parser.add_argument("--format", default="svg", help="svg or png")
    options = parser.parse_args()
    mpl.use("agg")
    # The same picture gives the same file; a light ground is readable on dark pages, too.
    mpl.rcParams |= {"svg.hashsalt": "mlmeter", "figure.facecolor": "#fbfbfa", "axes.facecolor": "#fbfbfa"}
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    import matplotlib.pyplot as plt

    for name, figure in (
        ("windows", windows_figure(plt)),
        ("accuracy", accuracy_figure(plt, options.seeds)),
    ):
        path = options.directory / f"{name}.{options.format}"
        metadata = {"Date": None} if options.format == "svg" else None
        figure.savefig(path, dpi=110, metadata=metadata)
        print(path)


if __name__ == "__main__":
    main()
