"""A recording from what a journal holds; open windows of a killed run end at its last reading."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlmeter.device_time.times import REFERENCE_COLUMNS, SPAN_COLUMNS, DeviceTimes
from mlmeter.energy.chapter import Chapter
from mlmeter.energy.counters import Rows
from mlmeter.energy.cross_check import BothEnergies
from mlmeter.energy.process_rows import CPU_COLUMNS, GPU_COLUMNS, GpuRows, ProcessRows
from mlmeter.foreign_files import place
from mlmeter.journal import streams
from mlmeter.journal.past import CHAPTER, Restart
from mlmeter.measurement import Domain, Event, Provenance, Unavailable
from mlmeter.recording import Recording, Run
from mlmeter.window_records import OPEN, WINDOW_COLUMNS, Label, WindowRecords

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = Mapping[str, list["NDArray[Any]"]]
Entries = Mapping[str, Mapping[int, Any]]

# Readings of CPU times from before the time that counts, of which the first interval is made.
READINGS_BEFORE = 2
# The columns of `Rows` that every domain has.
ROW_COLUMNS = ("after_ns", "before_ns", "counts")


def rebuilt(entries: Entries, columns: Columns, restart: Restart) -> Recording:
    """Return the recording.

    Args:
        entries: of the whole journal.
        columns: by stream, from where reading began.
        restart: where that was.

    Raises:
        ValueError: something is not what a journal has; or KeyError, TypeError, IndexError,
            AttributeError, OverflowError.
    """
    with place("entry run 0"):
        run = Run(**entries["run"][0])
    domains = []
    for number, entry in sorted(entries.get("domain", {}).items()):
        with place(f"entry domain {number} or its rows"):
            # What is known at the end is better than what was known some seconds before.
            last_reading = None if run.finished else _last_reading(columns, number, entry)
            domains.append(_domain(entry, columns.get(f"rows.{number}"), last_reading, restart))
    with place("an entry event or unavailable"):
        events = tuple(Event(**event) for event in _listed(entries, "event"))
        if not run.finished:
            events = tuple(sorted(events, key=lambda event: event.time_seconds))
        unavailable = tuple(
            Unavailable(**{**item, "kinds": tuple(item["kinds"])}) for item in _listed(entries, "unavailable")
        )
    closed, opened = _closed(columns), entries.get("open", {}).get(0, [])
    if not run.finished:
        run = replace(run, end_ns=_end_ns(run, domains, closed, columns))
        events = (*events, _killed_event(run, opened, closed))
    with place("windows, or an entry label, thread, unit or open"):
        windows = _of_present(_windows(entries, columns, closed, opened, run.end_ns), restart)
    with place("entry chapter"):
        chapters = tuple(Chapter.from_json(chapter) for chapter in _listed(entries, CHAPTER))
    with place("spans or references of devices"):
        device = _device(entries, columns)
    with place("entry process 0 or its rows"):
        process = _process(entries, columns, restart)
    return Recording(
        run=run,
        domains=tuple(domains),
        windows=windows,
        unavailable=unavailable,
        events=events,
        device=device,
        process=process,
        chapters=chapters,
    )


def _listed(entries: Entries, kind: str) -> list[Any]:
    return [value for _, value in sorted(entries.get(kind, {}).items())]


def _domain(
    entry: dict[str, Any],
    rows: list[NDArray[Any]] | None,
    last_reading: tuple[int | None, int] | None,
    restart: Restart,
) -> tuple[Domain, Rows]:
    described = {name: value for name, value in entry.items() if name in Domain.__dataclass_fields__}
    described["provenance"] = Provenance(described["provenance"])
    times: dict[str, Any] = dict.fromkeys(ROW_COLUMNS, array("q"))
    if rows:
        first = restart.first_row(rows[0])
        times = streams.row_columns([column[first:] for column in rows])
    last_ns, count = last_reading or (entry["last_ns"], entry["readings"])
    check = entry.get("cross_check")
    return Domain(**described), Rows(
        **times,
        gaps_ns=tuple((int(start), int(end)) for start, end in entry["gaps_ns"]),
        last_ns=last_ns,
        readings=count,
        resets=entry["resets"],
        largest_mean_watts=entry["largest_mean_watts"],
        cross_check=BothEnergies(*check) if check else None,
        period_seconds=entry.get("period_seconds"),
    )


def _last_reading(columns: Columns, number: int, entry: Mapping[str, Any]) -> tuple[int | None, int]:
    """Return when a domain was read last, and how often it was read at least by then."""
    times, counts = [], [int(entry["readings"])]
    if entry["last_ns"] is not None:
        times.append(int(entry["last_ns"]))
    rows = columns.get(f"rows.{number}")
    if rows and len(rows[0]):
        times.append(int(rows[0][-1]))
    if "readings" in columns:
        domains, last_ns, readings = columns["readings"]
        mine = (domains == number).nonzero()[0]
        if len(mine):
            times.append(int(last_ns[mine[-1]]))
            counts.append(int(readings[mine[-1]]))
    return max(times, default=None), max(counts)


def _closed(columns: Columns) -> list[list[int]]:
    """Return the closed windows' columns, in order of closing."""
    found = columns.get("windows")
    return [[] for _ in WINDOW_COLUMNS] if found is None else streams.closed_windows(found)


def _end_ns(
    run: Run, domains: Sequence[tuple[Domain, Rows]], closed: list[list[int]], columns: Columns
) -> int:
    """Return when a killed run ends: at its last reading, or with the last window that was closed."""
    readings = [rows.last_ns for _, rows in domains if rows.last_ns is not None]
    clock = columns.get("clock")
    if not readings and clock is not None and len(clock[0]):
        readings = [int(clock[0][-1])]
    return max([run.start_ns, *readings, *closed[5]])


