"""What users name becomes a factor, or an error that says what is accepted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mlmeter.errors import ArgumentError
from mlmeter.impact import Embodied, Factor, IntensitySeries, impact_factors
from mlmeter.impact.grid import given_intensity, grid_factor


@pytest.mark.parametrize(
    ("place", "value", "year"),
    [
        ("DE", 342.06, "2024"),
        ("fra", 44.18, "2024"),
        ("United Kingdom", 215.79, "2024"),
        ("UK", 215.79, "2024"),
        ("NA", 47.62, "2023"),
        ("World", 472.94, "2024"),
        ("EU", 213.02, "2024"),
        ("US-CA", 179.1, "2023"),
        ("us-ca", 179.1, "2023"),
        ("gcp:europe-north1", 39.32, "2024"),
        ("aws:eu-west-1", 279.79, "2024"),
        ("azure:westus", 179.1, "2023"),
        (" DE ", 342.06, "2024"),
    ],
)
def test_places(place: str, value: float, year: str) -> None:
    """Codes, names and cloud regions, in any case."""
    factor = grid_factor(place)
    assert (factor.value, factor.year) == (value, year)


def test_a_cloud_region_without_a_figure_says_whose_average_stands_in() -> None:
    """The country's figure is not passed off as the region's."""
    assert grid_factor("aws:ca-central-1").place == "aws:ca-central-1, Canada (Central): average of Canada"


@pytest.mark.parametrize(
    ("place", "nearest"),
    [
        ("Germny", 'Germany ("DE")'),
        ("Untied Kingdom", 'United Kingdom ("GB")'),
        ("US-Calif", 'California ("US-CA")'),
        ("aws:eu-west-9", '"aws:eu-west-1"'),
        ("gcp:europe-west44", '"gcp:europe-west4"'),
        ("Californa", 'California ("US-CA")'),
    ],
)
def test_the_nearest_names_are_offered(place: str, nearest: str) -> None:
    """A misspelt place costs one more try, not a search."""
    with pytest.raises(ArgumentError) as caught:
        grid_factor(place)
    assert nearest in str(caught.value)


def test_parts_of_other_countries_are_not_made_up() -> None:
    """Quebec is not Canada, and the message says so."""
    with pytest.raises(ArgumentError, match="no figures for parts of Canada"):
        grid_factor("CA-QC")
    with pytest.raises(ArgumentError, match='no figures for parts of United Kingdom; use "GB"'):
        grid_factor("Scotland")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("us-east-1", 'name the cloud, too: "aws:us-east-1"'),
        ("westeurope", 'name the cloud, too: "azure:westeurope"'),
        ("350", "without quotes: 350"),
        ("350.5", "without quotes: 350.5"),
    ],
)
def test_what_lacks_a_little_is_told(place: str, words: str) -> None:
    """A region without its cloud, a number as a text."""
    with pytest.raises(ArgumentError) as caught:
        grid_factor(place)
    assert words in str(caught.value)


def test_prices_of_the_united_states_are_those_of_states() -> None:
    with pytest.raises(ArgumentError, match='known by state, such as "US-CA"'):
        impact_factors(price="US")


@pytest.mark.parametrize("source", ["", "  ", None])
def test_a_factor_without_a_source_is_refused(source: Any) -> None:
    """Every figure says who says so."""
    grid = Factor(name="grid", value=1.0, low=1.0, high=1.0, unit="gCO2e/kWh", source=source)
    with pytest.raises(ArgumentError, match="expected a source"):
        impact_factors(grid)
    with pytest.raises(ArgumentError, match="who says so"):
        IntensitySeries.of([(datetime(2024, 1, 1, tzinfo=UTC), 1.0)], source=source, step_seconds=60.0)


@pytest.mark.parametrize("place", ["", "Atlantis", "cloud:eu", "US-", ":", "aws:"])
def test_no_other_place_is_accepted(place: str) -> None:
    """There is no silent default."""
    with pytest.raises(ArgumentError, match="grid="):
        impact_factors(place)


@pytest.mark.parametrize(
    "grid", [-1, -1e-9, 3001, float("nan"), float("inf"), True, [], b"DE", 0.35, 0.999, object()]
)
def test_impossible_intensities(grid: object) -> None:
    """Negative, absurd, in kilograms, or no number."""
    with pytest.raises(ArgumentError, match="grid="):
        impact_factors(grid)


def test_kilograms_are_recognised() -> None:
    """The most usual mistake has its own words."""
    with pytest.raises(ArgumentError, match="looks like kilograms, which would be 350"):
        impact_factors(0.35)


@pytest.mark.parametrize("grid", [0, 1, 350, 3000])
def test_possible_intensities(grid: float) -> None:
    """A number is taken as it is, and its source is the user."""
    factor = impact_factors(grid).grid
    assert (factor.value, factor.low, factor.high, factor.source) == (grid, grid, grid, "given by the user")
    assert given_intensity(grid, "our utility, 2025").source == "our utility, 2025"


@pytest.mark.parametrize("pue", [0.99, 3.01, -1, 0, True, float("nan"), "moon", [], "1.2"])
def test_impossible_pue(pue: object) -> None:
    """A data centre cannot use less than its computers."""
    with pytest.raises(ArgumentError, match="pue="):
        impact_factors("DE", pue=pue)


@pytest.mark.parametrize(
    ("price", "value", "unit"),
    [
        ("0.30 EUR", 0.30, "EUR/kWh"),
        ("0.30EUR", 0.30, "EUR/kWh"),
        (".3 eur / kWh", 0.30, "EUR/kWh"),
        ("30 JPY/kWh", 30.0, "JPY/kWh"),
        ("0 EUR", 0.0, "EUR/kWh"),
        ("DE", 0.2359, "EUR/kWh"),
        ("Germany:household", 0.3943, "EUR/kWh"),
        ("uk", None, ""),
        ("US-CA", 0.2554, "USD/kWh"),
        ("us-ca:industrial", 0.2153, "USD/kWh"),
        ("EU", 0.1899, "EUR/kWh"),
    ],
)
def test_prices(price: str, value: float | None, unit: str) -> None:
    """An amount with its currency, or a place of the tables; there is no price of the United Kingdom."""
    if value is None:
        with pytest.raises(ArgumentError, match="no price of that place"):
            impact_factors(price=price)
        return
    found = impact_factors(price=price).price
    assert found is not None
    assert (found.value, found.unit) == (value, unit)


@pytest.mark.parametrize(
    "price",
    [
        *(0.30, "0.30", "-0.30 EUR", "0.30 EUR 0.20 USD", "0.30 EURUSD", "30 EUR", "300 USD", "1e-1 EUR"),
        *("$0.30", "EUR", "", "nan EUR", "DE:nobody", True, [], "0,30 EUR"),
    ],
)
def test_impossible_prices(price: object) -> None:
    """Without or with two currencies, negative, in cents, of nowhere."""
    with pytest.raises(ArgumentError, match="price="):
        impact_factors(price=price)


@pytest.mark.parametrize(
    "embodied",
    [-1, float("nan"), True, "gpu", {"gpu_h100": 1}, {"gpu_h100_sxm": -1}, {"gpu_a100": "8"}, 1e9, [], {}],
)
def test_impossible_hardware(embodied: object) -> None:
    """Unknown pieces and impossible counts; the nearest piece is offered."""
    with pytest.raises(ArgumentError, match="embodied"):
        impact_factors(embodied=embodied)
    if embodied == {"gpu_h100": 1}:
        with pytest.raises(ArgumentError, match=r'did you mean .*"gpu_h100_sxm"'):
            impact_factors(embodied=embodied)


@pytest.mark.parametrize(("lifetime_years", "share"), [(0, 1), (-4, 1), (4, 1.1), (4, -0.1), (100, 1)])
def test_impossible_lifetimes_and_shares(lifetime_years: float, share: float) -> None:
    """They are refused where they are given."""
    with pytest.raises(ArgumentError, match=r"lifetime_years|share"):
        Embodied(100.0, lifetime_years=lifetime_years, share=share)


def test_the_example_of_the_standard() -> None:
    """1000 kg over four years, for one hour: about 28 g (ISO/IEC 21031, embodied emissions)."""
    factor = Embodied(1000.0, lifetime_years=4).factor()
    assert factor.value is not None
    assert 3600 * factor.value == pytest.approx(1000e3 / (4 * 365 * 24), rel=1e-15)
    assert int(3600 * factor.value) == 28


@pytest.mark.parametrize("water", [-1, 21, "moon", True, []])
def test_impossible_water(water: object) -> None:
    """As the others."""
    with pytest.raises(ArgumentError, match="water="):
        impact_factors(water=water)


@pytest.mark.parametrize(
    "factor",
    [
        Factor(name="x", value=1.0, low=2.0, high=3.0, unit="gCO2e/kWh", source="me"),
        Factor(name="x", value=-1.0, low=-2.0, high=3.0, unit="gCO2e/kWh", source="me"),
        Factor(name="x", value=1.0, low=1.0, high=float("inf"), unit="gCO2e/kWh", source="me"),
        Factor(name="x", value=1.0, low=1.0, high=1.0, unit="kg/kWh", source="me"),
    ],
)
def test_a_factor_of_ones_own_is_checked(factor: Factor) -> None:
    """Order, sign and unit."""
    with pytest.raises(ArgumentError):
        impact_factors(factor)


def test_each_factor_is_named_with_year_and_source() -> None:
    """The text of a factor is what a report shows."""
    for factor in impact_factors("DE", pue="aws", price="DE", embodied={"gpu_a100": 1}, water="us").all:
        assert factor.source in str(factor)
        assert factor.year
        assert factor.year in str(factor)


def test_what_a_joule_is_worth() -> None:
    """Budgets multiply with these; a range has no single value."""
    factors = impact_factors(360, pue=1.5, price="0.36 EUR")
    assert factors.grams_per_joule == pytest.approx(360 * 1.5 / 3.6e6, rel=1e-15)
    assert factors.money_per_joule == pytest.approx(0.36 * 1.5 / 3.6e6, rel=1e-15)
    assert factors.currency == "EUR"
    unknown = impact_factors()
    assert unknown.grams_per_joule is None
    assert unknown.money_per_joule is None
    assert unknown.grams_per_joule_range[0] < unknown.grams_per_joule_range[1]
