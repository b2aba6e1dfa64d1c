"""The variants of a comparison: their runs, and the phases and units that all of them have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlmeter.analysis.phase_energies import Metered, check_distinct, recordings_of
from mlmeter.analysis.run_figures import RUN, Key, RunFigures, run_figures
from mlmeter.errors import ArgumentError

# Runs of one variant: sessions, or what was kept of them.
Runs = Metered | RunFigures | Iterable["Metered | RunFigures"]


def groups_of(a: Runs | Mapping[str, Runs], b: Runs | None) -> dict[str, list[RunFigures]]:
    """Return the runs of each variant, by name.

    Raises:
        ArgumentError: fewer than two variants, one without runs, or a session in two.
    """
    if isinstance(a, Mapping):
        if b is not None:
            raise ArgumentError("give either two variants, or all of them by name")
        groups = {str(name): _figures(runs) for name, runs in a.items()}
    elif b is None:
        raise ArgumentError("compare needs two variants: compare(a, b), or compare({name: runs, ...})")
    else:
        groups = {"a": _figures(a), "b": _figures(b)}
    if len(groups) < 2:
        raise ArgumentError("compare needs two variants or more")
    for name, runs in groups.items():
        if not runs:
            raise ArgumentError(f"variant {name!r} has no run")
    seen: dict[str, str] = {}
    for name, runs in groups.items():
        for run in runs:
            if run.session in seen:
                raise ArgumentError(f"session {run.session} is in {seen[run.session]!r} and in {name!r}")
        seen.update({run.session: name for run in runs})
    return groups


def _figures(runs: Runs) -> list[RunFigures]:
    given: Any = runs
    # A path, which is a mistake, is not taken letter by letter.
    many = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    kept = [run for run in many if isinstance(run, RunFigures)]
    recordings = recordings_of(run for run in many if not isinstance(run, RunFigures))
    check_distinct(recordings)
    return [*kept, *(run_figures(recording) for recording in recordings)]


def keys_of(groups: Mapping[str, Sequence[RunFigures]], unit: str | None) -> list[Key]:
    """Return the phases and units that all variants have, the whole session first.

    Raises:
        ArgumentError: they count different units, or not the one asked for.
    """
    by_group = {name: {key for run in runs for key in run.energies} for name, runs in groups.items()}
    first = next(iter(groups.values()))
    order = list(dict.fromkeys(key for run in first for key in run.energies))
    common = [key for key in order if all(key in keys for keys in by_group.values())]
    if unit is None:
        _check_units(by_group)
        return common
    chosen = [key for key in common if key[1] == unit]
    if not chosen:
        told = "; ".join(f"{name}: {_units_text(keys)}" for name, keys in by_group.items())
        raise ArgumentError(f"unit={unit!r} is not counted in one phase by all variants. They count {told}")
    return chosen


def _check_units(by_group: Mapping[str, set[Key]]) -> None:
    """Refuse variants that count different things in one phase: their joules each say nothing together."""
    phases = set.intersection(*({phase for phase, _ in keys} for keys in by_group.values()))
    for phase in sorted(phases):
        units = {name: {unit for p, unit in keys if p == phase} - {RUN} for name, keys in by_group.items()}
        if all(units.values()) and not set.intersection(*units.values()):
            told = "; ".join(f"{name}: {', '.join(sorted(found))}" for name, found in units.items())
            raise ArgumentError(f"{phase} counts different units ({told}): count the same, or say unit='run'")


def _units_text(keys: Iterable[Key]) -> str:
    return ", ".join(sorted(f"{unit} in {phase}" for phase, unit in keys))
