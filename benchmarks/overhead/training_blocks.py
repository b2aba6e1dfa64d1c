"""A training loop by turns with the meter and without it, in blocks of which none has work of the other.

A step is made of parts. A metered step goes on in the next metered block where the one before has left it,
and for the meter no time has passed in between.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import mul
from typing import NamedTuple

from paired_blocks import Round
from pausable import PausableClock, pausable_meter
from training_loads import Step

from mlmeter import EnergyMeter
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.subscription import Cost

# What can be run without looking whether a thread of the meter is to be woken; what is run of one kind
# before the other; and what makes one round of a load, as parts.
PART_SECONDS = 0.0025
BLOCK_PARTS = 10
ROUND_PARTS = 16 * BLOCK_PARTS
BARE = ("first_bare", "second_bare")
ARMS = ("metered", *BARE)


class Spent(NamedTuple):
    """What a number of parts took."""

    wall_seconds: float
    cpu_seconds: float
    parts: int = 1


def typical(blocks: Sequence[Spent], weights: Sequence[int]) -> Spent:
    """Return what one part took in the geometric mean of blocks.

    A sum would be that of the few blocks in which the machine was slow or stood still.

    Args:
        blocks: of one kind.
        weights: how much each counts, such as the metered parts next to it: where those were more than in
            others, the meter was at work for longer.
    """
    total = sum(weights)

    def mean(seconds: Iterable[float]) -> float:
        logs = (math.log(one / block.parts) for one, block in zip(seconds, blocks, strict=True))
        return math.exp(sum(map(mul, weights, logs)) / total)

    return Spent(mean(block.wall_seconds for block in blocks), mean(block.cpu_seconds for block in blocks))


@dataclass
class Sampling:
    """What the sampler did within metered blocks, and how well it metered."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    windows: int = 0
    reads: int = 0
    polls: int = 0

    def count(self, wall_seconds: float, before: Cost, after: Cost) -> None:
        """Count what the sampler did in so much time."""
        self.wall_seconds += wall_seconds
        self.cpu_seconds += after.cpu_seconds - before.cpu_seconds
        self.reads += after.reads - before.reads
        self.polls += sum(after.polls.values()) - sum(before.polls.values())


@dataclass
class Bench:
    """A load with its step, and what its rounds gave.

    Attributes:
        name: of the load; milliseconds: what a step is to take.
        part: does a part of a step.
        rounds: what a part of each round took, by arm.
        sampling: what the meter did.
    """

    name: str
    milliseconds: int
    part: Step
    rounds: list[dict[str, Spent]] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def parts(self) -> int:
        """Parts of a step."""
        return max(1, round(self.milliseconds * 1e-3 / PART_SECONDS))

    def effects(self, clock: str, kind: str) -> list[float]:
        """Return an effect per round: of `wall_seconds` or `cpu_seconds`, `effect` or `control`."""
        rounds = (
            Round(**{arm: getattr(spent, clock) for arm, spent in blocks.items()}) for blocks in self.rounds
        )
        return [getattr(one, kind) for one in rounds]


def bare_loop(bench: Bench) -> Iterator[None]:
    """Run the loop as it would be without mlmeter, a part at a time."""
    part, parts = bench.part, bench.parts
    while True:
        for _ in range(parts):
            part()
            yield


def metered_loop(bench: Bench, meter: EnergyMeter) -> Iterator[None]:
    """Run the loop with a window for each step, a part at a time."""
    part, parts = bench.part, bench.parts
    with meter.training("epoch"):
        while True:
            with meter.training("step", samples=32):
                bench.sampling.windows += 1
                for _ in range(parts):
                    part()
                    yield


def run_block(loop: Iterator[None], clock: PausableClock, *, metered: bool) -> Spent:
    """Run the parts of a block; of a metered one until no thread of the meter is at work."""
    parts = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while parts < BLOCK_PARTS or (metered and clock.busy):
        next(loop)
        clock.pulse()
        parts += 1
    return Spent(time.perf_counter() - wall, time.process_time() - cpu, parts)


class Metering:
    """Makes rounds with one session, whose threads stand still in blocks without the meter."""

    def __init__(self, meter: EnergyMeter, sampler: Sampler, clock: PausableClock) -> None:
        self._meter, self._sampler, self._clock = meter, sampler, clock

    @property
    def learning(self) -> bool:
        """Whether the meter may still spend more on looks than later."""
        return self._sampler.learning

    def round(self, bench: Bench, order: random.Random, arms: Sequence[str] = ARMS) -> dict[str, Spent]:
        """Run the loop in all ways by turns, in orders drawn anew; return what a part took in each."""
        loops = {arm: bare_loop(bench) if arm in BARE else metered_loop(bench, self._meter) for arm in arms}
        blocks: dict[str, list[Spent]] = {arm: [] for arm in arms}
        before = self._sampler.cost()
        while sum(block.parts for block in blocks["metered"]) < ROUND_PARTS:
            for arm in order.sample(arms, len(arms)):
                blocks[arm].append(self._block(loops[arm], metered=arm == "metered"))
        self._leave(loops["metered"])
        metered_seconds = sum(block.wall_seconds for block in blocks["metered"])
        bench.sampling.count(metered_seconds, before, self._sampler.cost())
        weights = [block.parts for block in blocks["metered"]]
        return {arm: typical(blocks[arm], weights) for arm in arms}

    def _block(self, loop: Iterator[None], *, metered: bool) -> Spent:
        if not metered:
            return run_block(loop, self._clock, metered=False)
        self._clock.go_on()
        try:
            return run_block(loop, self._clock, metered=True)
        finally:
            self._clock.pause()

    def _leave(self, loop: Iterator[None]) -> None:
        """Close the open windows, and pause when the threads have done what they do then."""
        self._clock.go_on()
        loop.close()  # type: ignore[attr-defined]
        while self._clock.busy:
            time.sleep(1e-3)
            self._clock.pulse()
        self._clock.pause()


@contextmanager
def metering() -> Iterator[Metering]:
    """Make rounds with one session."""
    with pausable_meter() as parts:
        yield Metering(*parts)
