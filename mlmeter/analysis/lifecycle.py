"""What a model's life costs: phases, joules per inference, and when serving has cost as much as training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlmeter.analysis.figure import Figure, added, unknown, worst
from mlmeter.analysis.phase_energies import (
    TUNING,
    Metered,
    check_distinct,
    energies_by_phase,
    overlaps,
    phase_energies,
    phases_of,
    recordings_of,
)
from mlmeter.analysis.ratio import ratio, share_of
from mlmeter.analysis.work_done import Work, merged, units_counted, work_by_window
from mlmeter.errors import ArgumentError
from mlmeter.measurement import Provenance
from mlmeter.recording import Recording
from mlmeter.work import WINDOWS, check_counts

if TYPE_CHECKING:
    import pandas as pd

TRAINING, INFERENCE = "training", "inference"
PAID_ONCE = (TRAINING, TUNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseShare:
    """One phase of a life.

    Attributes:
        phase: its name.
        energy: joules.
        share: energy / energy of all phases, 0 to 1.
        duration_seconds: time; shared time counts by share.
    """

    phase: str
    energy: Figure
    share: Figure
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Inference windows of one name, or all of them.

    Attributes:
        name: of the windows; None for all inference together.
        unit: what they count; ``"windows"`` if they count nothing: then each is one.
        count: how many units were metered.
        windows: in how many windows.
        energy: of these windows, joules.
        joules_each: energy / count, with the scatter from window to window in the interval.
        break_even: number of units that use as much energy as what is paid once.
    """

    name: str | None
    unit: str
    count: float
    windows: int
    energy: Figure
    joules_each: Figure
    break_even: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Energy of a whole life with a given number of inferences.

    Attributes:
        inferences: how many, in the unit of `Lifecycle.serving`.
        inference: energy of all of them, joules.
        total: with what is paid once, joules.
        inference_share: inference / total, 0 to 1.
    """

    inferences: float
    inference: Figure
    total: Figure
    inference_share: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """What the phases of a model's life cost; made by `Session.lifecycle` and `mlmeter.lifecycle`.

    Attributes:
        phases: every phase, with its share of all energy.
        paid_once: energy of training and tuning, or of what was named instead, joules.
        paid_once_phases: the phases in it.
        serving: all inference together; None if none was metered.
        servings: inference by name of its windows.
        forecast: for the expected number of inferences; None if no number was given.
        independent: whether errors of what is paid once and of inference have nothing in common.
        notes: what a reader must know.
    """

    phases: tuple[PhaseShare, ...]
    paid_once: Figure
    paid_once_phases: tuple[str, ...]
    serving: Serving | None
    servings: tuple[Serving, ...]
    forecast: Forecast | None
    independent: bool
    notes: tuple[str, ...] = ()

    def expect(self, inferences: float, name: str | None = None) -> Forecast:
        """Return the energy of a life with so many inferences.

        Args:
            inferences: how many, more than 0.
            name: of the inference windows whose joules count; None for all inference together.

        Raises:
            ArgumentError: the number is not finite and above 0, or no such inference was metered.
        """
        each = self._served(name).joules_each
        inference = each.times(_checked_count(inferences))
        return Forecast(
            inferences=inferences,
            inference=inference,
            total=added((self.paid_once, inference)),
            inference_share=share_of(inference, self.paid_once, independent=self.independent),
        )

    def _served(self, name: str | None) -> Serving:
        if self.serving is None:
            raise ArgumentError(
                "no inference was metered, or 0 of its unit: open windows with meter.inference(samples=n)"
            )
        found = [serving for serving in (self.serving, *self.servings) if serving.name == name]
        if not found:
            names = ", ".join(repr(serving.name) for serving in self.servings)
            raise ArgumentError(f"no inference window is called {name!r}: there are {names}")
        return found[0]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per phase: joules, interval, share of all energy and its interval."""
        import pandas as pd

        return pd.DataFrame([_phase_record(phase) for phase in self.phases])

    def __str__(self) -> str:
        from mlmeter.analysis.lifecycle_text import lifecycle_text

        return lifecycle_text(self)


