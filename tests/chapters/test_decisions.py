"""Impact, life cycle, comparisons and budgets of a session with chapters are those of the whole session."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmeter.analysis.efficiency import efficiency_records
from mlmeter.analysis.run_figures import run_figures
from mlmeter.analysis.work_done import work_by_window
from mlmeter.budget import EnergyBudget
from mlmeter.impact import IntensitySeries, impact_factors
from mlmeter.meter import EnergyMeter
from mlmeter.session import Session, load
from mlmeter.work import WINDOWS
from tests.chapters.sessions import LARGE, SMALL, Machine, both, metered, steps

# Sums of some hundred numbers in another order.
ROUNDING = 1e-9
# Of a session with chapters: bounds of chapters add up, and the curve of the past is thinned.
OTHERWISE = (
    *(f"{end}_joules" for end in ("low", "high")),
    *(f"joules_each_{end}" for end in ("low", "high")),
    *("p95_power_watts", "peak_power_watts", "power_bin_seconds", "resolved"),
)


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
    return pytest.approx(known, rel=ROUNDING, abs=1e-9) if isinstance(known, float) else known


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


def assert_same_work(short: Session, whole: Session) -> None:
    """Energy, counts, scatter and products of all units, by phase and by name."""
    keys = ("phase", "name", "unit")
    one, other = (
        {tuple(row[key] for key in keys): row for row in efficiency_records(session.recording)}
        for session in (short, whole)
    )
    assert one.keys() == other.keys()
    for key, row in one.items():
        for column, value in row.items():
            if column not in ("session", *OTHERWISE):
                assert value == approximately(other[key][column]), (key, column)


def test_efficiency_is_that_of_the_whole_session() -> None:
    """But for peaks of windows that are gone: these are not known."""
    short, whole = sessions()
    assert_same_work(short, whole)
    assert {row["peak_power_watts"] for row in efficiency_records(short.recording)} == {None}


def test_life_cycles_are_those_of_the_whole_session() -> None:
    """Shares, joules per inference with their scatter, break-even."""
    short, whole = (session.lifecycle(expected_inferences=1e6) for session in sessions())
    assert {p.phase: p.energy.value for p in short.phases} == {
        p.phase: approximately(p.energy.value) for p in whole.phases
    }
    assert short.serving is not None
    assert whole.serving is not None
    assert (short.serving.unit, short.serving.windows) == (whole.serving.unit, whole.serving.windows)
    for figure in ("energy", "joules_each", "break_even"):
        assert getattr(short.serving, figure).value == approximately(getattr(whole.serving, figure).value)
    # Scatter from window to window is all of this interval that matters.
    assert short.serving.joules_each.low == pytest.approx(whole.serving.joules_each.low, rel=1e-3)
    assert short.serving.joules_each.high == pytest.approx(whole.serving.joules_each.high, rel=1e-3)


def test_what_is_compared_is_that_of_the_whole_session() -> None:
    short, whole = (run_figures(session.recording).energies for session in sessions())
    assert short.keys() == whole.keys()
    for key, figure in short.items():
        assert figure.value == approximately(whole[key].value), key


def test_an_epoch_that_counts_at_its_end_counts_instead_of_its_steps() -> None:
    """Steps of earlier chapters wait for it; of an epoch that never counts they count themselves."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        with meter.training("epoch") as epoch:
            steps(4, 200, lambda meter, _: meter.training("step", samples=10))(meter, machine)
            epoch.add(samples=2_000)
        with meter.training("epoch"):
            steps(5, 200, lambda meter, _: meter.training("step", samples=10))(meter, machine)

    short, whole = both(program)
    assert_same_work(short, whole)
    one, other = (run_figures(session.recording).energies for session in (short, whole))
    assert one["training", "samples"].value == approximately(other["training", "samples"].value)


def nested(meter: EnergyMeter, machine: Machine) -> None:
    """Windows of one phase inside each other, some of one name, which count at different depths."""

    def inner(meter: EnergyMeter, number: int) -> AbstractContextManager[Any]:
        stack = ExitStack()
        counts = {"samples": 4.0} if number % 3 else {}
        stack.enter_context(meter.training("step", **counts))
        if number % 2:
            stack.enter_context(meter.training("step" if number % 4 == 1 else "part", samples=1, tokens=7))
        return stack

    task = meter.training("task")
    task.__enter__()
    with meter.training("epoch", tokens=5_000):
        later = meter.training("later", tokens=3, samples=0)
        later.__enter__()
        steps(21, 200, inner)(meter, machine)
    steps(22, 150, inner)(meter, machine)
    later.__exit__(None, None, None)
    task.add(samples=9)
    steps(23, 150, inner)(meter, machine)
    task.__exit__(None, None, None)


