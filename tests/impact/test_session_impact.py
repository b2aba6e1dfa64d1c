"""Energies times factors, exact to rounding, with intervals, by phase and for the whole session."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlmeter
from mlmeter.errors import ArgumentError
from mlmeter.impact import Amount, Embodied, Factor, total_carbon, total_cost
from mlmeter.impact.conversion import impact_factors
from mlmeter.impact.result import PhaseImpact
from mlmeter.measurement import Energy, Provenance
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter

# Two or three multiplications, each right to half a unit in the last place.
ROUNDING = Fraction(4, 2**53)


def exactly(expected: Fraction, value: float | None) -> bool:
    """Whether a value is the exact result, but for rounding."""
    assert value is not None
    return abs(Fraction(value) - expected) <= ROUNDING * expected


def energy(joules: float, low: float, high: float) -> Energy:
    return Energy(
        energy_joules=joules,
        low_joules=low,
        high_joules=high,
        provenance=Provenance.MEASURED,
        resolved=True,
        coverage_ratio=1.0,
    )


@given(
    joules=st.floats(1e-3, 1e12),
    grams=st.floats(1, 3000),
    pue=st.floats(1, 3),
    cents=st.integers(0, 999),
    seconds=st.floats(1e-3, 1e9),
    kilograms=st.floats(1e-3, 1e6),
)
def test_the_arithmetic_is_exact_to_rounding(
    joules: float, grams: float, pue: float, cents: int, seconds: float, kilograms: float
) -> None:
    """Against exact fractions: 3.6 MJ are a kWh, a kilogram 1000 g, four years 4 * 365 * 86400 s."""
    price = f"{cents / 100:.2f}"
    factors = impact_factors(grams, pue=pue, price=f"{price} EUR", embodied=kilograms, water=0.5)
    part = PhaseImpact("x", seconds, energy(joules, joules / 2, joules * 2), factors)
    kwh = Fraction(joules) / 3_600_000
    assert exactly(kwh, part.energy.value)
    assert exactly(kwh * Fraction(pue), part.facility_energy.value)
    assert exactly(kwh * Fraction(grams), part.operational_without_pue.value)
    assert exactly(kwh * Fraction(grams) * Fraction(pue), part.operational.value)
    assert exactly(kwh * Fraction(grams) * Fraction(pue) / 2, part.operational.low)
    assert exactly(kwh * Fraction(grams) * Fraction(pue) * 2, part.operational.high)
    manufacture = Fraction(kilograms) * 1000 * Fraction(seconds) / (4 * 365 * 86_400)
    assert part.embodied is not None
    assert exactly(manufacture, part.embodied.value)
    assert exactly(kwh * Fraction(grams) * Fraction(pue) + manufacture, part.carbon.value)
    assert part.cost is not None
    assert exactly(kwh * Fraction(float(price)) * Fraction(pue), part.cost.value)
    assert part.water is not None
    assert exactly(kwh / 2, part.water.value)


def test_a_session_of_known_energy(session: Session) -> None:
    """1.5 kWh in Germany, at 0.30 EUR, PUE 1.2."""
    impact = session.impact("DE", pue=1.2, price="0.30 EUR", water="us-electricity")
    assert impact.energy.value == pytest.approx(1.5, rel=1e-12)
    assert impact.facility_energy.value == pytest.approx(1.8, rel=1e-12)
    assert impact.operational.value == pytest.approx(1.8 * 342.06, rel=1e-12)
    assert impact.carbon == impact.operational
    assert impact.embodied is None
    assert impact.cost is not None
    assert (impact.cost.value, impact.cost.unit) == (pytest.approx(0.54, rel=1e-12), "EUR")
    # Water of power plants is for all that the data centre takes from the grid.
    assert impact.water is not None
    assert impact.water.value == pytest.approx(1.8 * 4.52, rel=1e-12)


def test_intervals_are_those_of_the_energy_times_those_of_the_factor(session: Session) -> None:
    """Low with low, high with high."""
    grid = Factor(name="grid intensity", value=300, low=200, high=500, unit="gCO2e/kWh", source="me")
    operational = session.impact(grid).operational
    total = session.total()
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert operational.low == total.low_joules / 3.6e6 * 200
    assert operational.high == total.high_joules / 3.6e6 * 500


def test_phases_add_up(session: Session) -> None:
    """What a phase emits, costs and had of the machine are parts of the session's."""
    impact = session.impact("FR", pue=1.5, price="FR", embodied={"gpu_h100_sxm": 2})
    assert [part.phase for part in impact.phases] == ["training", "inference"]
    assert sum(part.carbon.value or 0 for part in impact.phases) == pytest.approx(impact.carbon.value)
    assert sum(part.cost.value or 0 for part in impact.phases if part.cost) == pytest.approx(
        impact.cost.value if impact.cost else 0
    )
    assert impact.phases[0].units == {"samples": 3000.0}


