"""Over the life of a model: how many predictions use as much as its training."""

from __future__ import annotations

from functools import partial

from benchmarks.workloads.digits import accuracy_of, digits
from benchmarks.workloads.inference import predict_in_batches
from benchmarks.workloads.network import trained
from benchmarks.workloads.study import Outcome, Study, Variant, training

HIDDEN = (128,)
EPOCHS = 15
SEED = 1
BATCHES = (128, 1)


def _study(batch: int) -> Study:
    """Return the comparison of a training with one prediction: its ratio is the break-even count."""
    predict = trained(HIDDEN, SEED, EPOCHS).predict
    return Study(
        key=f"life-{batch}",
        title=f"one prediction of 128 hidden units in batches of {batch} against its training",
        unit="prediction",
        variants=(
            Variant("a prediction", partial(predict_in_batches, predict, batch)),
            Variant("a training", _train),
        ),
    )


def life_in_batches() -> Study:
    """Return the study of predictions in batches."""
    return _study(BATCHES[0])


def life_one_by_one() -> Study:
    """Return the study of predictions one by one, as a service answers them."""
    return _study(BATCHES[1])


def _train(seed: int) -> Outcome:
    network = trained(HIDDEN, seed, EPOCHS)
    return training(EPOCHS * len(digits().train), accuracy_of(network.predict(digits().test)))
