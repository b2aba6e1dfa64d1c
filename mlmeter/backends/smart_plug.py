"""Smart plugs with a local HTTP interface: the whole machine at the wall (Shelly, Tasmota)."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import JOULES_PER_WATT_HOUR, WATTS_PER_MILLIWATT

TIME_LIMIT_SECONDS = 2.0
POWER, ENERGY = "power", "energy"
# Plugs measure about once per second; their energy is booked once per minute.
_POWER_PERIOD_SECONDS = 1.0
_ENERGY_PERIOD_SECONDS = 60.0
_MOST_BYTES = 65_536
_MILLI = 1_000
_MINUTES_PER_HOUR = 60
_JOULES_PER_MILLIWATT_HOUR = JOULES_PER_WATT_HOUR / _MILLI

_ADDRESS_REMEDY = (
    "Give the plug's address: backends=[SmartPlug('http://192.0.2.7')]; mlmeter never searches for one"
)
_ANSWER_REMEDY = "Open the address in a browser; the plug needs its local HTTP interface, without a password"


class _Shown(NamedTuple):
    """What a plug tells: its present power, and the energy since it was set up."""

    watts: float
    watt_hours: float | None


class _Model(NamedTuple):
    """A family of plugs: where it is asked, and what its answer means."""

    name: str
    path: Callable[[int], str]
    shown: Callable[[Any], _Shown]


def _shelly_2(answer: Any) -> _Shown:
    """Shelly of generation 2 and later: watts and watt hours."""
    return _Shown(float(answer["apower"]), float(answer["aenergy"]["total"]))


def _shelly_1(answer: Any) -> _Shown:
    """Shelly of generation 1: watts and watt minutes, and whether the meter works."""
    if answer.get("is_valid") is False:
        raise ValueError("the plug says that its meter does not work")
    return _Shown(float(answer["power"]), float(answer["total"]) / _MINUTES_PER_HOUR)


def _tasmota(answer: Any) -> _Shown:
    """Tasmota: watts and kilowatt hours; lists where a device has several channels."""
    energy = answer["StatusSNS"]["ENERGY"]
    power, total = energy["Power"], energy["Total"]
    watts = sum(power) if isinstance(power, list) else power
    return _Shown(float(watts), _MILLI * float(sum(total) if isinstance(total, list) else total))


_MODELS = (
    _Model("shelly_2", lambda channel: f"/rpc/Switch.GetStatus?id={channel}", _shelly_2),
    _Model("shelly_1", lambda channel: f"/meter/{channel}", _shelly_1),
    _Model("tasmota", lambda _: "/cm?cmnd=Status%208", _tasmota),
)


class SmartPlug:
    """Reads the power that a machine draws from a plug: ``wall``, of kind ``machine``.

    The figure holds the power supply and everything plugged into it, and is never added to
    CPU and GPU. The plug is asked once per second on a thread of its own. It is found by its
    address only, over unencrypted HTTP and without a password.

    Args:
        address: such as ``"http://192.0.2.7"`` or ``"192.0.2.7:8080"``.
        quantity: ``"power"``: integrate the plug's watts. ``"energy"``: take its own counter, which
            is right for hours and says nothing of minutes.
        channel: number of the socket of a strip, from 0.
        time_limit_seconds: for each answer.
        now_ns: monotonic clock for the time stamps of the readings.

    Raises:
        ArgumentError: the address is no HTTP address, or the quantity is unknown.

    Example:
        >>> plug = SmartPlug("http://192.0.2.7")  # for EnergyMeter(backends=["rapl", plug])
        >>> plug.name
        'smart_plug'
    """

    name = "smart_plug"
    blocking = True

    def __init__(
        self,
        address: str | None = None,
        *,
        quantity: str = POWER,
        channel: int = 0,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if quantity not in (POWER, ENERGY):
            raise ArgumentError(f'quantity={quantity!r}: expected "power" or "energy"')
        self._host, self._port = ("", 80) if address is None else _host_and_port(address)
        self._quantity = quantity
        self._channel = channel
        self._time_limit_seconds = time_limit_seconds
        self._now_ns = now_ns
        self._model: _Model | None = None

    def open(self) -> Sequence[Domain]:
        """Find out what kind of plug it is.

        Raises:
            BackendUnavailableError: no address was given, nothing answers, or nothing that is known.
        """
        self.close()
        if not self._host:
            raise BackendUnavailableError(self.name, "no address was given", _ADDRESS_REMEDY)
        problems = []
        for model in _MODELS:
            try:
                shown = self._ask(model)
            except OSError as error:
                # What does not answer once does not answer to another question either.
                reason = f"{self._host}:{self._port} does not answer ({error.strerror or error})"
                raise BackendUnavailableError(self.name, reason, _ANSWER_REMEDY) from error
            except ValueError as error:
                problems.append(f"{model.name}: {error}")
                continue
            self._model = model
            return (self._domain(model, shown),)
        reason = f"{self._host}:{self._port} gives no power that is understood ({'; '.join(problems)})"
        raise BackendUnavailableError(self.name, reason, _ANSWER_REMEDY)

    def read(self) -> Sequence[Reading | Failure]:
        """Ask the plug once; this takes up to the time limit."""
        if self._model is None:
            return ()
        begin_ns = self._now_ns()
        try:
            shown = self._ask(self._model)
        except (OSError, ValueError) as error:
            words = (error.strerror if isinstance(error, OSError) else None) or str(error)
            reason = f"the plug at {self._host}:{self._port} does not answer ({words})"
            return (Failure(0, reason, False, begin_ns),)
        milliwatts = round(shown.watts * _MILLI)
        if self._quantity == POWER:
            return (Reading(0, milliwatts, begin_ns, self._now_ns()),)
        milliwatt_hours = round((shown.watt_hours or 0.0) * _MILLI)
        return (Reading(0, milliwatt_hours, begin_ns, self._now_ns(), power_counts=milliwatts),)

    def close(self) -> None:
        """Ask no more; no connection is kept."""
        self._model = None

    def _domain(self, model: _Model, shown: _Shown) -> Domain:
        counter = self._quantity == ENERGY and shown.watt_hours is not None
        return Domain(
            name="wall",
            id=f"smart_plug:{self._host}:{self._port}/{self._channel}",
            kind="machine",
            source=self.name,
            provenance=Provenance.MEASURED if counter else Provenance.DERIVED,
            joules_per_count=_JOULES_PER_MILLIWATT_HOUR if counter else None,
            watts_per_count=None if counter else WATTS_PER_MILLIWATT,
            power_watts_per_count=WATTS_PER_MILLIWATT if counter else None,
            update_period_seconds=_ENERGY_PERIOD_SECONDS if counter else _POWER_PERIOD_SECONDS,
            model_name=model.name,
        )

    def _ask(self, model: _Model) -> _Shown:
        """Return what the plug tells.

        Raises:
            OSError: nothing answers in time.
            ValueError: the answer is none of this model.
        """
        answer = self._answer(model.path(self._channel))
        try:
            shown = model.shown(answer)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"the answer has no power ({type(error).__name__}: {error})") from error
        energy = shown.watt_hours or 0.0
        if not (0 <= shown.watts < float("inf") and 0 <= energy < float("inf")):
            raise ValueError(f"the plug tells {shown.watts} W and {energy} Wh")
        return shown

    def _answer(self, path: str) -> Any:
        """Get a page and return what its JSON means."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._time_limit_seconds)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            text = response.read(_MOST_BYTES)
            if response.status != http.client.OK:
                raise ValueError(f"HTTP status {response.status}")
            return json.loads(text)
        except http.client.HTTPException as error:
            raise ValueError(f"no HTTP answer ({type(error).__name__})") from error
        except RecursionError as error:
            raise ValueError("the answer is no JSON") from error
        finally:
            connection.close()


def _host_and_port(address: str) -> tuple[str, int]:
    """Return host and port of an address as a user writes it."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}", scheme="http")
        host, port = parts.hostname, parts.port
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"address={address!r}: {error}") from error
    if parts.scheme != "http" or not host or parts.username or parts.path.strip("/"):
        raise ArgumentError(f'address={address!r}: expected one such as "http://192.0.2.7"')
    return host, port or 80
