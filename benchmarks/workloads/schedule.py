"""The order of blocks, and how often they are repeated."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.workloads.metering import Block, cpu_seconds
from benchmarks.workloads.study import Study, Variant
from mlmeter.analysis.groups import paired_ratio

SEEDS_PER_ROUND = 10_000
# Of fewer rounds nothing tells how much they scatter.
FEWEST_ROUNDS = 3

# A round by name of the variant.
Round = dict[str, Block]
Progress = Callable[[str], None]
Meter = Callable[[Variant, range], Block]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a study is done.

    Attributes:
        block_seconds: CPU time of a block; shorter work is repeated.
        pilot: rounds that tell how many are needed.
        limit: most rounds.
        effect: smallest difference that is to be found, 0.05 for 5 %.
    """

    block_seconds: float
    pilot: int
    limit: int
    effect: float = 0.05


@dataclass(slots=True)
class Result:
    """The rounds of a study.

    Attributes:
        joules: which field of a block is compared: ``"joules"`` or ``"machine_joules"``.
        rounds: those whose energies are known, in order of time.
        needed: how many rounds the pilot asked for.
        left_out: rounds in which an energy was not known.
    """

    study: Study
    plan: Plan
    joules: str
    rounds: list[Round] = field(default_factory=list)
    needed: int = 0
    left_out: int = 0

    def per_unit(self, name: str, field_name: str | None = None) -> list[float]:
        """Return joules, or another field, per unit of one variant, round by round."""
        return [getattr(one[name], field_name or self.joules) / one[name].units for one in self.rounds]


def run(
    study: Study, meter: Meter, plan: Plan, *, joules: str, seed: int, until: float, progress: Progress
) -> Result:
    """Make rounds: in each every variant once, in an order drawn for it alone.

    The first rounds tell how many find a difference of the effect in 80 % of trials. Later ones change
    that number no more: to look again and again, and stop when it pleases, finds too many differences.

    Args:
        study: what to do.
        meter: does the work of a variant for each of some seeds.
        plan: the numbers.
        joules: as of `Result`.
        seed: of the order.
        until: `time.monotonic` after which no round begins, if there are three.
        progress: is told what is being done.
    """
    result, draw = Result(study, plan, joules), random.Random(seed)
    repeats = {one.name: _repeats(one, plan.block_seconds) for one in study.variants}
    target = plan.pilot
    for number in range(2 * plan.limit):
        progress(f"{study.key}: round {len(result.rounds) + 1} of {target}")
        found = _round(study, meter, draw, number, repeats)
        if all(getattr(block, joules) > 0 for block in found.values()):
            result.rounds.append(found)
        else:
            result.left_out += 1
        done = len(result.rounds)
        if done == plan.pilot and not result.needed:
            result.needed = max(plan.pilot, _needed(result))
            target = min(result.needed, plan.limit)
        if done >= target or (done >= FEWEST_ROUNDS and time.monotonic() > until):
            break
    return result


def _round(study: Study, meter: Meter, draw: random.Random, number: int, repeats: dict[str, int]) -> Round:
    # All variants of a round get the same seeds: the same first weights, where shapes allow.
    first = number * SEEDS_PER_ROUND
    order = draw.sample(study.variants, len(study.variants))
    return {one.name: meter(one, range(first, first + repeats[one.name])) for one in order}


def _repeats(variant: Variant, block_seconds: float) -> int:
    """Return how often work fits into a block; this first time, not metered, also warms up."""
    before = cpu_seconds()
    outcome = variant.work(0)
    spent = cpu_seconds() - before + outcome.other_cpu_seconds
    return min(SEEDS_PER_ROUND, max(1, math.ceil(block_seconds / max(spent, 1e-6))))


def _needed(result: Result) -> int:
    base, *others = (one.name for one in result.study.variants)
    first = result.per_unit(base)
    return max(paired_ratio(first, result.per_unit(name)).repeats(result.plan.effect) for name in others)
