"""Carbon Intensity API of the operator of Great Britain's grid; no key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mlmeter.impact.providers.base import TIMEOUT_SECONDS, HttpProvider, utc_text, whole_steps
from mlmeter.impact.series import IntensitySeries

HALF_HOUR = 1800.0
# The service refuses longer times.
MOST_DAYS = 14


class UkCarbonIntensity(HttpProvider):
    """Half-hourly average intensity of Great Britain: as it was where that is known, else as forecast."""

    def __init__(
        self,
        *,
        base_url: str = "https://api.carbonintensity.org.uk",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(base_url, timeout_seconds)
        self.name = "UK Carbon Intensity"

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the half-hours of a past time; longer ones are asked for in parts."""
        first, last = whole_steps(start, end, 30)
        entries: list[Mapping[str, Any]] = []
        while first < last:
            until = min(last, first + timedelta(days=MOST_DAYS))
            # A time on the edge would also bring the half-hour that ends there.
            begin = first + timedelta(minutes=1)
            entries += self.entries(self.get_json(f"/intensity/{utc_text(begin)}/{utc_text(until)}"), "data")
            first = until
        return self._series(entries)

    def forecast(self) -> IntensitySeries:
        """Return the next 48 hours."""
        answer = self.get_json(f"/intensity/{utc_text(datetime.now(UTC))}/fw48h")
        return self._series(self.entries(answer, "data"))

    def _series(self, entries: list[Mapping[str, Any]]) -> IntensitySeries:
        points: dict[datetime, object] = {}
        estimated = False
        for entry in entries:
            intensity = entry.get("intensity")
            if not isinstance(intensity, Mapping):
                raise self.error("a half-hour has no intensity")
            value = intensity.get("actual")
            if value is None:
                value, estimated = intensity.get("forecast"), True
            points[self.time_of(entry.get("from"))] = value
        return self.make(
            list(points.items()),
            source="UK Carbon Intensity (NESO)",
            place="Great Britain",
            basis="direct",
            estimated=estimated,
            step_seconds=HALF_HOUR,
        )
