"""The split of real loads: counters made from metered power, and what the library says of them.

What is judged comes out of the same functions that a session's report comes from
(`mlmeter.energy.attribution.Attribution`), with windows about each burst of the load and about the
long pauses; the short pauses are gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from judge import rms
from progress import progress
from scenarios import Floats
from traces import BOARDS, COUNT_JOULES, IDLE, ON, Board, Counter, Rows, Trace, columns, rows_of, trace_of

from mlmeter.energy.attribution import Attribution
from mlmeter.energy.gauge_timeline import GaugeTimeline
from mlmeter.energy.labels import LabelledWindows
from mlmeter.energy.timeline import CounterTimeline
from mlmeter.energy.windows import Ownership, Windows, resolve_ownership
from mlmeter.measurement import Domain, Provenance

PHASES = (0.1, 0.4, 0.8)
PERIODS_SECONDS = (0.02, 0.05, 0.07, 0.09, 0.1)
# In step with the load of both boards: nothing there can be told.
UNKNOWABLE_SECONDS = 0.1
# The second one is half a period of these loads: it looks like no lag with on and off exchanged.
LAGGED_SECONDS, UNTOLD_LAG_SECONDS = (0.02, 0.05), 0.05
SEEN_RATIOS = (0.25, 0.5)
CHANGED_PERIODS_SECONDS = (0.02, 0.07, 0.1)
SEED = 1
LARGEST_Z, LEAST_WITHIN_Z = 2.0, 28 / 30
LARGEST_TOTAL_ERROR = 0.003
LEAST_HELD = 0.9
PERIOD_TOLERANCE = 0.01
UPDATES = (
    ("V100", "yang-v100-nvml-updates.csv.gz", 0.0199),
    ("A100", "yang-a100-nvml-updates.csv.gz", 0.1012),
)
GAUGES = (
    ("A100, steps of 6 s", "yang-a100-step6s"),
    ("A100, 52 ms on, 52 ms off", "yang-a100-square52ms"),
    ("RTX 3090, 50 ms on, 50 ms off", "yang-rtx3090-square50ms"),
)


@dataclass(frozen=True)
class Case:
    """What the library says of one counter; errors are relative to the truth.

    Attributes:
        naive, interpolated: error of the load's energy by simpler methods.
        error, claimed: that of the library and its standard uncertainty.
        low, high: the 95 % interval, as errors.
        least, most: hard bounds, as errors.
        resolved: whether the library claims to know it.
        burst, total: error of the load with its pauses as one window, and of the whole run.
    """

    board: Board
    counter: Counter
    naive: float
    interpolated: float
    error: float
    claimed: float
    low: float
    high: float
    least: float
    most: float
    resolved: bool
    burst: float
    total: float

    @property
    def z(self) -> float:
        """Error in standard uncertainties."""
        return self.error / self.claimed

    @property
    def held(self) -> bool:
        """Whether the interval contains the truth."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Resolved:
    """A counter's rows, and what the library makes of them."""

    rows: Rows
    timeline: CounterTimeline
    ownership: Ownership
    attribution: Attribution


def resolve_trace(trace: Trace, counter: Counter, *, one_burst: bool = False) -> Resolved:
    """Watch a trace with a counter and let the library split it.

    Args:
        trace: the true power.
        counter: how it is seen.
        one_burst: one window about all of the load, in place of one about each time it is on.
    """
    board = trace.board
    seed = SEED + round(1e3 * counter.period_seconds) + round(10 * counter.phase)
    rows = rows_of(trace, counter, seed)
    timeline = CounterTimeline(
        rows.after,
        rows.before,
        rows.joules,
        resolution_joules=COUNT_JOULES,
        period_seconds=counter.period_seconds,
        max_power_watts=board.max_watts,
        min_power_watts=board.min_watts,
    )
    domain = Domain(
        name="gpu-0",
        id=board.file,
        kind="gpu",
        source="trace",
        provenance=Provenance.MEASURED,
        update_period_seconds=counter.period_seconds,
        joules_per_count=COUNT_JOULES,
        max_power_watts=board.max_watts,
    )
    windows, phase_of_window = _one_burst(trace) if one_burst else _windows(trace)
    ownership = resolve_ownership(windows)
    labelled = LabelledWindows(windows, ownership, phase_of_window)
    return Resolved(
        rows,
        timeline,
        ownership,
        Attribution(domain, timeline, labelled),
    )


