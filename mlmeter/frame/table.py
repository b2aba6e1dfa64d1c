"""A table as plain columns, so that CSV files need no pandas.

An absent number is NaN or None here, an empty cell in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns of equal length."""

    name: str
    columns: dict[str, Sequence[Any] | NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows in order."""
        return zip(*self.columns.values(), strict=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dictionary."""
        for row in self.rows():
            yield dict(zip(self.columns, row, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a pandas frame (imports pandas)."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))


def join(name: str, blocks: Sequence[dict[str, Any]]) -> Table:
    """Put blocks of rows with the same columns below each other."""
    return Table(name, {column: np.concatenate([block[column] for block in blocks]) for column in blocks[0]})


def repeat(value: str, count: int) -> NDArray[Any]:
    """Return a column of one text."""
    return np.full(count, value, dtype=object)


def object_column(value: object) -> NDArray[Any]:
    """Return a column of one row."""
    return np.array([value], dtype=object)


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; NaN where there is nothing to divide by."""
    result = np.full(len(numerator), np.nan)
    # A quotient that no number can hold is as absent as one of nothing.
    with np.errstate(over="ignore"):
        np.divide(numerator, denominator, out=result, where=np.nan_to_num(denominator) > 0)
    result[np.isinf(result)] = np.nan
    return result


def sum_by(group: NDArray[np.int64], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Add values by group, shape (size,)."""
    return np.asarray(np.bincount(group, weights=values, minlength=size), dtype=np.float64)