def lifecycle(
    sessions: Metered | Iterable[Metered],
    *,
    tuning: Iterable[Metered] = (),
    expected_inferences: float | None = None,
    unit: str | None = None,
    phases: Mapping[str, str] | None = None,
    paid_once: Sequence[str] = PAID_ONCE,
) -> Lifecycle:
    """Return what the phases of a model's life cost, over one or many sessions.

    Intervals of ratios: Fieller's for what was measured in different sessions. Where errors may go
    together, in one session or with estimates, they span from the most favourable to the least
    favourable ends.

    Args:
        sessions: one session or several; their phases are added up.
        tuning: sessions of runs that were only tried out; all of their energy is the phase ``"tuning"``.
        expected_inferences: how many inferences the model will serve, for `Lifecycle.forecast`.
        unit: what an inference is, such as ``"samples"`` or ``"tokens"``; None for the only unit that the
            inference windows count, or the windows themselves where they count none.
        phases: other names of phases, such as ``{"pretrain": "training", "serve": "inference"}``.
        paid_once: phases that are paid once, whatever is served.

    Raises:
        ArgumentError: a session is given twice; a phase or unit is not there, or the unit has to be named;
            an expected number is not above 0, or nothing tells what an inference costs.
    """
    chosen, tried = recordings_of(sessions), recordings_of(tuning)
    if not chosen and not tried:
        raise ArgumentError("no session was given: lifecycle needs at least one")
    check_distinct([*chosen, *tried])
    renamed = dict(phases or {})
    wrong: list[object] = [label for label in renamed.values() if not _is_label(label)]
    if wrong:
        raise ArgumentError(f'phases=...: {wrong[0]!r} is no label, such as "training"')
    found = energies_by_phase(chosen, tried, renamed)
    _check_phases(found, chosen, renamed, paid_once)
    served = [
        (recording, phase)
        for recording in chosen
        for phase in phases_of(recording)
        if renamed.get(phase, phase) == INFERENCE
    ]
    counted = _unit(served, unit)
    works = merged(work_by_window(recording, phase, counted) for recording, phase in served)
    once = [phase for phase in dict.fromkeys(paid_once) if phase in found]
    paid = (
        added(found[phase][0] for phase in once)
        if once
        else unknown(f"no {' or '.join(paid_once)} was metered")
    )
    independent = _are_independent(chosen, renamed, paid_once) and not _is_estimated(found)
    servings = [_serving(name, counted, work, paid, independent=independent) for name, work in works.items()]
    life = Lifecycle(
        phases=tuple(_shares(found)),
        paid_once=paid,
        paid_once_phases=tuple(once),
        serving=next((serving for serving in servings if serving.name is None), None),
        servings=tuple(serving for serving in servings if serving.name is not None),
        forecast=None,
        independent=independent,
        notes=tuple(overlaps([*chosen, *tried])),
    )
    if expected_inferences is None:
        return life
    return replace(life, forecast=life.expect(expected_inferences))


def crossover(a: Lifecycle, b: Lifecycle) -> Figure:
    """Return after how many inferences two models have cost the same, training included.

    That is (E_b - E_a) / (e_a - e_b): below it the one that is cheaper to make is cheaper, above it the
    other. Where one is cheaper in both there is no such number, and the reason says which.

    Raises:
        ArgumentError: one of them has no inference, or they count different units.
    """
    if a.serving is None or b.serving is None:
        raise ArgumentError("both lives need metered inference to be compared")
    if a.serving.unit != b.serving.unit:
        raise ArgumentError(f"different units: {a.serving.unit} in one, {b.serving.unit} in the other")
    once = _difference(b.paid_once, a.paid_once)
    each = _difference(a.serving.joules_each, b.serving.joules_each)
    if once is None or each is None:
        return unknown("the energy of one of them is not known")
    if once[0] * each[0] <= 0:
        cheaper = "first" if once[0] >= 0 and each[0] <= 0 else "second"
        return unknown(f"the {cheaper} one costs less in training and per inference")
    provenance = worst((a.paid_once, b.paid_once, a.serving.joules_each, b.serving.joules_each))
    top, bottom = (
        Figure(
            value=abs(value), low=max(0.0, abs(value) - half), high=abs(value) + half, provenance=provenance
        )
        for value, half in (once, each)
    )
    return ratio(top, bottom, independent=a.independent and b.independent)


