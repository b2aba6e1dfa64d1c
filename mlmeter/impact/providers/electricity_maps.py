"""Electricity Maps: average intensity of zones of the whole world, with a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from mlmeter.impact.providers.base import TIMEOUT_SECONDS, HttpProvider, utc_text, whole_steps
from mlmeter.impact.series import IntensitySeries

HOUR = 3600.0


class ElectricityMaps(HttpProvider):
    """Hourly average intensity, life cycle or direct.

    The last 24 hours come from ``history``, which is free for one zone; earlier times need
    ``past-range`` and forecasts ``forecast``, which are paid for.

    Args:
        key: of the account.
        zone: such as ``"DE"`` or ``"US-CAL-CISO"``.
        direct: emissions of the plants only, not their life cycle.
    """

    def __init__(
        self,
        key: str,
        zone: str,
        *,
        direct: bool = False,
        base_url: str = "https://api.electricitymaps.com/v3",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(base_url, timeout_seconds)
        self.name = f"Electricity Maps {zone}"
        self._key, self._zone = key, zone
        self._factors = "direct" if direct else "lifecycle"

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the hours of a past time."""
        first, last = whole_steps(start, end, 60)
        if first > datetime.now(UTC) - timedelta(hours=23):
            return self._series(self._ask("history"), "history")
        query = {"start": utc_text(first), "end": utc_text(last)}
        return self._series(self._ask("past-range", query), "data")

    def forecast(self) -> IntensitySeries:
        """Return the hours to come."""
        return self._series(self._ask("forecast"), "forecast")

    def _ask(self, what: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        query = {"zone": self._zone, "emissionFactorType": self._factors, **(query or {})}
        return self.get_json(f"/carbon-intensity/{what}", query, {"auth-token": self._key})

    def _series(self, answer: dict[str, Any], key: str) -> IntensitySeries:
        entries = self.entries(answer, key)
        return self.make(
            [(self.time_of(entry.get("datetime")), entry.get("carbonIntensity")) for entry in entries],
            source="Electricity Maps",
            place=str(answer.get("zone", self._zone)),
            basis="life cycle" if self._factors == "lifecycle" else "direct",
            estimated=key == "forecast" or any(entry.get("isEstimated") for entry in entries),
            step_seconds=HOUR,
        )
