"""Training against inference: shares, joules per inference, break-even, forecasts."""

from __future__ import annotations

import math

import pytest

import mlmeter
from mlmeter.analysis.run_figures import run_figures
from mlmeter.errors import ArgumentError
from mlmeter.measurement import Failure
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_domain, fake_meter
from tests.analysis.sessions import session_of

TRAINING = ("training", 50.0, {})
SERVING = [("inference", 1.0, {"samples": 40}), ("inference", 1.0, {"samples": 40})]


@pytest.fixture
def session() -> Session:
    """5,000 J of training and 2 x 100 J for 80 samples: 2.5 J each."""
    return session_of([TRAINING, *SERVING])


def test_joules_each_and_break_even(session: Session) -> None:
    """5,000 J / 2.5 J: 2,000 samples use as much as the training."""
    life = session.lifecycle()
    assert life.serving is not None
    assert (life.serving.unit, life.serving.count, life.serving.windows) == ("samples", 80, 2)
    assert life.serving.joules_each.value == pytest.approx(2.5, rel=1e-3)
    even = life.serving.break_even
    assert even.value == pytest.approx(2_000, rel=1e-3)
    assert even.low is not None
    assert even.high is not None
    assert even.low < 2_000 < even.high


def test_shares_of_phases_add_up(session: Session) -> None:
    """Every phase with time is there; shares are of all energy, and their intervals hold them."""
    life = session.lifecycle()
    assert [phase.phase for phase in life.phases] == ["training", "inference"]
    assert sum(phase.share.value or 0 for phase in life.phases) == pytest.approx(1)
    assert life.phases[0].share.value == pytest.approx(50 / 52, rel=1e-3)
    for phase in life.phases:
        assert phase.share.low is not None
        assert phase.share.low <= (phase.share.value or 0) <= (phase.share.high or 0) <= 1


def test_forecast(session: Session) -> None:
    """With 10,000 samples: 25,000 J of inference beside 5,000 J of training, five sixths."""
    forecast = session.lifecycle(expected_inferences=10_000).forecast
    assert forecast is not None
    assert forecast.total.value == pytest.approx(30_000, rel=1e-3)
    assert forecast.inference_share.value == pytest.approx(5 / 6, rel=1e-3)
    assert (forecast.inference_share.low or 1) < 5 / 6 < (forecast.inference_share.high or 0)


def test_scatter_from_window_to_window_widens_joules_each() -> None:
    """Windows of 1, 2 and 3 J a sample do not tell what the next one costs to a percent."""
    steady = session_of([TRAINING, *[("inference", 2.0, {"samples": 100})] * 3])
    varying = session_of(
        [TRAINING, *[("inference", seconds, {"samples": 100}) for seconds in (1.0, 2.0, 3.0)]]
    )
    widths = []
    for session in (steady, varying):
        serving = session.lifecycle().serving
        assert serving is not None
        assert serving.joules_each.value == pytest.approx(2, rel=2e-3)
        widths.append(serving.joules_each.half_width)
    # Standard error of a mean of 3 with a standard deviation of 1, times Student's factor of 2 degrees.
    assert widths[1] == pytest.approx(4.303 / math.sqrt(3), rel=0.01)
    assert widths[0] < 0.02


def test_windows_that_count_nothing_are_one_inference_each() -> None:
    """A bare decorator tells the energy per call."""
    serving = session_of([TRAINING, ("inference", 1.0, {}), ("inference", 1.0, {})]).lifecycle().serving
    assert serving is not None
    assert (serving.unit, serving.count) == ("windows", 2)
    assert serving.joules_each.value == pytest.approx(100, rel=1e-3)


def test_nested_inference_is_counted_once() -> None:
    """An inference window inside another one that counts the same is part of it."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        clock.advance(1.0)
        with meter.inference("outer", samples=10):
            clock.advance(1.0)
            with meter.inference("inner", samples=10):
                clock.advance(1.0)
    serving = meter.session.lifecycle().serving
    assert serving is not None
    assert serving.count == 10
    assert serving.energy.value == pytest.approx(200, rel=1e-2)


def test_work_counted_inside_windows_that_counted_none() -> None:
    """Of nested windows the outer ones count for all inference: 0 there is known to be 0."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        clock.advance(1.0)
        with meter.inference("outer", samples=0), meter.inference("inner", samples=10):
            clock.advance(1.0)
    life = meter.session.lifecycle()
    assert life.serving is None
    assert [serving.name for serving in life.servings] == ["inner"]
    assert ("inference", "samples") not in run_figures(meter.session.recording).energies


