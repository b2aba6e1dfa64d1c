"""Smaller models out of large ones: pruning and distillation."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
from scipy.sparse import csr_array

from benchmarks.workloads.digits import CLASSES, Floats, Labels, accuracy_of, digits
from benchmarks.workloads.inference import predicting
from benchmarks.workloads.network import Network, one_hot, probabilities, trained
from benchmarks.workloads.study import Outcome, Study, Variant, training

LARGE, SMALL = (512, 512), (16,)
SEED = 1
EPOCHS = 12
PRUNED_SHARE = 0.9
FINE_TUNING_EPOCHS = 3
TEMPERATURE = 3.0
BATCH = 128


def pruning() -> Study:
    """Return the study of weights and neurons that are left out."""
    dense = trained(LARGE, SEED, EPOCHS)
    masked, few = without_weights(dense), without_neurons(dense)
    sparse = [csr_array(weights.T) for weights in masked.weights]
    ways = {
        "dense": dense.predict,
        "90 % of weights zero": masked.predict,
        "the same, sparse": lambda inputs: predict_sparse(masked, sparse, inputs),
        "75 % of neurons cut": few.predict,
    }
    return Study(
        key="pruning",
        title=f"predict with 2 x 512 hidden units, batches of {BATCH}",
        unit="sample",
        variants=predicting(ways, BATCH),
    )


def distillation() -> Study:
    """Return the study of the student in use."""
    teacher = trained(LARGE, SEED, EPOCHS)
    ways = {
        "teacher, 2 x 512": teacher.predict,
        "student, 16, labels": trained(SMALL, SEED, EPOCHS).predict,
        "student, 16, distilled": distilled(teacher, SEED).predict,
    }
    return Study(
        key="distillation",
        title=f"predict with teacher or student, batches of {BATCH}",
        unit="sample",
        variants=predicting(ways, BATCH),
    )


def distillation_training() -> Study:
    """Return the study of what it costs to make the student."""
    return Study(
        key="distillation-training",
        title=f"train the student of 16 hidden units, {EPOCHS} epochs",
        unit="training",
        variants=(
            Variant("on labels", partial(_train, SMALL)),
            Variant("teacher and distilling", _train_both),
            Variant("teacher alone", partial(_train, LARGE)),
        ),
    )


def without_weights(network: Network) -> Network:
    """Return a network whose smallest weights in each layer are zero, trained a little with the others."""
    pruned = copy.deepcopy(network)
    masks = [np.abs(one) >= np.quantile(np.abs(one), PRUNED_SHARE) for one in pruned.weights]
    data = digits()
    for _ in range(FINE_TUNING_EPOCHS):
        _apply(pruned, masks)
        pruned.epoch(data.train, one_hot(data.train_labels))
    _apply(pruned, masks)
    return pruned


def _apply(network: Network, masks: list[Labels]) -> None:
    for weights, mask in zip(network.weights, masks, strict=True):
        np.multiply(weights, mask, out=weights)


def without_neurons(network: Network) -> Network:
    """Return a network with the quarter of each hidden layer that weighs most, trained a little."""
    data = digits()
    kept = [np.argsort(np.linalg.norm(after, axis=1))[-len(after) // 4 :] for after in network.weights[1:]]
    rows = [np.arange(data.train.shape[1]), *kept]
    columns = [*kept, np.arange(CLASSES)]
    small = Network(tuple(len(one) for one in (*rows, columns[-1])), SEED)
    for layer, (into, out) in enumerate(zip(rows, columns, strict=True)):
        small.weights[layer][...] = network.weights[layer][np.ix_(into, out)]
        small.biases[layer][...] = network.biases[layer][out]
    for _ in range(FINE_TUNING_EPOCHS):
        small.epoch(data.train, one_hot(data.train_labels))
    return small


def predict_sparse(network: Network, sparse: list[csr_array], inputs: Floats) -> Labels:
    """Predict with weights that are stored without their zeros."""
    columns = inputs.T
    for position, weights in enumerate(sparse):
        columns = weights @ columns + network.biases[position][:, None]
        if position < len(sparse) - 1:
            columns = np.maximum(columns, 0)
    return np.argmax(columns, axis=0)


def distilled(teacher: Network, seed: int) -> Network:
    """Return a student that learned from labels and from the teacher's doubts, half each."""
    data = digits()
    soft = probabilities(teacher.scores(data.train), TEMPERATURE)
    targets = (soft + one_hot(data.train_labels)) / 2
    student = Network((data.train.shape[1], *SMALL, CLASSES), seed)
    for _ in range(EPOCHS):
        student.epoch(data.train, targets)
    return student


def _train(hidden: tuple[int, ...], seed: int) -> Outcome:
    network = trained(hidden, seed, EPOCHS)
    return training(EPOCHS * len(digits().train), accuracy_of(network.predict(digits().test)))


def _train_both(seed: int) -> Outcome:
    student = distilled(trained(LARGE, seed, EPOCHS), seed)
    return training(2 * EPOCHS * len(digits().train), accuracy_of(student.predict(digits().test)))
