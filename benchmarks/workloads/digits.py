"""The data: 1,797 scanned digits of 8 x 8 pixels that come with scikit-learn (UCI, Alpaydin and Kaynak)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

CLASSES = 10
TEST_SAMPLES = 597


class Digits(NamedTuple):
    """Pixels 0 to 1, shape (samples, 64), and labels, shape (samples,); the split is always the same."""

    train: Floats
    train_labels: Labels
    test: Floats
    test_labels: Labels


@cache
def digits() -> Digits:
    """Return 1,200 samples to train with and 597 to test with, all classes in proportion."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        pixels, labels.astype(np.int64), test_size=TEST_SAMPLES, random_state=0, stratify=labels
    )
    return Digits(train, train_labels, test, test_labels)


def accuracy_of(predicted: Labels) -> float:
    """Return the share of the test samples that were told right."""
    return float(np.mean(predicted == digits().test_labels))
