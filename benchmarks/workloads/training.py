"""Training: how large a model, how much data, how many epochs."""

from __future__ import annotations

import copy
from functools import partial

from benchmarks.workloads.digits import accuracy_of, digits
from benchmarks.workloads.network import CLASSES, Network, one_hot, trained
from benchmarks.workloads.study import Outcome, Study, Variant, training

EPOCHS = 15
HIDDEN = (128,)
VALIDATION_SAMPLES = 180
PATIENCE = 3


def model_size() -> Study:
    """Return the study of hidden layers, from 512 units down to 8."""
    return Study(
        key="model-size",
        title=f"train a network of one hidden layer, {EPOCHS} epochs",
        unit="training",
        variants=tuple(
            Variant(f"{units} hidden units", partial(_train, (units,), EPOCHS, None))
            for units in (512, 128, 32, 8)
        ),
    )


def data_size() -> Study:
    """Return the study of training sets, from all samples down to a tenth."""
    return Study(
        key="data-size",
        title=f"train 128 hidden units, {EPOCHS} epochs, on fewer samples",
        unit="training",
        variants=tuple(
            Variant(f"{samples:,} samples", partial(_train, HIDDEN, EPOCHS, samples))
            for samples in (1_200, 600, 300, 120)
        ),
    )


def epochs() -> Study:
    """Return the study of epochs, with and without early stopping."""
    fixed = [Variant(f"{count} epochs", partial(_train, HIDDEN, count, None)) for count in (60, 30, 10)]
    return Study(
        key="epochs",
        title=f"train 128 hidden units; early stopping after {PATIENCE} epochs without gain",
        unit="training",
        variants=(*fixed, Variant("early stopping", _train_until_it_stops)),
    )


def _train(hidden: tuple[int, ...], count: int, samples: int | None, seed: int) -> Outcome:
    network = trained(hidden, seed, count, samples)
    seen = count * len(digits().train[:samples])
    return training(seen, accuracy_of(network.predict(digits().test)))


def _train_until_it_stops(seed: int) -> Outcome:
    """Hold back a part of the samples to see when it gets no better; what that costs is metered, too."""
    data = digits()
    network = Network((data.train.shape[1], *HIDDEN, CLASSES), seed)
    held, held_labels = data.train[:VALIDATION_SAMPLES], data.train_labels[:VALIDATION_SAMPLES]
    inputs = data.train[VALIDATION_SAMPLES:]
    targets = one_hot(data.train_labels[VALIDATION_SAMPLES:])
    best, best_right, waited, seen = network, -1, 0, 0
    for _ in range(60):
        network.epoch(inputs, targets)
        seen += len(inputs)
        right = int((network.predict(held) == held_labels).sum())
        waited += 1
        if right > best_right:
            best, best_right, waited = copy.deepcopy(network), right, 0
        if waited == PATIENCE:
            break
    return training(seen, accuracy_of(best.predict(data.test)))
