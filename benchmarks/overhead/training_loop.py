"""What metering costs a training loop: the same loop with and without the meter, in one process.

    make bench-load [BENCH_ARGS="--quick --output benchmarks/results/training_loop.md"]

Steps of 10, 50 and 200 ms, each in a window within that of an epoch, on a powercap tree and a GPU counter
that is refreshed every 100 ms. One session goes on through the whole benchmark. A loop is run in blocks of
25 ms, metered and not, next to each other, as the speed of a machine wanders from one moment to the next:
steps are made of parts, and a metered step goes on where the block before has left it. In blocks without
the meter no time passes for it (`pausable.py`), so that metered blocks have all of its work. How often all
is repeated follows from the first rounds (`paired_blocks.py` has the statistics).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from paired_blocks import Estimate, estimate, pooled, rounds_needed
from training_blocks import ARMS, BLOCK_PARTS, PART_SECONDS, ROUND_PARTS, Bench, Metering, Sampling, metering
from training_loads import LOADS, sized

import mlmeter

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
STEP_MILLISECONDS = (10, 50, 200)
FIRST_ROUNDS, QUICK_ROUNDS = 10, 2
LONGEST_LEARNING_SECONDS = 240.0
HALF_WIDTH_PERCENT = 0.5
LARGEST_PERCENT, LARGEST_HIGH_PERCENT = 0.5, 1.0


def one_round(benches: list[Bench], metered: Metering, order: random.Random) -> None:
    """Run each load once, in an order drawn anew."""
    for bench in order.sample(benches, len(benches)):
        bench.rounds.append(metered.round(bench, order))


def let_it_learn(benches: list[Bench], metered: Metering, *, fully: bool) -> None:
    """Meter until the process has spent what it may spend on its first looks at counters."""
    begin = time.monotonic()
    learners = [replace(bench, rounds=[], sampling=Sampling()) for bench in benches]
    order = random.Random(0)
    for learner in learners:
        metered.round(learner, order, ARMS[:1])
    while fully and metered.learning and time.monotonic() - begin < LONGEST_LEARNING_SECONDS:
        note(f"learning, {time.monotonic() - begin:.0f} s")
        metered.round(learners[0], order, ARMS[:1])


def measure(
    benches: list[Bench], metered: Metering, order: random.Random, arguments: argparse.Namespace
) -> int:
    """Run rounds until the intervals are narrow enough, by the spread of the first; return how many."""
    begin = time.monotonic()
    first = arguments.rounds or FIRST_ROUNDS
    for number in range(first):
        note(f"round {number + 1} of {first}")
        one_round(benches, metered, order)
    if arguments.rounds:
        return first
    effects = [bench.effects("wall_seconds", "effect") for bench in benches]
    needed = max(rounds_needed(values, HALF_WIDTH_PERCENT) for values in effects)
    possible = int(first * arguments.minutes * 60 / (time.monotonic() - begin))
    for number in range(first, min(needed, possible)):
        note(f"round {number + 1} of {min(needed, possible)} ({needed} needed)")
        one_round(benches, metered, order)
    return needed


def note(text: str) -> None:
    """Tell the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def cell(found: Estimate) -> str:
    """Return an effect with its interval."""
    return f"{found.percent:+.2f} [{found.low_percent:+.2f}, {found.high_percent:+.2f}]"


def rows(benches: list[Bench]) -> Iterator[tuple[str, list[Estimate]]]:
    """Yield what is in each line of the table: wall and CPU time, metered and control."""
    columns = [(clock, kind) for clock in ("wall_seconds", "cpu_seconds") for kind in ("effect", "control")]
    for step, group in by_step(benches):
        for bench in group:
            yield f"{bench.name}, {step} ms", [estimate(bench.effects(*column)) for column in columns]
        if len(group) > 1:
            yield f"all, {step} ms", [pooled([b.effects(*column) for b in group]) for column in columns]


def by_step(benches: list[Bench]) -> list[tuple[int, list[Bench]]]:
    """Return the loads by the length of their steps in milliseconds."""
    steps = dict.fromkeys(bench.milliseconds for bench in benches)
    return [(step, [bench for bench in benches if bench.milliseconds == step]) for step in steps]


