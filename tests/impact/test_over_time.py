"""Intensity that changes with time is weighted with the power curve, by phase."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from mlmeter.errors import ArgumentError, ProviderError
from mlmeter.impact import IntensitySeries, cleanest
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter

# The fake clock's wall time.
START = datetime.fromtimestamp(1_700_000_000, UTC)


def series(*grams: float, minutes: int = 30, start: datetime = START, **fields: str) -> IntensitySeries:
    points = [(start + timedelta(minutes=minutes * number), value) for number, value in enumerate(grams)]
    return IntensitySeries.of(points, source="test", step_seconds=60.0 * minutes, **fields)


def test_constant_power(session: Session) -> None:
    """Three half-hours of equal energy: two of training, one of inference."""
    impact = session.impact(series(100, 200, 600))
    assert impact.factors.grid.value == pytest.approx(300, rel=1e-6)
    by_phase = {part.phase: part.factors.grid.value for part in impact.phases}
    assert by_phase == {"training": pytest.approx(150, rel=1e-6), "inference": pytest.approx(600, rel=1e-6)}
    assert impact.operational.value == pytest.approx(450, rel=1e-6)
    phases = sum(part.operational.value or 0 for part in impact.phases)
    assert phases == pytest.approx(450, rel=1e-6)


def test_power_that_changes() -> None:
    """An hour at 100 W, then one at 300 W: the second counts three times as much."""
    clock = FakeClock()
    hour = 3600 * 10**9

    def count(now_ns: int) -> int:
        return (min(now_ns, hour) * 100 + max(now_ns - hour, 0) * 300) // 1000

    backend = FakeBackend.with_power(clock, watts=1.0)
    backend = FakeBackend([*backend.open()], [count], clock)
    with fake_meter(backend, clock=clock) as meter:
        advance(meter, 7200.0, step_seconds=60.0)
    grid = meter.session.impact(series(100, 200, minutes=60)).factors.grid
    assert grid.value == pytest.approx((100 * 1 + 200 * 3) / 4, rel=1e-6)


def test_ranges_of_a_series_widen_the_interval(session: Session) -> None:
    """Low and high of the steps are weighted as the values are."""
    points = [(START, 100, 50, 200), (START + timedelta(minutes=45), 300, 250, 400)]
    grid = session.impact(IntensitySeries.of(points, source="test")).factors.grid
    assert (grid.value, grid.low, grid.high) == (
        pytest.approx(200, rel=1e-6),
        pytest.approx(150, rel=1e-6),
        pytest.approx(300, rel=1e-6),
    )


def test_a_run_between_two_phases_of_a_step(session: Session) -> None:
    """A series that starts before and ends after the run is cut to it."""
    early = START - timedelta(hours=5)
    assert session.impact(series(*[250] * 24, start=early)).factors.grid.value == pytest.approx(250)


@pytest.mark.parametrize("start", [START + timedelta(minutes=1), START - timedelta(hours=1)])
def test_a_series_that_does_not_cover_the_run(session: Session, start: datetime) -> None:
    """Is refused, or replaced by a fallback that says so."""
    short = series(100, 200, 600, start=start)
    with pytest.raises(ArgumentError, match="do not cover the run"):
        session.impact(short)
    impact = session.impact(short, fallback="FR")
    assert impact.factors.grid.value == 44.18
    assert impact.notes[0].startswith("fallback: grid intensity 44.18")
    assert "do not cover the run" in impact.notes[0]


def test_a_gap_is_not_filled(session: Session) -> None:
    """A missing half-hour is missing."""
    points = [(START, 100.0), (START + timedelta(minutes=60), 100.0)]
    gap = IntensitySeries.of(points, source="test", step_seconds=1800)
    with pytest.raises(ArgumentError, match="do not cover"):
        session.impact(gap)


def test_a_fallback_needs_something_to_stand_in_for(session: Session) -> None:
    """A place does not fail."""
    with pytest.raises(ArgumentError, match="fallback="):
        session.impact("DE", fallback="FR")


class Broken:
    """A provider that is down."""

    name = "broken"

    def series(self, start: datetime, end: datetime) -> IntensitySeries:
        raise ProviderError(self.name, f"down from {start:%H:%M} to {end:%H:%M}")

    def forecast(self) -> IntensitySeries:
        raise ProviderError(self.name, "down")


def test_a_provider_that_fails(session: Session) -> None:
    """Its error reaches the user, or the fallback's note."""
    with pytest.raises(ProviderError, match="broken: down from 22:13 to 23:43") as caught:
        session.impact(Broken())
    assert caught.value.provider == "broken"
    impact = session.impact(Broken(), fallback=500.0)
    assert impact.operational.value == pytest.approx(750)
    assert "because broken: down" in impact.notes[0]
    for grid in (Broken(), series(100, 200, 600)):
        with pytest.raises(ArgumentError, match="no such place"):
            session.impact(grid, fallback="Atlantis")


class Careless:
    """A provider of the user's own that raises what it likes, or answers nonsense."""

    name = "careless"

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def series(self, start: datetime, end: datetime) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def forecast(self) -> Any:
        return self._answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OSError("no route"), "careless: OSError: no route"),
        (KeyError("data"), "careless: KeyError: 'data'"),
        ({"intensity": 5}, "careless: returned dict in place of an IntensitySeries"),
        (None, "careless: returned NoneType"),
    ],
)
def test_a_provider_of_the_users_own_that_fails(answer: object, words: str, session: Session) -> None:
    """Whatever it does is its error by name, or the fallback's note."""
    with pytest.raises(ProviderError, match=re.escape(words)):
        session.impact(Careless(answer))
    impact = session.impact(Careless(answer), fallback=500.0)
    assert impact.operational.value == pytest.approx(750)
    assert f"because {words}" in impact.notes[0]


