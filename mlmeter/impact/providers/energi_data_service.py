"""Energi Data Service of the operator of Denmark's grid; no key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from mlmeter.errors import ArgumentError
from mlmeter.impact.providers.base import TIMEOUT_SECONDS, HttpProvider, utc_text, whole_steps
from mlmeter.impact.series import IntensitySeries

AREAS = ("DK1", "DK2")
STEP_SECONDS = 300.0
FORECAST_HOURS = 48


class EnergiDataService(HttpProvider):
    """Average intensity of West or East Denmark in steps of five minutes.

    Args:
        area: ``"DK1"`` (west of the Great Belt) or ``"DK2"``.
    """

    def __init__(
        self,
        area: str,
        *,
        base_url: str = "https://api.energidataservice.dk",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(base_url, timeout_seconds)
        if area not in AREAS:
            raise ArgumentError(f"area={area!r}: expected {' or '.join(AREAS)}")
        self.name = f"Energi Data Service {area}"
        self._area = area

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the five minutes of a past time."""
        first, last = whole_steps(start, end, 5)
        return self._ask("CO2Emis", first, last, estimated=False)

    def forecast(self) -> IntensitySeries:
        """Return what is forecast from now on."""
        now = datetime.now(UTC)
        return self._ask("CO2EmisProg", now, now + timedelta(hours=FORECAST_HOURS), estimated=True)

    def _ask(self, dataset: str, start: datetime, end: datetime, *, estimated: bool) -> IntensitySeries:
        query = {
            "start": utc_text(start, "%Y-%m-%dT%H:%M"),
            "end": utc_text(end, "%Y-%m-%dT%H:%M"),
            "timezone": "UTC",
            "filter": json.dumps({"PriceArea": [self._area]}),
            "sort": "Minutes5UTC ASC",
            "limit": "0",
        }
        entries = self.entries(self.get_json(f"/dataset/{dataset}", query), "records")
        points = [
            (self.time_of(entry.get("Minutes5UTC")), entry.get("CO2Emission"))
            for entry in entries
            if entry.get("PriceArea") == self._area
        ]
        return self.make(
            points,
            source="Energi Data Service (Energinet)",
            place=f"Denmark, {self._area}",
            basis="direct",
            estimated=estimated,
            step_seconds=STEP_SECONDS,
        )
