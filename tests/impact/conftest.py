"""Sessions of known energy."""

from __future__ import annotations

import pytest

from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter

GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def session() -> Session:
    """1 kW for an hour of training and half an hour of inference: 1.5 kWh, from 2023-11-14 22:13:20 UTC."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, watts=1000.0, name="gpu-0", kind="gpu", model_name=GPU)
    with fake_meter(backend, clock=clock, name="digits") as meter:
        with meter.training("fit", samples=3000):
            advance(meter, 3600.0, step_seconds=60.0)
        with meter.inference("predict", requests=500):
            advance(meter, 1800.0, step_seconds=60.0)
    return meter.session
