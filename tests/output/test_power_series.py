"""Power over time for pictures: what thinning keeps, and what is never shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlmeter.errors import ArgumentError
from mlmeter.measurement import Failure
from mlmeter.report.power_series import power_series, thin
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.output.pages import hostile_session, long_session


def test_few_readings_are_shown_as_they_are() -> None:
    """Each stretch has the mean power between two readings."""
    (series,) = power_series(long_session(1, 100).recording, 1_000)
    assert not series.thinned
    assert len(series.watts) == 100
    np.testing.assert_array_equal(series.watts, series.high)


def test_thinning_keeps_the_energy() -> None:
    """Means over spans of time, weighted by time."""
    (series,) = power_series(long_session(1, 5_000).recording, 10_000)
    thinned = thin(series, 100)
    assert len(thinned.watts) <= 102
    whole, again = (float(np.dot(item.watts, np.diff(item.edges))) for item in (series, thinned))
    assert again == pytest.approx(whole, rel=1e-12)


def test_thinning_keeps_every_peak() -> None:
    """The band reaches to the lowest and the highest reading of each span, to the last watt."""
    (series,) = power_series(long_session(1, 5_000).recording, 10_000)
    thinned = thin(series, 100)
    assert thinned.high.max() == series.watts.max()
    assert thinned.low.min() == series.watts.min()
    for start, end, low, high in zip(
        thinned.edges[:-1], thinned.edges[1:], thinned.low, thinned.high, strict=True
    ):
        inside = (series.edges[:-1] >= start) & (series.edges[1:] <= end)
        assert (low, high) == (series.watts[inside].min(), series.watts[inside].max())


def test_readings_too_close_to_tell_power_are_joined() -> None:
    """A counter of 1 ms that is read every 0.1 ms shows steps; they are no peaks of power."""
    clock = FakeClock()
    domain = fake_domain(update_period_seconds=0.001)
    stepped = FakeBackend([domain], [lambda now: now // 1_000_000 * 100_000], clock)
    meter = fake_meter(stepped, clock=clock)
    with meter:
        advance(meter, 1.0, 0.000_1)
    (series,) = power_series(meter.session.recording, 10_000)
    assert series.watts.max() < 1.2 * 100
    assert series.watts.min() > 0.8 * 100


def test_gap_stays_a_gap() -> None:
    """Time that was not metered has no power, thinned or not."""
    clock = FakeClock()

    def watts(now: int) -> int | Failure:
        return Failure(0, "busy", False, now) if 4e9 < now < 6e9 else 100

    domain = fake_domain(
        kind="gpu",
        joules_per_count=None,
        watts_per_count=1.0,
        provenance="derived",
        update_period_seconds=0.02,
    )
    meter = fake_meter(FakeBackend([domain], [watts], clock), clock=clock)  # type: ignore[list-item]
    with meter:
        advance(meter, 10.0)
    (series,) = power_series(meter.session.recording, 10_000)
    for item in (series, thin(series, 50)):
        middle = (item.edges[:-1] >= 4.1) & (item.edges[1:] <= 5.9) | (np.diff(item.edges) > 1)
        assert middle.any()
        assert np.isnan(item.watts[middle]).all()
        np.testing.assert_allclose(item.watts[item.edges[1:] < 3.9], 100)
        assert item.mean_watts == pytest.approx(100)
        assert np.isnan(item.mean_between(np.array([4.5]), np.array([5.5]))[0])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture_of_hostile_names_can_be_drawn(tmp_path: Path, ending: str) -> None:
    """No name is taken for a formula, and the whole picture is written."""
    pytest.importorskip("matplotlib", reason="the extra mlmeter[plots] is not installed")
    path = tmp_path / f"power.{ending}"
    hostile_session().plot(path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_picture_of_an_unknown_kind_is_refused(session: Session, tmp_path: Path) -> None:
    """The message names the endings."""
    pytest.importorskip("matplotlib", reason="the extra mlmeter[plots] is not installed")
    with pytest.raises(ArgumentError, match=r"\.png, \.svg or \.pdf"):
        session.plot(tmp_path / "power.doc")


def test_page_and_pictures_are_loaded_on_demand() -> None:
    """Metering and its summary load neither jinja2 nor matplotlib."""
    code = (
        "import sys; from mlmeter.testing import *; clock = FakeClock()\n"
        "with fake_meter(FakeBackend.with_power(clock, 1.0), clock=clock) as meter: advance(meter, 1)\n"
        "meter.session.summary(); sys.exit(bool({'jinja2', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
