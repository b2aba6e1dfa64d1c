"""What other formats get: SCI, model cards, AI Energy Score, CodeCarbon's file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mlmeter.errors import ArgumentError
from mlmeter.impact import Embodied
from mlmeter.impact.exports import CODECARBON_COLUMNS
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter
from tests.impact.conftest import GPU


def serving(**units: float) -> Session:
    """Half a kWh of inference on one GPU."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, watts=1000.0, name="gpu-0", kind="gpu", model_name=GPU)
    with fake_meter(backend, clock=clock, phase="inference") as meter, meter.inference("predict", **units):
        advance(meter, 1800.0, step_seconds=60.0)
    return meter.session


def test_sci_of_a_consumer(session: Session) -> None:
    """SCI = (E * I + M) per R: 0.5 kWh of inference, PUE 1.2, 400 g/kWh, half an hour of a server."""
    impact = session.impact(400.0, pue=1.2, embodied=Embodied(1752.0, lifetime_years=4))
    score = impact.sci("requests")
    assert score.phases == ("inference",)
    assert score.count == 500
    assert score.energy.value == pytest.approx(0.6, rel=1e-9)
    assert score.operational.value == pytest.approx(240.0, rel=1e-9)
    assert score.embodied is not None
    # 50 g an hour.
    assert score.embodied.value == pytest.approx(25.0, rel=1e-9)
    assert score.score.value == pytest.approx(265 / 500, rel=1e-9)
    assert score.score.unit == "gCO2e per request"
    assert score.complete
    assert score.intensity is not None
    assert score.intensity.value == 400.0


def test_sci_of_a_provider(session: Session) -> None:
    """Training belongs to who makes the model; its unit is another one."""
    score = session.impact(400.0).sci("parameters", 2.0, boundary="provider")
    assert score.phases == ("training",)
    assert score.score.value == pytest.approx(200.0, rel=1e-9)
    assert not score.complete
    assert "without M" in str(score)


def test_sci_of_all_or_named_phases(session: Session) -> None:
    """The whole session, or what the user names."""
    impact = session.impact(400.0)
    assert impact.sci("samples", 3000, boundary="all").score.value == pytest.approx(0.2, rel=1e-9)
    both = impact.sci("samples", 3000, phases=["training", "inference"])
    assert both.score.value == pytest.approx(0.2, rel=1e-9)


def test_sci_without_a_place_is_a_range(session: Session) -> None:
    """No silent default here either."""
    score = session.impact().sci("requests").score
    assert score.value is None
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.high


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"unit": "requests", "boundary": "customer"}, "expected one of consumer, provider, all"),
        ({"unit": "tokens"}, "counted were requests"),
        ({"unit": "requests", "count": 0}, "count=0"),
        ({"unit": "requests", "count": -5}, "count=-5"),
        ({"unit": "requests", "phases": ["serving"]}, "the session has training, inference"),
    ],
)
def test_sci_of_nothing(session: Session, arguments: dict[str, object], words: str) -> None:
    """Unknown boundaries, phases and units; zero inferences."""
    with pytest.raises(ArgumentError, match=words):
        session.impact("DE").sci(**arguments)  # type: ignore[arg-type]


def test_sci_of_a_session_without_a_phase() -> None:
    """A session of the phase "other" has no consumer; the message says what it has."""
    clock = FakeClock()
    with fake_meter(FakeBackend.with_power(clock, watts=10.0), clock=clock, phase="other") as meter:
        advance(meter, 1.0)
    with pytest.raises(ArgumentError, match="only other; name some with phases="):
        meter.session.impact("DE").sci("requests", 5)


def test_the_model_card(session: Session) -> None:
    """Grams of electricity with place, hardware and source, and what the user adds."""
    card = session.impact("DE", pue=1.2).model_card(training_type="fine-tuning")["co2_eq_emissions"]
    assert list(card) == ["emissions", "source", "training_type", "geographical_location", "hardware_used"]
    assert card["emissions"] == pytest.approx(1.8 * 342.06, rel=1e-9)
    assert card["geographical_location"] == "Germany"
    assert card["hardware_used"] == GPU
    assert "measured energy" in card["source"]
    assert "Ember" in card["source"]
    other = session.impact("DE").model_card(hardware_used="8 x H100")
    assert other["co2_eq_emissions"]["hardware_used"] == "8 x H100"


