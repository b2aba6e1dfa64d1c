"""How right the energies of short windows are, against loads whose truth is known.

    python benchmarks/accuracy/run.py [--quick] [--seeds 8] [--output FILE]

Each row of the first table replays made-up loads of windows shorter and longer than the counter's
period; two loads that a split can get wrong follow, and then metered power of real boards
(`trace_table`). A "<" is followed by the limit; what breaks one is listed below its table, and the
exit status is then 1. The naive difference of two readings and interpolation between refreshes
stand beside the fit.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from judge import PHASES, Errors, judge, judge_phases, rms
from progress import progress
from scenarios import Scenario, alternating, draw
from trace_table import trace_lines

import mlmeter

SEEDS, QUICK_SEEDS = 8, 2
CASE_RUNS, QUICK_CASE_RUNS = 20, 5
# The harness is built right if simpler methods err as they must; chance alone moves them a little.
HARNESS_RATIO = 0.1
LEAST_INSIDE, POOLED_INSIDE = 0.90, (0.93, 0.99)
# Of the median half width of an interval to the RMS error of its row: wider ones are not sharp.
MOST_SHARPNESS = 3.0
LEAST_BOUNDED = 0.99
Z_LIMITS = (0.7, 1.6)
LARGEST_CLOSURE = 1e-3
# Share of the runs of a case whose intervals hold the truth of both phases.
LEAST_HELD = 0.95


@dataclass(frozen=True)
class Row:
    """A scenario, what the harness must reproduce and what the fit must reach, in per cent.

    Attributes:
        naive, interpolated: RMS of a window of methods that are not used; None: not compared.
        window_must, sum_must: greatest RMS of a window and of the sum of a phase.
        sum_bias_must: greatest mean error of a phase; None: not limited.
        resolved_must: least share of the phases that must be resolved.
    """

    scenario: Scenario
    naive: float | None
    interpolated: float | None
    window_must: float
    sum_must: float
    sum_bias_must: float | None = 1.0
    resolved_must: float = 1.0


def _rows() -> list[Row]:
    def slow(ms: float, *columns: float, isolated: bool = False, **limits: float | None) -> Row:
        name, seconds = ("100 isolated", 40.0) if isolated else ("100 mixed", 30.0)
        scenario = Scenario(name, 0.1, 1e-3, 1e-3, seconds, ms / 1e3, isolated=isolated)
        if isolated:
            return Row(scenario, None, None, *columns, sum_bias_must=None, **limits)
        return Row(scenario, *columns, **limits)

    def middle(ms: float, *columns: float) -> Row:
        return Row(Scenario("20 mixed", 0.02, 0.5e-3, 1e-3, 15.0, ms / 1e3), *columns)

    def fast(ms: float, *columns: float, **limits: float | None) -> Row:
        return Row(Scenario("1 RAPL mixed", 1e-3, 20e-6, 61e-6, 3.0, ms / 1e3, fast=True), *columns, **limits)

    return [
        slow(1, 676, 46, 25, 4, sum_bias_must=None),
        slow(3, 392, 43, 20, 2.5),
        slow(10, 214, 40, 17, 2.5),
        slow(30, 119, 36, 13, 2.0),
        slow(100, 43, 21, 1.6, 0.4),
        slow(1000, 4.4, 2.6, 0.3, 0.15),
        slow(1, 35, 25, isolated=True, resolved_must=0.0),
        # 35 windows of B are 0.3 % of the run: sigma is near 10 % of their energy.
        slow(3, 22, 9, isolated=True, resolved_must=0.9),
        slow(10, 9, 3, isolated=True),
        slow(100, 1, 0.5, isolated=True),
        middle(3, 173, 40, 18, 1.8),
        middle(10, 83, 31, 9.5, 1.0),
        middle(100, 9.5, 5.0, 0.6, 0.2),
        fast(1, 43, 35, 20, 3.5, sum_bias_must=None),
        fast(3, 15.7, 11.5, 10, 1.5),
        fast(10, 4.9, 3.4, 3.4, 0.9),
        fast(30, 1.6, 1.1, 1.3, 0.8),
    ]


def table_line(row: Row, runs: Sequence[Errors]) -> tuple[str, list[str]]:
    """Return one line of the table and what is wrong with it."""
    window = 100 * float(np.sqrt(np.mean([np.mean(run.window**2) for run in runs])))
    sums = np.array([run.sums for run in runs])
    statistical = np.array([run.statistical for run in runs])
    naive, interpolated = (
        100 * float(np.mean([rms(getattr(run, name)) for run in runs])) for name in ("naive", "interpolated")
    )
    inside = float(np.concatenate([run.inside for run in runs]).mean())
    sharpness = 100 * float(np.median(np.concatenate([run.half_width for run in runs]))) / window
    bounded = float(np.concatenate([run.bounded for run in runs]).mean())
    z = rms(sums / statistical)
    # The mean of a few seeds is off by chance too: only what two standard errors leave counts.
    chance = 2 * sums.std(axis=0) / np.sqrt(len(runs))
    bias = 100 * float((np.abs(sums.mean(axis=0)) - chance).max())
    checks = {
        "window RMS": window <= row.window_must,
        "sum RMS": 100 * rms(sums) <= row.sum_must,
        f"inside {inside:.3f}": inside >= LEAST_INSIDE,
        f"z {z:.2f}": Z_LIMITS[0] <= z <= Z_LIMITS[1],
        f"bias at least {bias:.2f} %": row.sum_bias_must is None or bias <= row.sum_bias_must,
        f"half width {sharpness:.1f} x RMS": sharpness <= MOST_SHARPNESS,
        f"hard bounds hold {bounded:.4f}": bounded >= LEAST_BOUNDED,
        "phases unresolved": float(np.mean([run.resolved for run in runs])) >= row.resolved_must,
        "closure": max(run.closure for run in runs) <= LARGEST_CLOSURE,
        "naive differs: harness": _near(naive, row.naive),
        "interpolation differs: harness": _near(interpolated, row.interpolated),
    }
    failures = [name for name, passed in checks.items() if not passed]
    naive_sum, interpolated_sum = (
        100 * float(np.mean([getattr(run, name) for run in runs]))
        for name in ("naive_sum", "interpolated_sum")
    )
    claimed_statistical, claimed_systematic = (
        100 * float(np.mean(values)) for values in (statistical, [run.systematic for run in runs])
    )
    line = (
        f"{row.scenario.name:12}{1e3 * row.scenario.window_seconds:5.0f}"
        f"{naive:5.0f}/{naive_sum:3.0f}{interpolated:6.1f}/{interpolated_sum:3.0f}"
        f"{window:6.2f}<{row.window_must:<4g}{100 * rms(sums):5.2f}<{row.sum_must:<4g}"
        f"{claimed_statistical:5.2f}+{claimed_systematic:4.2f} {inside:.3f} {sharpness:3.1f}"
        f" {'FAIL' if failures else 'ok':4}"
    )
    return line, failures


def _near(value: float, expected: float | None) -> bool:
    return expected is None or abs(value / expected - 1) <= HARNESS_RATIO


def table(seeds: int) -> Iterator[str]:
    """Yield the lines of the table and then its failures."""
    yield "counter      window naive    interpol.  fit: window  fit: sums  claimed    in"
    yield "T ms, gaps     ms RMS/A-sum RMS/A-sum  RMS<must    RMS<must   stat+sys  95 %"
    failed, inside = [], []
    for row in _rows():
        runs = []
        for seed in range(seeds):
            progress(f"{row.scenario.name}, {1e3 * row.scenario.window_seconds:g} ms, seed {seed}")
            runs.append(judge(draw(row.scenario, seed), row.scenario))
        progress("")
        line, failures = table_line(row, runs)
        yield line
        failed += [f"FAIL {line[:17].strip()} ms: {failure}" for failure in failures]
        inside.append(np.concatenate([run.inside for run in runs]).mean())
    # Every row counts alike: short windows are many.
    pooled = float(np.mean(inside))
    if not POOLED_INSIDE[0] <= pooled <= POOLED_INSIDE[1]:
        failed.append("FAIL pooled share inside 95 %")
    yield f"All in %, last column as a share; its mean is {pooled:.3f} (must: 0.93 to 0.99)."
    yield from failed


@dataclass(frozen=True)
class Case:
    """Windows of A and B in turn, whose gaps are or are not what their label says.

    Attributes:
        must: 90th percentile of the error of A and of B, in per cent; None: not limited.
        resolved: what every run must say of both phases; None: anything.
    """

    name: str
    windows: int
    window_seconds: float
    gap_follows_window: bool
    one_gap_label: bool
    must: tuple[float, float] | None = None
    resolved: bool | None = None


CASES = (
    Case("idle gap", 100, 0.010, False, False, (0.8, 3.0), resolved=True),
    Case("idle gap", 300, 0.001, False, False, (2.3, 9.0)),
    Case("gap follows", 100, 0.010, True, False, (2.0, 11.4)),
    Case("gap follows", 300, 0.001, True, False, (15.0, 51.0)),
    Case("gap follows, 1 label", 100, 0.010, True, True, resolved=False),
    Case("gap follows, 1 label", 300, 0.001, True, True, resolved=False),
)


def case_lines(runs: int) -> Iterator[str]:
    """Yield the table of the cases and then its failures."""
    yield "windows in turn        ms  p90 error A, B  median naive  resolved  held"
    failed = []
    for case in CASES:
        progress(f"{case.name}, {1e3 * case.window_seconds:g} ms")
        errors, naive, resolved, held = _case_runs(case, runs)
        progress("")
        worst = 100 * np.percentile(np.abs(errors), 90, axis=0)
        yield (
            f"{case.name:22}{1e3 * case.window_seconds:3.0f}  {worst[0]:6.2f} {worst[1]:7.2f}"
            f"  {100 * np.median(np.abs(naive[:, 0])):5.0f} {100 * np.median(np.abs(naive[:, 1])):6.0f}"
            f"   {resolved.mean():7.2f}  {held.mean():5.3f}"
        )
        checks = {
            "error": case.must is None or bool((worst <= case.must).all()),
            "resolved": case.resolved is None or bool((resolved == case.resolved).all()),
            "held": held.all(axis=1).mean() >= LEAST_HELD,
            "worse than naive": bool(
                (np.median(np.abs(errors), axis=0) <= np.median(np.abs(naive), axis=0)).all()
            ),
        }
        failed += [
            f"FAIL {case.name} {case.window_seconds * 1e3:g} ms: {name}"
            for name, passed in checks.items()
            if not passed
        ]
    yield from failed


def _case_runs(case: Case, runs: int) -> tuple[np.ndarray, ...]:
    """Return relative errors, naive errors, resolved and held of each run and phase."""
    errors, naive, resolved, held = (np.zeros((runs, len(PHASES))) for _ in range(4))
    for seed in range(runs):
        replay = alternating(
            case.windows, case.window_seconds, seed, gap_follows_window=case.gap_follows_window
        )
        scenario = Scenario("", 0.1, 5e-3, 1e-3, float(replay.edges[-1]), case.window_seconds)
        found = judge_phases(replay, scenario, one_gap_label=case.one_gap_label)
        errors[seed], naive[seed] = found.error, found.naive
        resolved[seed], held[seed] = found.resolved, found.held
    return errors, naive, resolved, held


def machine() -> str:
    """Name versions and machine, as far as they matter to results."""
    return (
        f"mlmeter {mlmeter.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="How right the energies of short windows are.")
    parser.add_argument("--quick", action="store_true", help="few seeds: limits may fail by chance")
    parser.add_argument("--seeds", type=int, help=f"replays per row (default {SEEDS})")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    cases = QUICK_CASE_RUNS if options.quick else CASE_RUNS
    started = time.perf_counter()
    lines = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(machine())
    tell(f"{seeds} seeds per row, {cases} runs per case")
    for line in chain(table(seeds), [""], case_lines(cases), [""], trace_lines()):
        tell(line)
    tell(f"{time.perf_counter() - started:.0f} s")
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")
    return int(any(line.startswith("FAIL") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
