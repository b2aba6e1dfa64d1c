"""Every shipped figure has a year, a source and a licence notice, and is possible."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mlmeter.impact.embodied import Embodied
from mlmeter.impact.grid import grid_factor, pue_factor, world_range
from mlmeter.impact.money import price_factor
from mlmeter.impact.tables import TABLES, sources, table

DATA = files("mlmeter.impact").joinpath("data")
NOTICE = DATA.joinpath("NOTICE.md").read_text(encoding="utf-8")
VALUES = {
    "grid_country": ("grams_per_kwh", 1, 2000),
    "grid_us_state": ("grams_per_kwh", 1, 2000),
    "grid_cloud": ("grams_per_kwh", 1, 2000),
    "price": ("money_per_kwh", 0.01, 1),
    "pue": ("pue", 1, 2),
    "embodied": ("kg_co2e", 1, 10_000),
    "water": ("litres_per_kwh", 0.01, 10),
    "generation": ("grams_per_kwh", 1, 2000),
    "equivalences": ("value", 1, 1e7),
}
KEYS = {
    "grid_country": ("name",),
    "grid_us_state": ("state",),
    "grid_cloud": ("provider", "region"),
    "price": ("place", "customer"),
    "generation": ("fuel",),
}


@pytest.mark.parametrize("name", TABLES)
def test_each_row_has_a_value_a_year_and_a_source(name: str) -> None:
    """Rows of regions without a figure have no year, and name a place that has one."""
    column, least, most = VALUES[name]
    for row in table(name):
        assert row["source"] in sources(), row
        if name == "grid_cloud" and not row[column]:
            assert not row["year"]
            assert grid_factor(row["grid"]).value
            continue
        assert least <= float(row[column]) <= most, row
        assert re.fullmatch(r"20[12]\d(-S[12])?", row["year"]), row


@pytest.mark.parametrize("name", TABLES)
def test_no_key_occurs_twice(name: str) -> None:
    """No row hides another one."""
    keys = [tuple(row[column] for column in KEYS.get(name, ("id",))) for row in table(name)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", [*TABLES, "sources"])
def test_the_notice_counts_the_rows(name: str) -> None:
    """A table cannot grow without its notice."""
    counted = re.search(rf"^\| `{name}\.csv` \| (\d+) \|", NOTICE, re.MULTILINE)
    assert counted
    rows = len(sources()) if name == "sources" else len(table(name))
    assert rows == int(counted[1])


def test_no_file_is_without_a_notice() -> None:
    """What is shipped is listed."""
    shipped = {item.name for item in DATA.iterdir()}
    assert shipped == {f"{name}.csv" for name in (*TABLES, "sources")} | {"NOTICE.md"}


def test_each_source_is_used_and_has_terms() -> None:
    """Sources have title, publisher, terms and address; each is of some row."""
    used = {row["source"] for name in TABLES for row in table(name)}
    assert used == set(sources())
    for source in sources().values():
        assert source.title
        assert source.publisher
        assert source.basis
        assert source.url.startswith("https://")
        assert source.licence in {"CC BY 4.0", "CC BY-SA 4.0", "Apache-2.0", "MIT", "public domain", "facts"}


@pytest.mark.parametrize("publisher", ["Ember", "EPA", "Google LLC", "European Union", "Lannelongue", "Mila"])
def test_the_notice_names_whom_the_licences_ask_to_name(publisher: str) -> None:
    """Attribution is a condition of the licences."""
    assert publisher in NOTICE


COUNTRIES = [row for row in table("grid_country") if row["iso2"]]


@pytest.mark.parametrize("row", COUNTRIES, ids=lambda row: row["iso2"])
def test_each_country_is_found_by_both_codes_and_its_name(row: dict[str, str]) -> None:
    """A factor tells the row's value and year."""
    for place in (row["iso2"], row["iso3"], row["name"], row["iso2"].lower()):
        factor = grid_factor(place)
        assert factor.value == float(row["grams_per_kwh"])
        assert factor.year == row["year"]
        assert factor.place == row["name"]
        assert factor.source.startswith("Ember")


def test_each_state_region_price_pue_and_piece_is_found() -> None:
    """All that the tables have can be named."""
    for row in table("grid_us_state"):
        assert grid_factor(f"US-{row['state']}").value == float(row["grams_per_kwh"])
    for row in table("grid_cloud"):
        factor = grid_factor(f"{row['provider']}:{row['region']}")
        assert factor.value == float(row["grams_per_kwh"] or grid_factor(row["grid"]).value or 0)
    for row in table("price"):
        price = price_factor(f"{row['place']}:{row['customer']}")
        assert (price.value, price.unit) == (float(row["money_per_kwh"]), f"{row['currency']}/kWh")
    for row in table("pue"):
        assert pue_factor(row["id"], 3.0).value == float(row["pue"])
    for row in table("embodied"):
        assert Embodied({row["id"]: 1}).kilograms == float(row["kg_co2e"])


def test_the_world_is_the_range_of_its_countries() -> None:
    """Groups of countries are not among them."""
    values = [float(row["grams_per_kwh"]) for row in table("grid_country") if row["iso2"]]
    factor = world_range()
    assert (factor.value, factor.low, factor.high) == (None, min(values), max(values))
    assert len(values) == 208
