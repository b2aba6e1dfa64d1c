"""Tables as CSV files, written whole or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mlmeter.frame.table import Table

ROWS_AT_A_TIME = 10_000
# A spreadsheet would run a cell that starts so; an apostrophe makes it text again.
EXECUTABLE_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_table(table: Table, target: str | os.PathLike[str] | IO[str]) -> None:
    """Write one table as CSV (UTF-8, header, comma); an absent number is an empty cell.

    Raises:
        OSError: the file cannot be written.
    """
    if isinstance(target, str | os.PathLike):
        with replacing(Path(target)) as file:
            write_table(table, file)
        return
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(table.columns)
    # Column by column is several times faster; in pieces, so that few texts are in memory at a time.
    for start in range(0, len(table), ROWS_AT_A_TIME):
        columns = (column[start : start + ROWS_AT_A_TIME] for column in table.columns.values())
        writer.writerows(zip(*map(_texts, columns), strict=True))


def _texts(column: Any) -> list[str]:
    """Return the texts of a column's cells."""
    values = column.tolist() if hasattr(column, "tolist") else column
    if getattr(getattr(column, "dtype", None), "kind", "") == "f":
        # NaN is the only number that differs from itself.
        return [repr(value) if value == value else "" for value in values]
    return [cell(value) for value in values]


def cells(row: tuple[Any, ...]) -> list[str]:
    """Return the texts of a row's cells."""
    return [cell(value) for value in row]


def cell(value: Any) -> str:
    """Return the text of one cell; floats keep all their digits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(EXECUTABLE_STARTS) else value
    if isinstance(value, float):
        # NaN is the only number that differs from itself.
        return "" if value != value else repr(float(value))
    if hasattr(value, "item"):
        return cell(value.item())
    return str(value)


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a new file that takes the place of `path` only when it has been written whole.

    A device or a pipe is written to as it is.
    """
    opener: Callable[..., IO[Any]] = open
    text: dict[str, Any] = (
        {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    )
    if path.exists() and not path.is_file():
        with opener(path, mode, **text) as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with opener(temporary, mode, **text) as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
