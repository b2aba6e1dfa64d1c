"""Reading a source for a second: whether it moves, how often, in which steps, at which power."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mlmeter.backends.base import Backend
from mlmeter.clock import Clock
from mlmeter.energy.refresh_period import refresh_period
from mlmeter.measurement import Domain, Failure, Provenance, Reading

LOOK_SECONDS = 1.0
# Of a counter that is refreshed every millisecond this tells enough.
ENOUGH_CHANGES, ENOUGH_SECONDS = 100, 0.25
SHORTEST_STEP_SECONDS, LONGEST_STEP_SECONDS = 0.0003, 0.01
READS_PER_PERIOD = 20
STUCK_PERIODS = 5
MOST_GAUGE_PERIODS = 2
# Energy per step of known counters: joules, binary parts of a joule, the 15.3 uJ of server DRAM, millijoules.
STEPS_JOULES = (1.0, *sorted((15.3e-6, 1e-3, *(2.0**-n for n in range(3, 17))), reverse=True))
FEWEST_CHANGES = 8
# Steps of few counts cannot be told from chance.
FEWEST_COUNTS = 4

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Observation:
    """What a second of readings told of one domain.

    Attributes:
        seconds: from the first reading to the last.
        readings: how many.
        changes: how often the value was another one.
        period_seconds: mean time between refreshes; None where that was not to be seen.
        step_joules: energy of one step of the hardware; None where that was not to be seen.
        watts: mean power.
        failure: why it could not be read, the last time that it could not.
    """

    seconds: float = 0.0
    readings: int = 0
    changes: int = 0
    period_seconds: float | None = None
    step_joules: float | None = None
    watts: float | None = None
    failure: str | None = None

    def stuck(self, domain: Domain) -> bool:
        """Whether a hardware counter stood still for longer than it may."""
        counter = domain.joules_per_count is not None and domain.provenance is Provenance.MEASURED
        enough = self.seconds >= STUCK_PERIODS * domain.update_period_seconds
        return counter and self.readings > 1 and not self.changes and enough


@dataclass(slots=True)
class _Series:
    """Brackets in which one value changed."""

    first: Reading | None = None
    last: Reading | None = None
    after: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    total: float = 0.0
    readings: int = 0
    failure: str | None = None

    def add(self, reading: Reading, modulus: int | None) -> None:
        last, self.last = self.last, reading
        self.first = self.first or reading
        self.readings += 1
        self.total += reading.value
        if last is None or reading.value == last.value:
            return
        self.after.append(last.begin_ns * 1e-9)
        self.before.append(reading.end_ns * 1e-9)
        step = reading.value - last.value
        self.steps.append(step % modulus if modulus else step)


def observe(
    backend: Backend, domains: Sequence[Domain], clock: Clock, seconds: float = LOOK_SECONDS
) -> tuple[Observation, ...]:
    """Read an opened backend again and again; whatever it raises is a failure of all its domains."""
    series = [_Series() for _ in domains]
    shortest = min((domain.update_period_seconds for domain in domains), default=LOOK_SECONDS)
    step = min(max(shortest / READS_PER_PERIOD, SHORTEST_STEP_SECONDS), LONGEST_STEP_SECONDS)
    waiter, begin_ns = threading.Event(), clock.now_ns()
    elapsed = 0.0
    while elapsed < seconds and not (elapsed >= ENOUGH_SECONDS and _enough(series)):
        try:
            items = backend.read()
        except Exception as error:  # a foreign backend may raise anything
            return tuple(
                Observation(failure=f"read() raised {type(error).__name__}: {error}") for _ in domains
            )
        for item in items:
            if not 0 <= item.position < len(series):
                continue
            if isinstance(item, Failure):
                series[item.position].failure = item.reason
            else:
                series[item.position].add(item, domains[item.position].modulus)
        clock.wait(waiter, step)
        elapsed = (clock.now_ns() - begin_ns) * 1e-9
    return tuple(_observation(domain, one) for domain, one in zip(domains, series, strict=True))


def _enough(series: Sequence[_Series]) -> bool:
    return all(len(one.steps) >= ENOUGH_CHANGES for one in series)


def _observation(domain: Domain, series: _Series) -> Observation:
    if series.first is None or series.last is None:
        return Observation(failure=series.failure or "it gave no reading")
    seconds = (series.last.end_ns - series.first.begin_ns) * 1e-9
    found = Observation(
        seconds=seconds, readings=series.readings, changes=len(series.steps), failure=series.failure
    )
    found.period_seconds = refresh_period(series.after, series.before)
    if domain.watts_per_count is not None:
        # Constant power shows no refreshes.
        if (found.period_seconds or 0.0) > MOST_GAUGE_PERIODS * domain.update_period_seconds:
            found.period_seconds = None
        found.watts = series.total / series.readings * domain.watts_per_count
    elif domain.joules_per_count is not None and len(series.steps) > 1:
        # From refresh to refresh: the parts of a period at both ends would be missing.
        span = series.before[-1] - series.before[0]
        found.watts = sum(series.steps[1:]) * domain.joules_per_count / span if span > 0 else None
        found.step_joules = step_joules(series.steps, domain.joules_per_count)
    return found


def step_joules(steps: Sequence[int], joules_per_count: float) -> float | None:
    """Return the largest known step of which all differences are multiples; None if none is.

    The kernel shows microjoules, the hardware counts other units: each difference is a multiple of
    these, rounded at both ends.

    Example:
        >>> step_joules([61, 122, 183, 244, 610, 1221, 671, 732], 1e-6)
        6.103515625e-05
    """
    if len(steps) < FEWEST_CHANGES:
        return None
    for joules in STEPS_JOULES:
        counts = joules / joules_per_count
        if counts < FEWEST_COUNTS:
            break
        if all(step >= counts - 1 and abs(step - round(step / counts) * counts) <= 1.0 for step in steps):
            return joules
    return None


def within(seconds: float, work: Callable[[], Answer]) -> Answer | None:
    """Return what `work` returns, or None if that takes too long: a driver that hangs must not hang us.

    Raises:
        Exception: what `work` raises.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=run, name="mlmeter-doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return answers[0] if answers else None
