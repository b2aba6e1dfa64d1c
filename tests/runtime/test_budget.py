"""Budgets and energy-aware early stopping."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from mlmeter import EnergyBudget, EnergyEarlyStopping, EnergyMeter
from mlmeter.errors import ArgumentError, BudgetWarning, NothingMeteredWarning
from mlmeter.impact import impact_factors
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter


@pytest.fixture
def meter(clock: FakeClock) -> EnergyMeter:
    """100 W."""
    return fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)


def worked(meter: EnergyMeter, budget: EnergyBudget, items: int, seconds: float = 1.0) -> list[int]:
    """Return the items of a limited loop that were worked on."""
    done = []
    for item in budget.limit(range(items)):
        advance(meter, seconds)
        done.append(item)
    return done


def test_a_loop_stops_at_its_budget(meter: EnergyMeter) -> None:
    """1,000 J at 100 W: the eleventh second is the first that was begun above the limit's end."""
    budget = EnergyBudget(1_000, on_exceed="stop")
    with meter, pytest.warns(BudgetWarning, match="budget of 1,000 J exceeded"):
        done = worked(meter, budget, 100)
    assert len(done) in (10, 11)
    assert budget.exceeded
    assert budget.used_ratio == pytest.approx(len(done) / 10, rel=0.01)
    assert budget.remaining_joules == 0
    assert "budget" in set(meter.session.events()["kind"])


def test_a_loop_within_its_budget_is_left_alone(meter: EnergyMeter) -> None:
    budget = EnergyBudget(1_000, on_exceed="stop")
    with meter, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert worked(meter, budget, 5) == [0, 1, 2, 3, 4]
    assert not budget.exceeded
    assert budget.remaining_joules == pytest.approx(500, abs=101)


def test_a_warning_comes_once_and_the_loop_goes_on(meter: EnergyMeter) -> None:
    budget = EnergyBudget(1_000)
    with meter, pytest.warns(BudgetWarning) as caught:
        assert len(worked(meter, budget, 30)) == 30
    assert len(caught) == 1


def test_a_warning_as_error_does_not_break_the_loop(meter: EnergyMeter) -> None:
    with meter, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(worked(meter, EnergyBudget(1_000), 30)) == 30


def test_a_function_is_called_once_and_may_raise(meter: EnergyMeter) -> None:
    """What the user's own function raises reaches the user's own loop."""
    called = []
    budget = EnergyBudget(500, on_exceed=called.append)
    with meter:
        worked(meter, budget, 20)
        assert called == [budget]

        def stop(_budget: EnergyBudget) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            worked(meter, EnergyBudget(500, on_exceed=stop), 20)


def test_limits_of_carbon_and_money(meter: EnergyMeter) -> None:
    """The least limit counts; factors are numbers or attributes."""
    assert EnergyBudget(grams_co2e=2.0, grams_per_joule=1e-4).limit_joules == pytest.approx(20_000)
    factors = SimpleNamespace(grams_per_joule=1e-4, money_per_joule=1e-7)
    budget = EnergyBudget(50_000, grams_co2e=2.0, money=1.0, factors=factors)
    assert budget.limit_joules == pytest.approx(20_000)
    assert budget.limit_text == "grams_co2e 2.000"
    assert EnergyBudget(money=0.001, factors=factors).limit_joules == pytest.approx(10_000)


def test_factors_of_an_impact_are_those_of_a_budget(meter: EnergyMeter) -> None:
    """Of a session's impact, and of factors before there is a session."""
    with meter:
        advance(meter, 1.0)
    named: dict[str, Any] = {"pue": 1.5, "price": "0.36 EUR"}
    for factors in (meter.session.impact(360.0, **named), impact_factors(360.0, **named)):
        assert EnergyBudget(grams_co2e=1.5, factors=factors).limit_joules == pytest.approx(10_000)
        assert EnergyBudget(money=0.0015, factors=factors).limit_joules == pytest.approx(10_000)
    # A range over the world's grids has no best value, and nothing has a price by itself.
    for limit in ({"grams_co2e": 1.0}, {"money": 1.0}):
        with pytest.raises(ArgumentError, match="per_joule"):
            EnergyBudget(**limit, factors=impact_factors())


