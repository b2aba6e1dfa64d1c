"""Smart plugs: a local HTTP server gives recorded answers of Shelly 1, Shelly 2 and Tasmota."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlmeter.backends.smart_plug import SmartPlug
from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Failure, Provenance, Reading
from mlmeter.testing import check_backend

SHELLY_2 = {
    "/rpc/Switch.GetStatus?id=0": {
        "id": 0,
        "source": "init",
        "output": True,
        "apower": 184.3,
        "voltage": 233.1,
        "current": 0.81,
        "aenergy": {"total": 1234.567, "by_minute": [3071.1, 3060.2, 3055.9], "minute_ts": 1_700_000_000},
        "temperature": {"tC": 41.2, "tF": 106.2},
    }
}
SHELLY_1 = {
    "/meter/0": {
        "power": 61.5,
        "is_valid": True,
        "timestamp": 1_700_000_000,
        "counters": [61.2],
        "total": 6000,
    }
}
TASMOTA = {
    "/cm?cmnd=Status%208": {
        "StatusSNS": {
            "Time": "2024-01-01T00:00:00",
            "ENERGY": {
                "Total": 3.185,
                "Today": 0.1,
                "Power": 45,
                "Factor": 0.9,
                "Voltage": 230,
                "Current": 0.2,
            },
        }
    }
}


class Plug(ThreadingHTTPServer):
    """Answers what it was told; None hangs up, an event is waited for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.answers: dict[str, Any] = {}
        self.paths: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Plug)
        server.paths.append(self.path)
        answer = server.answers.get(self.path)
        if isinstance(answer, threading.Event):
            answer.wait(30)
            return
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture
def plug() -> Iterator[Plug]:
    server = Plug()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answers", "milliwatts", "milliwatt_hours"),
    [(SHELLY_2, 184_300, 1_234_567), (SHELLY_1, 61_500, 100_000), (TASMOTA, 45_000, 3_185_000)],
    ids=["shelly_2", "shelly_1", "tasmota"],
)
def test_power_and_energy(plug: Plug, answers: dict[str, Any], milliwatts: int, milliwatt_hours: int) -> None:
    """Watts, and energy in the units of each family; the whole machine, never added."""
    plug.answers = answers
    backend = SmartPlug(plug.address)
    (domain,) = backend.open()
    assert (domain.kind, domain.counted, domain.provenance) == ("machine", False, Provenance.DERIVED)
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.value == milliwatts
    check_backend(backend)

    counter = SmartPlug(plug.address, quantity="energy")
    (domain,) = counter.open()
    assert domain.provenance is Provenance.MEASURED
    assert domain.joules_per_count == pytest.approx(3.6)
    (reading,) = counter.read()
    assert isinstance(reading, Reading)
    assert (reading.value, reading.power_counts) == (milliwatt_hours, milliwatts)
    check_backend(counter)


def test_channel_of_a_strip(plug: Plug) -> None:
    """Each socket is asked for itself."""
    plug.answers = {"/rpc/Switch.GetStatus?id=2": SHELLY_2["/rpc/Switch.GetStatus?id=0"]}
    SmartPlug(plug.address, channel=2).open()
    assert plug.paths == ["/rpc/Switch.GetStatus?id=2"]


@pytest.mark.parametrize(
    "answer",
    [
        b"not json",
        b"[" * 100_000,
        b"\xff\xfe",
        [],
        7,
        {"apower": "much", "aenergy": {"total": 0}},
        {"apower": float("nan"), "aenergy": {"total": 0}},
        {"apower": -5.0, "aenergy": {"total": 0}},
        {"apower": 5.0},
    ],
)
def test_nonsense_is_a_failure(plug: Plug, answer: Any) -> None:
    """No number is made up; the plug is asked again later."""
    plug.answers = dict(SHELLY_2)
    backend = SmartPlug(plug.address)
    backend.open()
    plug.answers = {"/rpc/Switch.GetStatus?id=0": answer}
    (failure,) = backend.read()
    assert isinstance(failure, Failure)
    plug.answers = dict(SHELLY_2)
    assert isinstance(backend.read()[0], Reading)


def test_plug_that_hangs_is_given_up_after_the_limit(plug: Plug) -> None:
    """A read takes the time limit at most."""
    plug.answers = dict(SHELLY_2)
    backend = SmartPlug(plug.address, time_limit_seconds=0.05)
    backend.open()
    released = threading.Event()
    plug.answers = {"/rpc/Switch.GetStatus?id=0": released}
    (failure,) = backend.read()
    released.set()
    assert isinstance(failure, Failure)
    assert "timed out" in failure.reason


def test_unknown_device(plug: Plug) -> None:
    """A router's page is no plug."""
    with pytest.raises(BackendUnavailableError, match="HTTP status 404"):
        SmartPlug(plug.address).open()


def test_nothing_at_the_address(plug: Plug) -> None:
    """A plug that is off does not stop the program."""
    unused = Plug()
    unused.server_close()
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        SmartPlug(unused.address).open()


def test_without_an_address_nothing_is_searched() -> None:
    """The name alone explains what is missing."""
    with pytest.raises(BackendUnavailableError) as caught:
        SmartPlug().open()
    assert "SmartPlug(" in caught.value.remedy


@pytest.mark.parametrize(
    "address", ["https://192.0.2.7", "http://", "http://user:pw@192.0.2.7", "192.0.2.7/x", 7]
)
def test_wrong_address_is_refused(address: Any) -> None:
    """At the call, where it can be mended."""
    with pytest.raises(ArgumentError, match="address="):
        SmartPlug(address)
