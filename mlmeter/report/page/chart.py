"""The data of the picture of power over time, as small as a page can carry."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmeter.energy.windows import hulls
from mlmeter.recording import Recording
from mlmeter.report.power_series import PowerSeries, power_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Values of all domains together, and of one at least: 4 domains with 3,600 readings each are not thinned.
MOST_VALUES = 14_400
FEWEST_VALUES = 600
# Times are whole numbers of so many parts of the session: short, and finer than any screen.
TICKS = 1_000_000
DIGITS = 4
# Rows of windows above the picture, and pieces of one row that a screen can show.
MOST_LANES = 8
MOST_PIECES = 400


def series_of(recording: Recording) -> list[PowerSeries]:
    """Return the power of the domains, thinned so that the page stays small."""
    domains = max(1, len(recording.domains))
    return power_series(recording, max(FEWEST_VALUES, MOST_VALUES // domains))


def chart_data(recording: Recording, found: Sequence[PowerSeries], visible: Callable[[str], str]) -> str:
    """Return the data as JSON that is safe inside a script element.

    Args:
        recording: the session.
        found: of `series_of`.
        visible: makes characters that cannot be seen visible.
    """
    seconds = recording.run.duration_seconds
    document = {
        "seconds": seconds,
        "ticks": TICKS,
        "domains": [_domain(series, seconds, visible) for series in found],
        "lanes": _lanes(recording, visible) if found else [],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    # Nothing in it can end the element or begin a comment; line separators are escaped already.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _domain(series: PowerSeries, seconds: float, visible: Callable[[str], str]) -> dict[str, Any]:
    domain = series.domain
    data: dict[str, Any] = {
        "name": visible(domain.name),
        "counted": domain.counted,
        "mean": _short([series.mean_watts])[0],
        "times": _steps(series.edges, seconds),
        "watts": _short(series.watts.tolist()),
    }
    if series.thinned:
        data |= {"low": _short(series.low.tolist()), "high": _short(series.high.tolist())}
    return data


def _steps(times: NDArray[np.float64], seconds: float) -> list[int]:
    """Return times as differences of whole ticks: the first one, then from one to the next."""
    ticks = np.rint(times / seconds * TICKS).astype(np.int64)
    steps: list[int] = np.diff(ticks, prepend=0).tolist()
    return steps


def _short(values: list[float]) -> list[float | int | None]:
    """Return numbers with as many digits as a picture can show; None where there is none."""
    return [_rounded(value) if math.isfinite(value) else None for value in values]


def _rounded(value: float) -> float | int:
    if value == 0:
        return 0
    rounded = round(value, DIGITS - 1 - math.floor(math.log10(abs(value))))
    return int(rounded) if rounded == int(rounded) else rounded


def _lanes(recording: Recording, visible: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return when windows of each name were open: the names with most time, in order of their start.

    Windows of one name that a screen cannot tell apart are one piece.
    """
    windows, labels = recording.resolution.windows, recording.windows.label_table
    seconds = recording.run.duration_seconds
    starts, ends = (times[1:] + recording.past_seconds for times in hulls(windows))
    label = windows.label[1:]
    # A window that was never open has no beginning and no end.
    open_seconds = np.bincount(label, np.maximum(ends - starts, 0.0), minlength=len(labels))
    longest = [
        number for number in np.argsort(-open_seconds)[:MOST_LANES].tolist() if open_seconds[number] > 0
    ]
    lanes = []
    for number in longest:
        mine = (label == number) & (ends > starts)
        pieces = _joined(starts[mine], ends[mine], seconds / MOST_PIECES)
        lane = {
            "name": visible(labels[number].name),
            "phase": visible(labels[number].phase),
            "windows": int(mine.sum()),
            "steps": _steps(np.stack(pieces, axis=1).ravel(), seconds),
        }
        lanes.append((float(pieces[0][0]), lane))
    return [lane for _, lane in sorted(lanes, key=lambda item: item[0])]


def _joined(
    starts: NDArray[np.float64], ends: NDArray[np.float64], least_gap: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return disjoint spans in order of time; gaps of less than `least_gap` are closed."""
    order = np.argsort(starts, kind="stable")
    starts, reached = starts[order], np.maximum.accumulate(ends[order])
    new = np.concatenate(([True], starts[1:] > reached[:-1] + least_gap))
    first = np.flatnonzero(new)
    last = np.concatenate((first[1:] - 1, [len(starts) - 1]))
    return starts[first], reached[last]
