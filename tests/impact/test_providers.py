"""Providers against a server of this machine: recorded answers, and a server that is down, slow or mad."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from mlmeter.errors import ArgumentError, ProviderError
from mlmeter.impact import (
    CarbonProvider,
    Eia,
    ElectricityMaps,
    EnergiDataService,
    EntsoE,
    UkCarbonIntensity,
    WattTime,
)
from mlmeter.impact.providers.generation_mix import intensity_of_mix
from mlmeter.session import Session
from tests.impact import answers

START = datetime.fromtimestamp(1_700_000_000, UTC)
END = START + timedelta(minutes=90)
SECRET = "s3cret"


class Server:
    """A provider on this machine.

    Attributes:
        answers: status and body by path; the path ``*`` for all others.
        asked: paths with queries and headers of all requests.
        stalls: bytes after which an answer stops until the end of the test; None for whole answers.
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.stalls: int | None = None
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.asked.append((parts.path, parse_qs(parts.query), dict(handler.headers)))
        status, body = self.answers.get(parts.path) or self.answers.get("*", (404, "not found"))
        data = body.encode()
        handler.send_response(status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if self.stalls is None:
            handler.wfile.write(data)
            return
        handler.wfile.write(data[: self.stalls])
        handler.wfile.flush()
        self.over.wait(30)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is on this machine, wherever others are reached through."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


MAKERS: dict[str, Callable[..., CarbonProvider]] = {
    "Electricity Maps": lambda **at: ElectricityMaps(SECRET, "DE", **at),
    "WattTime": lambda **at: WattTime("me", SECRET, "CAISO_NORTH", **at),
    "UK": lambda **at: UkCarbonIntensity(**at),
    "Energi Data Service": lambda **at: EnergiDataService("DK1", **at),
    "EIA": lambda **at: Eia(SECRET, "CISO", **at),
    "ENTSO-E": lambda **at: EntsoE(SECRET, "10Y1001A1001A82H", **at),
}
RECORDED = {
    "Electricity Maps": {"/carbon-intensity/past-range": answers.ELECTRICITY_MAPS_RANGE},
    "WattTime": {"/login": answers.WATTTIME_LOGIN, "/v3/historical": answers.WATTTIME_HISTORICAL},
    "UK": {"/intensity/2023-11-14T22:01Z/2023-11-15T00:00Z": answers.UK_INTENSITY},
    "Energi Data Service": {"/dataset/CO2Emis": answers.ENERGI_DATA},
    "EIA": {"/electricity/rto/fuel-type-data/data/": answers.EIA_FUELS},
    "ENTSO-E": {"/api": answers.ENTSOE},
}
every_provider = pytest.mark.parametrize("name", MAKERS)


def made(name: str, server: Server, timeout_seconds: float = 20.0) -> CarbonProvider:
    """Return a provider that asks the server."""
    return MAKERS[name](base_url=server.url, timeout_seconds=timeout_seconds)


def recorded(name: str, server: Server) -> CarbonProvider:
    """Return a provider that gets the recorded answers."""
    server.answers = {path: (200, body) for path, body in RECORDED[name].items()}
    return made(name, server)


@every_provider
def test_making_one_asks_nothing(name: str, server: Server) -> None:
    """Only a session's impact, or the user, asks."""
    provider = made(name, server)
    assert isinstance(provider, CarbonProvider)
    assert server.asked == []


@every_provider
def test_recorded_answers_cover_the_run(name: str, server: Server, session: Session) -> None:
    """Each provider gives an impact, and its factor has time and source."""
    impact = session.impact(recorded(name, server))
    grid = impact.factors.grid
    assert impact.operational.value == pytest.approx(1.5 * (grid.value or 0), rel=1e-6)
    assert grid.year == "2023-11-14 22:13 to 2023-11-14 23:43 UTC"
    assert grid.source
    assert grid.basis


def test_electricity_maps(server: Server) -> None:
    """Hours; key in the header, never in the address."""
    series = recorded("Electricity Maps", server).series(START, END)
    assert [step.grams_per_kwh for step in series.steps] == [300, 400]
    assert (series.kind, series.basis, series.estimated) == ("average", "life cycle", False)
    _, query, headers = server.asked[0]
    assert headers["Auth-Token"] == SECRET
    assert query == {
        "zone": ["DE"],
        "emissionFactorType": ["lifecycle"],
        "start": ["2023-11-14T22:00Z"],
        "end": ["2023-11-15T00:00Z"],
    }


def test_the_last_day_of_electricity_maps_is_free(server: Server) -> None:
    """It comes from another address, and 24 hours of it."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    times = [(now - timedelta(hours=hour)).isoformat() for hour in range(24)]
    history = [{"carbonIntensity": 100, "datetime": time, "isEstimated": True} for time in times]
    server.answers["/carbon-intensity/history"] = (200, json.dumps({"zone": "DE", "history": history}))
    series = made("Electricity Maps", server).series(now - timedelta(hours=2), now)
    assert len(series.steps) == 24
    assert series.estimated


def test_forecasts(server: Server) -> None:
    """Of those that have some; the others say that they have none."""
    server.answers["/carbon-intensity/forecast"] = (200, answers.ELECTRICITY_MAPS_FORECAST)
    series = made("Electricity Maps", server).forecast()
    assert [step.grams_per_kwh for step in series.steps] == [326, 297]
    assert series.estimated
    server.answers = {"*": (200, answers.UK_INTENSITY)}
    assert len(made("UK", server).forecast().steps) == 4
    assert server.asked[-1][0].endswith("/fw48h")
    server.answers = {"/dataset/CO2EmisProg": (200, answers.ENERGI_DATA)}
    assert made("Energi Data Service", server).forecast().estimated
    server.answers["/login"] = (200, answers.WATTTIME_LOGIN)
    server.answers["/v3/forecast"] = (200, answers.WATTTIME_HISTORICAL)
    assert made("WattTime", server).forecast().kind == "marginal"
    for name in ("EIA", "ENTSO-E"):
        with pytest.raises(ProviderError, match="has no forecasts"):
            made(name, server).forecast()


def test_watttime(server: Server) -> None:
    """Marginal, in pounds a MWh: 1000 of them are 453.6 g/kWh; token of a login in the header."""
    series = recorded("WattTime", server).series(START, END)
    assert series.kind == "marginal"
    assert {step.grams_per_kwh for step in series.steps} == {453.59237}
    assert server.asked[0][2]["Authorization"].startswith("Basic ")
    assert server.asked[1][2]["Authorization"] == "Bearer secret-token"


def test_watttime_in_other_units(server: Server) -> None:
    """A unit that is not the known one is not converted as if it were."""
    provider = recorded("WattTime", server)
    other = answers.WATTTIME_HISTORICAL.replace("lbs_co2_per_mwh", "kg_per_mwh")
    server.answers["/v3/historical"] = (200, other)
    with pytest.raises(ProviderError, match="'kg_per_mwh', not in lbs_co2_per_mwh"):
        provider.series(START, END)


def test_uk(server: Server) -> None:
    """As measured where that is known, else as forecast, and then marked."""
    series = recorded("UK", server).series(START, END)
    assert [step.grams_per_kwh for step in series.steps] == [140, 130, 150, 150]
    assert series.estimated


def test_uk_in_parts(server: Server) -> None:
    """The service gives 14 days at once."""
    server.answers["*"] = (200, answers.UK_INTENSITY)
    made("UK", server).series(START - timedelta(days=20), START)
    assert len(server.asked) == 2


def test_eia(server: Server) -> None:
    """Gas and wind with their factors; what has none widens the range; negative generation is none."""
    series = recorded("EIA", server).series(START, END)
    step = series.steps[0]
    assert step.grams_per_kwh == pytest.approx((5000 * 490 + 4000 * 11) / 9000)
    assert step.low == pytest.approx((5000 * 490 + 4000 * 11 + 1000 * 11) / 10_000)
    assert step.high == pytest.approx((5000 * 490 + 4000 * 11 + 1000 * 820) / 10_000)
    assert series.start == datetime(2023, 11, 14, 22, tzinfo=UTC)
    assert server.asked[0][1]["start"] == ["2023-11-14T23"]


def test_entsoe(server: Server) -> None:
    """Points that are left out repeat; what storage takes in is not generated."""
    series = recorded("ENTSO-E", server).series(START, END)
    assert [step.grams_per_kwh for step in series.steps] == [
        pytest.approx((300 * 490 + 100 * 11) / 400),
        pytest.approx((300 * 490 + 700 * 11) / 1000),
    ]


def test_entsoe_without_data(server: Server) -> None:
    """The reason of the platform is passed on."""
    server.answers["/api"] = (200, answers.ENTSOE_NOTHING)
    with pytest.raises(ProviderError, match="No matching data found"):
        made("ENTSO-E", server).series(START, END)


@pytest.mark.parametrize(
    "body",
    [
        "<GL_MarketDocument>",
        "<GL_MarketDocument/>",
        '<!DOCTYPE x [<!ENTITY a "b">]><GL_MarketDocument>&a;</GL_MarketDocument>',
        answers.ENTSOE.replace("PT60M", "P1D"),
        answers.ENTSOE.replace("PT60M", "PT0M"),
        answers.ENTSOE.replace("<position>1", "<position>one"),
        answers.ENTSOE.replace("2023-11-15T00:00Z", "2023-11-13T00:00Z"),
        answers.ENTSOE.replace("2023-11-15T00:00Z", "9999-11-13T00:00Z"),
        answers.ENTSOE.replace("2023-11-15T00:00Z", "tomorrow"),
        answers.ENTSOE.replace("PT60M", "PT30M", 1),
    ],
)
def test_xml_that_makes_no_sense(server: Server, body: str) -> None:
    """Broken, empty, with entities, without steps, with two of them, of negative or endless length."""
    server.answers["/api"] = (200, body)
    with pytest.raises(ProviderError, match="ENTSO-E"):
        made("ENTSO-E", server).series(START, END)


NONSENSE = [
    *("", "null", "[]", "{}", "42", '"x"', "<html>Welcome</html>", "{", "\x00\xff", "[" * 100_000),
    *('{"data": {}}', '{"data": []}', '{"data": [1]}', '{"data": NaN}', '{"token": 3}'),
    '{"response": {"data": [{"period": null}]}}',
    '{"records": [{"PriceArea": "DK2"}]}',
    '{"data": [{"from": 1, "intensity": 3}]}',
]


@every_provider
@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense(name: str, server: Server, body: str) -> None:
    """Whatever comes, it is a ProviderError that names the provider."""
    server.answers["*"] = (200, body)
    with pytest.raises(ProviderError) as caught:
        made(name, server).series(START, END)
    assert str(caught.value).startswith(caught.value.provider)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", ["-5", "1e9", '"300"', "null", "true", "0.3", "[]"])
def test_impossible_intensities(server: Server, value: str) -> None:
    """A number of the provider is checked as one of the user."""
    body = answers.ELECTRICITY_MAPS_RANGE.replace('"carbonIntensity": 300', f'"carbonIntensity": {value}')
    server.answers["*"] = (200, body)
    with pytest.raises(ProviderError, match="makes no sense"):
        made("Electricity Maps", server).series(START, END)


@every_provider
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_refusals(name: str, server: Server, status: int) -> None:
    """Status and words of the provider are passed on; its key is not."""
    server.answers["*"] = (status, '{"message": "Invalid auth-token"}')
    with pytest.raises(ProviderError, match=rf"{status}.*Invalid auth-token") as caught:
        made(name, server).series(START, END)
    assert SECRET not in str(caught.value)


@every_provider
def test_a_provider_that_is_down(name: str) -> None:
    """Nobody listens there."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        provider = MAKERS[name](base_url=f"http://127.0.0.1:{unused.getsockname()[1]}", timeout_seconds=5.0)
        with pytest.raises(ProviderError, match="cannot be reached") as caught:
            provider.series(START, END)
    assert SECRET not in str(caught.value)


@every_provider
@pytest.mark.parametrize("bytes_first", [0, 1])
def test_a_provider_that_is_slow(name: str, server: Server, bytes_first: int) -> None:
    """It is given up; the rest of its answer is not waited for."""
    server.answers["*"] = (200, "x" * 1000)
    server.stalls = bytes_first
    with pytest.raises(ProviderError, match=r"cannot be reached|did not answer"):
        made(name, server, timeout_seconds=0.05).series(START, END)


def test_an_answer_that_drips(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte restarts a socket's time-out, but not the deadline: reading ends."""
    server.answers["*"] = (200, answers.UK_INTENSITY)
    times = iter([0.0, 1.0, 99.0])
    monkeypatch.setattr("mlmeter.impact.providers.base.CHUNK_BYTES", 10)
    monkeypatch.setattr("mlmeter.impact.providers.base.monotonic", lambda: next(times))
    with pytest.raises(ProviderError, match="did not answer in 20 s"):
        made("UK", server).series(START, END)


def test_a_request_that_hangs(server: Server) -> None:
    """Neither a name server nor headers that come byte by byte hold the caller."""
    provider = made("UK", server, timeout_seconds=0.2)
    provider._get = lambda *_: server.over.wait(30)  # type: ignore[attr-defined]
    with pytest.raises(ProviderError, match=r"did not answer in 0\.2 s"):
        provider.series(START, END)


def test_an_answer_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than any real answer has."""
    monkeypatch.setattr("mlmeter.impact.providers.base.MOST_BYTES", 100)
    server.answers["*"] = (200, answers.UK_INTENSITY)
    with pytest.raises(ProviderError, match="larger than 100 bytes"):
        made("UK", server).series(START, END)


def test_redirects_are_not_followed(server: Server) -> None:
    """They would carry the key to another host."""
    server.answers["*"] = (302, "")
    server.headers = {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(ProviderError, match="302"):
        made("Electricity Maps", server).series(START, END)
    assert len(server.asked) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host", "api.example.org", "", "https://"])
def test_addresses_of_other_kinds(url: str) -> None:
    """No file of this machine is taken for a provider."""
    with pytest.raises(ArgumentError, match="base_url"):
        UkCarbonIntensity(base_url=url)


def test_arguments_are_checked() -> None:
    """Areas, time-outs and times without a zone."""
    with pytest.raises(ArgumentError, match="DK1 or DK2"):
        EnergiDataService("DK3")
    with pytest.raises(ArgumentError, match="timeout_seconds"):
        UkCarbonIntensity(timeout_seconds=0)
    with pytest.raises(ArgumentError, match="time zone"):
        UkCarbonIntensity(base_url="http://127.0.0.1:9").series(START.replace(tzinfo=None), END)


def test_too_long_a_time_for_eia(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer is not taken for a whole one."""
    monkeypatch.setattr("mlmeter.impact.providers.eia.MOST_ROWS", 8)
    with pytest.raises(ProviderError, match="more than it gives at once"):
        recorded("EIA", server).series(START, END)


def test_a_mix_of_nothing_has_no_intensity() -> None:
    """Neither have fuels without a factor."""
    assert intensity_of_mix({}) is None
    assert intensity_of_mix({None: 5.0, "coal": 0.0, "gas": -3.0}) is None
    assert intensity_of_mix({"coal": 1.0, "hydro": 1.0}) == (422.0, 422.0, 422.0)
