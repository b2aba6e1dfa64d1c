"""Features that every epoch needs: computed once, or each time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.workloads.digits import CLASSES, Floats, accuracy_of, digits
from benchmarks.workloads.network import Network, one_hot
from benchmarks.workloads.study import Outcome, Study, Variant, training

EPOCHS = 12
FILTERS, SIDE, FILTER_SIDE = 48, 8, 3
SEED = 1


def cached_features() -> Study:
    """Return the study of a linear classifier on the answers of fixed random filters."""
    folder = Path(tempfile.mkdtemp(prefix="mlmeter-features-"))

    def recomputed(seed: int) -> Outcome:
        return _train(lambda: features(digits().train))

    def in_memory(seed: int) -> Outcome:
        return _train(cache(lambda: features(digits().train)))

    def on_disk(seed: int) -> Outcome:
        file = folder / "features.npy"
        np.save(file, features(digits().train))
        return _train(lambda: np.load(file))

    return Study(
        key="cached-features",
        title=f"train on features of {FILTERS} filters, {EPOCHS} epochs",
        unit="training",
        variants=(
            Variant("computed each epoch", recomputed),
            Variant("kept in memory", in_memory),
            Variant("read from a file", on_disk),
        ),
        close=lambda: shutil.rmtree(folder, ignore_errors=True),
    )


def features(pixels: Floats) -> Floats:
    """Return the strongest answer of each filter in each quarter, shape (samples, 4 * filters)."""
    filters = np.random.default_rng(SEED).standard_normal((FILTER_SIDE**2, FILTERS), dtype=np.float32)
    pictures = np.pad(pixels.reshape(-1, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    patches = sliding_window_view(pictures, (FILTER_SIDE, FILTER_SIDE), axis=(1, 2))
    answers = np.maximum(patches.reshape(-1, FILTER_SIDE**2) @ filters, 0)
    half = SIDE // 2
    return answers.reshape(-1, 2, half, 2, half, FILTERS).max(axis=(2, 4)).reshape(len(pixels), -1)


def _train(read: Callable[[], Floats]) -> Outcome:
    # Always from the same first weights, so that all ways come to the same classifier.
    targets = one_hot(digits().train_labels)
    classifier = Network((4 * FILTERS, CLASSES), SEED)
    for _ in range(EPOCHS):
        classifier.epoch(read(), targets)
    # The test set is no part of what is cached or not: each way computes its features once.
    found = classifier.predict(features(digits().test))
    return training(EPOCHS * len(targets), accuracy_of(found))