def test_without_a_place_emissions_are_a_range(session: Session) -> None:
    """No default is made up: value None, and a note that says what to do."""
    impact = session.impact()
    assert impact.operational.value is None
    assert impact.grams_per_joule is None
    low, high = impact.operational.low, impact.operational.high
    assert low is not None
    assert high is not None
    assert low == pytest.approx(1.5 * 20.83, rel=1e-5)
    assert high == pytest.approx(1.5 * 1306.3, rel=1e-5)
    assert any("name a place with grid=" in note for note in impact.notes)
    assert "208 countries" in " ".join(impact.summary().split())


def test_a_loaded_session_has_the_same_impact(session: Session, tmp_path: Path) -> None:
    """Factors can be chosen after the run."""
    loaded = mlmeter.load(session.save(tmp_path / "run"))
    assert loaded.impact("DE", price="DE").records() == session.impact("DE", price="DE").records()


def test_the_frame_names_the_factors_of_each_row(session: Session) -> None:
    """One row per phase and quantity; each factor with year and source."""
    frame = session.impact("DE", pue="world", price="DE").frame()
    row = frame.query("phase == 'session' and quantity == 'operational'").iloc[0]
    assert "Germany, 2024, Ember" in row["factors"]
    assert "Uptime Institute" in row["factors"]
    assert row["unit"] == "gCO2e"
    assert set(frame["quantity"]) == {
        "metered_energy",
        "facility_energy",
        "operational_without_pue",
        "operational",
        "carbon",
        "cost_without_pue",
        "cost",
    }


def test_the_summary_fits_a_terminal_and_names_year_and_source(session: Session) -> None:
    """At most 80 columns, but for words that are longer."""
    impact = session.impact("gcp:europe-west4", pue=1.1, price="US-TX", embodied={"gpu_a100": 1}, water="aws")
    text = impact.summary()
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for factor in impact.factors.all:
        assert str(factor) in flat
    assert "power supplies, fans, disks" in flat


def test_names_of_strangers_steer_no_terminal_and_fit_it() -> None:
    """In the summaries of the session and of its impact."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, 100.0)
    with fake_meter(backend, clock=clock, name="\x1b[2J" + "long name " * 30) as meter:
        advance(meter, 10.0)
    for text in (meter.session.summary(), meter.session.impact("DE").summary()):
        assert r"\x1b[2J" in text
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_equivalences_name_their_sources(session: Session) -> None:
    """In the text and in the records: what one of them is, its year and who says so."""
    impact = session.impact("DE")
    text = " ".join(impact.summary().split())
    assert "Lannelongue et al.: Reference values of Green Algorithms" in text
    for words in ("km in a US car = 251 gCO2e (2019)", "New York - San Francisco = 570 kgCO2e (2020)"):
        assert words in text
    records = {record["name"]: record for record in impact.equivalence_records()}
    assert len(records) == len(impact.equivalences())
    household = records["years of a US household's electricity"]
    assert household["factor"].startswith("10,715 kWh (2020, United States Energy")
    assert household["value"] == pytest.approx(1.5 / 10_715)


def test_equivalences_are_the_amount_over_the_row(session: Session) -> None:
    """km, years and car lifetimes."""
    impact = session.impact(500.0)
    found = {item.id: item for item in impact.equivalences()}
    assert found["car_km_eu"].amount.value == pytest.approx(1.5 * 500 / 175, rel=1e-12)
    assert found["household_us_year"].amount.value == pytest.approx(1.5 / 10_715, rel=1e-12)
    assert found["car_lifetime_us"].amount.value == pytest.approx(750 / (126_000 * 453.59237), rel=1e-12)
    assert all(item.factor.year for item in found.values())


def test_an_unread_session_has_no_impact() -> None:
    """Absent, not 0."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, watts=10.0)
    backend.read = list  # type: ignore[method-assign]
    with fake_meter(backend, clock=clock) as meter:
        clock.advance(1.0)
    impact = meter.session.impact("DE", price="0.3 EUR")
    assert impact.energy.value is None
    assert impact.carbon.value is None
    assert any("no energy could be read" in note for note in impact.notes)
    assert "impact of" in impact.summary()


