"""The studies of workloads: that variants do what they say, and that their comparison is fair."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks.workloads import __main__ as command
from benchmarks.workloads import compression, features, inference, training
from benchmarks.workloads.digits import TEST_SAMPLES, accuracy_of, digits
from benchmarks.workloads.metering import Block, metering
from benchmarks.workloads.network import Network, one_hot, probabilities, trained
from benchmarks.workloads.precision import Int8Network
from benchmarks.workloads.report import report, table
from benchmarks.workloads.schedule import FEWEST_ROUNDS, Plan, Result, run
from benchmarks.workloads.study import Entry, Outcome, Study, Variant, prediction
from benchmarks.workloads.summary import Interval, Row, Summary, accuracy_interval, summarise

BLOCK = Block(1.0, 4.0, 0.5, 1.0, 1.0, 100, 0.9)
PLAN = Plan(block_seconds=0.0, pilot=5, limit=20)


def nothing(seed: int) -> Outcome:
    return prediction(100, 0.9)


def study_of(*names: str) -> Study:
    variants = tuple(Variant(name, nothing) for name in names)
    return Study(key="made-up", title="nothing", unit="sample", variants=variants)


Meter = Callable[[Variant, range], Block]


def rounds_of(study: Study, meter: Meter, plan: Plan = PLAN, until: float = 1e18) -> Result:
    return run(study, meter, plan, joules="joules", seed=3, until=until, progress=lambda text: None)


def noisy(joules: dict[str, float], scatter: float, drift: float = 0.0, seed: int = 0) -> Meter:
    """A machine whose power scatters and drifts by these shares."""
    draw, power = random.Random(seed), 1.0

    def meter(variant: Variant, seeds: range) -> Block:
        nonlocal power
        power *= 1 + drift
        spent = joules[variant.name] * power * (1 + draw.gauss(0, scatter))
        return replace(BLOCK, joules=spent, machine_joules=2 * spent, cpu_seconds=spent / 2)

    return meter


# --- what variants do -------------------------------------------------------------------------------


def test_network_learns() -> None:
    """After 10 epochs more than nine of ten digits that it has not seen are told right."""
    assert accuracy_of(trained((64,), seed=1, epochs=10).predict(digits().test)) > 0.9


def test_network_goes_down_the_gradient() -> None:
    """The first step of Adam moves each weight against its gradient, found by differences."""
    data = digits()
    inputs, targets = data.train[:32], one_hot(data.train_labels[:32])
    network = Network((64, 5, 10), seed=2)

    def loss() -> float:
        odds = probabilities(network.scores(inputs).astype(np.float64))
        return -float((targets * np.log(odds)).sum(axis=1).mean())

    before, steps = loss(), []
    places = [(layer, row, column) for layer in (0, 1) for row in (0, 3, 4) for column in (1, 2)]
    for layer, row, column in places:
        network.weights[layer][row, column] += 1e-2
        steps.append(loss() - before)
        network.weights[layer][row, column] -= 1e-2
    old = [network.weights[layer][row, column] for layer, row, column in places]
    network.epoch(inputs, targets, batch=32)
    moved = [network.weights[layer][row, column] for layer, row, column in places]
    signs = [np.sign(new - was) for new, was in zip(moved, old, strict=True)]
    assert all(sign == -np.sign(step) for sign, step in zip(signs, steps, strict=True) if abs(step) > 1e-6)
    assert sum(abs(step) > 1e-6 for step in steps) > 6


def test_split_keeps_test_samples_apart() -> None:
    """No test sample is trained with."""
    data = digits()
    assert len(data.test) == TEST_SAMPLES
    assert not {row.tobytes() for row in data.test} & {row.tobytes() for row in data.train}


def test_pruned_and_sparse_networks_are_the_same() -> None:
    """A tenth of the weights is left, and storing them without zeros changes no label."""
    masked = compression.without_weights(trained((96, 96), seed=1, epochs=3))
    assert all(np.mean(weights != 0) == pytest.approx(0.1, abs=0.01) for weights in masked.weights)
    sparse = [csr_array(weights.T) for weights in masked.weights]
    test = digits().test
    assert np.array_equal(masked.predict(test), compression.predict_sparse(masked, sparse, test))


def test_cutting_neurons_makes_matrices_smaller() -> None:
    """A quarter of each hidden layer is left, inputs and classes are."""
    small = compression.without_neurons(trained((96, 96), seed=1, epochs=3))
    assert [weights.shape for weights in small.weights] == [(64, 24), (24, 24), (24, 10)]


def test_int8_network_agrees_with_float32() -> None:
    """Of a hundred labels at most two change."""
    network = trained((64, 64), seed=1, epochs=8)
    test = digits().test
    assert np.mean(Int8Network(network).predict(test) == network.predict(test)) >= 0.98


def test_batches_change_no_prediction() -> None:
    """All sizes of batches see all test samples, and have one accuracy."""
    outcomes = [variant.work(0) for variant in inference.batch_size().variants]
    assert {outcome.samples for outcome in outcomes} == {TEST_SAMPLES}
    assert len({outcome.accuracy for outcome in outcomes}) == 1


def test_cached_features_train_the_same_classifier() -> None:
    """Computed, kept or read: the accuracy is the same to the last bit."""
    study = features.cached_features()
    try:
        assert len({variant.work(1).accuracy for variant in study.variants}) == 1
    finally:
        study.close()


def test_early_stopping_stops() -> None:
    """It sees fewer samples than 60 epochs have, and counts those that it saw."""
    last = training.epochs().variants[-1]
    outcome = last.work(0)
    per_epoch = len(digits().train) - training.VALIDATION_SAMPLES
    assert outcome.samples % per_epoch == 0
    assert training.PATIENCE < outcome.samples // per_epoch < 60


# --- the schedule -----------------------------------------------------------------------------------


def test_every_round_has_each_variant_once_in_an_order_of_its_own() -> None:
    """Variants come first and last alike, and get the same seeds within a round."""
    seen: list[tuple[str, int]] = []

    def meter(variant: Variant, seeds: range) -> Block:
        seen.append((variant.name, seeds.start))
        return BLOCK

    rounds_of(study_of("a", "b", "c"), meter, Plan(0.0, pilot=12, limit=12))
    rounds = [seen[first : first + 3] for first in range(0, 36, 3)]
    assert all({name for name, _ in one} == {"a", "b", "c"} for one in rounds)
    assert all(len({seed for _, seed in one}) == 1 for one in rounds)
    assert {one[0][0] for one in rounds} == {"a", "b", "c"}


def test_more_scatter_takes_more_rounds() -> None:
    """The pilot is enough for a quiet machine; a noisy one goes on, to the limit at most."""
    study = study_of("a", "b")
    quiet = rounds_of(study, noisy({"a": 1, "b": 1}, 0.005))
    busy = rounds_of(study, noisy({"a": 1, "b": 1}, 0.2))
    assert (len(quiet.rounds), quiet.needed) == (PLAN.pilot, PLAN.pilot)
    assert len(busy.rounds) == PLAN.limit < busy.needed


def test_time_ends_a_study_but_not_before_three_rounds() -> None:
    """With no time left there are just enough rounds for an interval."""
    result = rounds_of(study_of("a", "b"), noisy({"a": 1, "b": 2}, 0.01), until=0.0)
    assert len(result.rounds) == FEWEST_ROUNDS


def test_rounds_without_an_energy_are_left_out() -> None:
    """What is not known is no 0; and where nothing ever is, the study ends."""
    blocks: Iterator[float] = iter([0.0, 1.0] + [1.0] * 100)
    result = rounds_of(study_of("a", "b"), lambda variant, seeds: replace(BLOCK, joules=next(blocks)))
    assert (result.left_out, len(result.rounds)) == (1, PLAN.pilot)
    never = rounds_of(study_of("a", "b"), lambda variant, seeds: replace(BLOCK, joules=0.0))
    assert (never.left_out, never.rounds) == (2 * PLAN.limit, [])


# --- the figures ------------------------------------------------------------------------------------


def test_ratio_has_the_true_one_in_its_interval_as_often_as_it_says() -> None:
    """With 1 % of drift per block 90 of 100 intervals or more hold the truth, and are no wider for it."""
    held, widths = 0, []
    for seed in range(200):
        result = rounds_of(study_of("a", "b"), noisy({"a": 1, "b": 0.8}, 0.02, drift=0.01, seed=seed))
        found = summarise(result).rows[1].ratio
        assert found is not None
        held += found.low <= 0.8 <= found.high
        widths.append(found.half_percent)
    assert held >= 180
    assert np.median(widths) < 6


def test_energies_of_the_machine_are_compared_where_they_are_asked_for() -> None:
    """Joules per sample are those of the field, per all samples of a block."""
    result = rounds_of(study_of("a", "b"), noisy({"a": 1, "b": 3}, 0.0))
    result.joules = "machine_joules"
    base, other = summarise(result).rows
    assert base.joules_per_sample.value == pytest.approx(2 / 100)
    assert other.joules_per_sample.value == pytest.approx(6 / 100)
    assert other.ratio is not None
    assert other.cpu_ratio is not None
    assert other.ratio.value == pytest.approx(3)
    assert other.cpu_ratio.value == pytest.approx(3)


def test_accuracy_interval() -> None:
    """Wilson's interval of 81 of 90 is that of the textbook: 82.1 to 94.6 %."""
    found = accuracy_interval(0.9, 90)
    assert (found.low, found.high) == (pytest.approx(0.8208, abs=2e-4), pytest.approx(0.9464, abs=2e-4))


