"""``mlmeter impact`` on a saved run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlmeter.cli import main
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter


@pytest.fixture
def run(tmp_path: Path) -> str:
    """1 kWh."""
    clock = FakeClock()
    with fake_meter(FakeBackend.with_power(clock, watts=1000.0), clock=clock, name="digits") as meter:
        advance(meter, 3600.0, step_seconds=60.0)
    return str(meter.session.save(tmp_path / "runs" / "one"))


def test_the_tables(run: str) -> None:
    """Quantities, factors and notes, as `Impact.summary` has them."""
    result = CliRunner().invoke(main, ["impact", run, "--grid", "DE", "--pue", "1.2", "--price", "0.30EUR"])
    assert result.exit_code == 0, result.output
    for words in ("410.5", "0.3600", "EUR", "Germany, 2024, Ember", "PUE 1.2 (given by the user)"):
        assert words in result.output


def test_json(run: str) -> None:
    """The same as data: numbers, factors with year and source."""
    arguments = ["impact", run, "--grid", "US-CA", "--pue", "world", "--price", "US-CA", "--json"]
    arguments += ["--embodied", "gpu_h100_sxm=8", "--lifetime-years", "5", "--water", "0.4"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    values = {row["quantity"]: row["value"] for row in document["quantities"] if row["phase"] == "session"}
    assert values["operational"] == pytest.approx(179.1 * 1.54)
    assert values["embodied"] == pytest.approx(8 * 164e3 * 3600 / (5 * 365 * 86_400))
    assert values["cost"] == pytest.approx(0.2554 * 1.54)
    assert values["water"] == pytest.approx(0.4)
    assert [factor["year"] for factor in document["factors"]] == ["2023", "2025", "2024", "2025", ""]
    assert all(factor["source"] for factor in document["factors"])


def test_a_folder_of_runs_and_a_number_with_a_source(run: str) -> None:
    """The latest run is taken, and the source is printed."""
    folder = str(Path(run).parent)
    result = CliRunner().invoke(main, ["impact", folder, "--grid", "350", "--grid-source", "our utility"])
    assert result.exit_code == 0, result.output
    assert "350 gCO2e/kWh (our utility)" in result.output


def test_the_file_of_codecarbon(run: str, tmp_path: Path) -> None:
    """It is appended to."""
    path = tmp_path / "emissions.csv"
    for _ in range(2):
        result = CliRunner().invoke(main, ["impact", run, "--grid", "FR", "--codecarbon", str(path)])
        assert result.exit_code == 0, result.output
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "Germny"], 'did you mean Germany ("DE")'),
        (["--grid", "-5"], "grid=-5"),
        (["--grid", "nan"], "grid=nan"),
        (["--grid", "DE", "--grid-source", "me"], "--grid-source goes with a number"),
        (["--pue", "0.5"], "pue=0.5"),
        (["--price", "0.30"], "one amount and one currency"),
        (["--price", "0.30EUR/USD"], "one amount and one currency"),
        (["--embodied", "gpu_h100_sxm=many"], "expected a piece and a number"),
        (["--embodied", "gpu_h200=1"], "no piece 'gpu_h200'"),
        (["--embodied", "kg=5", "--embodied", "gpu_a100"], "goes with no other piece"),
        (["--lifetime-years", "4"], "goes with --embodied"),
        (["--embodied", "kg=5", "--lifetime-years", "0"], "lifetime_years=0"),
    ],
)
def test_wrong_usage(run: str, arguments: list[str], words: str) -> None:
    """Exit code 2, and what is accepted; no traceback."""
    result = CliRunner().invoke(main, ["impact", run, *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_no_run(tmp_path: Path) -> None:
    """Exit code 1."""
    result = CliRunner().invoke(main, ["impact", str(tmp_path / "nothing"), "--grid", "DE"])
    assert result.exit_code == 1
