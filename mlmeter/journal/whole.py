"""A whole recording as a journal, or what only the end of a session can say."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mlmeter.errors import RunFileError
from mlmeter.journal import streams
from mlmeter.journal.encoding import Part
from mlmeter.journal.file import Entry, JournalFile, complete
from mlmeter.journal.guard import BUSY
from mlmeter.journal.opening import LOGS, refuse_traps
from mlmeter.journal.past import CHAPTER
from mlmeter.whole_files import name_beside, put_in_place

if TYPE_CHECKING:
    from mlmeter.recording import Recording


def last_entries(recording: Recording) -> list[Entry]:
    """Return the entries of a recording that hold no window's and no reading's numbers."""
    entries: list[Entry] = [("run", 0, asdict(recording.run))]
    entries += [
        ("domain", number, streams.domain_entry(domain, rows))
        for number, (domain, rows) in enumerate(recording.domains)
    ]
    entries += [("unavailable", number, asdict(item)) for number, item in enumerate(recording.unavailable)]
    entries += [("event", number, asdict(event)) for number, event in enumerate(recording.events)]
    entries += [("device", number, uuid) for number, uuid in recording.device.uuids.items()]
    if recording.process is not None:
        entries.append(("process", 0, streams.process_entry(recording.process)))
    return entries


def waiting_spans(recording: Recording, spans: int) -> dict[str, Part]:
    """Return the edges on devices that are not among the first so many."""
    part = streams.spans_part(recording.device)
    rest = [column[max(0, spans) :] for column in part.columns]
    return {"spans": part._replace(columns=rest)} if rest[0] else {}


def write_whole(recording: Recording, path: Path) -> None:
    """Write a journal that holds the recording; it takes the place of `path` when it is complete.

    Raises:
        OSError: the file cannot be written.
        sqlite3.Error: likewise.
    """
    temporary = name_beside(path)
    try:
        file = JournalFile(temporary)
        try:
            entries = [*last_entries(recording), *_name_entries(recording), *_chapter_entries(recording)]
            file.write(entries, _parts(recording), last=True)
        finally:
            file.close()
        _fold(path)
        put_in_place(temporary, path)
    except BaseException:
        for name in ("", *LOGS):
            with contextlib.suppress(OSError):
                temporary.with_name(f"{temporary.name}{name}").unlink()
        raise


def _fold(path: Path) -> None:
    """Make an old journal one file without logs, which would be taken for those of the new one.

    Until the new one takes its place it is as good as before.

    Raises:
        OSError: somebody still writes it.
    """
    logs = [log for name in LOGS if (log := path.with_name(f"{path.name}{name}")).exists()]
    if not logs:
        return
    try:
        refuse_traps(path)
        complete(path, [])
    except sqlite3.OperationalError as error:
        if str(error) == BUSY:
            raise OSError(f"{path} {BUSY}") from error
    except (sqlite3.Error, RunFileError, OSError):
        # What cannot be read is no loss.
        pass
    for log in logs:
        log.unlink(missing_ok=True)


def mark_finished(recording: Recording, path: Path) -> None:
    """Write into the journal of a killed run how it was rebuilt, and complete the file.

    Raises:
        RunFileError: it cannot be written, or somebody still writes it.
    """
    try:
        refuse_traps(path)
        complete(path, last_entries(recording))
    except sqlite3.Error as error:
        raise RunFileError(str(path), f"cannot be finished: {error}") from error


def _name_entries(recording: Recording) -> list[Entry]:
    windows = recording.windows
    return [
        *(("label", number, list(label)) for number, label in enumerate(windows.label_table)),
        *(("thread", number, name) for number, name in enumerate(windows.thread_names)),
        *(("unit", number, name) for number, name in enumerate(windows.units)),
    ]


def _chapter_entries(recording: Recording) -> list[Entry]:
    """Return the sums of what is no longer in memory; a journal that was written live has all of it."""
    return [(CHAPTER, number, chapter.to_json()) for number, chapter in enumerate(recording.chapters)]


def _parts(recording: Recording) -> dict[str, Part]:
    windows = recording.windows
    columns = (windows.ids, windows.parent_ids, windows.labels, windows.threads)
    parts = {
        f"rows.{number}": streams.rows_part(rows, with_driver=rows.driver_ns is not None)
        for number, (_, rows) in enumerate(recording.domains)
    }
    parts["windows"] = streams.windows_part((*columns, windows.starts_ns, windows.ends_ns, windows.flags))
    if windows.pieces:
        parts["pieces"] = streams.pieces_part(windows.pieces)
    for number, counts in enumerate(windows.units.values()):
        parts[f"units.{number}"] = streams.part(streams.UNITS, counts)
    parts |= waiting_spans(recording, 0) | streams.references_parts(recording.device)
    if recording.process is not None:
        parts |= streams.process_parts(recording.process)
    return parts
