"""From the recording of a session to its impact."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlmeter.errors import ArgumentError, ProviderError
from mlmeter.impact.conversion import ImpactFactors, impact_factors, static_grid
from mlmeter.impact.factors import GRAMS_PER_KWH, Factor
from mlmeter.impact.grid import INTENSITY
from mlmeter.impact.of_meter import NAMES, factors_of_facts
from mlmeter.impact.providers.base import CarbonProvider
from mlmeter.impact.result import SESSION, Impact, PhaseImpact, RunFacts
from mlmeter.impact.series import MARGINAL, ROUNDING_SECONDS, IntensitySeries, Step
from mlmeter.measurement import COUNTED_KINDS, Energy, Provenance
from mlmeter.recording import SESSION_ROW, TOTAL, Recording
from mlmeter.work import is_metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KIND_NAMES = {"cpu": "CPUs", "dram": "memory", "gpu": "GPUs"}


def impact_of(
    recording: Recording,
    grid: object = None,
    *,
    pue: object = None,
    price: object = None,
    embodied: object = None,
    water: object = None,
    fallback: object = None,
) -> Impact:
    """Return the impact of a session; arguments and errors as of `Session.impact`."""
    notes, of_meter = [], factors_of_facts(recording.run.facts)
    if fallback is not None and isinstance(grid, (str, float, int, Factor, type(None))):
        raise ArgumentError("fallback= is for a provider or an IntensitySeries given as grid=")
    # A class has the methods of its objects, too.
    if isinstance(grid, (CarbonProvider, IntensitySeries)) and not isinstance(grid, type):
        grids, note = _grid_over_time(recording, grid, fallback)
        notes.append(note)
    else:
        grids = [static_grid(of_meter.grid if grid is None else grid)] * (1 + len(_phases(recording)))
    factors = impact_factors(grids[0], pue=pue, price=price, embodied=embodied, water=water)
    # What is named here goes before what was named at the meter.
    factors = replace(factors, pue=factors.pue or of_meter.pue, price=factors.price or of_meter.price)
    here = dict(zip(NAMES, (grid, pue, price), strict=True))
    kept = [name for name in of_meter.named if here[name] is None]
    if kept:
        notes.append(f"as named at the meter: {', '.join(kept)}")
    whole, phases = _parts(recording, factors, grids[1:])
    name = fallback if grids[0].place and fallback is not None else grid
    name = of_meter.place if name is None else name
    return Impact(
        session=recording.run.id,
        name=recording.run.name,
        whole=whole,
        phases=phases,
        notes=(*notes, *_notes(recording, factors, whole.metered)),
        facts=_run_facts(recording, name if isinstance(name, str) else ""),
    )


def impact_as_metered(recording: Recording) -> Impact | None:
    """Return the impact with the factors that were named at the meter; None if none was.

    Raises:
        RunFileError: somebody has written nonsense in their place.
    """
    return impact_of(recording) if factors_of_facts(recording.run.facts).named else None


def _parts(
    recording: Recording, factors: ImpactFactors, grids: list[Factor]
) -> tuple[PhaseImpact, tuple[PhaseImpact, ...]]:
    """Return the impact of the session and of each phase that has any time."""
    from mlmeter.chapters.tables import build_table
    from mlmeter.chapters.whole import results
    from mlmeter.energy.columns import energy_value

    whole_session = results(recording)
    names = sorted(unit for unit in whole_session.unit_names if not is_metric(unit))
    rows = [record for record in build_table(recording, "phases").records() if record["domain"] == TOTAL]
    columns = whole_session.total("phases")
    phases = []
    for number, (record, grid) in enumerate(zip(rows, grids, strict=True)):
        units = {name: float(record[name]) for name in names if record.get(name, 0.0) > 0}
        seconds = float(record["duration_seconds"])
        if seconds > 0:
            energy = energy_value(columns, number)
            phases.append(
                PhaseImpact(str(record["phase"]), seconds, energy, replace(factors, grid=grid), units)
            )
    energy = energy_value(whole_session.total(TOTAL), SESSION_ROW)
    counts = {name: sum(float(row[name]) for row in rows if row.get(name, 0.0) > 0) for name in names}
    units = {name: count for name, count in counts.items() if count > 0}
    whole = PhaseImpact(SESSION, recording.run.duration_seconds, energy, factors, units)
    return whole, tuple(phases)


def _grid_over_time(
    recording: Recording, grid: CarbonProvider | IntensitySeries, fallback: object
) -> tuple[list[Factor], str]:
    """Return the mean intensities of session and phases, weighted with their power, and a note.

    Raises:
        ProviderError: the provider gives nothing, and there is no fallback.
        ArgumentError: the series does not cover the run, and there is no fallback.
    """
    run = recording.run
    start = run.start_wall_ns * 1e-9
    # A run of no length has an intensity, too.
    end = start + max(run.duration_seconds, ROUNDING_SECONDS)
    # A misspelt fallback is told now, not on the day on which it is needed.
    instead = None if fallback is None else static_grid(fallback)
    try:
        series = grid if isinstance(grid, IntensitySeries) else _asked(grid, start, end)
        if not series.covers(start, end):
            raise ArgumentError(
                f"{series.source}: values from {series.span_text} do not cover the run, "
                f"{_when(start)} to {_when(end)} UTC; give fallback= to use a yearly average instead"
            )
    except (ProviderError, ArgumentError) as error:
        if instead is None:
            raise
        return [instead] * (1 + len(_phases(recording))), f"fallback: {instead}, because {error}"
    steps = series.between(start, end)
    found = _weighted(recording, steps, start)
    note = f"intensity over time: {len(steps)} values of {series.source}, weighted with the power curve"
    if series.estimated:
        note += "; the source calls some of them forecast or estimated"
    if recording.chapters:
        note += (
            f"; of the first {recording.past_seconds:.0f} s only the power of the whole session is kept: "
            "phases there are weighted with it"
        )
    return [_mean(series, steps, weights) for weights in found], note


def _asked(provider: CarbonProvider, start: float, end: float) -> IntensitySeries:
    """Return what a provider, which may be the user's own, says about a time in seconds since 1970.

    Raises:
        ProviderError: it fails, in whatever way, or returns something else.
    """
    name = str(getattr(provider, "name", type(provider).__name__))
    try:
        series = provider.series(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
    except ProviderError:
        raise
    except Exception as error:  # what it stands on is not known
        raise ProviderError(name, f"{type(error).__name__}: {error}") from error
    if not isinstance(series, IntensitySeries):
        raise ProviderError(name, f"returned {type(series).__name__} in place of an IntensitySeries")
    return series


def _weighted(recording: Recording, steps: tuple[Step, ...], start: float) -> list[NDArray[np.float64]]:
    """Return joules of each step: of the session, then of each phase."""
    import numpy as np

    from mlmeter.impact.energy_over_time import phase_steps

    edges = np.array([step.start - start for step in steps] + [steps[-1].end - start])
    by_phase = phase_steps(recording, edges)
    return [by_phase.sum(axis=0), *by_phase]


def _mean(series: IntensitySeries, steps: tuple[Step, ...], weights: NDArray[np.float64]) -> Factor:
    """Return the mean of steps by energy; by time where there was none."""
    parts = weights if weights.sum() > 0 else [max(step.end - step.start, 1e-9) for step in steps]
    total = float(sum(parts))

    def mean(values: list[float]) -> float:
        return sum(float(part) * value for part, value in zip(parts, values, strict=True)) / total

    name = f"{series.kind} {INTENSITY}" if series.kind == MARGINAL else INTENSITY
    return Factor(
        name=name,
        value=mean([step.grams_per_kwh for step in steps]),
        low=mean([step.low for step in steps]),
        high=mean([step.high for step in steps]),
        unit=GRAMS_PER_KWH,
        place=series.place,
        year=f"{_when(steps[0].start)} to {_when(steps[-1].end)} UTC",
        source=series.source,
        basis=series.basis,
    )


def _notes(recording: Recording, factors: ImpactFactors, energy: Energy) -> list[str]:
    kinds = [
        kind for kind in COUNTED_KINDS if any(d.kind == kind and d.counted for d, _ in recording.domains)
    ]
    notes = []
    if kinds:
        names = ", ".join(KIND_NAMES[kind] for kind in kinds)
        notes.append(
            f"energy is that of {names}; power supplies, fans, disks and network of the machine are not in it"
            + (", so PUE is applied to less than the machine uses" if factors.pue else "")
        )
    if recording.process is not None:
        notes.append("energy is that of this process and its children")
    if energy.energy_joules is None:
        notes.append("no energy could be read: see session.domains()")
    elif not energy.resolved:
        notes.append("the session is too short for its sensors: read the intervals, not the values")
    if energy.provenance is Provenance.ESTIMATED:
        notes.append("energy is an estimate of a formula, not measured")
    if not recording.run.finished:
        notes.append("the session was still running")
    if factors.grid.value is None:
        notes.append("emissions are a range over the world's grids: name a place with grid= for a value")
    elif factors.grid.basis.startswith("annual average"):
        notes.append("carbon intensity is a yearly average; single hours differ")
    if factors.pue is None:
        notes.append("no PUE was given: cooling and losses of a data centre are not in it")
    return notes


def _run_facts(recording: Recording, grid_name: str) -> RunFacts:
    from mlmeter.chapters.whole import results

    run, whole = recording.run, results(recording)
    joules: dict[str, float | None] = {}
    models: dict[str, tuple[str, ...]] = {}
    for kind in COUNTED_KINDS:
        domains = [domain for domain, _ in recording.domains if domain.kind == kind and domain.counted]
        models[kind] = tuple(domain.model_name or domain.name for domain in domains)
        value = float(whole.total(TOTAL, kind)["energy_joules"][SESSION_ROW]) if domains else float("nan")
        joules[kind] = None if value != value else value
    return RunFacts(
        start=datetime.fromtimestamp(run.start_wall_ns * 1e-9, UTC).isoformat(timespec="seconds"),
        scope="machine" if recording.process is None else "process",
        joules_by_kind=joules,
        models=models,
        host={name: value for name, value in run.facts.items() if isinstance(value, (str, int))},
        grid_name=grid_name,
    )


def _phases(recording: Recording) -> tuple[str, ...]:
    from mlmeter.chapters.whole import results

    return results(recording).phases


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
