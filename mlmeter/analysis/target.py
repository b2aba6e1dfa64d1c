"""Energy to a target, such as an accuracy of 90 %."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from mlmeter.analysis.figure import Figure, unknown, worst
from mlmeter.analysis.phase_energies import Metered
from mlmeter.errors import ArgumentError
from mlmeter.work import METRIC_PREFIX


def energy_to_target(
    joules: Iterable[float], values: Iterable[float], target: float, *, falling: bool = False
) -> float | None:
    """Return the energy at which a value first reached a target, linear between evaluations.

    Args:
        joules: energy used up to each evaluation, never falling, such as
            ``frame["energy_joules"].cumsum()`` of a frame of epochs.
        values: what each evaluation found.
        target: the value to reach.
        falling: True for a value that is better the lower it is, such as a loss.

    Returns:
        joules; None if the target was not reached. That of the first evaluation if it had reached it.

    Raises:
        ArgumentError: the lengths differ, nothing was evaluated, or joules fall or are no numbers.

    Example:
        >>> energy_to_target([1000.0, 1500.0], [0.88, 0.92], 0.90)
        1250.0
    """
    energies, found = [float(item) for item in joules], [float(item) for item in values]
    if len(energies) != len(found) or not energies:
        raise ArgumentError(
            f"{len(energies)} energies and {len(found)} values: expected as many, at least one"
        )
    falls = any(later < earlier for earlier, later in pairwise(energies))
    if falls or not all(math.isfinite(energy) for energy in energies):
        raise ArgumentError(
            "joules must be finite and never fall: give the energy used up to each evaluation"
        )
    share = crossing(found, target, falling=falling)
    if share is None:
        return None
    row, part = share
    return energies[row] if part == 0 else energies[row - 1] + part * (energies[row] - energies[row - 1])


def crossing(values: Sequence[float], target: float, *, falling: bool) -> tuple[int, float] | None:
    """Return the first row that reaches a target, and where between the row before and it, 0 to 1.

    The part is 0 for the first row of all: whether it was reached before is not known.
    """
    sign = -1.0 if falling else 1.0
    for row, value in enumerate(values):
        if sign * value >= sign * target:
            before = values[row - 1] if row else math.nan
            return row, (target - before) / (value - before) if row and math.isfinite(before) else 0.0
    return None


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def energy_to(session: Metered, metric: str, target: float, *, falling: bool = False) -> Figure:
    """Return the energy from the start of a session until a metric of its windows reached a target.

    Not known of a session with chapters, which keep no metric of single windows.

    Raises:
        ArgumentError: no window has the metric, or the target is no number.
    """
    import numpy as np

    from mlmeter.analysis.curve import energy_until
    from mlmeter.chapters.whole import told_by_sums
    from mlmeter.energy.windows import hulls
    from mlmeter.frame.units import metrics_by_window

    if not _is_finite(target):
        raise ArgumentError(f"target={target!r}: expected a finite number")
    recording = session.recording
    if reason := told_by_sums(recording):
        return unknown(reason)
    metrics = metrics_by_window(recording)
    column = metrics.get(f"{METRIC_PREFIX}{metric}")
    if column is None:
        names = ", ".join(name.removeprefix(METRIC_PREFIX) for name in metrics) or "none"
        raise ArgumentError(
            f"no window has the metric {metric!r}; there are: {names}. Use window.metric({metric}=...)"
        )
    rows = np.flatnonzero(~np.isnan(column))
    ends = hulls(recording.resolution.windows)[1][rows]
    order = np.argsort(ends, kind="stable")
    values = column[rows][order].tolist()
    found = crossing(values, target, falling=falling)
    if found is None:
        best = min(values) if falling else max(values)
        return unknown(f"{metric} {target:g} was not reached: {best:g} at best")
    row, part = found
    last = energy_until(recording, ends[order][max(row - 1, 0) : row + 1])
    before, after = last[0], last[-1]
    if part == 0 or before.value is None or after.value is None:
        return after
    value, low, high = (
        (first or 0.0) + part * ((then or 0.0) - (first or 0.0))
        for first, then in ((before.value, after.value), (before.low, after.low), (before.high, after.high))
    )
    return Figure(value=value, low=low, high=high, provenance=worst(last))