def test_a_model_card_needs_one_figure(session: Session) -> None:
    """A range over the world is no figure; unknown fields are refused."""
    with pytest.raises(ArgumentError, match="name a place with grid="):
        session.impact().model_card()
    with pytest.raises(ArgumentError, match="expected source, training_type"):
        session.impact("DE").model_card(color="green")


def test_ai_energy_score() -> None:
    """Wh of GPUs for 1000 queries: 500 Wh for 250 requests."""
    fields = serving(requests=250).impact("DE").energy_score(model="m", task="text_generation")
    assert fields["gpu_energy_wh_per_1000_queries"] == pytest.approx(2000.0, rel=1e-9)
    assert fields["hardware"] == GPU
    assert fields["date"] == "2023-11-14"
    assert fields["comparable"]
    # Stars are relative to others.
    assert fields["stars"] is None


def test_what_has_no_ai_energy_score(session: Session) -> None:
    """Training, no GPU, no queries."""
    with pytest.raises(ArgumentError, match="also has training"):
        session.impact("DE").energy_score(model="m", task="t")
    with pytest.raises(ArgumentError, match="give queries="):
        serving(tokens=5).impact("DE").energy_score(model="m", task="t")
    clock = FakeClock()
    with fake_meter(FakeBackend.with_power(clock, watts=10.0), clock=clock, phase="inference") as meter:
        advance(meter, 1.0)
    with pytest.raises(ArgumentError, match="no GPU was metered"):
        meter.session.impact("DE").energy_score(model="m", task="t", queries=5)
    with pytest.raises(ArgumentError, match="queries=0"):
        serving().impact("DE").energy_score(model="m", task="t", queries=0)


def test_codecarbon_file(session: Session, tmp_path: Path) -> None:
    """kg, kWh, W and seconds; runs are appended; what is not known is empty, never 0."""
    path = tmp_path / "emissions.csv"
    impact = session.impact("aws:eu-central-1", pue=1.2)
    impact.to_codecarbon_csv(path)
    impact.to_codecarbon_csv(path)
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == CODECARBON_COLUMNS
    assert first == second
    assert float(first["duration"]) == 5400.0
    assert float(first["emissions"]) == pytest.approx(1.8 * 0.34206, rel=1e-9)
    assert float(first["emissions_rate"]) == pytest.approx(1.8 * 0.34206 / 5400, rel=1e-9)
    assert float(first["gpu_energy"]) == pytest.approx(1.8, rel=1e-9)
    assert float(first["energy_consumed"]) == pytest.approx(1.8, rel=1e-9)
    assert float(first["gpu_power"]) == pytest.approx(1200.0, rel=1e-9)
    assert first["cpu_energy"] == first["ram_power"] == first["longitude"] == first["water_consumed"] == ""
    assert (first["cloud_provider"], first["cloud_region"], first["on_cloud"]) == ("aws", "eu-central-1", "Y")
    assert (first["country_name"], first["country_iso_code"]) == ("Germany", "DEU")
    assert (first["pue"], first["tracking_mode"]) == ("1.2", "machine")
    assert first["timestamp"] == "2023-11-14T22:13:20"


def test_codecarbon_columns_in_another_order_are_kept(session: Session, tmp_path: Path) -> None:
    """A row goes under the header that is there."""
    path = tmp_path / "emissions.csv"
    path.write_text(",".join(reversed(CODECARBON_COLUMNS)), encoding="utf-8")
    session.impact("DE").to_codecarbon_csv(path)
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["project_name"] == "digits"


def test_a_file_of_other_columns_is_left_alone(session: Session, tmp_path: Path) -> None:
    """Nothing is overwritten, and a range is not written as a figure."""
    path = tmp_path / "emissions.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ArgumentError, match="its columns are not those"):
        session.impact("DE").to_codecarbon_csv(path)
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n"
    with pytest.raises(ArgumentError, match="name a place with grid="):
        session.impact().to_codecarbon_csv(tmp_path / "new.csv")
    assert not (tmp_path / "new.csv").exists()
