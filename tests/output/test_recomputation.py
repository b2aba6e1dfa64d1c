"""A session computed again with other settings: readings and windows stay."""

from __future__ import annotations

import pytest

from mlmeter.errors import ArgumentError
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter


@pytest.fixture
def session() -> Session:
    """Two seconds of 100 W, of which one is in a window."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, baseline=None)
    with meter:
        with meter.inference("predict"):
            advance(meter, 1)
        advance(meter, 1)
    return meter.session


def phase(session: Session, name: str) -> dict[str, object]:
    (row,) = (row for row in session.records() if row["phase"] == name and row["domain"] == "fake-0")
    return row


def test_nothing_given_changes_nothing(session: Session) -> None:
    """The same numbers come out."""
    assert session.recompute().records() == session.records()


def test_baseline_afterwards(session: Session) -> None:
    """Energy above idle, as if the meter had known the idle power."""
    row = phase(session.recompute(baseline={"fake-0": 40.0}), "inference")
    assert row["dynamic_joules"] == pytest.approx(60, rel=1e-2)
    without = session.recompute(baseline={"fake-0": 40.0}).recompute(baseline=None)
    assert "dynamic_joules" not in phase(without, "inference")


def test_phases_afterwards(session: Session) -> None:
    """Other labels, the same joules."""
    again = session.recompute(base_phase="idle", phases={"inference": "evaluation"})
    assert phase(again, "evaluation")["energy_joules"] == phase(session, "inference")["energy_joules"]
    assert phase(again, "idle")["energy_joules"] == phase(session, "training")["energy_joules"]


@pytest.mark.parametrize(
    "arguments",
    [{"base_phase": ""}, {"phases": {"inference": 3}}, {"baseline": {"gpu-7": 3.0}}, {"baseline": 7}],
    ids=str,
)
def test_wrong_arguments_are_told(session: Session, arguments: dict[str, object]) -> None:
    """At once, not by a report without the column."""
    with pytest.raises(ArgumentError):
        session.recompute(**arguments)  # type: ignore[arg-type]
