"""What of a running session has been written to its journal, and what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mlmeter.energy.row_columns import RowMark
from mlmeter.journal import streams
from mlmeter.journal.encoding import Part
from mlmeter.journal.file import Entry
from mlmeter.measurement import Event
from mlmeter.sampling.sources import ROWS_BEFORE
from mlmeter.window_log import WindowLog, WindowMark
from mlmeter.window_records import Closed

if TYPE_CHECKING:
    from mlmeter.collected import Collected
    from mlmeter.device_time.session import SessionDevices
    from mlmeter.energy.process_rows import ProcessRows
    from mlmeter.sampling.process_reader import ProcessReader

# Of more windows that are open at a time, those opened last are lost if the program is killed.
MOST_OPEN = 10_000
# What changes with every reading, but hardly matters, is written less often.
SLOW_ENTRIES_NS = 60_000_000_000


@dataclass(frozen=True)
class Written:
    """How much of a session is in its journal, as counts and marks; of events, which."""

    rows: tuple[RowMark, ...]
    windows: WindowMark = field(default_factory=WindowMark)
    spans: int = 0
    references: Mapping[int, int] = field(default_factory=dict)
    cpu: int = 0
    gpus: Mapping[str, int] = field(default_factory=dict)
    events: frozenset[Event] = frozenset()
    # By kind and number, what tells whether an entry that can change must be written again.
    entries: Mapping[tuple[str, int], object] = field(default_factory=dict)
    slow_ns: int | None = None


def nothing_written(session: Collected) -> Written:
    """Return the state of an empty journal of a session that has just begun."""
    return Written(tuple(session.sampler.marks_at(session.sources, session.start_ns, ROWS_BEFORE)))


def news(session: Collected, written: Written, now_ns: int) -> tuple[list[Entry], dict[str, Part], Written]:
    """Return the entries and parts of streams that are new, and what will have been written with them."""
    clock = streams.part(streams.CLOCK, [[now_ns], [session.sampler.clock.wall_ns()]])
    found: dict[str, Part] = {"clock": clock}
    contents: dict[tuple[str, int], object] = {}
    slow = written.slow_ns is None or now_ns - written.slow_ns >= SLOW_ENTRIES_NS
    entries, marks = _rows_news(session, written, found, contents, slow=slow)
    windows = _window_news(session.log, written, found, entries, contents)
    spans, references = _device_news(session.devices, written, found, entries)
    cpu, gpus = _process_news(session.processes, written, found, entries, contents)
    events = _event_news(session.events(now_ns), written, entries)
    if written.slow_ns is None:
        missing = enumerate(session.unavailable)
        entries += [("unavailable", number, asdict(item)) for number, item in missing]
    if slow:
        entries.append(("run", 0, asdict(session.run(now_ns, finished=False))))
    state = Written(
        rows=marks,
        windows=windows,
        spans=spans,
        references=references,
        cpu=cpu,
        gpus=gpus,
        events=events,
        entries={**written.entries, **contents} if contents else written.entries,
        slow_ns=now_ns if slow else written.slow_ns,
    )
    return entries, found, state


def _rows_news(
    session: Collected,
    written: Written,
    found: dict[str, Part],
    contents: dict[tuple[str, int], object],
    *,
    slow: bool,
) -> tuple[list[Entry], tuple[RowMark, ...]]:
    entries: list[Entry] = []
    readings: list[tuple[int, int, int]] = []
    news = session.sampler.news(session.sources, written.rows)
    domains = (domain for source in session.sources for domain in source.domains)
    for number, (domain, item) in enumerate(zip(domains, news, strict=True)):
        if item.rows.counts or item.back:
            # What is cheap to read is no driver's.
            found[f"rows.{number}"] = streams.rows_part(
                item.rows, item.back, with_driver=not domain.cheap_read
            )
        # A row tells when the domain was read; a counter that shows nothing new makes none.
        before_ns = item.rows.before_ns
        if item.last_ns is not None and not (before_ns and before_ns[-1] == item.last_ns):
            readings.append((number, item.last_ns, item.readings))
        # What changes the meaning of rows is written with them.
        if slow or written.entries.get(("domain", number)) != item.content:
            contents["domain", number] = item.content
            state = session.as_metered(*session.sampler.state(session.sources, number))
            entries.append(("domain", number, streams.domain_entry(*state)))
    if readings:
        found["readings"] = streams.part(streams.READINGS, list(zip(*readings, strict=True)))
    return entries, tuple(item.mark for item in news)


def _window_news(
    log: WindowLog,
    written: Written,
    found: dict[str, Part],
    entries: list[Entry],
    contents: dict[tuple[str, int], object],
) -> WindowMark:
    mark = written.windows
    new = log.news(mark, MOST_OPEN)
    entries += [("label", mark.labels + number, list(label)) for number, label in enumerate(new.labels)]
    entries += [("thread", mark.threads + number, name) for number, name in enumerate(new.threads)]
    if new.columns[0]:
        found["windows"] = streams.windows_part(new.columns)
    if new.pieces:
        found["pieces"] = streams.pieces_part(new.pieces)
    for name, columns in new.units.items():
        number = list(new.mark.units).index(name)
        found[f"units.{number}"] = streams.part(streams.UNITS, columns)
        if name not in mark.units:
            entries.append(("unit", number, name))
    entries += _open_entry(new.still_open, written, contents)
    return new.mark


def _open_entry(
    windows: Sequence[Closed], written: Written, contents: dict[tuple[str, int], object]
) -> list[Entry]:
    """Return the entry of the windows that are open, if they are others than before."""
    # Windows whose start has not been stamped yet are not open for long.
    value = [streams.open_entry(window) for window in windows if window.start_ns >= 0]
    if written.entries.get(("open", 0), []) == value:
        return []
    contents["open", 0] = value
    return [("open", 0, value)]


def _device_news(
    devices: SessionDevices, written: Written, found: dict[str, Part], entries: list[Entry]
) -> tuple[int, Mapping[int, int]]:
    times = devices.news(written.spans, written.references)
    if len(times):
        found["spans"] = streams.spans_part(times)
    found.update(streams.references_parts(times))
    references = dict(written.references)
    for number, uuid in times.uuids.items():
        if number not in references:
            entries.append(("device", number, uuid))
        references[number] = references.get(number, 0) + list(times.reference_devices).count(number)
    return written.spans + len(times), references


def _process_news(
    processes: ProcessReader | None,
    written: Written,
    found: dict[str, Part],
    entries: list[Entry],
    contents: dict[tuple[str, int], object],
) -> tuple[int, Mapping[str, int]]:
    if processes is None:
        return written.cpu, written.gpus
    rows: ProcessRows = processes.news(written.cpu, written.gpus)
    found.update({name: part for name, part in streams.process_parts(rows).items() if part.columns[0]})
    entry = streams.process_entry(rows)
    if written.entries.get(("process", 0)) != entry:
        contents["process", 0] = entry
        entries.append(("process", 0, entry))
    gpus = {name: written.gpus.get(name, 0) + len(uses.at_ns) for name, uses in rows.gpus.items()}
    return written.cpu + len(rows.at_ns), gpus


def _event_news(events: Sequence[Event], written: Written, entries: list[Entry]) -> frozenset[Event]:
    # New ones of one domain come before old ones of the next: their place does not tell what is new.
    new = [event for event in dict.fromkeys(events) if event not in written.events]
    entries += [("event", number, asdict(event)) for number, event in enumerate(new, len(written.events))]
    return written.events.union(new) if new else written.events
