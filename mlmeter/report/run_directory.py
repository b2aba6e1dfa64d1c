"""The run directory: everything that a session found, readable by people and by `load`."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlmeter.chapters.tables import build_table
from mlmeter.chapters.whole import results
from mlmeter.device_time.times import REFERENCE_COLUMNS, SPAN_COLUMNS, DeviceTimes
from mlmeter.energy.counters import Rows
from mlmeter.energy.cross_check import BothEnergies
from mlmeter.energy.idle_power import IdlePower
from mlmeter.energy.process_rows import CPU_COLUMNS, GPU_COLUMNS, GpuRows, ProcessRows
from mlmeter.errors import RunFileError
from mlmeter.measurement import Domain, Event, Provenance, Unavailable
from mlmeter.recording import TABLES, TOTAL, Recording, Run
from mlmeter.report.csv_tables import replacing, write_table
from mlmeter.report.runs_file import append_run
from mlmeter.window_log import WINDOW_COLUMNS, Label, WindowRecords

if TYPE_CHECKING:
    from mlmeter.chapters.chapter import Chapter

SCHEMA_VERSION = 1
MANIFEST = "session.json"
READINGS = "readings.npz"
# Only of sessions so long that the sums of their past are all that is kept of it.
CHAPTERS = "chapters.json"
ROW_COLUMNS = ("after_ns", "before_ns", "counts")
# Only where the driver gives one.
DRIVER_COLUMN = "driver_ns"


def write_run_directory(recording: Recording, directory: Path) -> None:
    """Write manifest, raw readings and CSV tables into `directory`, made if need be.

    Raises:
        OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_readings(recording, directory / READINGS)
    if recording.chapters:
        with replacing(directory / CHAPTERS) as file:
            json.dump([chapter.to_json() for chapter in recording.chapters], file, allow_nan=False)
    for name in TABLES:
        write_table(build_table(recording, name), directory / f"{name}.csv")
    # The manifest comes last: a directory that has one is complete.
    with replacing(directory / MANIFEST) as file:
        json.dump(_manifest(recording), file, indent=1, allow_nan=False, default=str)


