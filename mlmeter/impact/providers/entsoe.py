"""ENTSO-E Transparency Platform: generation by fuel of Europe's bidding zones, with a token."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from xml.etree import ElementTree

from mlmeter.impact.providers.base import TIMEOUT_SECONDS, HttpProvider, utc_text, whole_steps
from mlmeter.impact.providers.generation_mix import basis_of_mix, intensity_of_mix
from mlmeter.impact.series import IntensitySeries

# Types of production of the platform; those that are missing have no factor.
FUELS = {
    "B01": "biomass",
    "B02": "coal",
    "B03": "gas",
    "B04": "gas",
    "B05": "coal",
    "B06": "oil",
    "B09": "geothermal",
    "B10": "hydro",
    "B11": "hydro",
    "B12": "hydro",
    "B14": "nuclear",
    "B16": "solar",
    "B18": "wind_offshore",
    "B19": "wind",
}
_RESOLUTION = re.compile(r"PT([0-9]{1,3})M")
MOST_POSITIONS = 100_000


class EntsoE(HttpProvider):
    """Intensity from generation by fuel, in steps of 15 to 60 minutes.

    Args:
        token: of the platform.
        domain: code of the bidding zone, such as ``"10Y1001A1001A82H"`` (Germany and Luxembourg).
    """

    def __init__(
        self,
        token: str,
        domain: str,
        *,
        base_url: str = "https://web-api.tp.entsoe.eu",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(base_url, timeout_seconds)
        self.name = f"ENTSO-E {domain}"
        self._token, self._domain = token, domain

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the steps of a past time."""
        first, last = whole_steps(start, end, 60)
        query = {
            "securityToken": self._token,
            "documentType": "A75",
            "processType": "A16",
            "in_Domain": self._domain,
            "periodStart": utc_text(first, "%Y%m%d%H%M"),
            "periodEnd": utc_text(last, "%Y%m%d%H%M"),
        }
        mixes, step_minutes = self._mixes(self._document(self.get("/api", query)))
        points = [(time, *found) for time, mix in mixes.items() if (found := intensity_of_mix(mix))]
        return self.make(
            points,
            source="ENTSO-E Transparency Platform",
            place=self._domain,
            basis=basis_of_mix(),
            step_seconds=60.0 * step_minutes,
        )

    def _document(self, body: bytes) -> ElementTree.Element:
        # Entities can make a small document a huge one; the platform uses none.
        if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
            raise self.error("the answer defines entities")
        try:
            document = ElementTree.fromstring(body)
        except ElementTree.ParseError as error:
            raise self.error(f"the answer is no XML: {error}") from error
        if document.tag.endswith("Acknowledgement_MarketDocument"):
            raise self.error(f"no data: {document.findtext('{*}Reason/{*}text') or 'no reason given'}")
        return document

    def _mixes(self, document: ElementTree.Element) -> tuple[dict[datetime, dict[str | None, float]], int]:
        """Return power by fuel and time, and the step in minutes."""
        mixes: dict[datetime, dict[str | None, float]] = {}
        steps = set()
        for series in document.iterfind("{*}TimeSeries"):
            # With an out-domain it is what storage takes in.
            if series.find("{*}outBiddingZone_Domain.mRID") is not None:
                continue
            fuel = FUELS.get(series.findtext("{*}MktPSRType/{*}psrType") or "")
            for period in series.iterfind("{*}Period"):
                step, powers = self._period(period)
                steps.add(step)
                for time, power in powers.items():
                    mix = mixes.setdefault(time, {})
                    mix[fuel] = mix.get(fuel, 0.0) + power
        if len(steps) != 1:
            raise self.error(f"expected values of one step, found {sorted(steps) or 'none'} (minutes)")
        return mixes, steps.pop()

    def _period(self, period: ElementTree.Element) -> tuple[int, dict[datetime, float]]:
        """Return the step in minutes, and power by time; a point that is left out is as the one before."""
        start = self.time_of(period.findtext("{*}timeInterval/{*}start"))
        end = self.time_of(period.findtext("{*}timeInterval/{*}end"))
        resolution = _RESOLUTION.fullmatch(period.findtext("{*}resolution") or "")
        minutes = int(resolution[1]) if resolution else 0
        if not minutes or not timedelta(0) < end - start <= timedelta(minutes=minutes) * MOST_POSITIONS:
            raise self.error("a period has no resolution in minutes, or no length")
        powers: dict[int, float] = {}
        try:
            for point in period.iterfind("{*}Point"):
                powers[int(point.findtext("{*}position") or "")] = float(point.findtext("{*}quantity") or "")
        except ValueError as error:
            raise self.error(f"a point of a period makes no sense: {error}") from None
        found, power = {}, 0.0
        for position in range((end - start) // timedelta(minutes=minutes)):
            power = powers.get(position + 1, power)
            found[start + position * timedelta(minutes=minutes)] = power
        return minutes, found
