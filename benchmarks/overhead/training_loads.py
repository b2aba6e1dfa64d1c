"""Three kinds of training step, by what they do to the interpreter's lock.

Each is made with a size, and takes about as long as that many times its smallest step.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np

Step = Callable[[], object]
CALIBRATION_STEPS = 7
ROUNDS_OF_CALIBRATION = 3

BATCH, INPUTS, HIDDEN, CLASSES = 32, 256, 128, 10
LEARNING_RATE = 0.05
WORDS_PER_UNIT = 500


def matmul_step(size: int) -> Step:
    """Gradient descent on a small network: NumPy lets go of the lock in each of its calls."""
    random = np.random.default_rng(0)
    data = random.standard_normal((BATCH, INPUTS), dtype=np.float32)
    target = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, BATCH)]
    first = 0.1 * random.standard_normal((INPUTS, HIDDEN), dtype=np.float32)
    second = 0.1 * random.standard_normal((HIDDEN, CLASSES), dtype=np.float32)

    def step() -> None:
        for _ in range(size):
            hidden = np.maximum(data @ first, 0)
            scores = hidden @ second
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            error = (odds / odds.sum(axis=1, keepdims=True) - target) / BATCH
            back = (error @ second.T) * (hidden > 0)
            second[...] -= LEARNING_RATE * (hidden.T @ error)
            first[...] -= LEARNING_RATE * (data.T @ back)

    return step


def python_step(size: int) -> Step:
    """Count pairs of words, as the training of a tokenizer does: the lock changes hands when asked for."""
    random = np.random.default_rng(0)
    words = [f"word-{number}" for number in random.integers(0, 300, size * WORDS_PER_UNIT)]

    def step() -> Counter[tuple[str, str]]:
        pairs: Counter[tuple[str, str]] = Counter()
        for left, right in pairwise(words):
            if left != right:
                pairs[left, right] += 1
        return pairs

    return step


def json_step(size: int) -> Step:
    """Serialise one big object in one call, which keeps the lock from its first byte to its last."""
    random = np.random.default_rng(0)
    rows = [
        {"step": number, "loss": float(loss), "layer": f"block.{number % 24}.weight", "finite": True}
        for number, loss in enumerate(random.standard_normal(50 * size))
    ]

    def step() -> str:
        return json.dumps(rows)

    return step


LOADS: dict[str, Callable[[int], Step]] = {
    "numpy matmul": matmul_step,
    "pure Python": python_step,
    "json.dumps": json_step,
}


def sized(make: Callable[[int], Step], seconds: float) -> Step:
    """Return a step that takes about `seconds` here and now."""
    size = 1
    for _ in range(ROUNDS_OF_CALIBRATION):
        size = max(1, round(size * seconds / step_seconds(make(size))))
    return make(size)


def step_seconds(step: Step) -> float:
    """Return the median duration of a step."""
    spent = []
    for _ in range(CALIBRATION_STEPS):
        begin = time.perf_counter()
        step()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)
