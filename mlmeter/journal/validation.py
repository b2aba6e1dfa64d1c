"""Whether the parts of a recording that was read from a file fit each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any

from mlmeter.device_time.times import REFERENCE_COLUMNS, SPAN_COLUMNS
from mlmeter.energy.counters import Rows
from mlmeter.energy.idle_power import IdlePower
from mlmeter.foreign_files import place
from mlmeter.measurement import Domain
from mlmeter.recording import TOTAL, Recording

# What lies outside is no hardware's, and would overflow where it is computed with.
PERIODS_SECONDS = (1e-9, 1e9)
FACTORS = (1e-18, 1e12)
RATIOS = (1e-6, 1e6)
MOST_WATTS = 1e12
MOST_MODULUS = 1 << 64


def checked(recording: Recording) -> Recording:
    """Return the recording if its parts fit each other.

    Raises:
        ValueError: they do not.
        TypeError: something is of another kind.
    """
    windows = recording.windows
    _check_nesting(windows.ids, windows.parent_ids)
    for column, names in ((windows.labels, windows.label_table), (windows.threads, windows.thread_names)):
        if len(column) and not 0 <= min(column) <= max(column) < len(names):
            raise ValueError("a window has a label or thread that is not there")
    for columns in (SPAN_COLUMNS, REFERENCE_COLUMNS):
        if len({len(getattr(recording.device, name)) for name in columns}) > 1:
            raise ValueError("columns of devices differ in length")
    for number, (domain, rows) in enumerate(recording.domains):
        with place(f"entry domain {number}"):
            _check_rows(domain, rows)
    _check_kinds(recording)
    # Whatever else is wrong shows when the energies are computed, which the caller wants anyway.
    recording.resolution.total(TOTAL)
    return recording


def _check_kinds(recording: Recording) -> None:
    """Raise TypeError or ValueError if something that tables show is no text or number."""
    run, windows, events = recording.run, recording.windows, recording.events
    domains = [domain for domain, _ in recording.domains]
    _check_all("run", str, (run.id, run.name, run.base_phase))
    _check_all("domain", str, (domain.name for domain in domains))
    _check_all("label", str, *windows.label_table)
    _check_all("event", str, *((event.kind, event.message) for event in events))
    reasons = (uses.reason or "" for uses in (recording.process.gpus.values() if recording.process else ()))
    _check_all("process", str, reasons)
    _check_all("event", (int, float), (event.time_seconds for event in events))
    _check_all("run", int, (run.start_ns, run.end_ns))
    _check_all("run", dict, [run.facts])
    if run.end_ns < run.start_ns:
        raise ValueError("the run ends before it begins")
    # Its watts are checked when they are taken from the facts.
    with place("baseline of the run"):
        _check_all("baseline", IdlePower, run.idle_powers.values())


def _check_all(entry: str, kind: type | tuple[type, ...], *groups: Iterable[Any]) -> None:
    """Raise TypeError if one of the values is of another kind; ValueError or OverflowError if not finite."""
    for value in chain.from_iterable(groups):
        if not isinstance(value, kind):
            raise TypeError(f"entry {entry}: {value!r} is of the wrong kind")
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise ValueError(f"entry {entry}: {value!r} is not finite")


def _check_rows(domain: Domain, rows: Rows) -> None:
    """Raise ValueError if the readings of a domain do not fit each other."""
    for name, value, least, most in (
        ("update period", domain.update_period_seconds, *PERIODS_SECONDS),
        ("measured update period", rows.period_seconds, *PERIODS_SECONDS),
        ("averaging window", domain.averaging_window_seconds, 0.0, PERIODS_SECONDS[1]),
        ("value of a count", domain.joules_per_count, *FACTORS),
        ("value of a count", domain.watts_per_count, *FACTORS),
        ("value of a count of power", domain.power_watts_per_count, *FACTORS),
        ("largest power", domain.max_power_watts, 0.0, MOST_WATTS),
        ("lower end of the interval", domain.interval_low_ratio, *RATIOS),
        ("upper end of the interval", domain.interval_high_ratio, *RATIOS),
        ("largest mean power", rows.largest_mean_watts, 0.0, MOST_WATTS),
        ("modulus", domain.modulus, 1, MOST_MODULUS),
        ("last reading", rows.last_ns, -MOST_MODULUS, MOST_MODULUS),
        ("number of readings", rows.readings, 0, MOST_MODULUS),
        ("number of resets", rows.resets, 0, MOST_MODULUS),
    ):
        if value is not None and not least <= value <= most:
            raise ValueError(f"the {name} of {domain.name} is {value}")


def _check_nesting(ids: Sequence[int], parent_ids: Sequence[int]) -> None:
    """Raise ValueError unless windows are numbered in order of opening, those inside after those around."""
    if any(number >= following for number, following in pairwise(ids)):
        raise ValueError("windows are not in order, or one is there twice")
    if any(parent >= number for number, parent in zip(ids, parent_ids, strict=True)):
        raise ValueError("a window is inside a later one")