# --- the report -------------------------------------------------------------------------------------


def summary(key: str, ratio: Interval, needed: int = 5) -> Summary:
    one = Interval(1.23e-7, 1.1e-7, 1.4e-7)
    base = Row(
        variant="twenty-six letters, no mor",
        accuracy=1.0,
        accuracy_deviation=0.0,
        joules_per_sample=one,
        joules_per_unit=one,
    )
    other = replace(base, variant="other", ratio=ratio, cpu_ratio=ratio, own_ratio=ratio)
    return Summary(
        key=key,
        title="t",
        unit="prediction",
        joules="joules",
        rounds=5,
        needed=needed,
        limit=20,
        effect=0.05,
        left_out=0,
        rows=(base, other),
    )


@pytest.mark.parametrize(
    "ratio", [Interval(0.0123, 0.0111, 0.0136), Interval(1, 0.95, 1.05), Interval(86_511, 76_688, 97_591)]
)
def test_tables_fit_80_columns(ratio: Interval) -> None:
    """Small and large ratios, with the longest name."""
    assert max(map(len, table(summary("any", ratio)))) <= 80


def test_table_says_what_was_not_reached() -> None:
    """Fewer rounds than the pilot asked for are told."""
    even = Interval(1, 0.95, 1.05)
    assert "NOT reached" in "\n".join(table(summary("any", even, needed=9)))
    assert "NOT reached" not in "\n".join(table(summary("any", even)))


