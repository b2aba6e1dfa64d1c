"""Carbon intensity of electricity by place, and power usage effectiveness, from the shipped tables.

A place is named by the user: nothing here asks the network or the machine where it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache

from mlmeter.errors import ArgumentError
from mlmeter.impact.factors import GRAMS_PER_KWH, Factor, checked_intensity, checked_number
from mlmeter.impact.tables import sources, table

INTENSITY = "grid intensity"
WORLD = "all countries of the table"
PLACES = 'a country ("DE"), a state of the US ("US-CA"), a cloud region ("aws:eu-west-1") or grams per kWh'
# Names that people use for what the table calls otherwise.
OTHER_NAMES = {
    "uk": "GB",
    "great britain": "GB",
    "usa": "US",
    "united states of america": "US",
    "turkey": "TR",
    "vietnam": "VN",
    "czech republic": "CZ",
    "korea": "KR",
    "holland": "NL",
}
# Parts of countries that have no figures of their own.
PARTS = dict.fromkeys(("england", "scotland", "wales", "northern ireland"), "GB")
MOST_NAMES = 4


def grid_factor(place: str) -> Factor:
    """Return the yearly carbon intensity of a place.

    Args:
        place: code (``"DE"``, ``"DEU"``) or name of a country or group of countries, ``"US-"`` and
            the code of a state, or cloud and region such as ``"gcp:europe-west4"``.

    Raises:
        ArgumentError: there is no such place in the tables; the message offers the nearest names.
    """
    text = place.strip()
    cloud, colon, region = text.casefold().partition(":")
    if colon:
        return _of_region(cloud, region, place)
    if clouds := _clouds_with(text.casefold()):
        raise ArgumentError(f"grid={place!r}: name the cloud, too: {' or '.join(clouds)}")
    if text[:3].casefold() == "us-":
        return _of_state(text[3:].upper(), place)
    country = _countries().get(OTHER_NAMES.get(text.casefold(), text).casefold())
    if country is not None:
        return _factor(country, country["name"])
    beginning = PARTS.get(text.casefold(), text.partition("-")[0])
    if beginning != text and (parent := _countries().get(beginning.casefold())):
        raise ArgumentError(
            f"grid={place!r}: there are no figures for parts of {parent['name']}; "
            f'use "{parent["iso2"]}" for the whole, or give grams per kWh'
        )
    if text.replace(".", "", 1).isdigit():
        raise ArgumentError(f"grid={place!r}: grams per kWh are a number, without quotes: {text}")
    known = {row["name"].casefold(): f'{row["name"]} ("{code_of(row)}")' for row in table("grid_country")}
    known |= {
        row["name"].casefold(): f'{row["name"]} ("US-{row["state"]}")' for row in table("grid_us_state")
    }
    known |= {code_of(row).casefold(): f'{row["name"]} ("{code_of(row)}")' for row in table("grid_country")}
    raise ArgumentError(f"grid={place!r}: no such place{_nearest(text, known)}; expected {PLACES}")


def world_range() -> Factor:
    """Return the range from the cleanest to the dirtiest country of the table, without a best value."""
    rows = [row for row in table("grid_country") if row["iso2"]]
    values = [float(row["grams_per_kwh"]) for row in rows]
    years = sorted({row["year"] for row in rows})
    source = sources()[rows[0]["source"]]
    return Factor(
        name=INTENSITY,
        value=None,
        low=min(values),
        high=max(values),
        unit=GRAMS_PER_KWH,
        place=f"no place was named: the range of {len(rows)} countries",
        year=f"{years[0]} to {years[-1]}",
        source=source.text,
        basis=source.basis,
        licence=source.licence,
    )


def given_intensity(grams_per_kwh: object, source: str = "") -> Factor:
    """Return the intensity that a user gives as a number.

    Raises:
        ArgumentError: it is negative, absurd or apparently in kilograms.
    """
    value = checked_intensity("grid", grams_per_kwh)
    return Factor(
        name=INTENSITY,
        value=value,
        low=value,
        high=value,
        unit=GRAMS_PER_KWH,
        source=source or "given by the user",
    )


def pue_factor(pue: object, most: float) -> Factor:
    """Return power usage effectiveness: energy of a data centre / energy of its computers.

    Args:
        pue: a number from 1, or an id of the table such as ``"world"`` or ``"aws"``.
        most: largest number that is accepted.

    Raises:
        ArgumentError: there is no such id, or the number is not possible.
    """
    rows = {row["id"]: row for row in table("pue")}
    if isinstance(pue, str):
        row = rows.get(pue.strip().casefold())
        if row is None:
            known = ", ".join(f'"{name}"' for name in rows)
            raise ArgumentError(f"pue={pue!r}: expected a number from 1 to {most:g}, or one of {known}")
        return row_factor("PUE", float(row["pue"]), "", row, row["name"])
    value = checked_number("pue", pue, 1.0, most, "energy of the data centre / energy of its computers")
    return Factor(name="PUE", value=value, low=value, high=value, unit="", source="given by the user")


def row_factor(name: str, value: float, unit: str, row: Mapping[str, str], place: str) -> Factor:
    """Return a factor of a row of a shipped table."""
    source = sources()[row["source"]]
    return Factor(
        name=name,
        value=value,
        low=value,
        high=value,
        unit=unit,
        place=place,
        year=row["year"],
        source=source.text,
        basis=source.basis,
        licence=source.licence,
    )


def code_of(row: Mapping[str, str]) -> str:
    """Return what names a row of the table of countries: its code, or a group's name."""
    return row["iso2"] or row["name"]


