"""Answers as the providers give them, for a run from 22:13:20 to 23:43:20 UTC on 2023-11-14."""

from __future__ import annotations

import json

ELECTRICITY_MAPS_RANGE = json.dumps(
    {
        "zone": "DE",
        "data": [
            {
                "zone": "DE",
                "carbonIntensity": grams,
                "datetime": f"2023-11-14T{hour}:00:00.000Z",
                "updatedAt": "2023-11-15T06:50:53.020Z",
                "createdAt": "2023-11-12T23:57:00.011Z",
                "emissionFactorType": "lifecycle",
                "isEstimated": False,
                "estimationMethod": None,
            }
            for hour, grams in ((22, 300), (23, 400))
        ],
    }
)
ELECTRICITY_MAPS_FORECAST = json.dumps(
    {
        "zone": "DE",
        "forecast": [
            {"carbonIntensity": 326, "datetime": "2023-11-14T22:00:00.000Z"},
            {"carbonIntensity": 297, "datetime": "2023-11-14T23:00:00.000Z"},
        ],
        "updatedAt": "2023-11-14T21:35:20.531Z",
    }
)
WATTTIME_LOGIN = json.dumps({"token": "secret-token"})
WATTTIME_HISTORICAL = json.dumps(
    {
        "data": [
            {"point_time": f"2023-11-14T{hour}:{minute:02}:00+00:00", "value": 1000.0}
            for hour in (22, 23)
            for minute in range(0, 60, 5)
        ],
        "meta": {
            "region": "CAISO_NORTH",
            "signal_type": "co2_moer",
            "data_point_period_seconds": 300,
            "units": "lbs_co2_per_mwh",
            "warnings": [],
            "model": {"date": "2023-03-01"},
        },
    }
)
UK_INTENSITY = json.dumps(
    {
        "data": [
            {
                "from": f"2023-11-14T{start}Z",
                "to": f"2023-11-14T{end}Z",
                "intensity": {"forecast": 150, "actual": actual, "index": "moderate"},
            }
            for start, end, actual in (
                ("22:00", "22:30", 140),
                ("22:30", "23:00", 130),
                ("23:00", "23:30", None),
                ("23:30", "00:00", None),
            )
        ]
    }
)
ENERGI_DATA = json.dumps(
    {
        "total": 24,
        "filters": '{"PriceArea":["DK1"]}',
        "dataset": "CO2Emis",
        "records": [
            {
                "Minutes5UTC": f"2023-11-14T{hour}:{minute:02}:00",
                "Minutes5DK": "2023-11-14T23:00:00",
                "PriceArea": "DK1",
                "CO2Emission": 90.0,
            }
            for hour in (22, 23)
            for minute in range(0, 60, 5)
        ],
    }
)
# Hours are called by their end.
EIA_FUELS = json.dumps(
    {
        "response": {
            "total": "8",
            "dateFormat": 'YYYY-MM-DD"T"HH24',
            "frequency": "hourly",
            "data": [
                {
                    "period": period,
                    "respondent": "CISO",
                    "respondent-name": "California Independent System Operator",
                    "fueltype": fuel,
                    "type-name": fuel,
                    "value": value,
                    "value-units": "megawatthours",
                }
                for period in ("2023-11-14T23", "2023-11-15T00")
                for fuel, value in (("NG", "5000"), ("SUN", "-12"), ("WND", "4000"), ("OTH", "1000"))
            ],
        },
        "request": {"command": "/v2/electricity/rto/fuel-type-data/data/", "params": {}},
        "apiVersion": "2.1.8",
    }
)


def entsoe_series(fuel: str, points: str, domain: str = "inBiddingZone_Domain") -> str:
    return (
        f"<TimeSeries><{domain}.mRID>10Y1001A1001A82H</{domain}.mRID>"
        f"<curveType>A03</curveType><MktPSRType><psrType>{fuel}</psrType></MktPSRType>"
        "<Period><timeInterval><start>2023-11-14T22:00Z</start><end>2023-11-15T00:00Z</end></timeInterval>"
        f"<resolution>PT60M</resolution>{points}</Period></TimeSeries>"
    )


ENTSOE = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<GL_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0">'
    # The second hour is left out: it is as the first.
    + entsoe_series("B04", "<Point><position>1</position><quantity>300</quantity></Point>")
    + entsoe_series(
        "B19",
        "<Point><position>1</position><quantity>100</quantity></Point>"
        "<Point><position>2</position><quantity>700</quantity></Point>",
    )
    # Pumps that fill a lake.
    + entsoe_series(
        "B10", "<Point><position>1</position><quantity>900</quantity></Point>", "outBiddingZone_Domain"
    )
    + "</GL_MarketDocument>"
)
ENTSOE_NOTHING = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<Acknowledgement_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-1:acknowledgementdocument:7:0">'
    "<Reason><code>999</code><text>No matching data found</text></Reason>"
    "</Acknowledgement_MarketDocument>"
)