def test_factors_of_the_meter_are_those_of_a_budget(clock: FakeClock) -> None:
    """Of the one that is given, else of the one that is active; and then its energy counts."""
    backend = FakeBackend.with_power(clock, watts=100.0)
    meter = fake_meter(backend, clock=clock, grid=360.0, pue=1.5, price="0.36 EUR")
    for limit in ({"grams_co2e": 1.5}, {"money": 0.0015}):
        assert EnergyBudget(**limit, meter=meter).limit_joules == pytest.approx(10_000)
        with pytest.raises(ArgumentError, match="per_joule"):
            EnergyBudget(**limit)  # no meter is active
    with meter:
        budget = EnergyBudget(grams_co2e=1.5, money=0.0012)
        with fake_meter(backend, clock=clock) as inner:
            advance(inner, 50.0)
            with pytest.raises(ArgumentError, match=r"grams_co2e=1\.0 needs grams_per_joule"):
                EnergyBudget(grams_co2e=1.0)
            assert not budget.check()
        advance(meter, 31.0)
        with pytest.warns(BudgetWarning, match=r"budget of money 0\.001200 EUR exceeded"):
            assert budget.check()
    assert budget.spent == meter.session.total()


def test_a_meter_without_a_place_has_no_grams(clock: FakeClock) -> None:
    """The range over the world's grids has no best value, a number that is given needs no meter."""
    meter = fake_meter(FakeBackend.with_power(clock, watts=100.0), clock=clock, pue=1.5)
    with pytest.raises(ArgumentError, match=r"EnergyMeter\(grid=\.\.\.\) with a place"):
        EnergyBudget(grams_co2e=1.0, meter=meter)
    budget = EnergyBudget(grams_co2e=1.0, grams_per_joule=1e-4, meter=meter)
    assert budget.limit_joules == pytest.approx(10_000)