def table(benches: list[Bench]) -> list[str]:
    """Return the results as lines of Markdown."""
    lines = [
        "| load, step | slowdown, % | off against off, % | CPU time, % | off against off, % | lag-1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows(benches):
        cells = [name, *map(cell, found), f"{found[0].autocorrelation:+.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def sampling_table(benches: list[Bench]) -> list[str]:
    """Return what the meter did in its blocks."""
    lines = [
        "| load | step, ms | as measured | windows/s | reads/s | polls/s | CPU counted by the sampler, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for bench in benches:
        did = bench.sampling
        per_second = [count / did.wall_seconds for count in (did.windows, did.reads, did.polls)]
        lines.append(
            f"| {bench.name} | {bench.milliseconds} | {did.wall_seconds / max(1, did.windows) * 1e3:.1f} | "
            + " | ".join(f"{value:.0f}" for value in per_second)
            + f" | {100 * did.cpu_seconds / did.wall_seconds:.2f} |"
        )
    return lines


def verdict(benches: list[Bench]) -> str:
    """Say whether loops are slowed down by no more than was promised."""
    aim = f"at most {LARGEST_PERCENT} %, upper end at most {LARGEST_HIGH_PERCENT} %"
    told = []
    for step, group in by_step(benches):
        wall = pooled([bench.effects("wall_seconds", "effect") for bench in group])
        reached = wall.percent <= LARGEST_PERCENT and wall.high_percent <= LARGEST_HIGH_PERCENT
        what = "reached" if reached else "NOT reached"
        told.append(f"All loads with steps of {step} ms: {cell(wall)} % slower ({aim}: {what}).")
    return "\n\n".join(told)


def machine(seed: int) -> str:
    """Return one paragraph: machine and versions."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in facts if "model name" in line), "unknown CPU")
    return (
        f"{cpu}, {os.cpu_count()} logical CPUs, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, NumPy {np.__version__} with one BLAS thread, mlmeter "
        f"{mlmeter.__version__}; seed {seed}."
    )


def conditions(load_before: float, stolen_before: int, begin: float) -> str:
    """Return a sentence about what else the machine did."""
    elapsed = time.monotonic() - begin
    stolen = (stolen_ticks() - stolen_before) / os.sysconf("SC_CLK_TCK") / elapsed / (os.cpu_count() or 1)
    return (
        f"Took {elapsed / 60:.0f} minutes; load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} "
        f"after (1 to 2 are its own), {100 * stolen:.1f} % of CPU time stolen by the hypervisor."
    )


def stolen_ticks() -> int:
    """Return the CPU time that a hypervisor gave to others."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])


def report(benches: list[Bench], needed: int, seed: int, condition: str) -> str:
    """Return the whole result as Markdown."""
    count = len(benches[0].rounds)
    short = "" if count >= needed else f" {needed} would be needed for {HALF_WIDTH_PERCENT} %."
    method = (
        f"{count} rounds of {ROUND_PARTS // BLOCK_PARTS} times three blocks per load, one metered and two "
        f"not, in random order; a block is {1e3 * PART_SECONDS * BLOCK_PARTS:.0f} ms of steps.{short} Means "
        "of log ratios within rounds with Student's 95 % intervals. CPU time is that of all threads of the "
        "process; lag-1 is the autocorrelation of the rounds' slowdowns."
    )
    return "\n".join(
        [
            "# What metering costs a training loop",
            "",
            f"{machine(seed)} {condition}",
            "",
            method,
            "",
            *table(benches),
            "",
            verdict(benches),
            "",
            "What the meter did meanwhile (three zones of a powercap tree at 1 ms, a GPU counter at 100 ms):",
            "",
            *sampling_table(benches),
            "",
        ]
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, less than a minute")
    parser.add_argument("--rounds", type=int, help="so many; default: as many as the interval needs")
    parser.add_argument("--minutes", type=float, default=30.0, help="no new rounds after that")
    steps = ",".join(map(str, STEP_MILLISECONDS))
    parser.add_argument("--step-milliseconds", default=steps, help=f"lengths of steps; default {steps}")
    parser.add_argument("--loads", default=",".join(LOADS), help="some of " + ", ".join(LOADS))
    parser.add_argument("--output", type=Path, help="Markdown file; the raw figures go beside it as JSON")
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.rounds = QUICK_ROUNDS
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if os.environ.get(BLAS_THREADS) != "1":
        # Threads of BLAS would leave the meter no processor on a small machine.
        sys.exit(f"set {BLAS_THREADS}=1 before the start, as `make bench-load` does")
    warnings.simplefilter("ignore")
    seed = random.SystemRandom().randrange(1_000_000)
    load, stolen, begin = os.getloadavg()[0], stolen_ticks(), time.monotonic()
    benches = [
        Bench(name, step, sized(LOADS[name], PART_SECONDS))
        for step in map(int, arguments.step_milliseconds.split(","))
        for name in arguments.loads.split(",")
    ]
    with metering() as metered:
        let_it_learn(benches, metered, fully=not arguments.quick)
        needed = measure(benches, metered, random.Random(seed), arguments)
    note("")
    text = report(benches, needed, seed, conditions(load, stolen, begin))
    print(text)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        raw = {f"{bench.name}, {bench.milliseconds} ms": bench.rounds for bench in benches}
        arguments.output.with_suffix(".json").write_text(json.dumps(raw))


if __name__ == "__main__":
    main()
