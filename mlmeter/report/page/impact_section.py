"""What the energy means, on the page: emissions, money and water with the factors they were made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlmeter.report.impact_quantities import IMPACT_QUANTITIES
from mlmeter.report.page.cells import Cell, Name, PageTable, Plain, Value
from mlmeter.report.page.quantities import ABSENT, UNRESOLVED, Quantity, known
from mlmeter.report.text import interval, number


class ImpactOfSession(Protocol):
    """What the page asks of the result of `Session.impact`."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the numbers must know."""

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Return one row per phase and quantity, those of the whole session last.

        The keys: ``phase``, ``quantity``, ``value``, ``low``, ``high``, ``unit``, ``energy_resolved``,
        ``energy_provenance`` and ``factors``.
        """

    def equivalence_records(self) -> Sequence[Mapping[str, Any]]:
        """Return what the session's emissions and energy are as much as.

        The keys: ``name``, ``value``, ``low``, ``high``, ``energy_resolved`` and ``factor``.
        """


def impact_table(impact: ImpactOfSession | None) -> PageTable | None:
    """Return the impact of the whole session; None without one."""
    records = list(impact.records()) if impact is not None else []
    whole = [record for record in records if record["phase"] == records[-1]["phase"]]
    names = [record["quantity"] for record in whole]
    # Without manufacture, all emissions are those of electricity.
    shown = [record for record in whole if record["quantity"] != "carbon" or "embodied" in names]
    rows: list[list[Cell]] = [
        [
            Name(_name_of(str(record["quantity"]))),
            Value(_quantity(record)),
            Plain(record["factors"] or ABSENT),
        ]
        for record in shown
    ]
    if not rows:
        return None
    provenance = whole[0]["energy_provenance"] or "not known"
    return PageTable(
        # No emission is measured, even where the energy is.
        caption=f"Made from the session's energy ({provenance}) and the factors. "
        "The smaller lines: the energy's 95 % interval, or the range of a factor.",
        header=("quantity", "value", "factors: place, year, source"),
        rows=rows,
    )


def _name_of(quantity: str) -> str:
    return IMPACT_QUANTITIES.get(quantity, quantity.replace("_", " "))


def equivalences_table(impact: ImpactOfSession | None) -> PageTable | None:
    """Return what emissions and energy of the session are as much as; None if nothing is known."""
    records = list(impact.equivalence_records()) if impact is not None else []
    rows: list[list[Cell]] = [
        [Name(record["name"]), Value(_quantity({**record, "unit": ""})), Plain(record["factor"])]
        for record in records
        if known(record["low"])
    ]
    if not rows:
        return None
    return PageTable(
        caption="As much as: the same emissions, or the same energy, in things of every day. "
        "They are means of many: read the order of magnitude.",
        header=("as much as", "number", "one of them: year, source"),
        rows=rows,
    )


def _quantity(record: Mapping[str, Any]) -> Quantity:
    value, low, high = record["value"], record["low"], record["high"]
    span = interval(low, high).replace(" .. ", " to ") if known(low) and known(high) else ""
    # Manufacture does not depend on the energy, so it is known whether that is or not.
    told = record["energy_resolved"] or record.get("quantity") == "embodied"
    if known(value):
        return Quantity(number(value) if told else UNRESOLVED, span, record["unit"])
    # Of a range, such as that over the world's grids, there is no best value.
    return Quantity(span or ABSENT, "", record["unit"])
