"""Energy per unit of work, powers and delays; energy to a target; metrics of windows."""

from __future__ import annotations

import math

import pytest

import mlmeter
from mlmeter.errors import ArgumentError, StateError
from mlmeter.report.run_directory import read_run_directory
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, SimulatedBackend, advance, fake_domain, fake_meter


def answering(tokens: int = 100) -> Session:
    """Two requests: prefill at 400 W for 0.5 s, decode at 100 W for 2 s, 100 tokens each."""
    clock = FakeClock()
    backend = SimulatedBackend(
        [0.0, 1.0, 1.5, 3.5, 4.0, 6.0, 10.0],
        [50.0, 400.0, 100.0, 400.0, 100.0, 50.0],
        clock,
        update_period_seconds=0.001,
    )
    meter = fake_meter(backend, clock=clock, phase="other")
    with meter:
        advance(meter, 1.0)
        for _ in range(2):
            with meter.inference("request", requests=1):
                with meter.window("prefill", phase="prefill", tokens=4 * tokens):
                    advance(meter, 0.5)
                with meter.window("decode", phase="decode", tokens=tokens):
                    advance(meter, 2.0)
        advance(meter, 1.0)
    return meter.session


@pytest.fixture
def session() -> Session:
    return answering()


def test_joules_each_of_prefill_decode_and_request(session: Session) -> None:
    """200 J for 400 tokens of a prompt, 200 J for 100 of an answer, 400 J a request."""
    frame = session.efficiency().set_index("name")
    assert frame.loc["prefill", "joules_each"] == pytest.approx(0.5, rel=0.02)
    assert frame.loc["decode", "joules_each"] == pytest.approx(2.0, rel=0.02)
    assert frame.loc["request", "joules_each"] == pytest.approx(400, rel=0.02)
    assert frame.loc["decode", "wh_per_1000"] == pytest.approx(2_000 / 3_600, rel=0.02)
    assert frame.loc["decode", "units_per_second"] == pytest.approx(50, rel=0.01)
    assert list(frame["unit"]) == ["requests", "tokens", "tokens"]
    for _, row in frame.iterrows():
        assert row["joules_each_low"] <= row["joules_each"] <= row["joules_each_high"]


def test_delay_is_that_of_a_window(session: Session) -> None:
    """A request takes 2.5 s and 400 J: 1,000 J s, 2,500 J s2."""
    request = session.efficiency().set_index("name").loc["request"]
    assert request["energy_delay_joule_seconds"] == pytest.approx(1_000, rel=0.02)
    assert request["energy_delay_squared_joule_seconds2"] == pytest.approx(2_500, rel=0.02)


def test_peak_and_p95_power(session: Session) -> None:
    """A request draws 400 W at its peak although it draws 160 W on the mean."""
    frame = session.efficiency().set_index("name")
    assert frame.loc["request", "mean_power_watts"] == pytest.approx(160, rel=0.02)
    assert frame.loc["request", "peak_power_watts"] == pytest.approx(400, rel=0.02)
    assert frame.loc["decode", "peak_power_watts"] == pytest.approx(100, rel=0.02)
    # Prefill is a fifth of the time, so that the 95th percentile is its power, too.
    assert frame.loc["request", "p95_power_watts"] == pytest.approx(400, rel=0.02)
    assert frame.loc["request", "power_bin_seconds"] == pytest.approx(0.1)


def test_windows_that_count_nothing_are_one_each() -> None:
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        for _ in range(4):
            with meter.inference("call"):
                clock.advance(1.0)
    (record,) = meter.session.efficiency().to_dict("records")
    assert (record["unit"], record["count"], record["windows"]) == ("windows", 4, 4)
    assert record["joules_each"] == pytest.approx(100, rel=0.01)


def test_short_windows_have_no_power_of_their_own() -> None:
    """No bin of 0.1 s lies in a window of 1 ms: its peak is not known, not 0."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        advance(meter, 1.002)
        with meter.inference("call"):
            clock.advance(0.001)
        advance(meter, 1.0)
    (record,) = meter.session.efficiency().to_dict("records")
    assert math.isnan(record["peak_power_watts"])


def test_nothing_read_nothing_told() -> None:
    """Without readings the row has counts and times, and no joules."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend([fake_domain()], [ValueError("gone")], clock), clock=clock)
    with meter, meter.inference("call", samples=2):
        clock.advance(1.0)
    (record,) = meter.session.efficiency().to_dict("records")
    assert record["count"] == 2
    for name in (
        "energy_joules",
        "joules_each",
        "wh_per_1000",
        "energy_delay_joule_seconds",
        "peak_power_watts",
    ):
        assert record[name] is None or math.isnan(record[name])


