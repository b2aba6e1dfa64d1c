"""Comparisons of variants: what is a difference, what is noise, what cannot be compared."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

import mlmeter
from mlmeter.analysis.compare import Verdict
from mlmeter.analysis.figure import Figure
from mlmeter.analysis.run_figures import RunFigures, run_figures
from mlmeter.errors import ArgumentError, RunFileError
from mlmeter.measurement import Provenance
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
from tests.analysis.sessions import session_of

WHOLE = ("session", "run")


def run(number: int, joules: float, **fields: object) -> RunFigures:
    """One run of this energy; half of it is inference of 10 tokens."""
    provenance = fields.pop("provenance", Provenance.MEASURED)

    def figure(value: float) -> Figure:
        return Figure(value=value, low=0.999 * value, high=1.001 * value, provenance=provenance)  # type: ignore[arg-type]

    values: dict[str, object] = {
        "session": f"{number}",
        "name": "run",
        "host": "here",
        "devices": ("gpu-1",),
        "energies": {
            WHOLE: figure(joules),
            ("inference", "run"): figure(joules / 2),
            ("inference", "tokens"): figure(joules / 20),
        },
        "metrics": {},
        "temperature_celsius": None,
        **fields,
    }
    return RunFigures(**values)  # type: ignore[arg-type]


def runs(
    mean: float, deviation: float = 0.01, count: int = 8, seed: int = 0, **fields: object
) -> list[RunFigures]:
    draw = random.Random(seed)
    start = 1_000 * seed
    return [run(start + k, mean * math.exp(draw.gauss(0, deviation)), **fields) for k in range(count)]


def test_a_real_difference_is_found_in_every_phase_and_unit() -> None:
    found = mlmeter.compare(runs(100, seed=1), runs(90, seed=2))
    assert [(row.phase, row.unit) for row in found.differences] == [
        WHOLE,
        ("inference", "run"),
        ("inference", "tokens"),
    ]
    for row in found.differences:
        assert row.verdict is Verdict.LESS
        assert (row.ratio.low or 0) < 0.9 < (row.ratio.high or 0)
        assert row.missing == 0
    assert mlmeter.compare(runs(90, seed=2), runs(100, seed=1)).of().verdict is Verdict.MORE


def test_noise_is_not_called_a_difference() -> None:
    """Equal variants that scatter by 3 %: none is shown, and it says how many runs are missing for 2 %."""
    row = mlmeter.compare(runs(100, 0.03, seed=1), runs(100, 0.03, seed=2)).of()
    assert row.verdict is Verdict.NOT_SHOWN
    assert row.repeats is not None
    assert row.missing == row.repeats - 8
    assert 25 < row.repeats < 90


def test_equal_variants_are_called_the_same_only_if_that_is_shown() -> None:
    row = mlmeter.compare(runs(100, 0.003, seed=1), runs(100, 0.003, seed=2)).of()
    assert (row.verdict, row.settled, row.missing) == (Verdict.SAME, True, 0)


def test_one_run_of_each_is_never_enough() -> None:
    """Even 20 % may be noise: the ratio is told, with the meter's own interval, and no verdict."""
    row = mlmeter.compare(run(1, 100), run(2, 80)).of()
    assert (row.verdict, row.repeats, row.missing) == (Verdict.TOO_FEW, None, None)
    assert row.ratio.value == pytest.approx(0.8)
    assert "Make at least 5 of each" in str(mlmeter.compare(run(1, 100), run(2, 80)))


def test_pairs_see_through_a_drift() -> None:
    """Both variants become 30 % cheaper as the machine warms up; pairs see the 3 % between them."""
    drift = [1.3 - 0.03 * k for k in range(10)]
    a = [run(k, 100 * level) for k, level in enumerate(drift)]
    b = [run(100 + k, 97 * level * (1 + 0.001 * (k % 2))) for k, level in enumerate(drift)]
    assert mlmeter.compare(a, b).of().verdict is Verdict.NOT_SHOWN
    assert mlmeter.compare(a, b, paired=True).of().verdict is Verdict.LESS


def test_other_boards_are_not_comparable_within_their_gain() -> None:
    """7 % between two boards may be their sensors; 20 % is more than that."""
    a, b = runs(100, 0.002, seed=1), runs(93, 0.002, seed=2, devices=("gpu-2",))
    row = mlmeter.compare(a, b).of()
    assert (row.verdict, row.settled) == (Verdict.NOT_COMPARABLE, False)
    assert "different devices" in row.reason
    assert mlmeter.compare(a, runs(80, 0.002, seed=2, devices=("gpu-2",))).of().verdict is Verdict.LESS
    assert mlmeter.compare(a, runs(93, 0.002, seed=2)).of().verdict is Verdict.LESS


def test_measured_and_estimated_are_not_compared() -> None:
    row = mlmeter.compare(runs(100, seed=1), runs(50, seed=2, provenance=Provenance.ESTIMATED)).of()
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert row.ratio.value is None
    assert row.reason == "some energies are measured, others estimated"
    both = [runs(mean, seed=mean, provenance=Provenance.ESTIMATED) for mean in (100, 50)]
    assert mlmeter.compare(*both).of().verdict is Verdict.LESS
    assert "ESTIMATED" in str(mlmeter.compare(*both))


