"""What a provider is, and requests that end in time and never leave the host they were meant for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import Thread
from time import monotonic
from typing import IO, Any, Protocol, runtime_checkable
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

from mlmeter.errors import ArgumentError, ProviderError
from mlmeter.impact.factors import checked_number
from mlmeter.impact.series import IntensitySeries

TIMEOUT_SECONDS = 10.0
# A year of five-minute values takes a fifth of this.
MOST_BYTES = 50_000_000
CHUNK_BYTES = 65_536
MOST_WORDS = 200


@runtime_checkable
class CarbonProvider(Protocol):
    """A source of carbon intensity over time.

    Attributes:
        name: what it is called in reports.
    """

    name: str

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        """Return the intensity of a past time.

        Raises:
            ProviderError: the provider cannot be reached in time, refuses, or its answer makes no sense.
        """
        ...

    def forecast(self) -> IntensitySeries:
        """Return the intensity that is expected.

        Raises:
            ProviderError: as for `series`, or the provider has no forecasts.
        """
        ...


class HttpProvider:
    """What the providers here have in common.

    Args:
        base_url: address of the service; another one for a proxy of your own.
        timeout_seconds: longest time of one request, its answer included.
    """

    name = "provider"

    def __init__(self, base_url: str, timeout_seconds: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ArgumentError(f"base_url={base_url!r}: expected an address that starts with https://")
        self.base_url = base_url.rstrip("/")
        self.timeout_seconds = checked_number("timeout_seconds", timeout_seconds, 0.01, 600.0)

    def forecast(self) -> IntensitySeries:
        """Raise: this provider has no forecasts.

        Raises:
            ProviderError: always.
        """
        raise self.error("has no forecasts")

    def error(self, reason: str) -> ProviderError:
        """Return an error that names this provider."""
        return ProviderError(self.name, reason)

    def get_json(
        self, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the JSON object of an address.

        Raises:
            ProviderError: it cannot be reached in time, answers with an error, or no JSON object.
        """
        body = self.get(path, query, headers)
        try:
            answer = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise self.error(f"the answer of {path} is no JSON: {_words(body)}") from error
        if not isinstance(answer, dict):
            raise self.error(f"the answer of {path} is no object: {_words(body)}")
        return answer

    def get(
        self, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the body of an address; queries, which can hold keys, are in no message.

        Raises:
            ProviderError: it cannot be reached in time, or answers with an error.
        """
        outcome: list[bytes | Exception] = []

        def ask() -> None:
            try:
                outcome.append(self._get(path, query, headers))
            except Exception as error:
                outcome.append(error)

        # No time-out of a socket bounds the search for its address, or headers that come byte by byte.
        asking = Thread(target=ask, name=f"mlmeter {self.name}", daemon=True)
        asking.start()
        asking.join(self.timeout_seconds)
        if not outcome:
            raise self.error(f"{path} did not answer in {self.timeout_seconds:g} s")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _get(self, path: str, query: Mapping[str, str] | None, headers: Mapping[str, str] | None) -> bytes:
        from http.client import HTTPException
        from urllib.request import Request, build_opener

        url = f"{self.base_url}{path}"
        if query:
            url += f"?{urlencode(query)}"
        request = Request(
            url, headers={"User-Agent": "mlmeter", "Accept": "application/json, */*", **(headers or {})}
        )
        deadline = monotonic() + self.timeout_seconds
        try:
            with build_opener(_no_redirects()).open(request, timeout=self.timeout_seconds) as response:
                return self._read(response.read1, path, deadline)
        except HTTPError as error:
            with error:
                text = _words(_some(error))
            raise self.error(f"{path} answered {error.code} {error.reason}: {text}") from None
        # OSError holds URLError, time-outs and refused connections.
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise self.error(f"{path} cannot be reached: {type(error).__name__}: {reason}") from None

    def _read(self, read: Callable[[int], bytes], path: str, deadline: float) -> bytes:
        """Read all, but no longer and no more than allowed."""
        parts, size = [], 0
        while chunk := read(CHUNK_BYTES):
            parts.append(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                raise self.error(f"the answer of {path} is larger than {MOST_BYTES:,} bytes")
            if monotonic() > deadline:
                raise self.error(f"{path} did not answer in {self.timeout_seconds:g} s")
        return b"".join(parts)

    def entries(self, answer: Mapping[str, Any], *keys: str) -> list[Mapping[str, Any]]:
        """Return the list of objects below keys.

        Raises:
            ProviderError: there is none, or it is empty.
        """
        found: Any = answer
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, list) or not found or not all(isinstance(item, Mapping) for item in found):
            raise self.error(f"the answer has no values: {_words(json.dumps(answer).encode())}")
        return found

    def time_of(self, value: object) -> datetime:
        """Return a time; one without a time zone is UTC.

        Raises:
            ProviderError: it is none.
        """
        try:
            if not isinstance(value, str):
                raise ValueError
            found = datetime.fromisoformat(value)
        except ValueError:
            raise self.error(f"{value!r} is no time") from None
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

    def make(self, points: list[tuple[Any, ...]], **fields: Any) -> IntensitySeries:
        """Return a series of points whose values may make no sense.

        Raises:
            ProviderError: they make none.
        """
        try:
            return IntensitySeries.of(points, **fields)
        except ArgumentError as error:
            raise self.error(f"the answer makes no sense: {error}") from error


def utc_text(time: datetime, form: str = "%Y-%m-%dT%H:%MZ") -> str:
    """Return a time in UTC as text.

    Raises:
        ArgumentError: it has no time zone.
    """
    if time.tzinfo is None:
        raise ArgumentError(f"{time!r}: expected a datetime with a time zone")
    return time.astimezone(UTC).strftime(form)


def whole_steps(start: datetime, end: datetime, minutes: int) -> tuple[datetime, datetime]:
    """Return the steps of so many minutes that hold a time, at least one.

    Raises:
        ArgumentError: a time has no time zone.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ArgumentError(f"{start!r}, {end!r}: expected datetimes with a time zone")
    step = timedelta(minutes=minutes)
    origin = datetime(2000, 1, 1, tzinfo=UTC)
    first = origin + (start - origin) // step * step
    last = origin - (origin - end) // step * step
    return first, max(last, first + step)


def _no_redirects() -> Any:
    """Return a handler that follows no redirect: it would carry the key to another host."""
    from urllib.request import HTTPRedirectHandler

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    return NoRedirects


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _some(error: IO[bytes]) -> bytes:
    try:
        return error.read(4 * MOST_WORDS)
    except OSError:
        return b""


def _words(body: bytes) -> str:
    """Return the beginning of an answer in one line, printable."""
    text = "".join(letter if letter.isprintable() else " " for letter in body.decode("utf-8", "replace"))
    return " ".join(text.split())[:MOST_WORDS] or "(empty)"
