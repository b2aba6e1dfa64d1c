"""What of a run is compared with other runs: energies by phase and unit, quality, and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlmeter.analysis.figure import Figure
from mlmeter.analysis.phase_energies import phase_energies
from mlmeter.analysis.work_done import units_counted, work_by_window
from mlmeter.foreign_files import MISFITS, damaged
from mlmeter.measurement import Provenance
from mlmeter.recording import SESSION_ROW, TOTAL, Recording
from mlmeter.work import METRIC_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

# The whole session as a phase, and a whole phase as a unit.
SESSION, RUN = "session", "run"
# Phase and unit.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """One run.

    Attributes:
        session: its id.
        name: the user's name for it.
        host: the machine.
        devices: ids of the domains whose energy counts.
        energies: joules by phase and unit; of the unit ``"run"`` those of the whole phase, else joules each.
        metrics: last value of each metric in the run.
        temperature_celsius: highest of its devices at the start; None if none told.
    """

    session: str
    name: str
    host: str | None
    devices: tuple[str, ...]
    energies: Mapping[Key, Figure]
    metrics: Mapping[str, float]
    temperature_celsius: float | None

    @property
    def provenance(self) -> Provenance | None:
        """Of the whole session."""
        found = self.energies.get((SESSION, RUN))
        return None if found is None else found.provenance

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "session": self.session,
            "name": self.name,
            "host": self.host,
            "devices": list(self.devices),
            "metrics": dict(self.metrics),
            "temperature_celsius": self.temperature_celsius,
            "energies": [
                {
                    "phase": phase,
                    "unit": unit,
                    "joules": figure.value,
                    "low_joules": figure.low,
                    "high_joules": figure.high,
                    "resolved": figure.resolved,
                    "provenance": None if figure.provenance is None else str(figure.provenance),
                }
                for (phase, unit), figure in self.energies.items()
            ],
        }

    @classmethod
    def from_json(cls, document: Any, path: str) -> RunFigures:
        """Return what `to_json` gave.

        Raises:
            RunFileError: it is something else.
        """
        try:
            energies = {
                (str(row["phase"]), str(row["unit"])): Figure(
                    value=_number(row["joules"]),
                    low=_number(row["low_joules"]),
                    high=_number(row["high_joules"]),
                    resolved=bool(row["resolved"]),
                    provenance=None if row["provenance"] is None else Provenance(row["provenance"]),
                )
                for row in document["energies"]
            }
            return cls(
                session=str(document["session"]),
                name=str(document["name"]),
                host=document["host"],
                devices=tuple(map(str, document["devices"])),
                energies=energies,
                metrics={str(name): float(value) for name, value in document["metrics"].items()},
                temperature_celsius=_number(document["temperature_celsius"]),
            )
        except MISFITS as error:
            raise damaged(Path(path), "is no baseline of mlmeter", error) from error


def run_figures(recording: Recording) -> RunFigures:
    """Return what of a session is compared."""
    run = recording.run
    return RunFigures(
        session=run.id,
        name=run.name,
        host=run.facts.get("host"),
        devices=tuple(sorted(domain.uuid or domain.id for domain, _ in recording.domains if domain.counted)),
        energies=dict(_energies(recording)),
        metrics=_last_metrics(recording),
        temperature_celsius=_temperature(run.facts.get("device_states")),
    )


def _energies(recording: Recording) -> Iterator[tuple[Key, Figure]]:
    from mlmeter.energy.columns import energy_value

    total = energy_value(recording.resolution.total(TOTAL), SESSION_ROW)
    yield (SESSION, RUN), Figure.of_energy(total)
    for phase, energy, _ in phase_energies(recording):
        yield (phase, RUN), energy
        for unit, count in units_counted(recording, phase).items():
            work = work_by_window(recording, phase, unit).get(None) if count > 0 else None
            if work is not None:
                yield (phase, unit), work.energy.times(1 / work.count)


def _last_metrics(recording: Recording) -> dict[str, float]:
    import numpy as np

    from mlmeter.frame.units import metrics_by_window

    return {
        name.removeprefix(METRIC_PREFIX): float(column[~np.isnan(column)][-1])
        for name, column in metrics_by_window(recording).items()
        if not np.isnan(column).all()
    }


def _temperature(states: Any) -> float | None:
    """Return the highest temperature that a device told at the start."""
    found = []
    for state in states.values() if isinstance(states, dict) else ():
        start = state.get("start") if isinstance(state, dict) else None
        celsius = start.get("temperature_celsius") if isinstance(start, dict) else None
        if isinstance(celsius, (int, float)):
            found.append(float(celsius))
    return max(found, default=None)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