def judge_trace(trace: Trace, counter: Counter) -> Case:
    """Compare what the library says of a counter with the truth."""
    found = resolve_trace(trace, counter)
    starts, ends = trace.spans_of(ON)
    truth = trace.true_joules(starts, ends).sum()
    phases = found.attribution.phases
    edges = found.ownership.edges
    on = found.ownership.weights(np.isin(found.ownership.start, starts))
    bounds = found.timeline.share_bounds(edges, on)
    if phases.sigma_statistical is None or phases.sigma_systematic is None:
        claimed = float(phases.sigma[ON])
    else:
        claimed = float(np.hypot(phases.sigma_statistical[ON], phases.sigma_systematic[ON]))
    naive, interpolated = simpler(found.rows, starts, ends)
    burst = resolve_trace(trace, counter, one_burst=True).attribution.phases.joules[ON]
    true_burst = trace.true_joules(starts[:1], ends[-1:])[0]
    run = trace.true_joules(edges[:1], edges[-1:])[0]
    return Case(
        board=trace.board,
        counter=counter,
        naive=naive.sum() / truth - 1,
        interpolated=interpolated.sum() / truth - 1,
        error=phases.joules[ON] / truth - 1,
        claimed=claimed / truth,
        low=phases.low[ON] / truth - 1,
        high=phases.high[ON] / truth - 1,
        least=bounds[0] / truth - 1,
        most=bounds[1] / truth - 1,
        resolved=bool(phases.resolved[ON]),
        burst=burst / true_burst - 1,
        total=found.attribution.total.joules[0] / run - 1,
    )


