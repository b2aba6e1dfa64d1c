"""Prices of electricity: what the user pays, or the mean of a place."""

from __future__ import annotations

import re

from mlmeter.errors import ArgumentError
from mlmeter.impact.factors import Factor, checked_number
from mlmeter.impact.grid import code_of, country_row, nearest, row_factor
from mlmeter.impact.tables import table

PRICE = "electricity price"
# A price above 10 of these a kWh is one of cents, or of a MWh.
FAMILIAR_CURRENCIES = ("EUR", "USD", "GBP", "CHF")
MOST_OF_FAMILIAR = 10.0
_GIVEN = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]{3})(?:\s*/\s*kWh)?")
FORMS = 'a text such as "0.30 EUR" (a kWh), or a place with a known price such as "DE" or "US-CA:industrial"'


def price_factor(price: object) -> Factor:
    """Return the price of a kWh, its unit such as ``"EUR/kWh"``.

    Args:
        price: ``"0.30 EUR"``, or a place of the table: ``"DE"``, ``"DE:household"``, ``"US-CA"``. Without
            a customer it is that of businesses in Europe, of commerce in the United States.

    Raises:
        ArgumentError: there is no currency or more than one, no such place or customer, or the
            price is negative or absurd.
    """
    if isinstance(price, bool) or not isinstance(price, str):
        raise ArgumentError(f"price={price!r}: a price needs a currency; expected {FORMS}")
    text = price.strip()
    given = _GIVEN.fullmatch(text)
    if given:
        return _given(float(given[1]), given[2].upper())
    if re.search(r"[0-9]", text) or not text:
        raise ArgumentError(f"price={price!r}: expected one amount and one currency, {FORMS}")
    return _of_place(text, price)


def currency_of(price: Factor) -> str:
    """Return the currency of a price."""
    return price.unit.removesuffix("/kWh")


def _given(amount: float, currency: str) -> Factor:
    if currency in FAMILIAR_CURRENCIES:
        checked_number("price", amount, 0.0, MOST_OF_FAMILIAR, f"{currency} a kWh, not cents and not a MWh")
    return Factor(
        name=PRICE,
        value=amount,
        low=amount,
        high=amount,
        unit=f"{currency}/kWh",
        source="given by the user",
    )


def _of_place(text: str, price: str) -> Factor:
    place, _, customer = text.partition(":")
    country = country_row(place)
    place = code_of(country) if country and not place.upper().startswith("US-") else place.upper()
    customer = customer.strip().casefold()
    places: dict[str, dict[str, dict[str, str]]] = {}
    for row in table("price"):
        places.setdefault(row["place"], {})[row["customer"]] = dict(row)
    if place not in places:
        names = {name.casefold(): name for name in places}
        near = nearest(place, names, names)
        if place == "US":
            near = '; those of the United States are known by state, such as "US-CA"'
        raise ArgumentError(f"price={price!r}: no price of that place is known{near}; expected {FORMS}")
    customers = places[place]
    row = customers.get(customer or next(iter(customers)))  # type: ignore[assignment]
    if row is None:
        raise ArgumentError(f"price={price!r}: expected {place}:{f' or {place}:'.join(customers)}")
    return row_factor(
        PRICE,
        float(row["money_per_kwh"]),
        f"{row['currency']}/kWh",
        row,
        f"{place}, {row['customer']}",
    )
