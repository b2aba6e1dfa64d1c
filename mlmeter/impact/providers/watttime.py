"""WattTime: marginal intensity, with an account."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from typing import Any

from mlmeter.impact.factors import is_number
from mlmeter.impact.providers.base import TIMEOUT_SECONDS, HttpProvider, utc_text, whole_steps
from mlmeter.impact.series import MARGINAL, IntensitySeries
from mlmeter.units import GRAMS_PER_POUND

UNITS = "lbs_co2_per_mwh"
GRAMS_PER_KWH_OF_UNIT = GRAMS_PER_POUND / 1000.0
STEP_SECONDS = 300.0


class WattTime(HttpProvider):
    """Marginal operating emissions rate in steps of five minutes; region CAISO_NORTH is free.

    Args:
        user, password: of the account.
        region: such as ``"CAISO_NORTH"``.
    """

    def __init__(
        self,
        user: str,
        password: str,
        region: str,
        *,
        base_url: str = "https://api.watttime.org",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(base_url, timeout_seconds)
        self.name = f"WattTime {region}"
        self._region = region
        self._login = b64encode(f"{user}:{password}".encode()).decode()

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the five minutes of a past time."""
        first, last = whole_steps(start, end, 5)
        return self._ask("historical", {"start": utc_text(first), "end": utc_text(last)}, estimated=False)

    def forecast(self) -> IntensitySeries:
        """Return the five minutes to come."""
        return self._ask("forecast", {}, estimated=True)

    def _ask(self, what: str, query: dict[str, str], *, estimated: bool) -> IntensitySeries:
        token = self.get_json("/login", headers={"Authorization": f"Basic {self._login}"}).get("token")
        if not isinstance(token, str):
            raise self.error("the login gave no token")
        answer = self.get_json(
            f"/v3/{what}",
            {"region": self._region, "signal_type": "co2_moer", **query},
            {"Authorization": f"Bearer {token}"},
        )
        meta = answer.get("meta")
        units = meta.get("units") if isinstance(meta, dict) else None
        if units != UNITS:
            raise self.error(f"values are in {units!r}, not in {UNITS}")
        return self.make(
            [
                (self.time_of(entry.get("point_time")), _grams(entry.get("value")))
                for entry in self.entries(answer, "data")
            ],
            source="WattTime",
            place=self._region,
            kind=MARGINAL,
            basis="direct emissions of the plants that answer to more demand",
            estimated=estimated,
            step_seconds=STEP_SECONDS,
        )


def _grams(pounds_per_mwh: Any) -> Any:
    """Return grams per kWh; what is no number stays what it is."""
    return pounds_per_mwh * GRAMS_PER_KWH_OF_UNIT if is_number(pounds_per_mwh) else pounds_per_mwh
