"""Accelerators without any energy interface: marked as estimated, with an interval, never by themselves."""

from __future__ import annotations

import math

import pytest

from mlmeter.backends.accelerator_estimate import AcceleratorEstimate
from mlmeter.errors import ArgumentError, BackendUnavailableError, EstimateWarning
from mlmeter.measurement import Failure, Provenance
from mlmeter.testing import FakeClock, advance, check_backend, fake_meter


def test_utilisation_between_idle_and_board_power() -> None:
    """200 W at 25 % between 40 W and 200 W is 80 W; the truth lies between half and one and a half."""
    clock = FakeClock()
    load = AcceleratorEstimate(
        "tpu-0", board_watts=200, idle_watts=40, utilisation=lambda: 0.25, now_ns=clock.now_ns
    )
    meter = fake_meter(load, clock=clock)
    with pytest.warns(EstimateWarning, match="tpu-0"), meter:
        advance(meter, 10.0)
    total = meter.session.total("gpu")
    assert total.provenance is Provenance.ESTIMATED
    assert total.energy_joules == pytest.approx(800, rel=0.01)
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= 400.1
    assert total.high_joules >= 1199.9


def test_without_utilisation_the_interval_is_from_idle_to_board_power() -> None:
    """Nothing is guessed silently: notes tell what is not known."""
    clock = FakeClock()
    load = AcceleratorEstimate("ipu", board_watts=300, now_ns=clock.now_ns)
    meter = fake_meter(load, clock=clock)
    with pytest.warns(EstimateWarning), meter:
        advance(meter, 10.0)
    total = meter.session.total()
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= 750.1
    assert total.high_joules >= 2999.9
    notes = " ".join(meter.session.events()["message"])
    assert "75 W are assumed" in notes
    assert "utilisation is not known" in notes


def test_protocol() -> None:
    """The kit for backends finds nothing wrong."""
    check_backend(AcceleratorEstimate("npu", board_watts=10, idle_watts=0, utilisation=1.0))


@pytest.mark.parametrize("answer", [math.nan, -0.1, 1.5, "high", None, ZeroDivisionError("idle")])
def test_nonsense_of_the_users_function_is_a_failure(answer: object) -> None:
    """No power is made of it."""

    def utilisation() -> float:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    backend = AcceleratorEstimate("npu", board_watts=10, utilisation=utilisation)
    backend.open()
    (failure,) = backend.read()
    assert isinstance(failure, Failure)
    assert "npu: utilisation" in failure.reason


def test_the_name_alone_meters_nothing() -> None:
    """A board power is the user's to give."""
    with pytest.raises(BackendUnavailableError, match="no board power"):
        AcceleratorEstimate().open()


@pytest.mark.parametrize(
    "arguments",
    [{"board_watts": 0}, {"board_watts": math.inf}, {"board_watts": 5, "idle_watts": 6}, {"utilisation": 2}],
)
def test_wrong_numbers_are_refused(arguments: dict[str, float]) -> None:
    """At the call, where they can be mended."""
    with pytest.raises(ArgumentError):
        AcceleratorEstimate("npu", **{"board_watts": 10, **arguments})  # type: ignore[arg-type]
