"""The schedule of a benchmark: pairs in balanced random order, repeated until a difference is settled."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlmeter.analysis.groups import paired_ratio
from mlmeter.errors import ArgumentError

Run = TypeVar("Run")

FIRST, SECOND = 0, 1
# Of these pairs one begins with either variant.
BLOCK = 2
FEWEST_PILOT = 3
# For a look before the end, of which there are a few: together they hardly add to false differences.
EARLY_CONFIDENCE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a benchmark is done.

    Attributes:
        effect: smallest difference that matters; 0.02 for 2 %.
        pilot: pairs after which the number of pairs is chosen, 3 or more.
        limit: most pairs.
        warm_up: pairs that are made and dropped first.
        seed: of the order.
        max_seconds: time after which no more pairs are begun, warm-up included; None for no limit. The
            pairs are made two at a time: the last two may take longer, but are not begun if the two before
            them took more than what is left.

    Raises:
        ArgumentError: a number makes no sense.
    """

    effect: float = 0.02
    pilot: int = 6
    limit: int = 60
    warm_up: int = 1
    seed: int = 0
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.effect < 1:
            raise ArgumentError(f"effect={self.effect!r}: expected a share between 0 and 1")
        if self.pilot < FEWEST_PILOT or self.limit < self.pilot or self.warm_up < 0:
            raise ArgumentError(
                f"pilot={self.pilot}, limit={self.limit}, warm_up={self.warm_up}: expected a pilot of "
                f"{FEWEST_PILOT} pairs or more, a limit that is not less, and no negative number"
            )
        # What is no number is not above 0, either.
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ArgumentError(f"max_seconds={self.max_seconds!r}: expected a number above 0, or None")


@dataclass(frozen=True, slots=True)
class Pairs(Generic[Run]):
    """The runs of a benchmark, warm-up left out, in order of time.

    Attributes:
        runs: of the first and of the second variant, as many of each.
        needed: pairs that the pilot asked for; at least so many, if the time was over before its end.
        pilot: pairs of the pilot.
        early: whether the difference was so large that it showed before.
        out_of_time: whether the limit of time ended it.
    """

    runs: tuple[list[Run], list[Run]]
    needed: int
    pilot: int
    early: bool = False
    out_of_time: bool = False

    @property
    def complete(self) -> bool:
        """Whether as many pairs were made as the pilot asked for."""
        return len(self.runs[FIRST]) >= self.needed

    @property
    def missing(self) -> int:
        """How many pairs the pilot asked for that were not made."""
        return max(0, self.needed - len(self.runs[FIRST]))


def orders(seed: int) -> Iterator[tuple[int, int]]:
    """Yield the order of each pair: of every two pairs one begins with either variant, at random which.

    What grows or falls steadily then cancels, and what comes back at intervals meets both by chance.
    """
    draw = random.Random(seed)
    while True:
        both = [(FIRST, SECOND), (SECOND, FIRST)]
        draw.shuffle(both)
        yield from both


def make_pairs(
    plan: Plan,
    make: Callable[[int, int], Run],
    joules: Callable[[Run], float],
    now: Callable[[], float] = time.monotonic,
) -> Pairs[Run]:
    """Make runs until there are as many as the first pairs asked for.

    After the pilot the number of pairs is chosen once, by the deviation found in it, such that a
    difference of the effect is found in 80 % of trials. To look again and again, and to stop at the first
    difference that shows, would find differences where there are none: so before that number only one that
    shows at 99.8 % ends it, looked for after the pilot and after each doubling of the pairs.

    Args:
        plan: the numbers.
        make: makes a run of a variant, 0 or 1; the second argument is the number of the pair, below 0 for
            warm-up.
        joules: energy of a run, above 0.
        now: seconds, for the limit of time.
    """
    runs: tuple[list[Run], list[Run]] = ([], [])
    needed = next_look = plan.pilot
    began = block_began = now()
    # Half a block of warm-up leaves the other half out, too: the pairs that count begin with a whole one.
    orders_of_pairs = itertools.islice(orders(plan.seed), plan.warm_up % BLOCK, None)
    for number, order in enumerate(orders_of_pairs, start=-plan.warm_up):
        if number % BLOCK == 0:
            time_now = now()
            if number > 0 and _is_over(plan, time_now - began, time_now - block_began):
                return Pairs(runs, needed, plan.pilot, out_of_time=True)
            block_began = time_now
        for variant in order:
            run = make(variant, number)
            if number >= 0:
                runs[variant].append(run)
        if number + 1 == plan.pilot:
            first, second = ([joules(run) for run in side] for side in runs)
            found = paired_ratio(first, second)
            needed = max(plan.pilot, found.repeats(plan.effect))
        if number + 1 >= min(needed, plan.limit):
            break
        if number + 1 == next_look:
            next_look *= 2
            if _shows(*([joules(run) for run in side] for side in runs), pilot=plan.pilot):
                return Pairs(runs, needed, plan.pilot, early=True)
    return Pairs(runs, needed, plan.pilot)


def _is_over(plan: Plan, seconds: float, of_last_block: float) -> bool:
    """Tell whether another block would end after the limit of time, if it takes as long as the last one."""
    return plan.max_seconds is not None and seconds + of_last_block > plan.max_seconds


def _shows(first: list[float], second: list[float], *, pilot: int) -> bool:
    found = paired_ratio(first, second, pilot, EARLY_CONFIDENCE)
    return not found.low <= 1 <= found.high
