"""A meter that writes a journal when a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlmeter import EnergyMeter
from mlmeter.testing import FakeBackend, FakeClock, fake_meter


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start_ns=10**12)


@pytest.fixture
def meter(clock: FakeClock, tmp_path: Path) -> Iterator[EnergyMeter]:
    """A meter whose sampler works when the test says so."""
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, output_dir=tmp_path / "runs")
    yield meter
    meter.stop()
