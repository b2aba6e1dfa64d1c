"""EIA, hourly generation by fuel of the United States' balancing authorities, with a free key."""

from __future__ import annotations

from datetime import datetime, timedelta

from mlmeter.impact.providers.base import TIMEOUT_SECONDS, HttpProvider, utc_text, whole_steps
from mlmeter.impact.providers.generation_mix import basis_of_mix, intensity_of_mix
from mlmeter.impact.series import IntensitySeries

FUELS = {
    "COL": "coal",
    "NG": "gas",
    "NUC": "nuclear",
    "OIL": "oil",
    "SUN": "solar",
    "WAT": "hydro",
    "WND": "wind",
    "GEO": "geothermal",
}
# More rows the service does not give at once.
MOST_ROWS = 5000
HOUR = 3600.0


class Eia(HttpProvider):
    """Intensity from hourly generation by fuel; the latest hours appear with a delay.

    Args:
        key: of api.eia.gov.
        respondent: balancing authority, such as ``"CISO"`` or ``"PJM"``.
    """

    def __init__(
        self,
        key: str,
        respondent: str,
        *,
        base_url: str = "https://api.eia.gov/v2",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(base_url, timeout_seconds)
        self.name = f"EIA {respondent}"
        self._key, self._respondent = key, respondent

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the hours of a past time."""
        first, last = whole_steps(start, end, 60)
        # An hour is called by its end.
        query = {
            "api_key": self._key,
            "frequency": "hourly",
            "data[0]": "value",
            "facets[respondent][]": self._respondent,
            "start": utc_text(first + timedelta(hours=1), "%Y-%m-%dT%H"),
            "end": utc_text(last, "%Y-%m-%dT%H"),
            "length": str(MOST_ROWS),
        }
        entries = self.entries(
            self.get_json("/electricity/rto/fuel-type-data/data/", query), "response", "data"
        )
        if len(entries) >= MOST_ROWS:
            raise self.error(f"{utc_text(first)} to {utc_text(last)} is more than it gives at once")
        mixes: dict[datetime, dict[str | None, float]] = {}
        for entry in entries:
            # The hour is written without minutes.
            hour = self.time_of(f"{entry.get('period')}:00") - timedelta(hours=1)
            fuel, mix = FUELS.get(str(entry.get("fueltype"))), mixes.setdefault(hour, {})
            mix[fuel] = mix.get(fuel, 0.0) + self._amount(entry.get("value"))
        points = [(hour, *found) for hour, mix in mixes.items() if (found := intensity_of_mix(mix))]
        return self.make(
            points,
            source="EIA, hourly electric grid monitor",
            place=self._respondent,
            basis=basis_of_mix(),
            step_seconds=HOUR,
        )

    def _amount(self, value: object) -> float:
        """Return megawatt hours, which the service writes as text."""
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise self.error(f"{value!r} is no amount of energy") from None
