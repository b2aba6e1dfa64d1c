"""A picture of power over time for papers and slides, with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.windows import same_phase_runs
from mlmeter.errors import ArgumentError
from mlmeter.recording import Recording
from mlmeter.report.power_series import power_series
from mlmeter.whole_files import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart without colour vision, too: those of the report page.
COLOURS = ("#0b6bb3", "#c2500c", "#14795c", "#a3478c", "#4a2500", "#868d95")
DASHES = ("-", "--", ":", "-.")
SHADES = ("#dfe5ea", "#f4e9d8", "#e3eede", "#ece2ee", "#f0f0f0")
# Thinned to what a column of a paper can show.
MOST_VALUES = 1_800
MOST_SHADED = 2_000


def plot_power(recording: Recording, path: Path) -> None:
    """Write the picture; see `Session.plot`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "mlmeter[plots]"') from error

    # No pyplot: nothing is drawn on a screen, and a program's own figures are left alone.
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    _shade_phases(recording, axes)
    _draw_power(recording, axes)
    axes.set(xlabel="time / s", ylabel="power / W", title=_plain(recording.run.name))
    axes.set_xlim(0, max(recording.run.duration_seconds, 1e-9))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in figure.canvas.get_supported_filetypes():
        raise ArgumentError(f"{path}: no picture has the ending {path.suffix!r}; use .png, .svg or .pdf")
    with writing(path, "wb") as file:
        figure.savefig(file, format=suffix, dpi=200)


def _draw_power(recording: Recording, axes: Axes) -> None:
    found = power_series(recording, MOST_VALUES)
    some_counted = any(series.domain.counted for series in found)
    shown = [series for series in found if series.domain.counted or not some_counted]
    for number, series in enumerate(shown):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        }
        label = _plain(series.domain.name)
        axes.stairs(series.watts, series.edges, baseline=None, linewidth=1.0, label=label, **style)
        if series.thinned:
            # The last stretch ends where no other one begins.
            low, high = (np.append(column, column[-1]) for column in (series.low, series.high))
            axes.fill_between(
                series.edges, low, high, step="post", alpha=0.25, linewidth=0, color=style["color"]
            )


def _shade_phases(recording: Recording, axes: Axes) -> None:
    """Shade the time of each phase; concurrent phases and too many changes are left white."""
    resolution = recording.resolution
    ownership = resolution.ownership
    if ownership.concurrent_piece.any():
        return
    phase, first, last = same_phase_runs(ownership, resolution.phase_of_window)
    if len(phase) > MOST_SHADED:
        return
    for number, name in enumerate(resolution.phases):
        mine = phase == number
        edges = ownership.edges + recording.past_seconds
        starts, ends = edges[first[mine]], edges[last[mine]]
        if mine.any():
            axes.broken_barh(
                list(zip(starts, ends - starts, strict=True)),
                (0, 1),
                transform=axes.get_xaxis_transform(),
                color=SHADES[number % len(SHADES)],
                linewidth=0,
                label=_plain(name),
                zorder=0,
            )


def _plain(text: str) -> str:
    """Return a name that is taken as it is: no formula, no label that hides itself, nothing unprintable."""
    printable = "".join(character if character.isprintable() else "\ufffd" for character in text)
    hidden = f"\u200b{printable}" if printable.startswith("_") else printable
    return hidden.replace("$", r"\$")
