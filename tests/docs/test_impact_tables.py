"""The page of the shipped tables tells what they hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlmeter.impact.tables import TABLES, sources, table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "impact-tables.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = {
    "pue": ("PUE", "pue"),
    "embodied": ("Embodied emissions", "kg_co2e"),
    "water": ("Water", "litres_per_kwh"),
    "equivalences": ("Equivalences", "value"),
}


def cells(heading: str) -> dict[str, list[str]]:
    """Return the cells of the rows below a heading, by id."""
    section = TEXT.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    return {row[0]: row for row in rows if len(row) > 1}


@pytest.mark.parametrize("name", TABLES)
def test_rows_years_and_licences(name: str) -> None:
    """Counted rows, first and last year, and every licence of the table's sources."""
    _, rows, years, _, terms = cells("Tables of the impact")[name]
    assert int(rows) == len(table(name))
    found = sorted({row["year"] for row in table(name) if row["year"]})
    told = re.findall(r"20\d\d(?:-S\d)?", years)
    assert {found[0], found[-1]} == {told[0], told[-1]} or sorted(told) == found
    for row in table(name):
        assert sources()[row["source"]].licence in terms


@pytest.mark.parametrize("name", SECTIONS)
def test_each_row_of_the_small_tables(name: str) -> None:
    """Id, value and year stand on the page."""
    heading, column = SECTIONS[name]
    listed = cells(heading)
    for row in table(name):
        _, value, year, *_ = listed[row["id"]]
        assert float(value) == float(row[column])
        assert year == row["year"]