def _difference(more: Figure, less: Figure) -> tuple[float, float] | None:
    """Return more - less and its half width, ends added; None if one is not known."""
    half_width = more.half_width + less.half_width
    if more.value is None or less.value is None or not math.isfinite(half_width):
        return None
    return more.value - less.value, half_width


def _check_phases(
    found: Mapping[str, object],
    chosen: Sequence[Recording],
    renamed: Mapping[str, str],
    paid_once: Sequence[str],
) -> None:
    """Check that names of phases mean something; a life without training may be the second half of one."""
    there = list(dict.fromkeys(phase for recording in chosen for phase in phases_of(recording)))
    for phase in renamed:
        if phase not in there:
            raise ArgumentError(f"phases={{{phase!r}: ...}}: no such phase; there are {', '.join(there)}")
    if INFERENCE in paid_once:
        raise ArgumentError('paid_once: "inference" is what is paid again and again')
    if not any(phase in found for phase in (*paid_once, INFERENCE)):
        names = ", ".join(repr(phase) for phase in found) or "no phase at all"
        raise ArgumentError(
            f"the sessions have neither {' nor '.join(paid_once)} nor inference, but {names}: open windows "
            'with meter.training(...) and meter.inference(...), or say phases={"mine": "training"}'
        )


def _unit(served: Sequence[tuple[Recording, str]], unit: str | None) -> str:
    """Return the unit of inference."""
    counted: dict[str, float] = {}
    for recording, phase in served:
        for name, count in units_counted(recording, phase).items():
            counted[name] = counted.get(name, 0.0) + count
    # What was never above 0 is no choice, unless it is all there is.
    names = sorted(name for name, count in counted.items() if count > 0) or sorted(counted)
    if unit is None:
        if len(names) > 1:
            raise ArgumentError(f"inference counts {', '.join(names)}: say which, as unit={names[0]!r}")
        return names[0] if names else WINDOWS
    if unit != WINDOWS and unit not in counted:
        there = ", ".join(names) or "no work at all"
        raise ArgumentError(f"unit={unit!r}: no inference window counted any; they count {there}")
    return unit


def _is_label(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _are_independent(
    chosen: Sequence[Recording], renamed: Mapping[str, str], paid_once: Sequence[str]
) -> bool:
    """Whether no session has both what is paid once and inference."""
    for recording in chosen:
        roles = {renamed.get(phase, phase) for phase, _, _ in phase_energies(recording)}
        if INFERENCE in roles and roles & set(paid_once):
            return False
    return True


def _is_estimated(found: Mapping[str, tuple[Figure, float]]) -> bool:
    return any(energy.provenance is Provenance.ESTIMATED for energy, _ in found.values())


def _serving(name: str | None, unit: str, work: Work, paid_once: Figure, *, independent: bool) -> Serving:
    each = work.joules_each
    return Serving(
        name=name,
        unit=unit,
        count=work.count,
        windows=work.windows,
        energy=work.energy,
        joules_each=each,
        break_even=ratio(paid_once, each, independent=independent),
    )


def _shares(found: Mapping[str, tuple[Figure, float]]) -> Iterator[PhaseShare]:
    for phase, (energy, seconds) in found.items():
        others = [other for name, (other, _) in found.items() if name != phase]
        yield PhaseShare(
            phase=phase,
            energy=energy,
            # Phases of one session share its counter: what one has too much another has too little.
            share=share_of(energy, added(others), independent=False) if others else _whole(energy),
            duration_seconds=seconds,
        )


def _whole(energy: Figure) -> Figure:
    if energy.value is None:
        return energy
    return Figure(value=1.0, low=1.0, high=1.0, provenance=energy.provenance)


def _phase_record(phase: PhaseShare) -> dict[str, object]:
    energy, share = phase.energy, phase.share
    return {
        "phase": phase.phase,
        "duration_seconds": phase.duration_seconds,
        "energy_joules": energy.value,
        "low_joules": energy.low,
        "high_joules": energy.high,
        "provenance": None if energy.provenance is None else str(energy.provenance),
        "resolved": energy.resolved,
        "share_ratio": share.value,
        "share_low_ratio": share.low,
        "share_high_ratio": share.high,
    }


def _checked_count(inferences: float) -> float:
    check_counts({"expected_inferences": inferences})
    if inferences <= 0:
        raise ArgumentError(f"expected_inferences={inferences!r}: expected a finite number above 0")
    return float(inferences)
