"""Energy above idle as further columns of the tables of phases and windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.baseline import DynamicEnergies, above_idle, sum_above_idle
from mlmeter.energy.windows import add_to_enclosing
from mlmeter.recording import TOTAL, Recording

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.columns import Columns
    from mlmeter.energy.idle_power import IdlePower

DYNAMIC_COLUMNS = (
    "idle_joules",
    "dynamic_joules",
    "dynamic_low_joules",
    "dynamic_high_joules",
    "sigma_dynamic_joules",
    "above_idle",
)
NOT_DISTINGUISHABLE = "not distinguishable from idle"


class DynamicEnergy:
    """Energies above idle of a recording, domain by domain in the order of its tables.

    Args:
        recording: whose manifest has a baseline.
        spans: ``"phases"``, ``"exclusive"``, ``"inclusive"`` or ``"total"``.
        seconds: gives the time whose energy the rows of a domain have; None for that of the recording.
    """

    def __init__(
        self,
        recording: Recording,
        spans: str,
        seconds: Callable[[str], NDArray[np.float64]] | None = None,
    ) -> None:
        self._recording, self._spans = recording, spans
        self._given_seconds = seconds
        self._powers = idle_powers(recording)
        self._counted = {domain.name for domain, _ in recording.domains if domain.counted}
        self._parts: dict[str, DynamicEnergies] = {}

    def columns(self, domain: str, energies: Columns) -> Columns:
        """Return the columns of a domain; those of the total are asked for last."""
        energy = tuple(energies[name] for name in ("energy_joules", "low_joules", "high_joules"))
        statistical, systematic = (
            np.nan_to_num(energies[f"sigma_{kind}_joules"]) for kind in ("statistical", "systematic")
        )
        sigma = np.hypot(statistical, systematic)
        value, low, high = energy
        if domain == TOTAL:
            if not self._counted or not self._counted <= set(self._parts):
                return _unknown(len(value))
            parts = [self._parts[name] for name in sorted(self._counted)]
            return _columns(sum_above_idle(parts, (value, low, high), sigma))
        if domain not in self._powers:
            return _unknown(len(value))
        seconds = (self._given_seconds or self.seconds)(domain)
        metered = energies["coverage_ratio"] * seconds
        found = above_idle((value, low, high), sigma, (metered, seconds), self._powers[domain])
        self._parts[domain] = found
        return _columns(found)

    def seconds(self, domain: str) -> NDArray[np.float64]:
        """Return the time whose energy a row of the recording has; shared time counts by share."""
        found, rest = self._seconds_of_rest(domain), self._recording.rest
        if rest.before is None or self._spans not in rest.before.carried:
            return found
        return found + rest.before.carried_column(self._spans, f"seconds:{domain}", rest.windows.ids)

    def _seconds_of_rest(self, domain: str) -> NDArray[np.float64]:
        resolution = self._recording.resolution
        base = resolution.bases.get(domain, resolution.host)
        ownership, windows = base.ownership, base.windows
        pieces = np.asarray(ownership.share_out(np.diff(ownership.edges)), dtype=np.float64)
        if self._spans == TOTAL:
            return np.array([pieces.sum()])
        if self._spans == "inclusive":
            return np.asarray(add_to_enclosing(windows, ownership, pieces[None, :])[0])
        owner, size = ownership.owner, len(windows)
        if self._spans == "phases":
            owner, size = resolution.phase_of_window[owner], len(resolution.phases)
        return np.asarray(np.bincount(owner, pieces, size), dtype=np.float64)


def idle_powers(recording: Recording) -> dict[str, IdlePower]:
    """Return the idle powers to tell energies above idle by, by domain; none without a baseline.

    They are those of the whole machine, which energies of a part of it cannot be compared with.
    """
    return {} if recording.process is not None else recording.run.idle_powers


def _columns(found: DynamicEnergies) -> Columns:
    known = ~np.isnan(found.joules)
    told = np.full(len(known), None, dtype=object)
    told[known] = found.above_idle[known]
    values = (found.idle, found.joules, found.low, found.high, np.where(known, found.sigma, np.nan), told)
    return dict(zip(DYNAMIC_COLUMNS, values, strict=True))


def _unknown(size: int) -> Columns:
    columns: Columns = {name: np.full(size, np.nan) for name in DYNAMIC_COLUMNS[:-1]}
    return {**columns, DYNAMIC_COLUMNS[-1]: np.full(size, None, dtype=object)}
