"""Compare what the tools reported with the truth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from load import INFERENCE, NS, TRAINING, Load, Window

# A window entered or left later than this is left out, whatever the tool.
MOST_LATE_SECONDS = 1e-3
PHASES = (TRAINING, INFERENCE)


@dataclass(frozen=True)
class Run:
    """One process: what the tool reported, or why it reported nothing."""

    tool: str
    mode: str
    seed: int
    failure: str | None
    result: dict[str, Any] | None
    counter: dict[str, int]


@dataclass(frozen=True)
class Measured:
    """One window that a tool reported, beside its truth."""

    phase: str
    true_joules: float
    joules: float
    low: float | None
    high: float | None
    unknown: bool | None
    method: str | None
    call_seconds: float


@dataclass(frozen=True)
class Row:
    """A tool at one length of window; shares are ratios, errors relative.

    Attributes:
        windows: how many count.
        missed: share of the schedule that was missed by more than `MOST_LATE_SECONDS`.
        absent: share of the others for which the tool gave no value.
        median, rms: error of a window over the mean true energy of its phase.
        sums: error of the energy of all windows of training, of inference.
        zero: share reported as 0 J or less.
        inside: share with an interval that contains the truth; None: no intervals.
        unknown: share that the tool itself calls not known; None: it says nothing of the kind.
        call_milliseconds: median of what entering and leaving took together.
        sums_inside: phase sums of all windows inside their interval, and how many there are.
        methods: how the tool says that it made its values; empty: it does not say.
    """

    mode: str
    tool: str
    milliseconds: int
    windows: int
    missed: float
    absent: float
    median: float | None = None
    rms: float | None = None
    sums: tuple[float, ...] = ()
    zero: float | None = None
    inside: float | None = None
    unknown: float | None = None
    call_milliseconds: float | None = None
    sums_inside: tuple[int, int] | None = None
    methods: tuple[str, ...] = ()


def compare(runs: Sequence[Run], mode: str, tool: str, load_of: Callable[[int], Load]) -> list[Row]:
    """Return the rows of one tool on one counter, one for each length of window."""
    succeeded = [run for run in runs if (run.mode, run.tool) == (mode, tool) and run.result is not None]
    if not succeeded:
        return []
    planned = [(run, window) for run in succeeded for window in load_of(run.seed).windows]
    planned.sort(key=lambda pair: pair[1].milliseconds)
    rows = []
    for milliseconds, pairs in groupby(planned, key=lambda pair: pair[1].milliseconds):
        here = list(pairs)
        on_time = [(run, window) for run, window in here if _on_time(run, window)]
        measured = [item for run, window in on_time if (item := _measured(run, window, load_of(run.seed)))]
        base = Row(
            mode,
            tool,
            milliseconds,
            len(measured),
            1 - len(on_time) / len(here),
            1 - len(measured) / max(len(on_time), 1),
        )
        rows.append(_judged(base, measured, _sums_inside(here, load_of)))
    return rows


def _stamps(run: Run, window: Window) -> tuple[int, int, int, int] | None:
    assert run.result is not None
    return run.result["stamps"].get(str(window.number))


def _on_time(run: Run, window: Window) -> bool:
    """Whether the calls that enter and leave were made when they were due."""
    stamps = _stamps(run, window)
    if stamps is None:
        return False
    return (
        stamps[0] / NS - window.begin <= MOST_LATE_SECONDS
        and stamps[2] / NS - window.end <= MOST_LATE_SECONDS
    )


def _true_joules(run: Run, window: Window, load: Load) -> float | None:
    """Return the energy between the middles of the two calls."""
    stamps = _stamps(run, window)
    if stamps is None:
        return None
    before, entered, leaving, after = (stamp / NS for stamp in stamps)
    return load.energy_at((leaving + after) / 2) - load.energy_at((before + entered) / 2)


def _measured(run: Run, window: Window, load: Load) -> Measured | None:
    assert run.result is not None
    said = run.result["windows"].get(str(window.number))
    true_joules, stamps = _true_joules(run, window, load), _stamps(run, window)
    if said is None or said["joules"] is None or true_joules is None or stamps is None:
        return None
    before, entered, leaving, after = stamps
    return Measured(
        window.phase,
        true_joules,
        said["joules"],
        said.get("low"),
        said.get("high"),
        said.get("unknown"),
        said.get("method"),
        (entered - before + after - leaving) / NS,
    )


def _judged(row: Row, measured: list[Measured], sums_inside: tuple[int, int] | None) -> Row:
    if not measured:
        return row
    phases = {phase: [item for item in measured if item.phase == phase] for phase in PHASES}
    errors, sums = [], []
    for items in phases.values():
        true_joules = math.fsum(item.true_joules for item in items)
        mean = true_joules / max(len(items), 1)
        errors += [(item.joules - item.true_joules) / mean for item in items]
        sums.append(math.fsum(item.joules for item in items) / true_joules - 1 if items else math.nan)
    said = [item.unknown for item in measured if item.unknown is not None]
    intervals = [item for item in measured if item.low is not None and item.high is not None]
    figures = {
        "median": statistics.median(map(abs, errors)),
        "rms": math.sqrt(statistics.fmean(error**2 for error in errors)),
        "sums": tuple(sums),
        "zero": _share(item.joules <= 0 for item in measured),
        "inside": _share(item.low <= item.true_joules <= item.high for item in intervals)  # type: ignore[operator]
        if intervals
        else None,
        "unknown": _share(said) if said else None,
        "call_milliseconds": 1e3 * statistics.median(item.call_seconds for item in measured),
        "sums_inside": sums_inside,
        "methods": tuple(sorted({item.method for item in measured if item.method is not None})),
    }
    return Row(**{**asdict(row), **figures})


def _sums_inside(here: list[tuple[Run, Window]], load_of: Callable[[int], Load]) -> tuple[int, int] | None:
    """Count the phase sums inside their intervals; all windows of the block, missed ones too."""
    held = asked = 0
    for run in {id(run): run for run, _ in here}.values():
        assert run.result is not None
        load = load_of(run.seed)
        numbers = {window.number for other, window in here if other is run}
        for block in run.result.get("phases", ()):
            if not numbers.intersection(block["windows"]):
                continue
            for phase in PHASES:
                truths = [
                    _true_joules(run, load.windows[number], load)
                    for number in block["windows"]
                    if load.windows[number].phase == phase
                ]
                said = block["sums"].get(phase)
                if said is None or said["low"] is None or None in truths:
                    continue
                asked += 1
                held += said["low"] <= math.fsum(filter(None, truths)) <= said["high"]
    return (held, asked) if asked else None


def _share(flags: Iterable[bool]) -> float:
    return statistics.fmean(map(float, flags))
