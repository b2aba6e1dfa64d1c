"""Which variant uses less energy, by how much, and whether that is more than noise."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from mlmeter.analysis.figure import Figure
from mlmeter.analysis.groups import GroupRatio, independent_ratio, paired_ratio, pareto_front
from mlmeter.analysis.ratio import ratio
from mlmeter.analysis.run_figures import RUN, SESSION, Key, RunFigures
from mlmeter.analysis.variants import Runs, groups_of, keys_of
from mlmeter.errors import ArgumentError
from mlmeter.measurement import Provenance

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_EFFECT = 0.02
# Sensors of two boards of one model may differ by 5 % each, either way.
GAIN_RATIO = 1.10
# Warmer silicon leaks more.
MOST_CELSIUS_APART = 5.0


class Verdict(enum.StrEnum):
    """What a comparison found."""

    LESS = "uses less"
    MORE = "uses more"
    SAME = "same"  # any difference is smaller than the effect asked for
    NOT_SHOWN = "no difference shown"
    TOO_FEW = "too few runs"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One variant against the first one, in one phase and unit.

    Attributes:
        variant: its name.
        phase: a phase, or ``"session"`` for the whole.
        unit: joules per what; ``"run"`` for the whole phase.
        runs: how many of the variant, and of the first one.
        joules: mean of the variant's runs.
        base_joules: mean of the first variant's.
        ratio: joules of the variant / joules of the first, with its 95 % interval. With fewer than two runs
            of either the interval has the meter's own uncertainty only.
        verdict: what that means.
        repeats: runs of each, in all, with which a difference of the effect asked for is found in 80 % of
            trials; None if nothing tells how much runs scatter.
        missing: how many of them are still to be made; 0 if the question is settled.
        method: how the interval was made.
        reason: why they cannot be compared, or an empty text.
    """

    variant: str
    phase: str
    unit: str
    runs: tuple[int, int]
    joules: float | None
    base_joules: float | None
    ratio: Figure
    verdict: Verdict
    repeats: int | None = None
    missing: int | None = None
    method: str = ""
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether more runs would not change what is known."""
        return self.verdict in (Verdict.LESS, Verdict.MORE, Verdict.SAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A metric of the runs of one variant: mean, standard deviation (None of one run), number of runs."""

    metric: str
    mean: float
    deviation: float | None
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `mlmeter.compare` found.

    Attributes:
        variants: names; all are compared with the first.
        differences: one per variant, phase and unit.
        qualities: by variant, each metric of its runs.
        front: variants that no other beats in energy and quality together; None without a common metric.
        quality: the metric of the front; None without one.
        effect: smallest difference that matters.
        notes: what a reader must know.
    """

    variants: tuple[str, ...]
    differences: tuple[Difference, ...]
    qualities: Mapping[str, tuple[Quality, ...]]
    front: tuple[str, ...] | None
    quality: str | None
    effect: float
    notes: tuple[str, ...]

    def of(self, phase: str = SESSION, unit: str = RUN, variant: str | None = None) -> Difference:
        """Return one difference; of the second variant where none is named.

        Raises:
            ArgumentError: there is none such.
        """
        for difference in self.differences:
            same = difference.variant == (variant or self.variants[1])
            if same and (difference.phase, difference.unit) == (phase, unit):
                return difference
        there = ", ".join(sorted({f"{found.phase}/{found.unit}" for found in self.differences}))
        raise ArgumentError(f"nothing was compared for {phase}/{unit}; there is {there}")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per variant, phase and unit."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of `to_frame` as plain values."""
        return [_record(difference) for difference in self.differences]

    def __str__(self) -> str:
        from mlmeter.analysis.compare_text import comparison_text

        return comparison_text(self)


