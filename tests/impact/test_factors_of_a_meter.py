"""Grid, PUE and price that are named at the meter: checked there, kept with the run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import mlmeter
from mlmeter.cli import main
from mlmeter.errors import ArgumentError, NothingMeteredWarning, RunFileError
from mlmeter.impact import Factor, ImpactFactors, IntensitySeries
from mlmeter.impact.of_meter import MeterFactors, factors_of_facts, meter_factors
from mlmeter.meter import EnergyMeter
from mlmeter.recording import ELECTRICITY
from mlmeter.report.run_directory import MANIFEST
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter

OF_GERMANY = 342.06
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
A_SERIES = IntensitySeries.of([(NOON, 1.0), (NOON + timedelta(hours=1), 2.0)], source="us")
OURS = Factor(name="grid intensity", value=50.0, low=40.0, high=70.0, unit="gCO2e/kWh", source="our contract")


def metered(**arguments: Any) -> Session:
    """1 kW for an hour."""
    clock = FakeClock()
    with fake_meter(FakeBackend.with_power(clock, 1000.0), clock=clock, name="digits", **arguments) as meter:
        advance(meter, 3600.0, step_seconds=60.0)
    return meter.session


@pytest.fixture(scope="module")
def session() -> Session:
    return metered(grid="DE", pue=1.5, price="0.30 EUR")


def test_they_are_the_defaults_of_the_impact(session: Session) -> None:
    """And a note says that they are the meter's."""
    impact = session.impact()
    assert impact.operational.value == pytest.approx(OF_GERMANY * 1.5)
    assert impact.cost is not None
    assert str(impact.cost).startswith("0.45 EUR, in ")
    assert impact.factors.grid.year == "2024"
    assert "as named at the meter: grid, pue, price" in impact.notes
    assert impact.facts.grid_name == "DE"


def test_what_is_named_later_goes_before(session: Session) -> None:
    """One by one: who names another place keeps the PUE."""
    impact = session.impact("FR", price="0.20 USD")
    assert impact.factors.grid.place == "France"
    assert impact.factors.pue is not None
    assert impact.factors.pue.value == 1.5
    assert impact.cost is not None
    assert impact.cost.unit == "USD"
    assert "as named at the meter: pue" in impact.notes
    assert not any("as named" in note for note in session.impact(1.0, pue=1, price="DE").notes)


def test_without_a_place_emissions_stay_a_range() -> None:
    """A PUE and a price are no place."""
    impact = metered(pue=1.5, price="DE").impact()
    assert impact.operational.value is None
    assert impact.operational.low is not None
    assert "unresolved" not in metered(pue=1.5).summary()
    assert "no place was named" in metered(pue=1.5).summary()
    assert not metered().impact().factors.pue


@pytest.mark.parametrize("grid", ["gcp:europe-west4", 350, np.float64(350.5), OURS])
def test_all_forms_are_kept_with_the_run(grid: Any, tmp_path: Path) -> None:
    """A saved run, and one that is computed again, have the same factors; the manifest has their sources."""
    session = metered(grid=grid, price="FR")
    expected = session.impact(grid, price="FR").factors
    assert session.impact().factors == expected
    assert session.recompute(base_phase="tuning").impact().factors == expected
    loaded = mlmeter.load(session.save(tmp_path / "run"))
    assert loaded.impact().factors == expected
    assert loaded.summary() == session.summary()
    kept = json.loads((tmp_path / "run" / MANIFEST).read_text(encoding="utf-8"))["run"]["facts"][ELECTRICITY]
    assert kept["grid"]["source"] == expected.grid.source
    assert kept["price"]["year"] == "2024-S2"


def test_a_run_keeps_the_values_of_its_time(session: Session) -> None:
    """A table that says something else later changes no saved run."""
    run = session.recording.run
    facts: dict[str, Any] = json.loads(json.dumps(run.facts))
    facts[ELECTRICITY]["grid"] |= {"value": 500.0, "low": 500.0, "high": 500.0, "year": "2019"}
    older = Session(session.recording.with_run(replace(run, facts=facts)))
    assert older.impact().operational.value == pytest.approx(750.0)
    assert older.impact().factors.grid.year == "2019"