def _killed_event(run: Run, opened: list[list[Any]], closed: list[list[int]]) -> Event:
    still_open = len({window[0] for window in opened} - set(closed[0]))
    seconds = run.duration_seconds
    windows = f"; {still_open} windows were open and end there" if still_open else ""
    text = f"the program ended without stopping the meter: the last reading is of {seconds:.3f} s{windows}"
    return Event(time_seconds=seconds, kind="killed", domain=None, message=text)


def _windows(
    entries: Entries, columns: Columns, closed: list[list[int]], opened: list[list[Any]], end_ns: int
) -> WindowRecords:
    rows = list(zip(*closed, strict=True))
    known = set(closed[0])
    pieces = [tuple(map(int, piece)) for piece in _pieces(columns)]
    units = {
        _text(name): (
            streams.longs(columns[f"units.{number}"][0]),
            streams.typed("d", columns[f"units.{number}"][1]),
        )
        for number, name in sorted(entries.get("unit", {}).items())
        if f"units.{number}" in columns
    }
    for window_id, parent_id, label, thread, start_ns, flags, counts, spans in opened:
        if window_id in known or start_ns > end_ns:
            continue
        rows.append((window_id, parent_id, label, thread, start_ns, end_ns, flags | OPEN))
        for name, count in counts.items():
            ids, values = units.setdefault(str(name), (array("q"), array("d")))
            ids.append(window_id)
            values.append(count)
        # The last span of a window that was not interrupted just then has no end yet.
        pieces += [(window_id, start, end if end >= start else end_ns) for start, end in spans or ()]
    return WindowRecords(
        **_window_columns(sorted(_within(rows, end_ns))),
        pieces=tuple((int(window_id), int(start), int(end)) for window_id, start, end in pieces),
        units=units,
        label_table=tuple(Label(*map(_text, label)) for label in _listed(entries, "label")),
        thread_names=tuple(map(_text, _listed(entries, "thread"))),
    )


def _of_present(windows: WindowRecords, restart: Restart) -> WindowRecords:
    """Return the windows that are not in the sums of the past, and those of the past that they are in."""
    if restart.past_ns is None:
        return windows
    rows = zip(*(getattr(windows, name) for name in WINDOW_COLUMNS), strict=True)
    found = {row[0]: row for row in rows if row[5] > restart.past_ns}
    kept = {**{row[0]: tuple(row) for row in restart.spared}, **found}
    columns = _window_columns([kept[number] for number in sorted(kept)])
    units: dict[str, tuple[array[int], array[float]]] = {}
    for name in dict.fromkeys((*windows.units, *restart.units)):
        told = zip(*windows.units.get(name, ((), ())), strict=True)
        # Those of late come last: of metrics they count.
        pairs = [*restart.units.get(name, ()), *(pair for pair in told if pair[0] in found)]
        units[name] = array("q", [number for number, _ in pairs]), array("d", [value for _, value in pairs])
    pieces = tuple(piece for piece in windows.pieces if piece[0] in found)
    return replace(windows, **columns, pieces=pieces, units=units)


def _window_columns(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return rows of windows as the columns of `WindowRecords`."""
    columns = zip(*rows, strict=True) if rows else [()] * len(WINDOW_COLUMNS)
    return {
        name: array(typecode, values)
        for (name, typecode), values in zip(WINDOW_COLUMNS.items(), columns, strict=True)
    }


def _within(rows: list[tuple[int, ...]], end_ns: int) -> list[tuple[int, ...]]:
    """Return the windows with those that another thread closed after the end of the session open."""
    return [
        row if row[5] <= end_ns else (*row[:5], end_ns, row[6] | OPEN) for row in rows if row[4] <= end_ns
    ]


def _pieces(columns: Columns) -> list[tuple[int, int, int]]:
    if "pieces" not in columns:
        return []
    ids, starts, durations = columns["pieces"]
    return list(zip(ids.tolist(), starts.tolist(), (starts + durations).tolist(), strict=True))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _device(entries: Entries, columns: Columns) -> DeviceTimes:
    uuids = {int(number): str(uuid) for number, uuid in entries.get("device", {}).items()}
    found = {
        name: streams.typed(typecode, column)
        for (name, typecode), column in zip(SPAN_COLUMNS.items(), columns.get("spans", ()), strict=False)
    }
    references = {name: array(typecode) for name, typecode in REFERENCE_COLUMNS.items()}
    for number in uuids:
        parts = columns.get(f"references.{number}")
        if parts is not None:
            numbers = array("i", [number]) * len(parts[0])
            for into, column in zip(references.values(), (numbers, *map(streams.longs, parts)), strict=True):
                into.extend(column)
    return DeviceTimes(**found, **references, uuids=uuids)


def _process(entries: Entries, columns: Columns, restart: Restart) -> ProcessRows | None:
    """Return what tells a process' part; None from the run of a whole machine."""
    entry = entries.get("process", {}).get(0)
    if entry is None:
        return None
    gpus = {
        str(item["domain"]): GpuRows(
            **_typed(GPU_COLUMNS, columns.get(f"process.{number}"), restart), reason=item["reason"]
        )
        for number, item in enumerate(entry["gpus"])
    }
    return ProcessRows(
        **_typed(CPU_COLUMNS, columns.get("process"), restart), gpus=gpus, reason=entry["reason"]
    )


def _typed(
    typecodes: Mapping[str, str], columns: list[NDArray[Any]] | None, restart: Restart
) -> dict[str, Any]:
    if columns is None:
        return {name: array(typecode) for name, typecode in typecodes.items()}
    first = restart.first_row(columns[0], READINGS_BEFORE)
    return {
        name: streams.typed(typecode, column[first:])
        for (name, typecode), column in zip(typecodes.items(), columns, strict=True)
    }