def compare(
    a: Runs | Mapping[str, Runs],
    b: Runs | None = None,
    *,
    unit: str | None = None,
    quality: str | None = None,
    falling: bool = False,
    effect: float = DEFAULT_EFFECT,
    paired: bool = False,
    pilot: int | None = None,
) -> Comparison:
    """Compare the energy of two or more variants, phase by phase and unit by unit.

    A difference is called one where the 95 % interval of the ratio leaves out 1; of twenty comparisons of
    equal variants one does so by chance. One run of each is never enough: nothing tells how runs scatter.

    Args:
        a: sessions of the first variant; or variants by name, the first of which is the baseline.
        b: sessions of the second variant.
        unit: compare this unit only, such as ``"tokens"``; ``"run"`` for whole phases.
        quality: metric for the Pareto front, as in ``window.metric(accuracy=...)``; None for the only one.
        falling: True for a quality that is better the lower it is.
        effect: smallest difference that matters, 0.02 for 2 %; it decides how many repeats are missing.
        paired: True if the n-th runs of all variants were made one after the other.
        pilot: with `paired`, how many pairs there were when the number of pairs was chosen (`mlmeter bench`).

    Raises:
        ArgumentError: nothing to compare, a session in two variants, units or metrics of some only.
    """
    groups = groups_of(a, b)
    _check_effect(effect)
    if paired and len({len(runs) for runs in groups.values()}) > 1:
        raise ArgumentError("paired=True: the variants have different numbers of runs")
    names = tuple(groups)
    keys = keys_of(groups, unit)
    notes = [*_notes(groups)]
    differences = [
        _difference(name, key, groups[names[0]], groups[name], effect=effect, paired=paired, pilot=pilot)
        for name in names[1:]
        for key in keys
    ]
    qualities = {name: tuple(_qualities(runs)) for name, runs in groups.items()}
    metric = _metric(qualities, quality)
    return Comparison(
        variants=names,
        differences=tuple(differences),
        qualities=qualities,
        front=None if metric is None else _front(groups, keys[0], metric, falling=falling),
        quality=metric,
        effect=effect,
        notes=tuple(notes),
    )


def _difference(
    name: str,
    key: Key,
    base: Sequence[RunFigures],
    runs: Sequence[RunFigures],
    *,
    effect: float,
    paired: bool,
    pilot: int | None,
) -> Difference:
    phase, unit = key
    sides = [[run.energies[key] for run in group if key in run.energies] for group in (runs, base)]
    reason = _not_comparable(sides)
    values = [[figure.value or 0.0 for figure in figures] for figures in sides]
    means = [fmean(found) if found and not reason else None for found in values]
    common: dict[str, Any] = {
        "variant": name,
        "phase": phase,
        "unit": unit,
        "runs": (len(values[0]), len(values[1])),
        "joules": means[0],
        "base_joules": means[1],
    }
    if reason:
        figure = Figure(value=None, resolved=False, reason=reason)
        return Difference(**common, ratio=figure, verdict=Verdict.NOT_COMPARABLE, reason=reason)
    provenance = max(
        (figure.provenance for side in sides for figure in side if figure.provenance), default=None
    )
    if min(common["runs"]) < 2:
        single = ratio(sides[0][0], sides[1][0], independent=provenance is not Provenance.ESTIMATED)
        return Difference(**common, ratio=single, verdict=Verdict.TOO_FEW, method="the meter's interval only")
    if paired and common["runs"][0] == common["runs"][1]:
        found = paired_ratio(values[1], values[0], pilot)
    else:
        found = independent_ratio(values[1], values[0])
    verdict, reason = _verdict(found, effect, other_devices=_other_devices(base, runs))
    repeats = found.repeats(effect)
    settled = verdict in (Verdict.LESS, Verdict.MORE, Verdict.SAME)
    return Difference(
        **common,
        ratio=Figure(value=found.ratio, low=found.low, high=found.high, provenance=provenance),
        verdict=verdict,
        repeats=repeats,
        missing=0 if settled else max(0, repeats - min(common["runs"])),
        method=found.method,
        reason=reason,
    )


def _not_comparable(sides: Sequence[Sequence[Figure]]) -> str:
    """Return why energies cannot be compared; an empty text if they can."""
    everything = [figure for side in sides for figure in side]
    for figure in everything:
        if figure.value is None:
            return figure.reason or "no energy could be read"
        if not figure.resolved or figure.value <= 0:
            return "unresolved: the time is too short for the sensor"
    worth = [{figure.provenance is Provenance.ESTIMATED for figure in side} for side in sides]
    if worth[0] != worth[1] or any(len(kinds) > 1 for kinds in worth):
        return "some energies are measured, others estimated"
    return ""


