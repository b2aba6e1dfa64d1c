"""Sessions of known energy."""

from __future__ import annotations

from collections.abc import Sequence

from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_meter

# Phase, seconds, units of work.
Piece = tuple[str, float, dict[str, float]]


def session_of(
    pieces: Sequence[Piece], *, watts: float = 100.0, phase: str = "other", **fields: object
) -> Session:
    """Return a session of one window per piece, named like its phase, at constant power."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts, **fields), clock=clock, phase=phase)
    with meter:
        for label, seconds, units in pieces:
            with meter.window(f"{label} window", phase=label, **units):
                clock.advance(seconds)
    return meter.session
