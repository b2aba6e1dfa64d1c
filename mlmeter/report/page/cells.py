"""What tables of the page are made of; the template knows how each kind of cell looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlmeter.report.page.quantities import Quantity


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its interval, each as a share of the longest one, 0 to 1.

    Attributes:
        length: of the value; None where it is not known.
        low, high: of the interval; None where there is none.
    """

    length: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """What a row is about.

    Attributes:
        text: the name, a user's or a device's.
        note: more about it, smaller.
        bar: beneath the name.
    """

    text: str
    note: str = ""
    bar: Bar | None = None
    kind: ClassVar[str] = "name"
    number: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Value:
    """A quantity in a column of its own."""

    quantity: Quantity
    kind: ClassVar[str] = "value"
    number: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Worth:
    """Where a number comes from: ``measured``, ``derived``, ``estimated``, or why there is none."""

    provenance: str
    kind: ClassVar[str] = "worth"
    number: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Plain:
    """A text.

    Attributes:
        text: what is shown.
        number: whether it is a number, flush right.
    """

    text: str
    number: bool = False
    kind: ClassVar[str] = "plain"


Cell = Name | Value | Worth | Plain


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table with a caption that says what it shows.

    Attributes:
        caption: one sentence.
        header: titles of the columns.
        rows: each as long as the header.
        last_is_sum: whether the last row is the whole.
        left_out: rows that are not shown.
        matrix: whether the columns are many of one kind, to be compared with each other; such a table
            scrolls on a phone, where the rows of others become cards.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    last_is_sum: bool = False
    left_out: int = 0
    matrix: bool = False
