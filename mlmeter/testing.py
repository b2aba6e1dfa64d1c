"""Fakes for tests of energy-aware code: no hardware, no waiting, known energy.

clock = FakeClock()
meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from mlmeter.backends.base import Backend
from mlmeter.clock import Clock, Flag
from mlmeter.measurement import Domain, Failure, GpuUse, Provenance, Reading
from mlmeter.meter import EnergyMeter
from mlmeter.sampling.process_tree import ProcessTimes
from mlmeter.sampling.sampler import Sampler
from mlmeter.units import NANOSECONDS_PER_SECOND

__all__ = [
    "FakeBackend",
    "FakeClock",
    "SimulatedBackend",
    "advance",
    "check_backend",
    "fake_domain",
    "fake_meter",
]

MICROJOULE = 1e-6


class FakeClock:
    """A clock that moves only when told to; waiting moves it.

    Example:
        >>> clock = FakeClock()
        >>> clock.advance(0.5)
        >>> clock.now_ns()
        500000000
    """

    def __init__(self, start_ns: int = 0, wall_ns: int = 1_700_000_000 * NANOSECONDS_PER_SECOND) -> None:
        self._now_ns = start_ns
        self._wall_ns = wall_ns
        self._suspended_ns = 0

    def now_ns(self) -> int:
        """Return the fake time."""
        return self._now_ns

    def wall_ns(self) -> int:
        """Return the fake time of day, which moves with the clock and in suspend."""
        return self._wall_ns + self.boot_ns()

    def boot_ns(self) -> int:
        """Return the fake time, that in suspend included."""
        return self._now_ns + self._suspended_ns

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: the time of day moves on; on this clock that takes a microsecond."""
        self.advance(1e-6)
        self._suspended_ns += round(seconds * NANOSECONDS_PER_SECOND)

    def set_wall(self, seconds: float) -> None:
        """Set the time of day forward, or back if negative."""
        self._wall_ns += round(seconds * NANOSECONDS_PER_SECOND)

    def advance(self, seconds: float) -> None:
        """Move the time on."""
        self._now_ns += round(seconds * NANOSECONDS_PER_SECOND)

    def wait(self, wake: Flag, timeout_seconds: float) -> bool:
        """Move the time on by the time-out unless `wake` is set."""
        if not wake.is_set():
            self.advance(max(0.0, timeout_seconds))
        return wake.is_set()


class FakeBackend:
    """A backend whose counts a test sets, or computes from the time.

    Args:
        domains: the domains; `fake_domain` makes one.
        counts: per domain the raw count, or a function of the time in nanoseconds. A count
            may also be a `Failure` or an exception, which is then returned or raised.
        clock: source of the time stamps.

    Attributes:
        reads: number of calls of `read`.
        closed: whether `close` was called.
    """

    name = "fake"

    def __init__(
        self,
        domains: Sequence[Domain],
        counts: Sequence[int | Failure | Exception | Callable[[int], int]],
        clock: Clock,
    ) -> None:
        self.domains = tuple(domains)
        self.counts = list(counts)
        self.reads = 0
        self.closed = False
        self._clock = clock

    @classmethod
    def with_power(cls, clock: FakeClock, watts: float, **domain: object) -> FakeBackend:
        """Return a backend of one microjoule counter that refreshes all the time.

        Args:
            clock: the time.
            watts: constant power.
            domain: fields of the domain, as for `fake_domain`.
        """
        described = fake_domain(**domain)

        def count(now_ns: int) -> int:
            total = int(watts * now_ns / NANOSECONDS_PER_SECOND / MICROJOULE)
            return total % described.modulus if described.modulus else total

        return cls([described], [count], clock)

    def open(self) -> Sequence[Domain]:
        """Return the domains."""
        return self.domains

    def read(self) -> Sequence[Reading | Failure]:
        """Return the present counts."""
        self.reads += 1
        now = self._clock.now_ns()
        result: list[Reading | Failure] = []
        for position, count in enumerate(self.counts):
            value = count(now) if callable(count) else count
            if isinstance(value, Exception):
                raise value
            result.append(value if isinstance(value, Failure) else Reading(position, value, now, now))
        return result

    def close(self) -> None:
        """Note the call."""
        self.closed = True


