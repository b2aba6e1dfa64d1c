"""A session with everything that tables must show."""

from __future__ import annotations

import pytest

from mlmeter.measurement import Failure
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_domain, fake_meter


@pytest.fixture
def session() -> Session:
    """Package, core, DRAM and a lost GPU; nested, failed and counted windows."""
    clock = FakeClock()
    domains = [
        fake_domain(name="package-0"),
        fake_domain(name="core-0", parent="package-0"),
        fake_domain(name="dram-0", kind="dram"),
        fake_domain(name="gpu-0", kind="gpu", update_period_seconds=0.1, uuid="GPU-1"),
    ]
    counts = [
        lambda now: now // 10,
        lambda now: now // 20,
        lambda now: now // 100,
        Failure(3, "GPU is lost", True, 0),
    ]
    meter = fake_meter(FakeBackend(domains, counts, clock), clock=clock, name="=cmd|run")
    with meter:
        for _ in range(3):
            with meter.window("epoch", samples=100):
                clock.advance(0.5)
                with meter.evaluation("validate", samples=10):
                    clock.advance(0.1)
        with meter.inference("predict", requests=1):
            clock.advance(0.3)
        try:
            with meter.inference("broken"):
                clock.advance(0.2)
                raise ValueError
        except ValueError:
            pass
    return meter.session
