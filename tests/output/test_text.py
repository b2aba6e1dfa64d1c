"""Tables for terminals: as many columns as fit."""

from __future__ import annotations

import pytest

from mlmeter.report.text import fitting_table

HEADER = ("phase", "joules", "share", "watts")
ROW = ("training", "12.34", "50.0 %", "200.0")


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (80, ["phase", "joules", "share", "watts"]),
        (31, ["phase", "joules", "share", "watts"]),
        (30, ["phase", "joules", "share"]),
        (23, ["phase", "joules"]),
    ],
)
def test_columns_give_way_in_the_order_told(width: int, columns: list[str]) -> None:
    """No column goes that need not, and no line is longer than wanted."""
    lines = fitting_table(HEADER, [ROW], width=width, drop=("watts", "share")).splitlines()
    assert lines[0].split() == columns
    assert max(map(len, lines)) <= width


def test_names_are_cut_when_no_column_is_left_to_go() -> None:
    """The first column is what remains."""
    lines = fitting_table(HEADER, [("x" * 90, *ROW[1:])], width=40, drop=("watts",)).splitlines()
    assert max(map(len, lines)) == 40
    assert lines[2].startswith("xxx")
    assert "…" in lines[2]
