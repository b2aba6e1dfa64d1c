"""Runs of two commands, one after the other in a balanced random order, each metered by `mlmeter run`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlmeter.analysis.blocks import Pairs, Plan, make_pairs
from mlmeter.analysis.compare import Comparison, compare
from mlmeter.analysis.gate import key_of
from mlmeter.analysis.run_figures import RunFigures, run_figures
from mlmeter.errors import ArgumentError, MLMeterError
from mlmeter.report.run_directory import MANIFEST
from mlmeter.session import load

SIDES = ("a", "b")
WARM_UP = "warm-up"


class BenchError(MLMeterError):
    """A command of a benchmark failed, or its energy is not known well enough."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark that was done: the runs in pairs, and what they say."""

    pairs: Pairs[RunFigures]
    comparison: Comparison


def bench(
    commands: Sequence[Sequence[str]],
    plan: Plan,
    directory: Path,
    *,
    run_options: Sequence[str] = (),
    unit: str | None = None,
    quality: str | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Bench:
    """Run two commands until their difference is settled, or a limit of pairs or of time is reached.

    Args:
        commands: program and arguments, twice.
        plan: schedule.
        directory: where the runs are written: in folders ``a``, ``b`` and ``warm-up``.
        run_options: further options of `mlmeter run`.
        unit: what settles the question: joules of one unit; None for those of the run.
        quality: metric beside the energy.
        progress: told one line before each pair.

    Raises:
        BenchError: a command fails, or a run is too short for the sensor.
        ArgumentError: the commands count no such unit, or have no such metric.
    """

    def make(side: int, pair: int) -> RunFigures:
        if side == 0 or pair < 0:
            progress(f"pair {pair + 1}" if pair >= 0 else "warm-up")
        folder = directory / (SIDES[side] if pair >= 0 else WARM_UP)
        run = metered(commands[side], folder, run_options)
        # What will not do is told by the first run, not after hours.
        joules(run)
        if quality is not None and quality not in run.metrics:
            there = ", ".join(sorted(run.metrics)) or "none"
            raise ArgumentError(f"quality={quality!r}: not a metric of run {run.session}; these are: {there}")
        return run

    def joules(run: RunFigures) -> float:
        figure = run.energies[key_of([run], None, unit)]
        if figure.value is None or not figure.resolved or figure.value <= 0:
            reason = figure.reason or "it is 0 J"
            raise BenchError(f"run {run.session}: its energy is not known well enough: {reason}")
        return figure.value

    pairs = make_pairs(plan, make, joules)
    found = compare(
        dict(zip(SIDES, pairs.runs, strict=True)),
        unit=unit,
        quality=quality,
        effect=plan.effect,
        paired=True,
        pilot=pairs.pilot,
    )
    return Bench(pairs, found)


def metered(command: Sequence[str], folder: Path, options: Sequence[str]) -> RunFigures:
    """Run a command once in a metered process of its own; what it prints goes to standard error.

    Raises:
        BenchError: it ends with a code other than 0, or leaves no run.
    """
    before = set(folder.glob(f"*/{MANIFEST}"))
    run = [sys.executable, "-m", "mlmeter", "run", "--quiet", "--output-dir", str(folder), *options, "--"]
    code = subprocess.run([*run, *command], stdout=sys.stderr, check=False).returncode
    if code != 0:
        raise BenchError(f"{' '.join(command)}: ended with code {code}")
    made = set(folder.glob(f"*/{MANIFEST}")) - before
    if len(made) != 1:
        raise BenchError(f"{' '.join(command)}: left {len(made)} runs in {folder}, not one")
    return run_figures(load(made.pop().parent).recording)
