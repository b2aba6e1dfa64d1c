"""Whether runs keep a limit of energy, or use more than they used to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlmeter.analysis.compare import Verdict, compare
from mlmeter.analysis.figure import added
from mlmeter.analysis.run_figures import RUN, SESSION, Key, RunFigures
from mlmeter.errors import ArgumentError
from mlmeter.report.text import interval, number
from mlmeter.work import singular

DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a gate says.

    Attributes:
        passed: None if it cannot be judged.
        text: one sentence.
    """

    passed: bool | None
    text: str


def key_of(runs: Sequence[RunFigures], phase: str | None, unit: str | None) -> Key:
    """Return the phase and unit to be judged: of all runs, by default their whole sessions.

    Raises:
        ArgumentError: some run has no such phase or unit, or the unit is counted in several phases.
    """
    common = set.intersection(*(set(run.energies) for run in runs))
    if unit is None:
        wanted = (phase or SESSION, RUN)
        found = [wanted] if wanted in common else []
    else:
        found = sorted(key for key in common if key[1] == unit and phase in (None, key[0]))
    if len(found) > 1:
        phases = ", ".join(name for name, _ in found)
        raise ArgumentError(f"{unit} are counted in {phases}: say in which phase")
    if not found:
        there = ", ".join(f"{unit} in {name}" for name, unit in sorted(common))
        asked = (("phase", phase), ("unit", unit))
        wanted_text = ", ".join(f"{name}={value!r}" for name, value in asked if value is not None)
        raise ArgumentError(f"{wanted_text}: not in all runs; there are {there}")
    return found[0]


def keeps_limit(
    runs: Sequence[RunFigures], limit_joules: float, *, phase: str | None = None, unit: str | None = None
) -> Outcome:
    """Tell whether the mean energy of runs is within a limit.

    Judged by the best value; where that is not resolved by the interval, if all of it is on one side.

    Args:
        runs: at least one.
        limit_joules: of a run, or of one unit.
        phase, unit: as for `key_of`.

    Raises:
        ArgumentError: as for `key_of`.
    """
    key = key_of(runs, phase, unit)
    figures = [run.energies[key] for run in runs]
    what = _what(key, len(runs))
    mean = added(figures).times(1 / len(figures))
    if mean.value is None:
        return Outcome(None, f"{what}: cannot be judged, {mean.reason}")
    limits = interval(mean.low, mean.high)
    against = f"limit {number(limit_joules)} J"
    if not mean.resolved:
        if mean.low is not None and mean.low > limit_joules:
            return Outcome(False, f"{what}: above the {against}, in {limits} J")
        if mean.high is not None and mean.high <= limit_joules:
            return Outcome(True, f"{what}: within the {against}, in {limits} J")
        return Outcome(None, f"{what}: cannot be judged by the {against}, unresolved in {limits} J")
    passed = mean.value <= limit_joules
    word = "within" if passed else "above"
    text = f"{what}: {number(mean.value)} J ({limits}, {mean.provenance}), {word} the {against}"
    return Outcome(passed, text)


def keeps_baseline(
    runs: Sequence[RunFigures],
    baseline: Sequence[RunFigures],
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    phase: str | None = None,
    unit: str | None = None,
) -> Outcome:
    """Tell whether runs use more energy than a baseline: by more than the tolerance, and not by chance.

    Of single runs nobody knows the scatter: they are judged by the tolerance alone.

    Args:
        runs, baseline: at least one each.
        tolerance: 0.05 for 5 %.
        phase, unit: as for `key_of`.

    Raises:
        ArgumentError: as for `key_of` and `compare`.
    """
    if not 0 < tolerance < 1:
        raise ArgumentError(f"tolerance={tolerance!r}: expected a share between 0 and 1")
    key = key_of([*runs, *baseline], phase, unit)
    variants = {"baseline": list(baseline), "this": list(runs)}
    found = compare(variants, unit=key[1], effect=float(tolerance)).of(*key)
    what = _what(key, len(runs))
    if found.ratio.value is None or found.verdict is Verdict.NOT_COMPARABLE:
        return Outcome(None, f"{what}: cannot be judged by the baseline, {found.reason}")
    more = 100 * (found.ratio.value - 1)
    told = f"{what}: {more:+.1f} % against the baseline (tolerance {100 * tolerance:g} %)"
    if more <= 100 * tolerance:
        return Outcome(True, told)
    if found.verdict is Verdict.TOO_FEW:
        return Outcome(False, f"{told}; of so few runs it may be noise: keep 3 or more of each")
    if found.verdict is Verdict.MORE:
        return Outcome(False, told)
    return Outcome(True, f"{told}, which may be noise: {found.missing} runs are missing to tell")


def _what(key: Key, runs: int) -> str:
    phase, unit = key
    whole = "energy" if phase == SESSION else f"energy of {phase}"
    per = "" if unit == RUN else f" per {singular(unit)}"
    return f"{whole}{per}" + (f", mean of {runs} runs" if runs > 1 else "")
