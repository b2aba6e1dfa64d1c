"""Impact, life cycle, comparisons and budgets of a session with chapters are those of the whole session."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from mlmeter.budget import EnergyBudget
from mlmeter.impact import IntensitySeries, impact_factors
from mlmeter.meter import EnergyMeter
from mlmeter.session import Session
from tests.chapters.sessions import LARGE, SMALL, Machine, both, metered, steps

# Sums of some hundred numbers in another order.
ROUNDING = 1e-9


def labelled(meter: EnergyMeter, number: int) -> AbstractContextManager[Any]:
    """Training, loading and serving in turns."""
    if number % 7 == 3:
        return meter.inference("predict", tokens=number)
    return meter.training("step", samples=64) if number % 5 else meter.window("load", phase="data")


@cache
def sessions() -> tuple[Session, Session]:
    """The same session with chapters, and without."""
    return both(steps(11, 240, labelled))


def approximately(known: Any) -> Any:
    return known if known is None else pytest.approx(known, rel=ROUNDING, abs=1e-9)


def test_impact_is_that_of_the_whole_session() -> None:
    """Emissions, money and work, in all and by phase, and what is made of them for others."""
    short, whole = (session.impact("DE", pue=1.2, price="0.30 EUR") for session in sessions())
    assert {part.phase for part in short.phases} == {part.phase for part in whole.phases}
    others = {part.phase: part for part in whole.phases}
    for part, other in ((short.whole, whole.whole), *((part, others[part.phase]) for part in short.phases)):
        assert part.operational.value == approximately(other.operational.value)
        assert part.cost is not None
        assert other.cost is not None
        assert part.cost.value == approximately(other.cost.value)
        assert part.duration_seconds == approximately(other.duration_seconds)
        assert part.units == {unit: approximately(count) for unit, count in other.units.items()}
    assert short.sci("tokens").score.value == approximately(whole.sci("tokens").score.value)
    assert short.model_card()["co2_eq_emissions"]["emissions"] == approximately(
        whole.model_card()["co2_eq_emissions"]["emissions"]
    )
    for kind, joules in short.facts.joules_by_kind.items():
        assert joules == approximately(whole.facts.joules_by_kind[kind])


def test_intensity_over_time_weighs_the_past_with_the_power_of_the_session() -> None:
    """The mean over the session is that of one without chapters, as the thinned curve tells it."""
    found = []
    for session in sessions():
        start = datetime.fromtimestamp(session.recording.run.start_wall_ns * 1e-9, UTC)
        points = [(start + timedelta(seconds=20 * n), 100.0 + 50 * (n % 7)) for n in range(20)]
        found.append(session.impact(IntensitySeries.of(points, source="test")))
    short, whole = found
    assert short.whole.operational.value == pytest.approx(whole.whole.operational.value, rel=2e-3)
    total = sum(part.operational.value or 0.0 for part in short.phases)
    assert total == pytest.approx(short.whole.operational.value, rel=1e-3)
    assert any("only the power of the whole session is kept" in note for note in short.notes)


def test_a_budget_counts_the_past() -> None:
    """More than the limit was used before the readings that are in memory."""
    seen: list[float | None] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        factors = impact_factors("DE", price="0.30 EUR")
        budget = EnergyBudget(grams_co2e=1.0, factors=factors, meter=meter, on_exceed=lambda _: None)
        steps(11, 120, labelled)(meter, machine)
        budget.check()
        seen.append(budget.spent.energy_joules)
        seen.append(meter.energy().energy_joules)

    session = metered(program, SMALL).session
    assert session.recording.chapters
    seen.append(metered(program, LARGE).session.total().energy_joules)
    assert seen[0] == approximately(seen[1])
    assert seen[0] == pytest.approx(seen[-1], rel=1e-3)