class SimulatedBackend:
    """A power trace as a hardware counter: refreshes, jitter, lag, quantisation and wraps.

    Args:
        edges: times in seconds at which the power changes, ascending; n + 1 of them.
        watts: power from each edge to the next; n values.
        clock: the time; the trace begins at time 0 of the clock.
        update_period_seconds: mean time between refreshes.
        jitter_seconds: standard deviation of a refresh time.
        lag_seconds: how far the counter's value lies behind.
        joules_per_count: one count.
        modulus: counts after which it starts again at 0.
        phase: time of the first refresh as a share of the period, 0 to 1.
        seed: of the jitter.
        domain: further fields of the domain, as for `fake_domain`.

    Example:
        >>> clock = FakeClock()
        >>> backend = SimulatedBackend([0, 10], [100.0], clock, update_period_seconds=0.1)
        >>> clock.advance(0.25)
        >>> backend.read()[0].value
        20000000
    """

    name = "simulated"

    def __init__(
        self,
        edges: Sequence[float],
        watts: Sequence[float],
        clock: FakeClock,
        *,
        update_period_seconds: float,
        jitter_seconds: float = 0.0,
        lag_seconds: float = 0.0,
        joules_per_count: float = MICROJOULE,
        modulus: int | None = None,
        phase: float = 0.0,
        seed: int = 0,
        **domain: object,
    ) -> None:
        self._edges = list(edges)
        self._totals = [0.0]
        for (start, end), power in zip(pairwise(edges), watts, strict=True):
            self._totals.append(self._totals[-1] + power * (end - start))
        self._clock = clock
        self._lag_seconds = lag_seconds
        noise = random.Random(seed)
        count = int((edges[-1] - edges[0]) / update_period_seconds) + 2
        times = [(phase + k) * update_period_seconds + noise.gauss(0, jitter_seconds) for k in range(count)]
        self._refreshes = sorted(times)
        self.domain = fake_domain(
            update_period_seconds=update_period_seconds,
            joules_per_count=joules_per_count,
            modulus=modulus,
            source=self.name,
            **domain,
        )

    def true_joules(self, start_seconds: float, end_seconds: float) -> float:
        """Return the exact energy of a span of the trace."""
        return self._energy_at(end_seconds) - self._energy_at(start_seconds)

    def open(self) -> Sequence[Domain]:
        """Return the one domain."""
        return (self.domain,)

    def read(self) -> Sequence[Reading | Failure]:
        """Return the count of the last refresh."""
        now = self._clock.now_ns()
        last = bisect_right(self._refreshes, now / NANOSECONDS_PER_SECOND) - 1
        shown = self._refreshes[last] - self._lag_seconds if last >= 0 else self._edges[0]
        # Rounding must not turn 20 J into 19.999999 J.
        count = int(self._energy_at(shown) / (self.domain.joules_per_count or 1.0) + 1e-6)
        return (Reading(0, count % self.domain.modulus if self.domain.modulus else count, now, now),)

    def close(self) -> None:
        """Do nothing."""

    def _energy_at(self, seconds: float) -> float:
        if seconds <= self._edges[0]:
            return 0.0
        k = min(bisect_right(self._edges, seconds), len(self._edges) - 1)
        start, end = self._edges[k - 1], self._edges[k]
        share = min(1.0, (seconds - start) / (end - start))
        return self._totals[k - 1] + share * (self._totals[k] - self._totals[k - 1])


def fake_domain(**fields: object) -> Domain:
    """Return a microjoule counter called ``fake-0`` of kind ``cpu``, with `fields` changed."""
    values: dict[str, object] = {
        "name": "fake-0",
        "kind": "cpu",
        "source": "fake",
        "provenance": Provenance.MEASURED,
        "update_period_seconds": 0.001,
        "joules_per_count": MICROJOULE,
        "cheap_read": True,
        "max_power_watts": 1_000.0,
        **fields,
    }
    values.setdefault("id", f"fake:{values['name']}")
    return Domain(**values)  # type: ignore[arg-type]  # the caller's fields; Domain checks them