def test_work_in_windows_inside_each_other_is_that_of_the_whole_session(tmp_path: Path) -> None:
    """The outermost one that counts a unit has it; also as the journal tells it."""
    short, whole = both(nested)
    assert_same_work(short, whole)
    meter = metered(nested, SMALL, output_dir=tmp_path)
    assert meter.run_directory is not None
    assert_same_work(load(meter.run_directory), whole)


def test_work_told_by_slow_counters_agrees_within_its_uncertainty() -> None:
    """Windows are fitted chapter by chapter; counts and times are the same."""
    short, whole = both(steps(13, 500, labelled), period_seconds=0.1)
    for phase in ("training", "inference", "data"):
        one, other = (work_by_window(session.recording, phase, WINDOWS) for session in (short, whole))
        assert one.keys() == other.keys()
        for name, work in one.items():
            known = other[name]
            assert (work.windows, work.count) == (known.windows, known.count)
            assert work.duration_seconds == approximately(known.duration_seconds)
            if work.energy.resolved and known.energy.resolved:
                apart = abs((work.energy.value or 0.0) - (known.energy.value or 0.0))
                assert apart <= math.hypot(work.energy.half_width, known.energy.half_width)


def evaluated(meter: EnergyMeter, machine: Machine) -> None:
    """A loss that falls, told by windows that end in the first chapter, and an accuracy told to the end."""
    with meter.training("run") as run:
        for number in range(4):
            with meter.evaluation("evaluation") as window:
                machine.clock.advance(0.2)
            window.metric(loss=1.0 / (1 + number))
        steps(12, 200, labelled)(meter, machine)
        run.metric(loss=9.0, accuracy=0.5)


def test_the_last_value_of_a_metric_is_that_of_the_whole_session() -> None:
    """By windows in the order of their opening, also of those that are gone."""
    short, whole = both(evaluated)
    assert run_figures(short.recording).metrics == run_figures(whole.recording).metrics
    assert run_figures(short.recording).metrics == {"accuracy": 0.5, "loss": 0.25}


class Learning:
    """A loop whose accuracy rises by 0.01 an epoch, and what it has really used at the end of each."""

    def __init__(self) -> None:
        self.joules: list[float] = []

    def __call__(self, meter: EnergyMeter, machine: Machine) -> None:
        start = machine.nanojoules(machine.clock.now_ns())
        for epoch in range(30):
            with meter.training("epoch") as window:
                steps(epoch, 12, labelled)(meter, machine)
                window.metric(accuracy=0.5 + 0.01 * epoch)
                # Two domains, the second with twice the energy of the first.
                self.joules.append(3e-9 * (machine.nanojoules(machine.clock.now_ns()) - start))

    def joules_to(self, accuracy: float) -> float:
        """Return what had been used when the line through the epochs reached an accuracy."""
        return float(np.interp(accuracy, 0.5 + 0.01 * np.arange(30), self.joules))


@pytest.mark.parametrize("period_seconds", [0.001, 0.1, 1.0])
def test_the_energy_to_a_target_is_told_by_the_journal_and_not_by_sums(
    period_seconds: float, tmp_path: Path
) -> None:
    """The sums refuse and say where it is known; there it is what was used, and that lies in the interval."""
    learning = Learning()
    meter = metered(learning, SMALL, period_seconds=period_seconds, output_dir=tmp_path)
    assert meter.session.recording.chapters
    assert meter.run_directory is not None
    for session in (meter.session, load(meter.run_directory)):
        refused = session.energy_to("accuracy", 0.63)
        assert (refused.value, refused.low, refused.high) == (None, None, None)
        assert "everything=True" in refused.reason
    everything = load(meter.run_directory, everything=True)
    whole = metered(Learning(), LARGE, period_seconds=period_seconds).session
    for accuracy in (0.50, 0.505, 0.63, 0.7777, 0.79):
        found, truth = everything.energy_to("accuracy", accuracy), learning.joules_to(accuracy)
        assert found.value == approximately(whole.energy_to("accuracy", accuracy).value)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= truth <= found.high
        # What two domains of at most 2 kW may use in a refresh of their counters, at either end.
        assert found.high - found.low <= 8_000 * (period_seconds + 0.01)
    assert everything.energy_to("accuracy", 0.9).reason == "accuracy 0.9 was not reached: 0.79 at best"


def test_the_energy_to_a_target_of_a_running_session_is_refused_when_it_has_become_long() -> None:
    """It is told as long as all readings are there; asking never fails."""
    seen: list[str | None] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        for epoch in range(40):
            with meter.training("epoch") as window:
                steps(epoch, 5, labelled)(meter, machine)
                window.metric(accuracy=0.5 + 0.01 * epoch)
            found = meter.session.energy_to("accuracy", 0.5)
            assert (found.value is None) == bool(found.reason)
            seen.append(found.reason)

    metered(program, SMALL)
    assert not seen[0]
    assert "of the first" in (seen[-1] or "")
