"""What metering costs a training loop: blocks with and without the meter, in one process.

    make bench-load [BENCH_ARGS="--quick --output benchmarks/results/training_loop.md"]

Steps of 10 ms, each in a window, within windows of epochs, on a live powercap tree of known energy
and a GPU counter that is refreshed every 100 ms. One session goes on through the whole benchmark; in
blocks without the meter no window is opened, and the meter's threads stand still. Blocks last a fifth
of a second, as the speed of a machine wanders within seconds. What the threads wait for goes on where it
was when they stood still, so that metered blocks have their share of ticks and of writing. How often
blocks are repeated follows from the first rounds (`paired_blocks.py` has the statistics).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from paired_blocks import Estimate, Round, estimate, pooled, rounds_needed
from training_loads import LOADS, Step, sized

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.backends.rapl import RaplBackend
from mlmeter.clock import MonotonicClock
from mlmeter.journal.live_journal import PERIOD_NS, LiveJournal
from mlmeter.measurement import Domain, Reading
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import fake_domain
from tests.backends.powercap_tree import LivePowercapTree

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
STEP_SECONDS = 0.01
STEPS_PER_EPOCH = 10
EPOCHS = 2
WARM_UP_STEPS = 3
FIRST_ROUNDS, QUICK_ROUNDS = 10, 3
LONGEST_LEARNING_SECONDS = 180.0
HALF_WIDTH_PERCENT = 0.5
LARGEST_PERCENT, LARGEST_HIGH_PERCENT = 0.5, 1.0
ZONE_WATTS = {"package-0": 80.0, "core-0": 60.0, "dram-0": 6.0}
GPU_WATTS, GPU_PERIOD_NS = 300, 100_000_000
ARMS = ("metered", "first_bare", "second_bare")


class GpuCounter:
    """A counter of millijoules that is refreshed every 100 ms, as those of GPUs are."""

    name = "gpu_counter"

    def open(self) -> tuple[Domain, ...]:
        return (
            fake_domain(
                name="gpu-0",
                kind="gpu",
                source=self.name,
                update_period_seconds=GPU_PERIOD_NS * 1e-9,
                joules_per_count=1e-3,
                cheap_read=False,
            ),
        )

    def read(self) -> tuple[Reading, ...]:
        begin_ns = time.perf_counter_ns()
        millijoules = begin_ns // GPU_PERIOD_NS * GPU_PERIOD_NS * GPU_WATTS // 1_000_000
        return (Reading(0, millijoules, begin_ns, time.perf_counter_ns()),)

    def close(self) -> None:
        pass


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
    """A load with its step, and what its rounds gave."""

    name: str
    step: Step
    step_seconds: float
    rounds: list[dict[str, Spent]] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)

    def effects(self, clock: str, kind: str) -> list[float]:
        """Return an effect per round: of `wall_seconds` or `cpu_seconds`, `effect` or `control`."""
        rounds = (
            Round(**{arm: getattr(spent, clock) for arm, spent in blocks.items()}) for blocks in self.rounds
        )
        return [getattr(one, kind) for one in rounds]


def bare_block(step: Step) -> Spent:
    """Run the loop as it would be without mlmeter."""
    for _ in range(WARM_UP_STEPS):
        step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(EPOCHS):
        for _ in range(STEPS_PER_EPOCH):
            step()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


class PausableClock(MonotonicClock):
    """A clock whose waits do not end, nor get shorter, while the meter's threads are to stand still."""

    def __init__(self) -> None:
        self.going = threading.Event()
        self._gone_seconds = self._since_seconds = 0.0

    def go_on(self) -> None:
        """Let the threads work."""
        self._since_seconds = time.monotonic()
        self.going.set()

    def pause(self) -> None:
        """Let them stand still from their next wait on."""
        self.going.clear()
        self._gone_seconds += time.monotonic() - self._since_seconds

    def gone_seconds(self) -> float:
        """Return for how long they have been at work."""
        more = time.monotonic() - self._since_seconds if self.going.is_set() else 0.0
        return self._gone_seconds + more

    def wait(self, wake: threading.Event, timeout_seconds: float) -> bool:
        """Wait for so much of the time in which the threads are at work."""
        until = self.gone_seconds() + timeout_seconds
        while True:
            self.going.wait()
            left = until - self.gone_seconds()
            if left <= 0 or super().wait(wake, left):
                self.going.wait()
                return wake.is_set()


class Metering:
    """Makes metered blocks of one session, whose threads stand still between them."""

    def __init__(self, meter: EnergyMeter, sampler: Sampler, clock: PausableClock) -> None:
        self._meter, self._sampler, self._clock = meter, sampler, clock

    @property
    def learning(self) -> bool:
        """Whether the meter may still spend more on looks than later."""
        return self._sampler.learning

    def block(self, step: Step, sampling: Sampling) -> Spent:
        """Run the loop with a window for each step and epoch."""
        self._clock.go_on()
        try:
            for _ in range(WARM_UP_STEPS):
                with self._meter.training("step"):
                    step()
            before = self._sampler.cost()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(EPOCHS):
                with self._meter.training("epoch"):
                    for _ in range(STEPS_PER_EPOCH):
                        with self._meter.training("step", samples=32):
                            step()
            spent = Spent(time.perf_counter() - wall, time.process_time() - cpu)
            after = self._sampler.cost()
        finally:
            self._clock.pause()
        sampling.wall_seconds += spent.wall_seconds
        sampling.cpu_seconds += after.cpu_seconds - before.cpu_seconds
        sampling.windows += EPOCHS * (1 + STEPS_PER_EPOCH)
        sampling.reads += after.reads - before.reads
        sampling.polls += sum(after.polls.values()) - sum(before.polls.values())
        return spent