def fake_meter(
    *backends: Backend, clock: FakeClock, process_times: ProcessTimes | None = None, **arguments: object
) -> EnergyMeter:
    """Return a meter on `clock` without a thread: counters are read at window edges and by `advance`.

    Args:
        backends: what is metered.
        clock: the time.
        process_times: tells CPU times for ``scope="process"``; None for the machine's own.
        arguments: for `EnergyMeter`.
    """
    sampler = Sampler(clock, threaded=False)
    if process_times is not None:
        sampler.process_times = lambda: process_times
    return EnergyMeter(backends=list(backends), sampler=sampler, **arguments)  # type: ignore[arg-type]


def advance(meter: EnergyMeter, seconds: float, step_seconds: float = 0.02) -> None:
    """Let time pass for a meter of `fake_meter`; its counters are read after every step.

    Raises:
        TypeError: the meter runs on real time.
    """
    sampler = meter._sampler
    if sampler is None or not isinstance(sampler.clock, FakeClock):
        raise TypeError("only a meter made by fake_meter can be advanced: this one runs on real time")
    steps = max(1, round(seconds / step_seconds))
    for _ in range(steps):
        sampler.clock.advance(seconds / steps)
        sampler.tick()


def check_backend(backend: Backend) -> None:
    """Check that a backend keeps the protocol, on the machine where it works.

    Raises:
        AssertionError: it does not; the message says in what.
    """
    domains = tuple(backend.open())
    assert backend.name, "name is an empty text"
    assert domains, "open() returned no domain: raise BackendUnavailableError with the reason instead"
    assert len({domain.name for domain in domains}) == len(domains), "two domains have the same name"
    assert len({domain.id for domain in domains}) == len(domains), "two domains have the same id"
    for domain in domains:
        assert domain.source == backend.name, f"{domain.name}: source differs from the backend's name"
        assert domain.update_period_seconds > 0, f"{domain.name}: update_period_seconds is not positive"
        names = {other.name for other in domains}
        assert domain.parent is None or domain.parent in names, f"{domain.name}: unknown parent"
    _check_gpu_uses(backend, domains)
    first, second = backend.read(), backend.read()
    for item in (*first, *second):
        assert 0 <= item.position < len(domains), f"position {item.position} is no domain"
        if isinstance(item, Reading):
            _check_reading(domains[item.position], item)
    before = {item.position: item for item in first if isinstance(item, Reading)}
    for item in second:
        if isinstance(item, Reading) and item.position in before:
            late = item.begin_ns >= before[item.position].end_ns
            assert late, f"{domains[item.position].name}: time stamps go backwards"
    backend.close()
    backend.close()


def _check_gpu_uses(backend: Backend, domains: Sequence[Domain]) -> None:
    """Check what a backend tells of the processes on its GPUs, if it tells of any."""
    ask = getattr(backend, "gpu_uses", None)
    for position, told in (dict(ask()) if ask is not None else {}).items():
        assert 0 <= position < len(domains), f"gpu_uses: position {position} is no domain"
        assert domains[position].kind == "gpu", f"gpu_uses: {domains[position].name} is no GPU"
        for use in () if isinstance(told, str) else told:
            assert isinstance(use, GpuUse), f"gpu_uses: {use!r} is no GpuUse"
            assert use.sm_share is None or 0 <= use.sm_share <= 1, f"gpu_uses: {use} is not from 0 to 1"


def _check_reading(domain: Domain, reading: Reading) -> None:
    assert type(reading.value) is int, f"{domain.name}: value {reading.value!r} is no integer"
    assert reading.value >= 0, f"{domain.name}: value {reading.value} is negative"
    assert reading.begin_ns <= reading.end_ns, f"{domain.name}: the read ends before it begins"
    in_range = domain.modulus is None or reading.value < domain.modulus
    assert in_range, f"{domain.name}: value {reading.value} is not below its modulus {domain.modulus}"
