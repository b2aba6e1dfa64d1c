"""Energy per unit of work, with power and delay, of windows of one name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlmeter.analysis.curve import P95_PERCENT, PEAK_PERCENT, PowerCurve
from mlmeter.analysis.phase_energies import Metered
from mlmeter.analysis.work_done import WINDOWS, Work, units_counted, work_by_window
from mlmeter.recording import Recording
from mlmeter.units import JOULES_PER_WATT_HOUR

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "session",
    "phase",
    "name",
    "unit",
    "count",
    "windows",
    "duration_seconds",
    "energy_joules",
    "low_joules",
    "high_joules",
    "provenance",
    "resolved",
    "joules_each",
    "joules_each_low",
    "joules_each_high",
    "wh_per_1000",
    "units_per_second",
    "energy_delay_joule_seconds",
    "energy_delay_squared_joule_seconds2",
    "mean_power_watts",
    "p95_power_watts",
    "peak_power_watts",
    "power_bin_seconds",
)
NO_NUMBERS = ("session", "phase", "name", "unit", "windows", "provenance", "resolved")
THOUSAND = 1_000


def efficiency_records(recording: Recording) -> list[dict[str, Any]]:
    """Return one record per phase, name of windows and unit of work; a missing number is None."""
    curve = PowerCurve(recording)
    return list(_records(recording, curve))


def efficiency(session: Metered) -> pd.DataFrame:
    """Return the records of `efficiency_records` as a frame."""
    import pandas as pd

    frame = pd.DataFrame(efficiency_records(session.recording), columns=list(COLUMNS))
    # A column without any number is one of numbers all the same.
    return frame.astype({name: float for name in COLUMNS if name not in NO_NUMBERS})


def _records(recording: Recording, curve: PowerCurve) -> Iterator[dict[str, Any]]:
    for phase in recording.resolution.phases:
        counted = [unit for unit, count in units_counted(recording, phase).items() if count > 0]
        by_unit = {unit: work_by_window(recording, phase, unit) for unit in counted}
        # Windows that count nothing are worth a row, too: each is one.
        bare = work_by_window(recording, phase, WINDOWS)
        told = {name for works in by_unit.values() for name in works}
        by_unit[WINDOWS] = {
            name: work for name, work in bare.items() if name is not None and name not in told
        }
        for unit, works in by_unit.items():
            for name, work in works.items():
                if name is not None:
                    yield _record(recording, curve, (phase, name, unit), work)


def _record(recording: Recording, curve: PowerCurve, key: tuple[str, str, str], work: Work) -> dict[str, Any]:
    phase, name, unit = key
    energy, each = work.energy, work.joules_each
    spans = _spans(recording, phase, name)
    # A window is what somebody waits for: an answer, a batch, an epoch.
    delay = work.duration_seconds / work.windows
    per_window = None if energy.value is None else energy.value / work.windows
    return {
        "session": recording.run.id,
        "phase": phase,
        "name": name,
        "unit": unit,
        "count": work.count,
        "windows": work.windows,
        "duration_seconds": work.duration_seconds,
        "energy_joules": energy.value,
        "low_joules": energy.low,
        "high_joules": energy.high,
        "provenance": None if energy.provenance is None else str(energy.provenance),
        "resolved": energy.resolved,
        "joules_each": each.value,
        "joules_each_low": each.low,
        "joules_each_high": each.high,
        "wh_per_1000": None if each.value is None else each.value * THOUSAND / JOULES_PER_WATT_HOUR,
        "units_per_second": _quotient(work.count, work.duration_seconds),
        "energy_delay_joule_seconds": None if per_window is None else per_window * delay,
        "energy_delay_squared_joule_seconds2": None if per_window is None else per_window * delay**2,
        "mean_power_watts": None if energy.value is None else _quotient(energy.value, work.duration_seconds),
        "p95_power_watts": curve.percentile(*spans, P95_PERCENT),
        "peak_power_watts": curve.percentile(*spans, PEAK_PERCENT),
        "power_bin_seconds": curve.bin_seconds if len(curve.watts) else None,
    }


def _spans(recording: Recording, phase: str, name: str) -> tuple[Any, Any]:
    """Return starts and ends of all windows of a phase and name."""
    import numpy as np

    windows = recording.resolution.windows
    labels = [row for row, label in enumerate(recording.windows.label_table) if label == (name, phase)]
    of_rows = np.concatenate(([-1], np.array(recording.windows.labels, dtype=np.int64)))
    chosen = np.isin(of_rows[windows.owner], labels)
    return windows.start[chosen], windows.end[chosen]


def _quotient(top: float, bottom: float) -> float | None:
    return top / bottom if bottom > 0 else None
