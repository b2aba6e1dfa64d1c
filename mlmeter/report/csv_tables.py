"""Tables as CSV files."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from mlmeter.frame.table import Table
from mlmeter.whole_files import writing

ROWS_AT_A_TIME = 10_000
# A spreadsheet would run a cell that starts so; an apostrophe makes it text again.
EXECUTABLE_STARTS = ("=", "+", "-", "@")
# Some drop these before they look at a cell, others take them for the end of one.
CELL_BREAKS = ("\t", "\r", "\n")


def write_table(table: Table, target: str | os.PathLike[str] | IO[str]) -> None:
    """Write one table as CSV (UTF-8, header, comma); an absent number is an empty cell.

    Raises:
        OSError: the file cannot be written.
    """
    if isinstance(target, str | os.PathLike):
        with writing(Path(target)) as file:
            write_table(table, file)
        return
    writer = csv.writer(target, lineterminator="\n")
    # Names of units are in the header, and these are the metered program's.
    writer.writerow(cells(table.columns))
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


def cells(row: Iterable[Any]) -> list[str]:
    """Return the texts of a row's cells."""
    return [cell(value) for value in row]


def cell(value: Any) -> str:
    """Return the text of one cell; floats keep all their digits."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if _is_executable(value) else value
    if isinstance(value, float):
        # NaN is the only number that differs from itself.
        return "" if value != value else repr(float(value))
    if hasattr(value, "item"):
        return cell(value.item())
    return str(value)


def _is_executable(text: str) -> bool:
    """Tell whether a spreadsheet may run a cell of this text."""
    if text[:1].isalnum():
        return False
    # Blanks and what cannot be seen may be dropped, and a full-width sign taken for the plain one.
    first = next((letter for letter in text if letter.isprintable() and not letter.isspace()), "")
    return text.startswith(CELL_BREAKS) or unicodedata.normalize("NFKC", first).startswith(EXECUTABLE_STARTS)