def country_row(place: str) -> Mapping[str, str] | None:
    """Return the row of the country that a place is or is in; None if that is not known."""
    cloud, colon, region = place.strip().casefold().partition(":")
    if colon:
        for row in table("grid_cloud"):
            if (row["provider"], row["region"]) == (cloud, region):
                return country_row(row["grid"])
        return None
    name = OTHER_NAMES.get(cloud, cloud).casefold()
    return _countries().get("us" if name.startswith("us-") else name)


@cache
def _countries() -> Mapping[str, Mapping[str, str]]:
    """Rows by lower-case codes and names."""
    found = {}
    for row in table("grid_country"):
        for key in (row["name"], row["iso3"], row["iso2"]):
            if key:
                found[key.casefold()] = row
    return found


def _of_state(code: str, place: str) -> Factor:
    rows = {row["state"]: row for row in table("grid_us_state")}
    if code in rows:
        return _factor(rows[code], rows[code]["name"])
    names = {row["name"].casefold(): f'{row["name"]} ("US-{state}")' for state, row in rows.items()}
    names |= {state.casefold(): f'{row["name"]} ("US-{state}")' for state, row in rows.items()}
    raise ArgumentError(f"grid={place!r}: no such state of the US{_nearest(code, names)}")


def _of_region(cloud: str, region: str, place: str) -> Factor:
    regions = {(row["provider"], row["region"]): row for row in table("grid_cloud")}
    row = regions.get((cloud, region))
    if row is None:
        clouds = sorted({name for name, _ in regions})
        if cloud not in clouds:
            raise ArgumentError(
                f"grid={place!r}: expected one of the clouds {', '.join(clouds)} before the colon"
            )
        names = {name: f'"{cloud}:{name}"' for provider, name in regions if provider == cloud}
        raise ArgumentError(f"grid={place!r}: no such region of {cloud}{_nearest(region, names)}")
    where = f"{cloud}:{region}, {row['location']}"
    if row["grams_per_kwh"]:
        return _factor(row, where)
    whole = grid_factor(row["grid"])
    return Factor(
        name=whole.name,
        value=whole.value,
        low=whole.low,
        high=whole.high,
        unit=whole.unit,
        place=f"{where}: average of {whole.place}",
        year=whole.year,
        source=whole.source,
        basis=whole.basis,
        licence=whole.licence,
    )


def _clouds_with(region: str) -> list[str]:
    """Return a region with the names of its clouds, such as ``"aws:us-east-1"``."""
    rows = table("grid_cloud")
    return [f'"{row["provider"]}:{region}"' for row in rows if row["region"] == region]


def _factor(row: Mapping[str, str], place: str) -> Factor:
    return row_factor(INTENSITY, float(row["grams_per_kwh"]), GRAMS_PER_KWH, row, place)


def _nearest(text: str, known: Mapping[str, str]) -> str:
    """Return the nearest names for an error message, nothing if none is near."""
    return nearest(text, known.keys(), known)


def nearest(text: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """Return ``; did you mean A, B`` with the names nearest to a text, nothing if none is near."""
    found = difflib.get_close_matches(text.casefold(), list(names), n=MOST_NAMES)
    texts = dict.fromkeys((shown or {}).get(name, f'"{name}"') for name in found)
    return f"; did you mean {', '.join(texts)}?" if texts else ""
