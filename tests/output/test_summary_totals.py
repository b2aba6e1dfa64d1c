"""The summary adds up what is counted, and repeats nothing."""

from __future__ import annotations

import pytest

from mlmeter.testing import FakeClock, SimulatedBackend, advance, fake_meter


def _lines(*kinds: str) -> list[str]:
    """Return the summary of a session with one domain of each kind."""
    clock = FakeClock(start_ns=1_000_000_000)
    backends = [
        SimulatedBackend(
            [0.0, 10.0],
            [50.0],
            clock,
            update_period_seconds=0.001,
            name=f"{kind}-{position}",
            id=f"test:{position}",
            kind=kind,
            max_power_watts=100.0,
        )
        for position, kind in enumerate(kinds)
    ]
    with fake_meter(*backends, clock=clock) as meter:
        with meter.training("step"):
            advance(meter, 1.0)
    return meter.session.summary().splitlines()


def _domains_shown(*kinds: str) -> set[str]:
    """Return the domains that have rows."""
    lines = _lines(*kinds)
    return {line.split()[1] for line in lines if line.startswith(("training", "session"))}


@pytest.mark.parametrize(
    ("kinds", "shown"),
    [
        (("cpu",), {"cpu-0"}),
        # A whole machine is never added: the total is the packages', a note tells the machine's energy.
        (("cpu", "machine"), {"cpu-0"}),
        (("cpu", "dram"), {"cpu-0", "dram-1", "total"}),
        (("cpu", "dram", "machine"), {"cpu-0", "dram-1", "total"}),
    ],
)
def test_a_total_of_one_domain_is_not_shown(kinds: tuple[str, ...], shown: set[str]) -> None:
    """A total stands in the summary where more than one domain is added up."""
    assert shown == _domains_shown(*kinds)


def test_energy_that_is_not_added_is_told_in_a_note() -> None:
    """50 J of a whole machine, beside the table."""
    (note,) = [line for line in _lines("cpu", "machine") if line.startswith("machine-1:")]
    assert " J (" in note
    assert "in all" in note