@contextmanager
def metering() -> Iterator[Metering]:
    """Meter counters on a memory file system where there is one; what is written goes away."""
    memory, clock = Path("/dev/shm"), PausableClock()
    sampler, write = Sampler(clock), LiveJournal.tick
    never = threading.Event()

    def write_in_turn(journal: LiveJournal) -> None:
        clock.wait(never, PERIOD_NS * 1e-9)
        write(journal)

    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        tempfile.TemporaryDirectory() as output,
        LivePowercapTree(Path(folder), ZONE_WATTS, limit_watts=200.0) as tree,
    ):
        LiveJournal.tick = write_in_turn  # type: ignore[method-assign]
        backends = [RaplBackend(tree.root), GpuCounter()]
        try:
            clock.go_on()
            with EnergyMeter("loop", backends=backends, output_dir=output, sampler=sampler) as meter:
                clock.pause()
                try:
                    yield Metering(meter, sampler, clock)
                finally:
                    clock.go_on()
        finally:
            LiveJournal.tick = write  # type: ignore[method-assign]


def one_round(benches: list[Bench], metered: Metering, order: random.Random) -> None:
    """Run each block of each load once, in an order drawn anew."""
    for bench in order.sample(benches, len(benches)):
        blocks: dict[str, Spent] = {}
        for arm in order.sample(ARMS, len(ARMS)):
            is_metered = arm == "metered"
            blocks[arm] = metered.block(bench.step, bench.sampling) if is_metered else bare_block(bench.step)
        bench.rounds.append(blocks)


def let_it_learn(benches: list[Bench], metered: Metering, *, fully: bool) -> None:
    """Meter until the process has spent what it may spend on its first looks at counters."""
    begin = time.monotonic()
    for bench in benches:
        metered.block(bench.step, Sampling())
    while fully and metered.learning and time.monotonic() - begin < LONGEST_LEARNING_SECONDS:
        note(f"learning, {time.monotonic() - begin:.0f} s")
        metered.block(benches[0].step, Sampling())


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
    for bench in benches:
        yield bench.name, [estimate(bench.effects(*column)) for column in columns]
    if len(benches) > 1:
        yield "all", [pooled([bench.effects(*column) for bench in benches]) for column in columns]


def table(benches: list[Bench]) -> list[str]:
    """Return the results as lines of Markdown."""
    lines = [
        "| load | slowdown, % | off against off, % | CPU time, % | off against off, % | lag-1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in rows(benches):
        cells = [name, *map(cell, found), f"{found[0].autocorrelation:+.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def sampling_table(benches: list[Bench]) -> list[str]:
    """Return what the meter did in its blocks."""
    lines = [
        "| load | step, ms | windows/s | reads/s | polls/s | CPU of the meter's threads, % of one core |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for bench in benches:
        did = bench.sampling
        per_second = [count / did.wall_seconds for count in (did.windows, did.reads, did.polls)]
        lines.append(
            f"| {bench.name} | {bench.step_seconds * 1e3:.1f} | "
            + " | ".join(f"{value:.0f}" for value in per_second)
            + f" | {100 * did.cpu_seconds / did.wall_seconds:.2f} |"
        )
    return lines


def verdict(benches: list[Bench]) -> str:
    """Say whether the loop is slowed down by no more than was promised."""
    *_, (_, (wall, *_)) = rows(benches)
    reached = wall.percent <= LARGEST_PERCENT and wall.high_percent <= LARGEST_HIGH_PERCENT
    aim = f"at most {LARGEST_PERCENT} %, upper end at most {LARGEST_HIGH_PERCENT} %"
    return f"All loads together: {cell(wall)} % slower ({aim}: {'reached' if reached else 'NOT reached'})."


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
    steps = EPOCHS * STEPS_PER_EPOCH
    short = "" if count >= needed else f" {needed} would be needed for {HALF_WIDTH_PERCENT} %."
    method = (
        f"{count} rounds of three blocks per load, one metered and two not, in random order; a block is "
        f"{EPOCHS} epochs, {steps} steps.{short} Means of log ratios within rounds with Student's 95 % "
        "intervals. CPU time is that of all threads of the process; lag-1 is the autocorrelation of the "
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
            "What the meter did meanwhile (counters: a live powercap tree at 1 ms, a GPU counter at 100 ms):",
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
    benches = [Bench(name, *sized(LOADS[name], STEP_SECONDS)) for name in arguments.loads.split(",")]
    with metering() as metered:
        let_it_learn(benches, metered, fully=not arguments.quick)
        needed = measure(benches, metered, random.Random(seed), arguments)
    note("")
    text = report(benches, needed, seed, conditions(load, stolen, begin))
    print(text)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        raw = {bench.name: bench.rounds for bench in benches}
        arguments.output.with_suffix(".json").write_text(json.dumps(raw))


if __name__ == "__main__":
    main()