def test_life_tells_the_share_of_training() -> None:
    """A training of 100,000 predictions is half of the energy when so many were made."""
    text = report([summary("life-1", Interval(100_000, 90_000, 110_000))], ["a fact"], ["x: no torch"])
    assert "100,000 predictions: training 50.0 % of all (47.4 to 52.4)" in text
    assert "* a fact\n* Left out: x: no torch\n" in text


def test_estimates_are_told_from_the_start() -> None:
    """Before anything was read it is known whether a processor is estimated, and by what."""
    with metering() as meters:
        first = (meters.estimated, meters.sources)
        block = meters.block(Variant("some", lambda seed: prediction(sum(range(100_000)))), range(3))
        assert (meters.estimated, meters.sources) == first
    assert (block.units, block.samples) == (3 * sum(range(100_000)),) * 2
    assert block.cpu_seconds > 0
    assert first[0] == ("estimate" in first[1])


class FakeMetering:
    estimated, sources = True, "made-up"

    def __init__(self) -> None:
        self.block = noisy({"a": 1.0, "b": 2.0}, 0.01)


def test_studies_that_cannot_be_done_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a module the other studies are done, and the files say which one is left out."""

    @contextmanager
    def fake_metering() -> Iterator[FakeMetering]:
        yield FakeMetering()

    def fails() -> Study:
        raise AssertionError

    monkeypatch.setattr(command, "metering", fake_metering)
    entries = (Entry("made-up", lambda: study_of("a", "b")), Entry("other", fails, ("no_such_module",)))
    monkeypatch.setattr(command, "ENTRIES", entries)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    command.main(["--output", str(tmp_path / "found"), "--seed", "1"])
    assert "left out: other: no_such_module not installed" in capsys.readouterr().out
    page = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert "**Joules are estimated**: made-up" in page
    assert "* Left out: other: no_such_module not installed" in page
    data = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert data["studies"][0]["rows"][1]["ratio"]["value"] == pytest.approx(2, rel=0.05)
    assert len(data["studies"][0]["blocks"]) == data["studies"][0]["rounds"]


def test_quick_writes_nothing_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CI's run does not overwrite the results; an unknown study is an error."""
    monkeypatch.setattr(command, "ENTRIES", ())
    monkeypatch.setattr(command, "OUTPUT", tmp_path / "found")
    command.main(["--quick"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        command.main(["--only", "nonsense"])