def test_impacts_of_several_sessions_add_up(session: Session) -> None:
    """Training and serving, each with its grid."""
    first, second = session.impact("DE", price="0.3 EUR"), session.impact("FR", price="0.2 EUR")
    assert total_carbon([first, second]).value == pytest.approx(1.5 * (342.06 + 44.18), rel=1e-12)
    assert total_cost([first, second]).value == pytest.approx(0.75, rel=1e-12)


def test_currencies_are_not_mixed(session: Session) -> None:
    """EUR and USD have no sum, and a missing price is no 0."""
    euros, dollars = session.impact("DE", price="0.3 EUR"), session.impact("DE", price="US-CA")
    with pytest.raises(ArgumentError, match="EUR and USD cannot be added"):
        total_cost([euros, dollars])
    with pytest.raises(ArgumentError, match="has no price"):
        total_cost([euros, session.impact("DE")])
    with pytest.raises(ArgumentError, match="no impacts"):
        total_carbon([])


def test_half_a_machine_for_a_fifth_of_its_life(session: Session) -> None:
    """M = TE * time share * resource share."""
    embodied = Embodied(1000.0, lifetime_years=6, share=0.5, source="our supplier")
    impact = session.impact("DE", embodied=embodied)
    assert impact.embodied is not None
    assert impact.embodied.value == pytest.approx(1e6 * 5400 / (6 * 365 * 86_400) * 0.5, rel=1e-12)
    assert impact.factors.embodied is not None
    assert impact.factors.embodied.source == "our supplier"


@pytest.mark.parametrize(("value", "low", "high"), [(484.34, 484.29, 484.38), (1e-7, 9.99999e-8, 1.00001e-7)])
def test_printed_intervals_hold_what_they_held(value: float, low: float, high: float) -> None:
    """Rounded outward."""
    text = str(Amount(value, low, high, "g"))
    least, most = text.split(", in ")[1].removesuffix(" g").split(" .. ")
    assert float(least) <= low <= value <= high <= float(most)


def test_a_session_that_is_too_short_for_its_sensor() -> None:
    """A value between two refreshes is not sold as one."""
    clock = FakeClock()
    domain = fake_domain(update_period_seconds=0.5)
    # 50 J appear every half second.
    backend = FakeBackend([domain], [lambda now: now // 500_000_000 * 50_000_000], clock)
    with fake_meter(backend, clock=clock) as meter:
        advance(meter, 0.7)
    assert not meter.session.total().resolved
    impact = meter.session.impact("DE", embodied=10.0)
    assert any("read the intervals" in note for note in impact.notes)
    assert impact.summary().count("unresolved") > 3
    assert not any(row["energy_resolved"] for row in impact.records())


def test_nothing_is_asked_on_the_network(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are looked up in the shipped tables."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert session.impact("aws:eu-west-1", pue="aws", price="IE").cost is not None
    assert session.impact().operational.low is not None