def test_summaries_and_the_page_have_them(session: Session, tmp_path: Path) -> None:
    """With year and source, in 80 columns; a run without factors has no such part."""
    text = session.summary()
    for words in ("513.1", "gCO2e", "0.4500", "EUR", "(Germany, 2024, Ember", "PUE 1.5 (given by the user)"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    assert "513.1" in session._repr_html_()
    path = tmp_path / "page.html"
    session.to_html(path)
    assert "513.1" in path.read_text(encoding="utf-8")
    bare = metered()
    bare.to_html(path)
    for words in (bare.summary(), bare._repr_html_(), path.read_text(encoding="utf-8")):
        assert "CO2e" not in words


def test_of_no_energy_nothing_follows() -> None:
    """The summary has no table of dashes."""
    clock = FakeClock()
    with pytest.warns(NothingMeteredWarning):
        meter = fake_meter(FakeBackend([], [], clock), clock=clock, grid="DE").start()
    clock.advance(5.0)
    meter.stop()
    assert "CO2e" not in meter.session.summary()
    assert meter.session.impact().operational.value is None


def test_the_commands_use_them(session: Session, tmp_path: Path) -> None:
    """`impact` and `report --html` of a run, and both with other factors."""
    run, page = str(session.save(tmp_path / "run")), tmp_path / "page.html"
    assert "513.1" in CliRunner().invoke(main, ["impact", run]).stdout
    assert "450.0" in CliRunner().invoke(main, ["impact", run, "--grid", "300"]).stdout
    for options, words in (([], "513.1"), (["--grid", "300", "--pue", "2", "--price", "1USD"], "600.0")):
        result = CliRunner().invoke(main, ["report", run, "--html", str(page), *options])
        assert result.exit_code == 0, result.output
        assert words in page.read_text(encoding="utf-8")
    result = CliRunner().invoke(main, ["report", run, "--price", "1USD"])
    assert result.exit_code == 2
    assert "go with --html" in result.stderr
    result = CliRunner().invoke(main, ["report", run, "--html", str(page), "--grid", "Frnce"])
    assert (result.exit_code, 'did you mean France ("FR")' in result.stderr) == (2, True)


def test_a_metered_program_keeps_them(tmp_path: Path) -> None:
    """``mlmeter run --grid``; a wrong one runs nothing."""
    options = ["--grid", "US-CA", "--pue", "1.2", "--price", "0.25USD"]
    arguments = ["run", "--output-dir", str(tmp_path), *options, "--", "true"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    impact = mlmeter.load(next(tmp_path.glob("*/"))).impact()
    assert impact.factors.grid.place == "California"
    assert impact.factors.currency == "USD"
    result = CliRunner().invoke(main, ["run", "--grid", "Germny", "--", "true"])
    assert (result.exit_code, 'did you mean Germany ("DE")' in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"grid": "Germny"}, 'did you mean Germany ("DE")'),
        ({"grid": "aws:eu-wst-1"}, '"aws:eu-west-1"'),
        ({"grid": -1}, "grid=-1"),
        ({"grid": 0.35}, "looks like kilograms"),
        ({"grid": float("nan")}, "grid=nan: expected a country"),
        ({"grid": True}, "grid=True"),
        ({"grid": A_SERIES}, "goes to Session.impact"),
        ({"grid": replace(OURS, unit="kg/kWh")}, "unit that ends in gCO2e/kWh"),
        ({"grid": replace(OURS, source=" ")}, "expected a source"),
        ({"grid": replace(OURS, place=None)}, "no text"),  # type: ignore[arg-type]
        ({"pue": 0.9}, "pue=0.9"),
        ({"pue": 30}, "pue=30"),
        ({"pue": "here"}, "pue='here'"),
        ({"price": 0.3}, "needs a currency"),
        ({"price": "0.30 EUR/USD"}, "one amount and one currency"),
        ({"price": "-0.30 EUR"}, "one amount and one currency"),
        ({"price": "30 EUR"}, "not cents"),
    ],
)
def test_wrong_ones_raise_when_the_meter_is_made(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        EnergyMeter(**arguments)
    assert words in str(caught.value)


def test_the_meter_tells_them() -> None:
    """None where nothing was named."""
    factors = EnergyMeter(grid="DE", pue="world").factors
    assert isinstance(factors, ImpactFactors)
    assert factors.grams_per_joule == pytest.approx(OF_GERMANY * 1.54 / 3.6e6)
    assert EnergyMeter().factors is None


@pytest.mark.parametrize(
    "changes",
    [
        {"value": "much"},
        {"value": -1.0, "low": -1.0},
        {"low": 1e9},
        {"unit": "kg"},
        {"source": None},
    ],
)
def test_nonsense_in_a_file_is_told(changes: dict[str, Any], session: Session) -> None:
    """Nobody computes with what strangers have written in their place."""
    facts = meter_factors("DE").facts()
    facts["grid"] |= changes
    for wrong in (facts, 5, [], {"grid": "DE"}):
        run = replace(session.recording.run, facts={ELECTRICITY: wrong})
        with pytest.raises(RunFileError, match="electricity"):
            Session(session.recording.with_run(run)).impact()


def test_texts_of_strangers_steer_no_terminal() -> None:
    facts = meter_factors("DE").facts()
    facts["grid"]["source"] = "\x1b[2J"
    grid = factors_of_facts({ELECTRICITY: facts}).grid
    assert grid is not None
    assert grid.source == r"\x1b[2J"
    assert factors_of_facts({}) == MeterFactors()


def test_a_meter_without_a_grid_loads_no_tables() -> None:
    """Neither the import, nor a run and its summary; with a grid they are there."""
    program = (
        "import sys, mlmeter\n"
        "from mlmeter.testing import FakeBackend, FakeClock, fake_meter\n"
        "for grid in (None, 'DE'):\n"
        "    clock = FakeClock()\n"
        "    with fake_meter(FakeBackend.with_power(clock, 1.0), clock=clock, grid=grid) as meter:\n"
        "        clock.advance(1.0)\n"
        "    meter.session.summary()\n"
        "    print('mlmeter.impact' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