def _verdict(found: GroupRatio, effect: float, *, other_devices: bool) -> tuple[Verdict, str]:
    threshold = GAIN_RATIO if other_devices else 1.0
    if found.high < 1 / threshold:
        return Verdict.LESS, ""
    if found.low > threshold:
        return Verdict.MORE, ""
    if other_devices:
        return Verdict.NOT_COMPARABLE, "different devices, whose sensors may differ by 5 % each"
    if 1 / (1 + effect) < found.low and found.high < 1 + effect:
        return Verdict.SAME, ""
    return Verdict.NOT_SHOWN, ""


def _other_devices(base: Sequence[RunFigures], runs: Sequence[RunFigures]) -> bool:
    first = {(run.host, run.devices) for run in base}
    return {(run.host, run.devices) for run in runs} != first


def _notes(groups: Mapping[str, Sequence[RunFigures]]) -> Iterator[str]:
    """Say what may lead to wrong conclusions."""
    runs = [run for group in groups.values() for run in group]
    if any(run.provenance is Provenance.ESTIMATED for run in runs):
        yield "Energies are ESTIMATED from load: a variant that makes the same load cost less looks equal."
    warmth = {
        name: [run.temperature_celsius for run in group if run.temperature_celsius is not None]
        for name, group in groups.items()
    }
    means = {name: fmean(found) for name, found in warmth.items() if found}
    if means and max(means.values()) - min(means.values()) > MOST_CELSIUS_APART:
        told = ", ".join(f"{name} {mean:.0f} °C" for name, mean in means.items())
        yield f"The variants did not start equally warm ({told}): run them in turns, as `mlmeter bench` does."


def _qualities(runs: Sequence[RunFigures]) -> Iterator[Quality]:
    for metric in dict.fromkeys(name for run in runs for name in run.metrics):
        values = [run.metrics[metric] for run in runs if metric in run.metrics]
        deviation = stdev(values) if len(values) > 1 else None
        yield Quality(metric=metric, mean=fmean(values), deviation=deviation, runs=len(values))


def _metric(qualities: Mapping[str, Sequence[Quality]], wanted: str | None) -> str | None:
    common = set.intersection(*({quality.metric for quality in found} for found in qualities.values()))
    if wanted is not None:
        if wanted not in common:
            names = ", ".join(sorted(common)) or "none"
            raise ArgumentError(f"quality={wanted!r}: not a metric of all variants; these are: {names}")
        return wanted
    return next(iter(common)) if len(common) == 1 else None


def _front(
    groups: Mapping[str, Sequence[RunFigures]], key: Key, metric: str, *, falling: bool
) -> tuple[str, ...] | None:
    points = []
    for runs in groups.values():
        joules = [
            figure.value for run in runs if (figure := run.energies.get(key)) and figure.value is not None
        ]
        if not joules:
            return None
        points.append((fmean(joules), fmean(run.metrics[metric] for run in runs if metric in run.metrics)))
    chosen = pareto_front(points, falling=falling)
    return tuple(name for name, best in zip(groups, chosen, strict=True) if best)


def _check_effect(effect: object) -> None:
    if not isinstance(effect, float) or not 0 < effect < 1:
        raise ArgumentError(f"effect={effect!r}: expected a share between 0 and 1, such as 0.02 for 2 %")


def _record(difference: Difference) -> dict[str, Any]:
    found = difference.ratio
    return {
        "variant": difference.variant,
        "phase": difference.phase,
        "unit": difference.unit,
        "runs": difference.runs[0],
        "base_runs": difference.runs[1],
        "joules": difference.joules,
        "base_joules": difference.base_joules,
        "ratio": found.value,
        "ratio_low": found.low,
        "ratio_high": found.high,
        "verdict": str(difference.verdict),
        "repeats": difference.repeats,
        "missing": difference.missing,
        "method": difference.method,
        "provenance": None if found.provenance is None else str(found.provenance),
        "reason": difference.reason,
    }
