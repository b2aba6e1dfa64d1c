"""Sessions that are metered with and without chapters, and known in every detail."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from mlmeter.chapters.closing import Limits
from mlmeter.measurement import Domain, Failure, Reading
from mlmeter.meter import EnergyMeter
from mlmeter.session import Session
from mlmeter.testing import FakeClock, fake_domain, fake_meter

# So little is held that a session of some minutes has several chapters.
SMALL = Limits(rows=600, windows=200, context_seconds=2.0)
LARGE = Limits(rows=10**9, windows=10**9)


class Machine:
    """Counters of a machine whose power a test sets; they are refreshed every `period_seconds`.

    Args:
        domains: `fake_domain` each; energies differ by the number of the domain.
        period_seconds: of all counters.
    """

    name = "fake"

    def __init__(self, clock: FakeClock, domains: Sequence[Domain], period_seconds: float = 0.001) -> None:
        self.clock, self.domains = clock, tuple(domains)
        self.failing: set[int] = set()
        self._period_ns = round(period_seconds * 1e9)
        self._changes: list[tuple[int, int, int]] = [(0, 0, 50)]

    def set_power(self, watts: int) -> None:
        start_ns, joules, before = self._changes[-1]
        now = self.clock.now_ns()
        self._changes.append((now, joules + before * (now - start_ns), watts))

    def nanojoules(self, time_ns: int) -> int:
        for start_ns, joules, watts in reversed(self._changes):
            if time_ns >= start_ns:
                return joules + watts * (time_ns - start_ns)
        return 0

    def open(self) -> Sequence[Domain]:
        return self.domains

    def read(self) -> Sequence[Reading | Failure]:
        now = self.clock.now_ns()
        shown = self.nanojoules(now - (now + self._period_ns // 2) % self._period_ns)
        return [
            Failure(number, "no answer", False, now)
            if number in self.failing
            else Reading(number, shown * (number + 1) // 1_000, now, now)
            for number in range(len(self.domains))
        ]

    def close(self) -> None:
        pass


Program = Callable[[EnergyMeter, Machine], None]


def metered(
    program: Program, limits: Limits, *, domains: int = 2, period_seconds: float = 0.001, **arguments: object
) -> EnergyMeter:
    """Return a meter that has metered a program within some limits of memory."""
    clock = FakeClock(start_ns=10**9)
    described = [
        fake_domain(
            name=f"fake-{number}",
            cheap_read=period_seconds < 0.01,
            update_period_seconds=period_seconds,
            max_power_watts=2_000.0,
        )
        for number in range(domains)
    ]
    machine = Machine(clock, described, period_seconds)
    meter = fake_meter(machine, clock=clock, name="long", phase="other", **arguments)
    with meter:
        chapters = meter.recorder.collected.chapters
        assert chapters is not None
        chapters.limits = limits
        program(meter, machine)
    return meter


def steps(
    seed: int, count: int, window_of: Callable[[EnergyMeter, int], AbstractContextManager[object]]
) -> Program:
    """Return a program of windows of random lengths, in an epoch each thirty, with power of its own each."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        rng = random.Random(seed)
        epoch = meter.window("epoch", phase="training")
        epoch.__enter__()
        for number in range(count):
            if number % 30 == 29:
                epoch.__exit__(None, None, None)
                machine.clock.advance(rng.uniform(0.0, 0.3))
                epoch = meter.window("epoch", phase="training")
                epoch.__enter__()
            with window_of(meter, number):
                machine.set_power(rng.randrange(60, 400))
                machine.clock.advance(rng.uniform(0.01, 0.5))
            machine.set_power(50)
            machine.clock.advance(rng.uniform(0.0, 0.5))
            meter.recorder._sampler.tick()
        epoch.__exit__(None, None, None)

    return program


def both(program: Program, **arguments: object) -> tuple[Session, Session]:
    """Return the session of a program with chapters, and without."""
    short = metered(program, SMALL, **arguments).session  # type: ignore[arg-type]
    whole = metered(program, LARGE, **arguments).session  # type: ignore[arg-type]
    assert short.recording.chapters, "the program is too short for a chapter"
    assert not whole.recording.chapters
    return short, whole