def trained(accuracies: list[float]) -> Session:
    """One epoch of 5 s at 100 W per accuracy."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        for accuracy in accuracies:
            with meter.window("epoch", samples=10) as window:
                clock.advance(5.0)
                window.metric(accuracy=0.0, loss=1 - accuracy)
                window.metric(accuracy=accuracy)
    return meter.session


def test_metrics_are_not_counts(tmp_path: object) -> None:
    """They are in the table of windows, the last value of each, not added up, and not among units."""
    session = trained([0.5, 0.75])
    windows = session.windows().query("domain == 'total' and scope == 'inclusive' and window > 0")
    assert windows["metric_accuracy"].tolist() == [0.5, 0.75]
    assert not [name for name in session.phases().columns if "accuracy" in name]
    assert "accuracy" not in session.summary()
    again = Session(read_run_directory(session.save(tmp_path)))  # type: ignore[arg-type]
    assert again.windows().equals(session.windows())


def test_energy_to_an_accuracy() -> None:
    """500 J an epoch: .88 at 1,000 J and .92 at 1,500 J cross .90 at 1,250 J."""
    session = trained([0.80, 0.88, 0.92, 0.89, 0.95])
    found = session.energy_to("accuracy", 0.90)
    assert found.value == pytest.approx(1_250, rel=1e-3)
    assert (found.low or 0) <= 1_250 <= (found.high or 0)
    assert session.energy_to("loss", 0.10, falling=True).value == pytest.approx(1_250, rel=1e-3)
    assert session.energy_to("accuracy", 0.5).value == pytest.approx(500, rel=1e-2)
    assert session.energy_to("accuracy", 0.99).reason == "accuracy 0.99 was not reached: 0.95 at best"
    with pytest.raises(ArgumentError, match=r"no window has the metric 'f1'.*accuracy, loss"):
        session.energy_to("f1", 0.5)
    for target in (math.nan, math.inf, "high", None):
        with pytest.raises(ArgumentError, match="target="):
            session.energy_to("accuracy", target)  # type: ignore[arg-type]


def test_energy_to_target_of_a_frame() -> None:
    assert mlmeter.energy_to_target([1_000, 1_500], [0.88, 0.92], 0.90) == 1_250
    assert mlmeter.energy_to_target([1_000, 1_500], [0.88, 0.89], 0.90) is None
    assert mlmeter.energy_to_target([1_000, 1_500], [0.91, 0.92], 0.90) == 1_000
    assert mlmeter.energy_to_target([1_000, 1_500], [0.5, 0.3], 0.4, falling=True) == 1_250
    for joules, values in (([1_000], []), ([], []), ([2, 1], [0.1, 0.2]), ([1, math.nan], [0.1, 0.2])):
        with pytest.raises(ArgumentError):
            mlmeter.energy_to_target(joules, values, 0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.9", True, None, [0.9]])
def test_a_metric_is_a_finite_number(value: object) -> None:
    clock = FakeClock()
    with (
        fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock) as meter,
        meter.window("epoch") as window,
    ):
        with pytest.raises(ArgumentError, match="a metric is a finite number"):
            window.metric(accuracy=value)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="cannot name a metric"):
            window.metric(**{"top 5": 0.9})


def test_metrics_may_be_negative_and_come_late() -> None:
    """A log-likelihood is below 0; an evaluation may end after its window."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        with meter.window("epoch") as window:
            clock.advance(1.0)
        window.metric(likelihood=-3.5)
    frame = meter.session.windows().query("window == 1")
    assert set(frame["metric_likelihood"]) == {-3.5}
    with pytest.raises(StateError):
        meter.window("epoch").metric(accuracy=1)


def test_units_cannot_be_called_like_metrics() -> None:
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter, pytest.raises(ArgumentError, match="metric_accuracy"):
        meter.window("epoch", metric_accuracy=1)