def read_run_directory(path: str | os.PathLike[str]) -> Recording:
    """Read what `write_run_directory` wrote.

    Args:
        path: the run directory or its manifest.

    Raises:
        RunFileError: a file is missing, damaged or of a newer schema.
    """
    directory = Path(path)
    if directory.name == MANIFEST:
        directory = directory.parent
    manifest_path = directory / MANIFEST
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(str(manifest_path), f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RunFileError(str(manifest_path), f"is no JSON file: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        reason = f"has schema version {version!r}; this mlmeter reads up to {SCHEMA_VERSION}"
        raise RunFileError(str(manifest_path), reason)
    arrays = _read_arrays(directory / READINGS)
    chapters = _read_chapters(directory / CHAPTERS) if manifest.get("chapters") else ()
    try:
        return _checked(replace(_recording_of(manifest, arrays), chapters=chapters))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        reason = f"does not fit {READINGS} or is damaged: {type(error).__name__}: {error}"
        raise RunFileError(str(manifest_path), reason) from error


def _manifest(recording: Recording) -> dict[str, Any]:
    windows = recording.windows
    return {
        "schema_version": SCHEMA_VERSION,
        "run": asdict(recording.run),
        "domains": [
            {
                **asdict(domain),
                "gaps_ns": rows.gaps_ns,
                "last_ns": rows.last_ns,
                "readings": rows.readings,
                "resets": rows.resets,
                "largest_mean_watts": rows.largest_mean_watts,
                "cross_check": rows.cross_check,
                "period_seconds": rows.period_seconds,
            }
            for domain, rows in recording.domains
        ],
        "unavailable": [asdict(item) for item in recording.unavailable],
        "events": [asdict(event) for event in recording.events],
        "labels": windows.label_table,
        "threads": windows.thread_names,
        "units": list(windows.units),
        "devices": [{"number": number, "uuid": uuid} for number, uuid in recording.device.uuids.items()],
        "process": _process_facts(recording.process),
        "chapters": len(recording.chapters),
    }


def _process_facts(rows: ProcessRows | None) -> dict[str, Any] | None:
    if rows is None:
        return None
    gpus = [{"domain": name, "reason": uses.reason} for name, uses in rows.gpus.items()]
    return {"gpus": gpus, "reason": rows.reason}


def _write_readings(recording: Recording, path: Path) -> None:
    import numpy as np

    windows = recording.windows
    arrays: dict[str, Any] = {f"window.{name}": getattr(windows, name) for name in WINDOW_COLUMNS}
    arrays["window.pieces"] = np.array(windows.pieces, dtype=np.int64).reshape(-1, 3)
    for number, (ids, counts) in enumerate(windows.units.values()):
        arrays[f"unit.{number}.ids"], arrays[f"unit.{number}.counts"] = ids, counts
    for name in (*SPAN_COLUMNS, *REFERENCE_COLUMNS):
        arrays[f"device.{name}"] = getattr(recording.device, name)
    for number, (_, rows) in enumerate(recording.domains):
        for name in ROW_COLUMNS:
            arrays[f"domain.{number}.{name}"] = getattr(rows, name)
        if rows.driver_ns is not None:
            arrays[f"domain.{number}.{DRIVER_COLUMN}"] = rows.driver_ns
    arrays.update(_process_arrays(recording.process))
    with replacing(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})


def _process_arrays(rows: ProcessRows | None) -> dict[str, Any]:
    """Return the readings of CPU times and of users of GPUs; only sessions of a process have any."""
    if rows is None:
        return {}
    arrays = {f"process.{name}": getattr(rows, name) for name in CPU_COLUMNS}
    for number, uses in enumerate(rows.gpus.values()):
        arrays.update({f"process.gpu.{number}.{name}": getattr(uses, name) for name in GPU_COLUMNS})
    return arrays


def _read_arrays(path: Path) -> dict[str, Any]:
    import zipfile
    import zlib

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise RunFileError(str(path), f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise RunFileError(str(path), f"is damaged: {error}") from error


def _read_chapters(path: Path) -> tuple[Chapter, ...]:
    """Return the sums of the past of a long session.

    Raises:
        RunFileError: the file is missing or damaged.
    """
    from mlmeter.chapters.chapter import Chapter

    try:
        return tuple(Chapter.from_json(item) for item in json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunFileError(str(path), f"cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise RunFileError(str(path), f"is damaged: {type(error).__name__}: {error}") from error


def _recording_of(manifest: dict[str, Any], arrays: dict[str, Any]) -> Recording:
    fields = set(Domain.__dataclass_fields__)
    domains = []
    for number, item in enumerate(manifest["domains"]):
        described = {name: value for name, value in item.items() if name in fields}
        described["provenance"] = Provenance(described["provenance"])
        after_ns, before_ns, counts = (
            array("q", arrays[f"domain.{number}.{name}"].tolist()) for name in ROW_COLUMNS
        )
        driver_ns = arrays.get(f"domain.{number}.{DRIVER_COLUMN}")
        rows = Rows(
            after_ns,
            before_ns,
            counts,
            gaps_ns=tuple((int(start), int(end)) for start, end in item["gaps_ns"]),
            last_ns=item["last_ns"],
            readings=item["readings"],
            resets=item["resets"],
            largest_mean_watts=item["largest_mean_watts"],
            driver_ns=None if driver_ns is None else array("q", driver_ns.tolist()),
            cross_check=BothEnergies(*item["cross_check"]) if item.get("cross_check") else None,
            # Runs of earlier versions have none.
            period_seconds=item.get("period_seconds"),
        )
        domains.append((Domain(**described), rows))
    return Recording(
        run=Run(**manifest["run"]),
        domains=tuple(domains),
        windows=_windows_of(manifest, arrays),
        unavailable=tuple(
            Unavailable(**{**item, "kinds": tuple(item["kinds"])}) for item in manifest["unavailable"]
        ),
        events=tuple(Event(**event) for event in manifest["events"]),
        device=_device_of(manifest, arrays),
        process=_process_of(manifest, arrays),
    )


def _process_of(manifest: dict[str, Any], arrays: dict[str, Any]) -> ProcessRows | None:
    """Return what tells a process' part; None from the run of a whole machine."""
    facts = manifest.get("process")
    if facts is None:
        return None
    gpus = {}
    for number, item in enumerate(facts["gpus"]):
        gpus[str(item["domain"])] = GpuRows(
            **_columns(arrays, f"process.gpu.{number}", GPU_COLUMNS), reason=item["reason"]
        )
    columns = _columns(arrays, "process", CPU_COLUMNS)
    return ProcessRows(**columns, gpus=gpus, reason=facts["reason"])


def _columns(arrays: dict[str, Any], prefix: str, typecodes: dict[str, str]) -> dict[str, Any]:
    """Return columns of one length.

    Raises:
        ValueError: they differ in length.
    """
    found = {
        name: array(typecode, arrays[f"{prefix}.{name}"].tolist()) for name, typecode in typecodes.items()
    }
    if len({len(column) for column in found.values()}) > 1:
        raise ValueError(f"columns of {prefix} differ in length")
    return found


def _device_of(manifest: dict[str, Any], arrays: dict[str, Any]) -> DeviceTimes:
    """Return the times of devices; none from a directory that was written before there were any."""
    if "devices" not in manifest:
        return DeviceTimes()
    columns = {
        name: array(typecode, arrays[f"device.{name}"].tolist())
        for name, typecode in (SPAN_COLUMNS | REFERENCE_COLUMNS).items()
    }
    return DeviceTimes(**columns, uuids={item["number"]: item["uuid"] for item in manifest["devices"]})


def _checked(recording: Recording) -> Recording:
    """Return the recording if its parts fit each other.

    Raises:
        ValueError: they do not.
        TypeError: something is of another kind.
    """
    windows = recording.windows
    if len({len(getattr(windows, name)) for name in WINDOW_COLUMNS}) > 1:
        raise ValueError("columns of windows differ in length")
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
    results(recording).total(TOTAL)
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
    driver = () if rows.driver_ns is None else (rows.driver_ns,)
    if len({len(column) for column in (*driver, *(getattr(rows, name) for name in ROW_COLUMNS))}) > 1:
        raise ValueError(f"columns of {domain.name} differ in length")
    if not domain.update_period_seconds > 0:
        raise ValueError(f"the update period of {domain.name} is {domain.update_period_seconds}")
    if rows.period_seconds is not None and not rows.period_seconds > 0:
        raise ValueError(f"the measured update period of {domain.name} is {rows.period_seconds}")


def _windows_of(manifest: dict[str, Any], arrays: dict[str, Any]) -> WindowRecords:
    columns = {
        name: array(typecode, arrays[f"window.{name}"].tolist()) for name, typecode in WINDOW_COLUMNS.items()
    }
    units = {
        name: (
            array("q", arrays[f"unit.{number}.ids"].tolist()),
            array("d", arrays[f"unit.{number}.counts"].tolist()),
        )
        for number, name in enumerate(manifest["units"])
    }
    return WindowRecords(
        **columns,
        pieces=tuple((int(a), int(b), int(c)) for a, b, c in arrays["window.pieces"].tolist()),
        units=units,
        label_table=tuple(Label(name, phase) for name, phase in manifest["labels"]),
        thread_names=tuple(manifest["threads"]),
    )


def write_run(recording: Recording, output_dir: Path) -> Path:
    """Write the run's directory below `output_dir`, add its row to `runs.csv`, return the directory.

    Raises:
        OSError: a file cannot be written.
        RunFileError: `runs.csv` stays locked.
    """
    directory = output_dir / recording.run.id
    write_run_directory(recording, directory)
    append_run(recording, output_dir / "runs.csv")
    return directory
