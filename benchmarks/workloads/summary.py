"""The figures of a study: joules per sample, ratios with intervals, accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmarks.workloads.schedule import Result
from mlmeter.analysis.groups import CONFIDENCE, paired_ratio
from mlmeter.analysis.student import student_quantile

# Share of standard deviations of a normal law within which 95 % lie.
NORMAL_FACTOR = 1.96


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_percent(self) -> float:
        """Half of the interval, in percent of the value."""
        return 50 * (self.high - self.low) / self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant against the first one.

    Attributes:
        variant: its name.
        accuracy: mean; None where nothing was predicted.
        accuracy_deviation: standard deviation between rounds, whose seeds differ; 0 for one fixed model.
        joules_per_sample: scatter of rounds only, not the error of the sensor or the formula.
        joules_per_unit: the same per unit of the comparison.
        ratio: joules per unit of the variant / of the first one; None for the first itself.
        cpu_ratio: the same of CPU time.
        own_ratio: the same of this process' part of the joules; None where it is not known.
    """

    variant: str
    accuracy: float | None
    accuracy_deviation: float
    joules_per_sample: Interval
    joules_per_unit: Interval
    ratio: Interval | None = None
    cpu_ratio: Interval | None = None
    own_ratio: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study with its figures; `needed` and `joules` as of `schedule.Result`."""

    key: str
    title: str
    unit: str
    joules: str
    rounds: int
    needed: int
    limit: int
    effect: float
    left_out: int
    rows: tuple[Row, ...]


def summarise(result: Result) -> Summary:
    """Return the figures of a study of three rounds or more."""
    study, plan = result.study, result.plan
    base = study.variants[0].name
    own_known = all(block.joules > 0 for one in result.rounds for block in one.values())
    rows = []
    for name in (variant.name for variant in study.variants):
        per_sample = [getattr(one[name], result.joules) / one[name].samples for one in result.rounds]
        told = [block.accuracy for one in result.rounds if (block := one[name]).accuracy is not None]
        ratios = {}
        if name != base:
            ratios = {
                "ratio": _ratio(result, base, name, result.joules),
                "cpu_ratio": _ratio(result, base, name, "cpu_seconds"),
                "own_ratio": _ratio(result, base, name, "joules") if own_known else None,
            }
        rows.append(
            Row(
                variant=name,
                accuracy=fmean(told) if told else None,
                accuracy_deviation=stdev(told) if len(told) > 1 else 0.0,
                joules_per_sample=_mean(per_sample),
                joules_per_unit=_mean(result.per_unit(name)),
                **ratios,
            )
        )
    return Summary(
        key=study.key,
        title=study.title,
        unit=study.unit,
        joules=result.joules,
        rounds=len(result.rounds),
        needed=result.needed or plan.pilot,
        limit=plan.limit,
        effect=plan.effect,
        left_out=result.left_out,
        rows=tuple(rows),
    )


def accuracy_interval(accuracy: float, samples: int) -> Interval:
    """Return what so few test samples leave open about an accuracy (E. B. Wilson 1927)."""
    square = NORMAL_FACTOR**2 / samples
    middle = (accuracy + square / 2) / (1 + square)
    half = math.sqrt(accuracy * (1 - accuracy) * square + square * square / 4) / (1 + square)
    return Interval(accuracy, middle - half, middle + half)


def _ratio(result: Result, base: str, name: str, field_name: str) -> Interval:
    first, other = (result.per_unit(one, field_name) for one in (base, name))
    # The number of rounds was chosen by the pilot's scatter, and so the interval rests on it.
    pilot = result.plan.pilot if len(first) > result.plan.pilot else None
    found = paired_ratio(first, other, pilot)
    return Interval(found.ratio, found.low, found.high)


def _mean(values: Sequence[float]) -> Interval:
    """Return the geometric mean: what scatters does so by factors, and ratios are those of these means."""
    logs = [math.log(value) for value in values]
    half = student_quantile(CONFIDENCE, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Interval(*(math.exp(fmean(logs) + shift) for shift in (0.0, -half, half)))