def test_many_sessions_are_added_up() -> None:
    """Training in one session, serving in two others; intervals are then Fieller's."""
    training = session_of([TRAINING])
    serving = [session_of([piece]) for piece in SERVING]
    life = mlmeter.lifecycle([training, *serving])
    assert life.independent
    assert life.serving is not None
    assert life.serving.break_even.value == pytest.approx(2_000, rel=1e-3)
    assert life.phases[1].energy.value == pytest.approx(200, rel=1e-2)


def test_tuning_is_paid_once_too() -> None:
    """All energy of runs that were only tried out is the phase tuning, whatever their phases were called."""
    life = mlmeter.lifecycle(
        session_of([TRAINING, *SERVING]), tuning=[session_of([TRAINING]), session_of([TRAINING])]
    )
    assert {phase.phase: phase.energy.value for phase in life.phases}["tuning"] == pytest.approx(
        10_000, rel=1e-3
    )
    assert life.paid_once_phases == ("training", "tuning")
    assert life.paid_once.value == pytest.approx(15_000, rel=1e-3)
    assert life.serving is not None
    assert life.serving.break_even.value == pytest.approx(6_000, rel=1e-3)


def test_other_names_of_phases() -> None:
    session = session_of([("pretrain", 50.0, {}), ("serve", 1.0, {"tokens": 40})])
    life = session.lifecycle(phases={"pretrain": "training", "serve": "inference"})
    assert life.serving is not None
    assert life.serving.break_even.value == pytest.approx(2_000, rel=1e-2)


def test_servings_by_name() -> None:
    """Two ways of serving have a break-even each."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock)
    with meter:
        clock.advance(100.0)
        for name, count in (("one by one", 10), ("in batches", 100)):
            with meter.inference(name, predictions=count):
                clock.advance(1.0)
    life = meter.session.lifecycle()
    found = {serving.name: serving.break_even.value for serving in life.servings}
    assert found == {
        "one by one": pytest.approx(1_000, rel=1e-2),
        "in batches": pytest.approx(10_000, rel=1e-2),
    }
    assert life.expect(1_000, "one by one").inference.value == pytest.approx(10_000, rel=1e-2)
    with pytest.raises(ArgumentError, match="no inference window is called 'x': there are 'one by one'"):
        life.expect(1_000, "x")


def test_estimates_do_not_cancel() -> None:
    """An estimate may be wrong by different factors in both phases: the interval of the ratio has both."""
    fields = {"provenance": "estimated", "interval_low_ratio": 0.5, "interval_high_ratio": 2.0}
    life = mlmeter.lifecycle([session_of([TRAINING], **fields), session_of(SERVING, **fields)])
    assert not life.independent
    assert life.serving is not None
    even = life.serving.break_even
    assert (even.low or 0, even.high or 0) == pytest.approx((500, 8_000), rel=0.02)
    assert "ESTIMATED" in str(life)


def test_energy_that_was_not_read_is_not_known() -> None:
    """Without readings there is no share, no joules each, no break-even, and no 0."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend([fake_domain()], [Failure(0, "gone", True, 0)], clock), clock=clock)
    with meter:
        clock.advance(1.0)
        with meter.inference("predict", samples=5):
            clock.advance(1.0)
    life = meter.session.lifecycle()
    assert life.serving is not None
    assert life.serving.joules_each.value is None
    assert life.serving.break_even.value is None
    assert all(phase.share.value is None for phase in life.phases)
    assert "not known" in str(life)


def test_text_and_frame(session: Session) -> None:
    """Both show every phase; no line is wider than 80 columns."""
    text = str(session.lifecycle(expected_inferences=1e7))
    assert max(map(len, text.splitlines())) <= 80
    assert "inference window" in text
    assert "Break-even" in text
    frame = session.lifecycle().to_frame()
    assert frame["phase"].tolist() == ["training", "inference"]
    assert frame["share_ratio"].sum() == pytest.approx(1)


def test_crossover_of_two_models() -> None:
    """A costs 5,000 J and 2.5 J each, B 10,000 J and 1.25 J each: 5,000 / 1.25 = 4,000 inferences."""
    a = mlmeter.lifecycle([session_of([TRAINING]), session_of(SERVING)])
    cheap = [("inference", 0.5, {"samples": 40})] * 2
    b = mlmeter.lifecycle([session_of([("training", 100.0, {})]), session_of(cheap)])
    found = mlmeter.crossover(a, b)
    assert found.value == pytest.approx(4_000, rel=2e-3)
    assert (found.low or 0) < 4_000 < (found.high or 0)
    assert mlmeter.crossover(b, a).value == pytest.approx(found.value)
    dear = mlmeter.lifecycle(
        [session_of([("training", 100.0, {})]), session_of([("inference", 3.0, {"samples": 40})])]
    )
    assert mlmeter.crossover(a, dear).reason == "the first one costs less in training and per inference"


