"""A multilayer perceptron in NumPy: few lines, one thread, nothing between the code and its joules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks.workloads.digits import CLASSES, Floats, Labels, digits

BATCH = 64
LEARNING_RATE = 2e-3
# Of Adam (Kingma and Ba 2015).
DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8


class Network:
    """Layers of rectified linear units, trained by Adam on the cross entropy.

    Args:
        sizes: of all layers, inputs and outputs included.
        seed: of the first weights and of the order of samples.
    """

    def __init__(self, sizes: tuple[int, ...], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.weights = [
            self.random.standard_normal((rows, columns), dtype=np.float32) * np.float32((2 / rows) ** 0.5)
            for rows, columns in pairwise(sizes)
        ]
        self.biases = [np.zeros(columns, np.float32) for columns in sizes[1:]]
        self._means = [np.zeros_like(one) for one in self._parameters()]
        self._squares = [np.zeros_like(one) for one in self._parameters()]
        self._steps = 0

    def scores(self, inputs: Floats) -> Floats:
        """Return logits, shape (samples, classes)."""
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = np.maximum(inputs @ weights + biases, 0)
        return inputs @ self.weights[-1] + self.biases[-1]

    def predict(self, inputs: Floats) -> Labels:
        """Return labels, shape (samples,)."""
        return np.argmax(self.scores(inputs), axis=1)

    def epoch(self, inputs: Floats, targets: Floats, batch: int = BATCH) -> None:
        """See each sample once.

        Args:
            inputs: shape (samples, inputs).
            targets: probability of each class, shape (samples, classes).
            batch: samples per step.
        """
        order = self.random.permutation(len(inputs))
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            self._step(inputs[chosen], targets[chosen])

    def _step(self, inputs: Floats, targets: Floats) -> None:
        outputs = [inputs]
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            outputs.append(np.maximum(outputs[-1] @ weights + biases, 0))
        odds = probabilities(outputs[-1] @ self.weights[-1] + self.biases[-1])
        error = (odds - targets) / np.float32(len(inputs))
        gradients: list[Floats] = []
        for layer in reversed(range(len(self.weights))):
            gradients += [error.sum(axis=0), outputs[layer].T @ error]
            if layer:
                error = (error @ self.weights[layer].T) * (outputs[layer] > 0)
        self._adam(gradients[::-1])

    def _adam(self, gradients: list[Floats]) -> None:
        self._steps += 1
        rate = LEARNING_RATE * (1 - SQUARE_DECAY**self._steps) ** 0.5 / (1 - DECAY**self._steps)
        for one, gradient, mean, square in zip(
            self._parameters(), gradients, self._means, self._squares, strict=True
        ):
            mean[...] += (1 - DECAY) * (gradient - mean)
            square[...] += (1 - SQUARE_DECAY) * (gradient * gradient - square)
            one[...] -= rate * mean / (np.sqrt(square) + EPSILON)

    def _parameters(self) -> list[Floats]:
        return [one for pair in zip(self.weights, self.biases, strict=True) for one in pair]


def probabilities(scores: Floats, temperature: float = 1.0) -> Floats:
    """Return the softmax of logits, shape (samples, classes)."""
    odds = np.exp((scores - scores.max(axis=1, keepdims=True)) / np.float32(temperature))
    return odds / odds.sum(axis=1, keepdims=True)


def one_hot(labels: Labels) -> Floats:
    """Return certain probabilities, shape (samples, classes)."""
    return np.eye(CLASSES, dtype=np.float32)[labels]


def trained(hidden: tuple[int, ...], seed: int, epochs: int, samples: int | None = None) -> Network:
    """Return a network that has seen the first `samples` digits (None for all) `epochs` times."""
    data = digits()
    network = Network((data.train.shape[1], *hidden, CLASSES), seed)
    inputs, targets = data.train[:samples], one_hot(data.train_labels[:samples])
    for _ in range(epochs):
        network.epoch(inputs, targets)
    return network
