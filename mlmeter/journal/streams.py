"""What the parts of a recording look like in a journal: streams of numbers and named entries.

Writing and reading stand next to each other here, so that they can be compared.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import add, sub
from typing import TYPE_CHECKING, Any

from mlmeter.device_time.times import REFERENCE_COLUMNS, SPAN_COLUMNS
from mlmeter.energy.process_rows import CPU_COLUMNS, GPU_COLUMNS
from mlmeter.energy.row_columns import NO_DRIVER_TIME
from mlmeter.journal.encoding import FLOAT, Part
from mlmeter.measurement import Domain
from mlmeter.window_records import Closed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.counters import Rows
    from mlmeter.energy.process_rows import ProcessRows
    from mlmeter.energy.row_columns import RowCopy

    Column = array[Any]

# Times and counts grow, widths and numbers of things are small: see `mlmeter.journal.encoding`.
ROWS, ROWS_WITH_DRIVER = "qbq", "qbqq"
WINDOWS, PIECES, UNITS = "qwwwqww", "qqw", "qd"
SPANS, REFERENCES = "qwwqq", "qqw"
PROCESS, GPU_USES = "qqqqw", "qwdd"
# Monotonic time and nanoseconds since 1970 at each writing.
CLOCK = "qq"
# At each writing: number of the domain, when it was read last, how many readings there were.
READINGS = "wqw"


def part(codes: str, columns: Sequence[Sequence[Any]], back: int = 0) -> Part:
    """Return columns as a part of a stream whose number is not known yet."""
    return Part(-1, codes, back, list(map(_in_code, codes, columns)))


def _in_code(code: str, column: Sequence[Any]) -> Column:
    typecode = "d" if code == FLOAT else "q"
    return column if isinstance(column, array) and column.typecode == typecode else array(typecode, column)


def rows_part(rows: Rows | RowCopy, back: int = 0, *, with_driver: bool) -> Part:
    """Return the rows of a domain, of which only some may be new.

    Args:
        rows: the rows.
        back: how many of those written before are not valid any more.
        with_driver: whether a column has the driver's own times, which may begin at any row: a stream has
            the same columns for ever.
    """
    columns = [rows.before_ns, rows.after_ns, rows.counts]
    if not with_driver:
        return Part(-1, ROWS, back, columns)
    driver = rows.driver_ns
    if driver is None:
        driver = array("q", [NO_DRIVER_TIME]) * len(rows.counts)
    return Part(-1, ROWS_WITH_DRIVER, back, [*columns, driver])


def row_columns(columns: Sequence[NDArray[Any]]) -> dict[str, Column | None]:
    """Return the columns of `Rows` from those of a stream."""
    before, after, counts = columns[:3]
    driver = longs(columns[3]) if len(columns) > 3 and (columns[3] != NO_DRIVER_TIME).any() else None
    return {
        "after_ns": longs(after),
        "before_ns": longs(before),
        "counts": longs(counts),
        "driver_ns": driver,
    }


def windows_part(columns: Sequence[Column]) -> Part:
    """Return windows, given as the columns of `WindowRecords`."""
    ids, parents, labels, threads, starts, ends, flags = columns
    return part(WINDOWS, [ids, parents, labels, threads, starts, array("q", map(sub, ends, starts)), flags])


def closed_windows(columns: Sequence[NDArray[Any]]) -> list[list[int]]:
    """Return the columns of `WindowRecords`, in order of closing."""
    ids, parents, labels, threads, starts, durations, flags = (column.tolist() for column in columns)
    return [ids, parents, labels, threads, starts, list(map(add, starts, durations)), flags]


def pieces_part(pieces: Sequence[tuple[int, int, int]]) -> Part:
    """Return the spans of windows with interruptions."""
    ids, starts, ends = zip(*pieces, strict=True)
    return part(PIECES, [ids, starts, array("q", map(sub, ends, starts))])


def process_parts(rows: ProcessRows) -> dict[str, Part]:
    """Return CPU times, and users of GPUs by the number of the GPU."""
    found = {"process": part(PROCESS, [getattr(rows, name) for name in CPU_COLUMNS])}
    for number, uses in enumerate(rows.gpus.values()):
        found[f"process.{number}"] = part(GPU_USES, [getattr(uses, name) for name in GPU_COLUMNS])
    return found


def spans_part(times: Any) -> Part:
    """Return the edges of windows by the clocks of devices."""
    return part(SPANS, [getattr(times, name) for name in SPAN_COLUMNS])


def references_parts(times: Any) -> dict[str, Part]:
    """Return what ties the clocks of devices to the host's, by number of the device."""
    numbers = list(dict.fromkeys(times.reference_devices))
    columns = [getattr(times, name) for name in list(REFERENCE_COLUMNS)[1:]]
    return {
        f"references.{number}": part(
            REFERENCES,
            [
                [value for value, of in zip(column, times.reference_devices, strict=True) if of == number]
                for column in columns
            ],
        )
        for number in numbers
    }


def domain_entry(domain: Domain, rows: Rows) -> dict[str, Any]:
    """Return all that is known of a domain but its rows."""
    check = rows.cross_check
    return {
        **{name: getattr(domain, name) for name in Domain.__dataclass_fields__},
        "gaps_ns": rows.gaps_ns,
        "last_ns": rows.last_ns,
        "readings": rows.readings,
        "resets": rows.resets,
        "largest_mean_watts": rows.largest_mean_watts,
        "cross_check": None if check is None else list(check),
        "period_seconds": rows.period_seconds,
    }


def process_entry(rows: ProcessRows) -> dict[str, Any]:
    """Return the names of the GPUs whose users are told, and why something could not be read."""
    gpus = [{"domain": name, "reason": uses.reason} for name, uses in rows.gpus.items()]
    return {"reason": rows.reason, "gpus": gpus}


def open_entry(window: Closed) -> list[Any]:
    """Return a window that is open, with the number of its thread."""
    return [
        window.id,
        window.parent_id,
        window.label,
        window.thread,
        window.start_ns,
        window.flags,
        # What counts as a number need not be one of Python's own.
        {name: count if type(count) is int else float(count) for name, count in (window.units or {}).items()},
        window.pieces,
    ]


def longs(column: NDArray[Any]) -> Column:
    """Return an array of 64-bit integers."""
    return typed("q", column)


def typed(typecode: str, column: NDArray[Any]) -> Column:
    """Return an array of a type.

    Raises:
        OverflowError: a number does not fit.
    """
    import numpy as np

    kind = np.dtype(typecode)
    if kind.kind != "f" and len(column):
        limits = np.iinfo(kind)
        if column.min() < limits.min or column.max() > limits.max:
            raise OverflowError(f"a number does not fit into {kind}")
    found: Column = array(typecode)
    found.frombytes(np.ascontiguousarray(column.astype(kind)).tobytes())
    return found
