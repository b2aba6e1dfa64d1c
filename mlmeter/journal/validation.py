"""Whether the parts of a recording that was read from a file fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

from mlmeter.device_time.times import REFERENCE_COLUMNS, SPAN_COLUMNS
from mlmeter.energy.counters import Rows
from mlmeter.energy.idle_power import IdlePower
from mlmeter.measurement import Domain
from mlmeter.recording import TOTAL, Recording


def checked(recording: Recording) -> Recording:
    """Return the recording if its parts fit each other.

    Raises:
        ValueError: they do not.
        TypeError: something is of another kind.
    """
    windows = recording.windows
    for column, names in ((windows.labels, windows.label_table), (windows.threads, windows.thread_names)):
        if len(column) and not 0 <= min(column) <= max(column) < len(names):
            raise ValueError("a window has a label or thread that is not there")
    for columns in (SPAN_COLUMNS, REFERENCE_COLUMNS):
        if len({len(getattr(recording.device, name)) for name in columns}) > 1:
            raise ValueError("columns of devices differ in length")
    for domain, rows in recording.domains:
        _check_rows(domain, rows)
    _check_kinds(recording)
    # Whatever else is wrong shows when the energies are computed, which the caller wants anyway.
    recording.resolution.total(TOTAL)
    return recording


def _check_kinds(recording: Recording) -> None:
    """Raise TypeError or ValueError if something that tables show is no text or number."""
    run, windows, events = recording.run, recording.windows, recording.events
    domains = [domain for domain, _ in recording.domains]
    _check_all(
        str,
        (run.id, run.name, run.base_phase),
        (domain.name for domain in domains),
        *windows.label_table,
        *((event.kind, event.message) for event in events),
        (uses.reason or "" for uses in (recording.process.gpus.values() if recording.process else ())),
    )
    _check_all(
        (int, float),
        (event.time_seconds for event in events),
        *((domain.interval_low_ratio, domain.interval_high_ratio) for domain in domains),
    )
    _check_all(int, (run.start_ns, run.end_ns))
    _check_all(dict, [run.facts])
    if run.end_ns < run.start_ns:
        raise ValueError("the run ends before it begins")
    # Its watts are checked when they are taken from the facts.
    _check_all(IdlePower, run.idle_powers.values())


def _check_all(kind: type | tuple[type, ...], *groups: Iterable[Any]) -> None:
    """Raise TypeError if one of the values is of another kind; ValueError or OverflowError if not finite."""
    for value in chain.from_iterable(groups):
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is of the wrong kind")
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise ValueError(f"{value!r} is not finite")


def _check_rows(domain: Domain, rows: Rows) -> None:
    """Raise ValueError if the readings of a domain do not fit each other."""
    if not domain.update_period_seconds > 0:
        raise ValueError(f"the update period of {domain.name} is {domain.update_period_seconds}")
    if rows.period_seconds is not None and not rows.period_seconds > 0:
        raise ValueError(f"the measured update period of {domain.name} is {rows.period_seconds}")