def test_unresolved_energies_are_not_compared() -> None:
    poor = run(5, 100)
    poor = replace(poor, energies={WHOLE: replace(poor.energies[WHOLE], resolved=False)})
    row = mlmeter.compare(runs(100, seed=1), [poor, run(6, 100)]).of()
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert row.reason.startswith("unresolved")


def test_qualities_and_front_of_many_variants() -> None:
    """The dear and bad variant is not on the front; the others are, in their order."""
    variants = {
        "large": runs(100, seed=1, metrics={"accuracy": 0.95}),
        "small": runs(60, seed=2, metrics={"accuracy": 0.93}),
        "bad": runs(80, seed=3, metrics={"accuracy": 0.90}),
    }
    found = mlmeter.compare(variants)
    assert (found.quality, found.front) == ("accuracy", ("large", "small"))
    assert found.qualities["bad"][0].mean == pytest.approx(0.90)
    assert {row.variant for row in found.differences} == {"small", "bad"}
    text = str(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "accuracy" in text
    with pytest.raises(ArgumentError, match=r"quality='f1': .* these are: accuracy"):
        mlmeter.compare(variants, quality="f1")


def test_of_sessions() -> None:
    """Sessions are compared as they are: energies by phase and unit, metrics, devices."""
    clock = FakeClock()
    groups = []
    for watts in (100.0, 50.0):
        group = []
        for _ in range(3):
            meter = fake_meter(FakeBackend.with_power(clock, watts), clock=clock)
            with meter, meter.inference("predict", tokens=10) as window:
                clock.advance(2.0)
                window.metric(accuracy=0.9)
            group.append(meter.session)
        groups.append(group)
    found = mlmeter.compare(*groups)
    assert found.of("inference", "tokens").joules == pytest.approx(10, rel=0.01)
    assert found.of().ratio.value == pytest.approx(0.5, rel=0.01)
    assert found.of().verdict is Verdict.LESS
    assert found.quality == "accuracy"
    assert found.to_frame()["verdict"].eq("uses less").all()


def test_different_units_are_refused() -> None:
    """Joules per token against joules per image says nothing, unless whole phases are meant."""
    tokens = session_of([("inference", 1.0, {"tokens": 5})])
    images = session_of([("inference", 1.0, {"images": 5})])
    with pytest.raises(ArgumentError, match=r"inference counts different units \(a: tokens; b: images\)"):
        mlmeter.compare(tokens, images)
    assert mlmeter.compare(tokens, images, unit="run").of("inference").ratio.value == pytest.approx(1)
    with pytest.raises(ArgumentError, match="unit='tokens' is not counted in one phase by all variants"):
        mlmeter.compare(tokens, images, unit="tokens")


def test_wrong_calls() -> None:
    one = run(1, 100)
    for arguments in ((one,), ({"a": one},), ({"a": one, "b": []},), ({"a": one}, one)):
        with pytest.raises(ArgumentError):
            mlmeter.compare(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="session 1 is in 'a' and in 'b'"):
        mlmeter.compare(one, one)
    with pytest.raises(ArgumentError, match="different numbers of runs"):
        mlmeter.compare(runs(1, seed=1), runs(1, count=3, seed=2), paired=True)
    with pytest.raises(ArgumentError, match="is no session"):
        mlmeter.compare(one, ["run"])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="'runs/one' is no session"):
        mlmeter.compare("runs/one", one)  # type: ignore[arg-type]
    for effect in (0, 1.5, True, "2 %", math.nan):
        with pytest.raises(ArgumentError, match="effect"):
            mlmeter.compare(runs(1, seed=1), runs(1, seed=2), effect=effect)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="there is inference/run, inference/tokens, session/run"):
        mlmeter.compare(runs(1, seed=1), runs(1, seed=2)).of("training")


def test_unequal_warmth_is_told() -> None:
    found = mlmeter.compare(
        runs(100, seed=1, temperature_celsius=40.0), runs(90, seed=2, temperature_celsius=55.0)
    )
    assert any("a 40 °C, b 55 °C" in note for note in found.notes)
    near = mlmeter.compare(
        runs(100, seed=1, temperature_celsius=40.0), runs(90, seed=2, temperature_celsius=43.0)
    )
    assert not near.notes


def test_figures_survive_a_file() -> None:
    """What a baseline keeps is what was compared; anything else is refused with its path."""
    session = session_of([("inference", 1.0, {"tokens": 5})])
    figures = run_figures(session.recording)
    assert RunFigures.from_json(figures.to_json(), "file") == figures
    for document in ({}, [], None, {**figures.to_json(), "energies": [{"phase": "x"}]}):
        with pytest.raises(RunFileError, match="file: is no baseline"):
            RunFigures.from_json(document, "file")
