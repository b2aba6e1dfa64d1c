"""What metering costs a training loop: blocks with and without the meter, in one process.

    make bench-load [BENCH_ARGS="--quick --output benchmarks/results/training_loop.md"]

Steps of 10 and of 50 ms, each in a window within that of an epoch, on a powercap tree and a GPU counter that
is refreshed every 100 ms. One session goes on through the whole benchmark; in blocks without the meter no
window is opened, and for the meter no time passes (`pausable.py`), so that metered blocks have their
share of its work. Blocks last a tenth of a second, as the speed of a machine wanders from one moment to
the next. How often they are repeated follows from the first rounds (`paired_blocks.py` has the statistics).
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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from paired_blocks import Estimate, Round, estimate, pooled, rounds_needed
from pausable import PausableClock, pausable_meter
from training_loads import LOADS, Step, sized

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.sampling.sampler import Sampler

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
STEP_MILLISECONDS = (10, 50)
BLOCK_SECONDS = 0.1
FIRST_ROUNDS, QUICK_ROUNDS = 10, 3
LONGEST_LEARNING_SECONDS = 240.0
HALF_WIDTH_PERCENT = 0.5
LARGEST_PERCENT, LARGEST_HIGH_PERCENT = 0.5, 1.0
ARMS = ("metered", "first_bare", "second_bare")


class Spent(NamedTuple):
    """What one block took."""

    wall_seconds: float
    cpu_seconds: float


@dataclass
class Sampling:
    """What the sampler did within metered blocks, and how well it metered."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    windows: int = 0
    reads: int = 0
    polls: int = 0


@dataclass
class Bench:
    """A load with its step, and what its rounds gave.

    Attributes:
        name: of the load; milliseconds: what a step is to take.
        step: does the work; step_seconds: what it takes.
        rounds: what each block took, by round.
        sampling: what the meter did.
    """

    name: str
    milliseconds: int
    step: Step
    step_seconds: float
    rounds: list[dict[str, Spent]] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def steps(self) -> int:
        """Steps of a block."""
        return max(1, round(BLOCK_SECONDS * 1e3 / self.milliseconds))

    def effects(self, clock: str, kind: str) -> list[float]:
        """Return an effect per round: of `wall_seconds` or `cpu_seconds`, `effect` or `control`."""
        rounds = (
            Round(**{arm: getattr(spent, clock) for arm, spent in blocks.items()}) for blocks in self.rounds
        )
        return [getattr(one, kind) for one in rounds]


def bare_block(bench: Bench) -> Spent:
    """Run the loop as it would be without mlmeter."""
    step = bench.step
    step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(bench.steps):
        step()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


class Metering:
    """Makes metered blocks of one session, whose threads stand still between them."""

    def __init__(self, meter: EnergyMeter, sampler: Sampler, clock: PausableClock) -> None:
        self._meter, self._sampler, self._clock = meter, sampler, clock

    @property
    def learning(self) -> bool:
        """Whether the meter may still spend more on looks than later."""
        return self._sampler.learning

    def block(self, bench: Bench) -> Spent:
        """Run the loop with a window for each step."""
        step, sampling = bench.step, bench.sampling
        self._clock.go_on((bench.steps + 1) * bench.step_seconds)
        try:
            with self._meter.training("epoch"):
                with self._meter.training("step", samples=32):
                    step()
                before = self._sampler.cost()
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(bench.steps):
                    with self._meter.training("step", samples=32):
                        step()
                spent = Spent(time.perf_counter() - wall, time.process_time() - cpu)
                after = self._sampler.cost()
        finally:
            self._clock.pause()
        sampling.wall_seconds += spent.wall_seconds
        sampling.cpu_seconds += after.cpu_seconds - before.cpu_seconds
        sampling.windows += bench.steps
        sampling.reads += after.reads - before.reads
        sampling.polls += sum(after.polls.values()) - sum(before.polls.values())
        return spent


@contextmanager
def metering() -> Iterator[Metering]:
    """Make metered blocks of one session."""
    with pausable_meter() as parts:
        yield Metering(*parts)


def one_round(benches: list[Bench], metered: Metering, order: random.Random) -> None:
    """Run each block of each load once, in an order drawn anew."""
    for bench in order.sample(benches, len(benches)):
        blocks: dict[str, Spent] = {}
        for arm in order.sample(ARMS, len(ARMS)):
            blocks[arm] = metered.block(bench) if arm == "metered" else bare_block(bench)
        bench.rounds.append(blocks)


def let_it_learn(benches: list[Bench], metered: Metering, *, fully: bool) -> None:
    """Meter until the process has spent what it may spend on its first looks at counters."""
    begin = time.monotonic()
    learners = [replace(bench, rounds=[], sampling=Sampling()) for bench in benches]
    for learner in learners:
        metered.block(learner)
    while fully and metered.learning and time.monotonic() - begin < LONGEST_LEARNING_SECONDS:
        note(f"learning, {time.monotonic() - begin:.0f} s")
        metered.block(learners[0])


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
            f"| {bench.name} | {bench.milliseconds} | {bench.step_seconds * 1e3:.1f} | "
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
        f"{count} rounds of three blocks per load, one metered and two not, in random order; a block is "
        f"{1e3 * BLOCK_SECONDS:.0f} ms of steps.{short} Means of log ratios within rounds with Student's "
        "95 % intervals. CPU time is that of all threads of the process; lag-1 is the autocorrelation of the "
        "rounds' slowdowns."
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
        Bench(name, step, *sized(LOADS[name], step * 1e-3))
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