def simpler(rows: Rows, starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Return what two readings, and straight lines between refreshes, say of each window."""
    upto_start, upto_end = (np.searchsorted(rows.refreshes, at, side="right") for at in (starts, ends))
    shown = np.append(rows.joules[:1], rows.joules)
    curve = rows.refreshes, rows.joules
    return shown[upto_end] - shown[upto_start], np.interp(ends, *curve) - np.interp(starts, *curve)


def _windows(trace: Trace) -> tuple[Windows, np.ndarray]:
    """Make windows of load and long pauses, and return the phase of each."""
    chosen = (trace.label == ON) | (trace.label == IDLE)
    label = trace.label[chosen]
    count = len(label)
    windows = Windows(
        parent=np.concatenate([[-1], np.zeros(count, dtype=np.int64)]),
        owner=np.arange(count + 1),
        start=np.concatenate([trace.edges[:1], trace.edges[:-1][chosen]]),
        end=np.concatenate([trace.edges[-1:], trace.edges[1:][chosen]]),
        label=np.concatenate([[-1], label - 1]),
    )
    return windows, np.concatenate([[0], label])


def _one_burst(trace: Trace) -> tuple[Windows, np.ndarray]:
    """Make one window from the first time that the load is on to the last."""
    starts, ends = trace.spans_of(ON)
    windows = Windows(
        parent=np.array([-1, 0]),
        owner=np.arange(2),
        start=np.array([trace.edges[0], starts[0]]),
        end=np.array([trace.edges[-1], ends[-1]]),
        label=np.array([-1, 0]),
    )
    return windows, np.array([0, ON])


def trace_lines() -> Iterator[str]:
    """Yield the tables of the traces and then what failed."""
    try:
        traces = [trace_of(board) for board in BOARDS]
    except FileNotFoundError as error:
        yield f"real power: the data is not here ({error}); a checkout of the repository has it"
        return
    failed: list[str] = []
    yield "real power      on-windows      J  W on  W off"
    for trace in traces:
        line, right = _set_up_line(trace)
        yield line
        if not right:
            failed.append(f"FAIL {trace.board.name}: the set-up is not that of the measurement")
    yield from _main_table(traces, failed)
    yield from _changed_table(traces, failed)
    yield from _gauge_table()
    yield from _period_table(failed)
    yield from failed


def _set_up_line(trace: Trace) -> tuple[str, bool]:
    joules, watts = {}, {}
    for label in (ON, 0):
        starts, ends = trace.spans_of(label)
        joules[label] = trace.true_joules(starts, ends).sum()
        watts[label] = joules[label] / (ends - starts).sum()
    board, windows = trace.board, int((trace.label == ON).sum())
    found = windows, round(joules[ON], 1), round(watts[ON], 1), round(watts[0], 1)
    line = f"{board.name:12}{windows:14d}{joules[ON]:7.1f}{watts[ON]:6.1f}{watts[0]:7.1f}"
    return line, found == (board.windows, board.joules, board.on_watts, board.gap_watts)


def _main_table(traces: Sequence[Trace], failed: list[str]) -> Iterator[str]:
    """Yield one line per counter that shows the truth at once and sees all of it."""
    yield "board    T ms phi  naive interp.    fit claimed     z      bounds  burst  total"
    cases = []
    for trace in traces:
        for period in PERIODS_SECONDS:
            for phase in PHASES:
                progress(f"{trace.board.name}, T {1e3 * period:g} ms")
                case = judge_trace(trace, Counter(period, phase))
                cases.append(case)
                progress("")
                yield _case_line(case)
                failed += [f"FAIL {_name(case)}: {failure}" for failure in _failures(case)]
    within = float(np.mean([abs(case.z) <= LARGEST_Z for case in cases]))
    yield (
        f"Errors of the load's energy in %. |z| <= 2 in {round(within * len(cases))} of {len(cases)}"
        f" (must: {round(LEAST_WITHIN_Z * len(cases))}), RMS {rms(np.array([case.z for case in cases])):.2f};"
    )
    yield f"in the 95 % interval {sum(case.held for case in cases)}. ?: unresolved, as T = 100 ms must be."
    if within < LEAST_WITHIN_Z:
        failed.append(f"FAIL real power: |z| <= 2 in {within:.0%}")


def _case_line(case: Case) -> str:
    return (
        f"{case.board.name:9}{1e3 * case.counter.period_seconds:4.0f} {case.counter.phase:.1f}"
        f"{100 * case.naive:7.1f} {100 * case.interpolated:7.1f}{100 * case.error:7.1f}"
        f"{100 * case.claimed:7.1f}{' ' if case.resolved else '?'}{case.z:6.2f}"
        f" {100 * case.least:5.0f} to{100 * case.most:3.0f}{100 * case.burst:7.2f}{100 * case.total:7.3f}"
    )


def _failures(case: Case) -> list[str]:
    checks = {
        "resolved": case.counter.period_seconds != UNKNOWABLE_SECONDS or not case.resolved,
        "hard bounds": case.least <= 0 <= case.most,
        f"burst {100 * case.burst:.2f} %": abs(case.burst) <= LARGEST_TOTAL_ERROR,
        f"total {100 * case.total:.2f} %": abs(case.total) <= LARGEST_TOTAL_ERROR,
    }
    return [name for name, passed in checks.items() if not passed]


def _name(case: Case) -> str:
    return f"{case.board.name} {1e3 * case.counter.period_seconds:g} ms, phase {case.counter.phase:g}"


def _changed_table(traces: Sequence[Trace], failed: list[str]) -> Iterator[str]:
    """Yield one line per kind of counter that shows the truth late or sees only a part of it."""
    yield "late or part-time     T ms   error at 3 phases     claimed      resolved  held"
    counters = [{"lag_seconds": lag} for lag in LAGGED_SECONDS]
    counters += [{"seen_ratio": ratio} for ratio in SEEN_RATIOS]
    for change in counters:
        held, in_step = [], []
        for trace in traces:
            for period in CHANGED_PERIODS_SECONDS:
                progress(f"{trace.board.name}, {_words(change)}, T {1e3 * period:g} ms")
                cases = [judge_trace(trace, Counter(period, phase, **change)) for phase in PHASES]
                (in_step if period == UNKNOWABLE_SECONDS else held).extend(cases)
                progress("")
                yield _changed_line(trace.board, change, cases)
        if change.get("lag_seconds") == UNTOLD_LAG_SECONDS:
            continue
        if np.mean([case.held for case in held]) < LEAST_HELD:
            failed.append(f"FAIL real power, {_words(change)}: intervals do not hold the truth")
        if any(case.resolved for case in in_step):
            failed.append(f"FAIL real power, {_words(change)}: resolved in step with the load")
    yield "T = 100 ms is in step with both loads, and 50 ms is half of their periods: a counter"
    yield "as late as that looks like one in time with on and off exchanged. Not judged by that."


def _changed_line(board: Board, change: dict[str, float], cases: Sequence[Case]) -> str:
    errors, claimed = (
        "".join(f"{100 * getattr(case, name):6.1f}" for case in cases) for name in ("error", "claimed")
    )
    return (
        f"{board.name:9}{_words(change):13}{1e3 * cases[0].counter.period_seconds:4.0f} {errors}"
        f"{claimed}{sum(case.resolved for case in cases):8d}/3{sum(case.held for case in cases):5d}/3"
    )


def _words(change: dict[str, float]) -> str:
    if "lag_seconds" in change:
        return f"lag {1e3 * change['lag_seconds']:g} ms"
    return f"sees {change['seen_ratio']:.0%}"


def _gauge_table() -> Iterator[str]:
    """Yield what integrated power of nvidia-smi says: the gain error of the sensor, mostly."""
    yield "integral of the power that nvidia-smi told meanwhile    error %"
    for name, file in GAUGES:
        times, watts = columns(f"{file}-truth.csv.gz").T
        readings = columns(f"{file}-smi.csv")
        gauge = GaugeTimeline(
            readings[:, 0], readings[:, 1], update_period_seconds=0.1, averaging_window_seconds=0.0
        )
        before, upto = gauge.energy_at(times[[0, -1]])
        truth = float((np.diff(times) * (watts[1:] + watts[:-1]) / 2).sum())
        yield f"{name:56}{100 * ((upto - before) / truth - 1):6.1f}"


def _period_table(failed: list[str]) -> Iterator[str]:
    """Yield the refresh periods that the library finds in power that was polled fast."""
    yield "period of refreshes     found ms  known ms"
    for name, file, known in UPDATES:
        found = found_period(columns(file))
        text = "not available" if found is None else f"{1e3 * found:8.2f}"
        yield f"{name:24}{text:>8}{1e3 * known:10.1f}"
        if found is not None and abs(found / known - 1) > PERIOD_TOLERANCE:
            failed.append(f"FAIL period of {name}: {1e3 * found:.2f} ms")


def found_period(readings: Floats) -> float | None:
    """Return the period that the library finds in polled values, None if it has no function for it.

    Args:
        readings: time in seconds and value of each poll, shape (polls, 2).
    """
    try:
        from mlmeter.energy.refresh_period import refresh_period
    except ImportError:
        return None
    changed = np.flatnonzero(np.diff(readings[:, 1])) + 1
    return float(refresh_period(readings[changed - 1, 0], readings[changed, 0]))