def test_the_energy_is_looked_at_only_when_due(meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand steps in a second cost one look, not a thousand."""
    budget = EnergyBudget(1e9, meter=meter)
    looks = []
    with meter:
        original = meter.recorder.session
        monkeypatch.setattr(meter.recorder, "session", lambda: (looks.append(1), original())[1])
        worked(meter, budget, 1_000, seconds=0.001)
        assert 1 <= len(looks) <= 3
        budget.check()
        budget.check()
        assert len(looks) >= 3


def test_a_slow_look_is_made_less_often(meter: EnergyMeter, clock: FakeClock) -> None:
    """A look of a second is next made after 100 s: at most a hundredth of the time goes into looking."""
    budget = EnergyBudget(1e9, meter=meter)
    looks = []
    with meter:
        original = meter.recorder.session

        def slow() -> object:
            looks.append(clock.now_ns())
            clock.advance(1.0)
            return original()

        meter.recorder.session = slow  # type: ignore[method-assign, assignment]
        worked(meter, budget, 250)
        assert len(looks) == 3
        assert looks[1] - looks[0] >= 100e9


def test_no_energy_no_budget(clock: FakeClock) -> None:
    """A budget that cannot be kept says so once and stops nothing."""
    meter = fake_meter(FakeBackend([fake_domain()], [OSError("gone")], clock), clock=clock)
    budget = EnergyBudget(1.0, on_exceed="stop", meter=meter)
    with meter, pytest.warns(NothingMeteredWarning, match="the budget cannot be kept"):
        assert len(worked(meter, budget, 10)) == 10
    assert budget.used_ratio is None
    assert budget.remaining_joules is None


def test_trouble_with_the_energy_does_not_break_the_loop(
    meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the meter becomes an event; the loop runs to its end."""
    budget = EnergyBudget(100.0, on_exceed="stop", meter=meter)
    with meter:
        with monkeypatch.context() as broken:
            broken.setattr(meter.recorder, "session", lambda: 1 / 0)
            assert len(worked(meter, budget, 5)) == 5
    assert "ZeroDivisionError" in meter.session.events().query("kind == 'budget'")["message"].iloc[0]


def test_the_energy_of_one_kind(clock: FakeClock) -> None:
    domains = [fake_domain(name="package-0"), fake_domain(name="gpu-0", kind="gpu")]
    meter = fake_meter(FakeBackend(domains, [lambda ns: ns // 10, lambda ns: ns // 100], clock), clock=clock)
    budget = EnergyBudget(1e6, kind="gpu", meter=meter)
    with meter:
        advance(meter, 10.0)
        budget.check()
    assert budget.spent.energy_joules == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a limit"),
        ({"joules": 0}, "joules=0"),
        ({"joules": -5}, "joules=-5"),
        ({"joules": math.nan}, "joules=nan"),
        ({"joules": "many"}, "joules='many'"),
        ({"joules": True}, "joules=True"),
        ({"grams_co2e": 5}, "grams_co2e=5 needs grams_per_joule"),
        ({"money": 5, "factors": SimpleNamespace(grams_per_joule=1)}, "money=5 needs money_per_joule"),
        ({"money": 5, "money_per_joule": -1}, "money_per_joule=-1"),
        ({"joules": 5, "on_exceed": "explode"}, 'expected "warn", "stop" or a function'),
        ({"joules": 5, "check_seconds": -1}, "check_seconds=-1"),
        ({"joules": 5, "meter": "gpu"}, "meter='gpu': expected an EnergyMeter"),
        ({"joules": 5, "kind": "tpu"}, "kind='tpu': expected one of cpu, dram, gpu"),
    ],
)
def test_wrong_budgets(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        EnergyBudget(**arguments)  # type: ignore[arg-type]


def test_training_stops_when_more_energy_gains_too_little() -> None:
    """Gains per 100 J of .3, .1, .02 against a threshold of .05 per 100 J."""
    stopping = EnergyEarlyStopping(5e-4)
    told = [
        stopping.update(accuracy, 100.0 * step)
        for step, accuracy in enumerate((0.5, 0.8, 0.9, 0.92, 0.93), 1)
    ]
    assert told == [False, False, False, True, True]
    assert stopping.stopped


def test_patience_forgives_a_bad_evaluation() -> None:
    """One evaluation without gain is forgiven; what comes after it counts from the last good one."""
    stopping = EnergyEarlyStopping(5e-4, patience=2)
    values = [0.5, 0.49, 0.8, 0.79, 0.80]
    assert [stopping.update(value, 100.0 * step) for step, value in enumerate(values, 1)] == [
        *[False] * 4,
        True,
    ]


def test_a_falling_loss_and_a_loss_that_is_no_number() -> None:
    stopping = EnergyEarlyStopping(1e-3, falling=True)
    assert not stopping.update(2.0, 100)
    assert not stopping.update(1.5, 200)
    assert stopping.gain_per_joule == pytest.approx(0.005)
    assert stopping.update(math.nan, 300)


def test_early_stopping_reads_the_meter(meter: EnergyMeter) -> None:
    stopping = EnergyEarlyStopping(5e-4)
    told = []
    with meter:
        for accuracy in (0.5, 0.8, 0.81):
            advance(meter, 1.0)
            told.append(stopping.update(accuracy))
    assert told == [False, False, True]
    assert stopping.gain_per_joule == pytest.approx(1e-4, rel=0.02)


def test_early_stopping_without_energy_never_stops(clock: FakeClock) -> None:
    meter = fake_meter(FakeBackend([fake_domain()], [OSError("gone")], clock), clock=clock)
    stopping = EnergyEarlyStopping(1.0, meter=meter)
    with meter:
        assert not any(stopping.update(0.5) for _ in range(5))


@pytest.mark.parametrize("arguments", [(-1.0,), (math.nan,), ("x",)], ids=["negative", "no number", "text"])
def test_wrong_thresholds(arguments: tuple[object]) -> None:
    with pytest.raises(ArgumentError, match="min_gain_per_joule"):
        EnergyEarlyStopping(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="patience"):
        EnergyEarlyStopping(1.0, patience=0)
