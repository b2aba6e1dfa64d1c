"""The share of a machine's manufacture: M = TE * (time / lifetime) * share (ISO/IEC 21031)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlmeter.errors import ArgumentError
from mlmeter.impact.factors import Factor, checked_number
from mlmeter.impact.grid import nearest
from mlmeter.impact.tables import sources, table

EMBODIED = "embodied emissions"
# The example of ISO/IEC 21031; clouds write their servers off over four to six years.
DEFAULT_LIFETIME_YEARS = 4.0
# As that standard counts a lifetime.
SECONDS_PER_YEAR = 365 * 24 * 3600
MOST_KG = 1e7


@dataclass(frozen=True, slots=True)
class Embodied:
    """Emissions of the manufacture of the hardware that a program had to itself.

    Attributes:
        hardware: kilograms of CO2e in all, or pieces by id of the shipped table:
            ``{"gpu_h100_sxm": 8, "server_8gpu_without_gpus": 1}``.
        lifetime_years: time over which they are spread.
        share: part of the hardware that was reserved for the program, 0 to 1.
        source: who says so, if `hardware` is a number.

    Raises:
        ArgumentError: there is no such piece, or a number is not possible.
    """

    hardware: float | Mapping[str, float]
    lifetime_years: float = field(default=DEFAULT_LIFETIME_YEARS, kw_only=True)
    share: float = field(default=1.0, kw_only=True)
    source: str = field(default="given by the user", kw_only=True)

    def __post_init__(self) -> None:
        checked_number("lifetime_years", self.lifetime_years, 0.1, 50.0)
        checked_number("share", self.share, 0.0, 1.0)
        _ = self.kilograms

    @property
    def kilograms(self) -> float:
        """Emissions of the manufacture of all pieces, kg CO2e."""
        if not isinstance(self.hardware, Mapping):
            return checked_number("embodied", self.hardware, 0.0, MOST_KG, "kilograms of CO2e")
        rows = {row["id"]: row for row in table("embodied")}
        if not self.hardware:
            raise ArgumentError(f"embodied={{}}: expected at least one piece; known are {', '.join(rows)}")
        total = 0.0
        for piece, count in self.hardware.items():
            if piece not in rows:
                raise ArgumentError(
                    f"embodied: no piece {piece!r} in the table{nearest(str(piece), rows)}; "
                    f"known are {', '.join(rows)}; or give kilograms of CO2e"
                )
            pieces = checked_number(f"embodied[{piece!r}]", count, 0.0, 1e6, "how many")
            total += pieces * float(rows[piece]["kg_co2e"])
        return total

    def factor(self) -> Factor:
        """Return grams of CO2e for each second of use."""
        value = self.kilograms * 1000 * self.share / (self.lifetime_years * SECONDS_PER_YEAR)
        spread = f"{self.kilograms:g} kg over {self.lifetime_years:g} years, share {self.share:g}"
        year, source = "", self.source
        if isinstance(self.hardware, Mapping):
            rows = [row for row in table("embodied") if row["id"] in self.hardware]
            spread = " + ".join(f"{self.hardware[row['id']]:g} {row['id']}" for row in rows) + f": {spread}"
            year = ", ".join(dict.fromkeys(row["year"] for row in rows))
            source = "; ".join(dict.fromkeys(sources()[row["source"]].text for row in rows))
        return Factor(
            name=EMBODIED,
            value=value,
            low=value,
            high=value,
            unit="gCO2e/s",
            place=spread,
            year=year,
            source=source,
            basis="manufacture, spread evenly over the lifetime",
        )


def embodied_of(embodied: object) -> Embodied:
    """Return the hardware that a user means: an `Embodied`, kilograms, or pieces of the table.

    Raises:
        ArgumentError: it is none of these.
    """
    if isinstance(embodied, Embodied):
        return embodied
    if isinstance(embodied, Mapping) or (
        isinstance(embodied, (int, float)) and not isinstance(embodied, bool)
    ):
        return Embodied(embodied)
    known = ", ".join(row["id"] for row in table("embodied"))
    raise ArgumentError(
        f"embodied={embodied!r}: expected kilograms of CO2e, pieces such as {{'gpu_h100_sxm': 8}} "
        f"(known are {known}), or an Embodied"
    )