@pytest.mark.parametrize("number", [0, -1, math.nan, math.inf, "many", True, None.__class__])
def test_expected_inferences_is_a_number_above_0(session: Session, number: object) -> None:
    with pytest.raises(ArgumentError, match="expected_inferences"):
        session.lifecycle(expected_inferences=number)  # type: ignore[arg-type]


def test_a_session_without_phases_is_refused() -> None:
    """Time that nobody called training or inference has no place in a life."""
    with pytest.raises(ArgumentError, match="neither training nor tuning nor inference, but 'other'"):
        session_of([("other", 1.0, {})]).lifecycle()


def test_no_inference_no_forecast() -> None:
    """Shares are told; what an inference costs is not, and asking for it says what is missing."""
    session = session_of([TRAINING])
    assert session.lifecycle().serving is None
    assert "No inference was metered" in str(session.lifecycle())
    with pytest.raises(ArgumentError, match="no inference was metered"):
        session.lifecycle(expected_inferences=10)


def test_zero_inferences_cost_nothing_that_is_known() -> None:
    """Windows that served 0 samples do not tell what a sample costs, and are not called one each."""
    session = session_of([TRAINING, ("inference", 1.0, {"samples": 0})])
    assert session.lifecycle().serving is None
    with pytest.raises(ArgumentError, match="or 0 of its unit"):
        session.lifecycle(expected_inferences=10)


def test_no_training_no_break_even() -> None:
    """Inference alone has joules each, and a reason in place of the break-even."""
    serving = session_of(SERVING).lifecycle().serving
    assert serving is not None
    assert serving.joules_each.value == pytest.approx(2.5, rel=1e-2)
    assert serving.break_even.reason == "no training or tuning was metered"


def test_wrong_units_and_phases(session: Session) -> None:
    both = session_of([TRAINING, ("inference", 1.0, {"samples": 1, "tokens": 5})])
    with pytest.raises(ArgumentError, match="samples, tokens: say which, as unit='samples'"):
        both.lifecycle()
    assert both.lifecycle(unit="tokens").serving is not None
    with pytest.raises(ArgumentError, match=r"unit='images': no inference window .* they count samples"):
        session.lifecycle(unit="images")
    with pytest.raises(ArgumentError, match="no such phase; there are other, training, inference"):
        session.lifecycle(phases={"serve": "inference"})
    for label in (5, "", None):
        with pytest.raises(ArgumentError, match="is no label"):
            session.lifecycle(phases={"training": label})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="given twice"):
        mlmeter.lifecycle([session, session])
    with pytest.raises(ArgumentError, match="is no session"):
        mlmeter.lifecycle(["run"])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="at least one"):
        mlmeter.lifecycle([])
    with pytest.raises(ArgumentError, match="again and again"):
        mlmeter.lifecycle(session, paid_once=["inference"])
    with pytest.raises(ArgumentError, match="different units: samples in one, tokens in the other"):
        mlmeter.crossover(session.lifecycle(), both.lifecycle(unit="tokens"))


def test_sessions_at_the_same_time_are_told() -> None:
    """Two sessions of one whole machine that overlap count its energy twice; one after the other do not."""
    clock = FakeClock()
    first, second = (fake_meter(FakeBackend.with_power(clock, 9.0), clock=clock) for _ in "ab")
    with first:
        clock.advance(1.0)
        with second:
            clock.advance(1.0)
    life = mlmeter.lifecycle([first.session, second.session])
    assert "that energy counts twice" in life.notes[0]
    assert "counts twice" in str(life)
    third = fake_meter(FakeBackend.with_power(clock, 9.0), clock=clock)
    with third:
        clock.advance(1.0)
    assert not mlmeter.lifecycle([first.session, third.session]).notes


def test_text_of_wide_figures_fits_80_columns() -> None:
    """Long names, small joules each and wide intervals: the names are cut, the figures are not."""
    fields = {"provenance": "estimated", "interval_low_ratio": 0.297, "interval_high_ratio": 2.717}
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 2.7, **fields), clock=clock)
    with meter:
        clock.advance(71.0)
        for name, count in (("predict one by one", 216_000), ("predict in batches of many", 10_800_000)):
            with meter.inference(name, predictions=count):
                clock.advance(5.433)
    text = str(meter.session.lifecycle(expected_inferences=123_456_789))
    assert max(map(len, text.splitlines())) <= 80
    assert "J each" in text
    for header in ("95 % interval", "95 % of share", "95 % of break-even"):
        assert header in text