def test_a_class_is_no_provider(session: Session) -> None:
    """Its brackets were forgotten."""
    with pytest.raises(ArgumentError, match="or a provider"):
        session.impact(Broken)  # type: ignore[arg-type]


def test_marginal_intensity_is_called_so(session: Session) -> None:
    """It is another quantity than the average."""
    assert session.impact(series(*[300] * 3, kind="marginal")).factors.grid.name == "marginal grid intensity"


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "at least one point"),
        ([(START, 100)], "needs step_seconds"),
        ([(START, 100), (START, 200)], "at the same time"),
        ([(START.replace(tzinfo=None), 100)], "time zone"),
        ([("2023-11-14", 100)], "time zone"),
        ([(START, -1), (START + timedelta(hours=1), 1)], "intensity=-1"),
        ([(START, float("nan")), (START + timedelta(hours=1), 1)], "intensity=nan"),
        ([(START, None), (START + timedelta(hours=1), 1)], "intensity=None"),
        ([(START, 100, 200, 300), (START + timedelta(hours=1), 1)], "not within"),
        ([(START, 100, 200)], "expected"),
        ([START], "expected"),
    ],
)
def test_series_that_make_no_sense(points: list[tuple[object, ...]], words: str) -> None:
    """Are refused where they are made."""
    with pytest.raises(ArgumentError, match=words):
        IntensitySeries.of(points, source="test")


def test_kinds_of_series() -> None:
    """There are two."""
    with pytest.raises(ArgumentError, match="average"):
        series(100, 200, kind="mean")


def test_times_of_all_zones_are_the_same_time() -> None:
    """Points may be in any order and zone."""
    berlin = timezone(timedelta(hours=1))
    points = [((START + timedelta(hours=1)).astimezone(berlin), 2.0), (START, 1.0)]
    made = IntensitySeries.of(points, source="test")
    assert [step.grams_per_kwh for step in made.steps] == [1.0, 2.0]
    assert made.start == START
    assert made.end == START + timedelta(hours=2)


def test_the_cleanest_time(session: Session) -> None:
    """The run of 90 minutes fits four times into three hours; the best has the lowest mean."""
    found = cleanest(session, series(300, 200, 100, 100, 200, 600))
    assert found[0].grams_co2e == pytest.approx(1.5 * 400 / 3, rel=1e-6)
    assert found[0].start in {START + timedelta(minutes=30), START + timedelta(minutes=60)}
    assert found[-1].ratio == 1.0
    assert found[-1].start == START + timedelta(minutes=90)
    assert found[-1].grams_co2e == pytest.approx(1.5 * 300, rel=1e-6)
    assert len(found) == 4
    assert all(time.low <= time.grams_co2e <= time.high for time in found)


def test_the_power_curve_decides_which_hour_is_clean() -> None:
    """A run that is heavy at its end should end in the clean hour."""
    clock = FakeClock()
    hour = 3600 * 10**9
    domains = FakeBackend.with_power(clock, watts=1.0).open()
    backend = FakeBackend([*domains], [lambda now: max(now - hour, 0)], clock)
    with fake_meter(backend, clock=clock) as meter:
        advance(meter, 7200.0, step_seconds=60.0)
    found = cleanest(meter.session, series(100, 500, 50, 500, 500, minutes=60))
    assert found[0].start == START + timedelta(hours=1)
    assert found[0].grams_co2e == pytest.approx(50.0, rel=1e-3)


def test_a_run_can_end_at_a_step(session: Session) -> None:
    """An hour and a half of falling hours: the best is the last one and half of the one before."""
    begin = START + timedelta(seconds=0.1)
    best = cleanest(session, series(500, 300, 100, minutes=60, start=begin))[0]
    assert best.end == begin + timedelta(hours=3)
    assert best.grams_co2e == pytest.approx(0.5 * 300 + 1.0 * 100, rel=1e-6)


def test_two_months_of_hours(session: Session) -> None:
    """A run is put at every step of a long series."""
    grams = [100 + (number * 37) % 300 for number in range(24 * 60)]
    grams[1000] = grams[1001] = 5
    assert cleanest(session, series(*grams, minutes=60))[0].grams_co2e == pytest.approx(7.5, rel=1e-6)


def test_the_cleanest_place(session: Session) -> None:
    """Several series, one answer."""
    places = {"north": series(*[100] * 4), "south": series(*[400] * 4)}
    found = cleanest(session, places)
    assert found[0].place == "north"
    assert found[0].ratio == pytest.approx(0.25)


def test_what_has_no_cleanest_time(session: Session) -> None:
    """Too short series, gaps, and kinds that cannot be compared."""
    with pytest.raises(ArgumentError, match="covers a run of 5400 s"):
        cleanest(session, series(100, 200))
    with pytest.raises(ArgumentError, match="cannot be compared"):
        cleanest(session, {"a": series(*[1] * 4), "b": series(*[1] * 4, kind="marginal")})
    with pytest.raises(ArgumentError, match="at least one"):
        cleanest(session, {})
