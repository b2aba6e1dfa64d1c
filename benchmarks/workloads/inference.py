"""Inference: how many samples at once, and by which kind of model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from benchmarks.workloads.digits import Floats, Labels, accuracy_of, digits
from benchmarks.workloads.network import trained
from benchmarks.workloads.study import Outcome, Study, Variant, prediction

Predict = Callable[[Floats], Labels]
SEED = 1


def batch_size() -> Study:
    """Return the study of batches, from 1 sample to 512."""
    predict = trained((256, 256), SEED, 15).predict
    return Study(
        key="batch-size",
        title="predict with a network of 2 x 256 hidden units",
        unit="sample",
        variants=tuple(
            Variant(f"batches of {batch}", partial(predict_in_batches, predict, batch))
            for batch in (1, 8, 32, 128, 512)
        ),
    )


def model_kind() -> Study:
    """Return the study of models that are all fitted to the same digits."""
    data = digits()
    models: dict[str, Any] = {
        "forest of 100 trees": RandomForestClassifier(100, random_state=SEED),
        "forest of 20 trees": RandomForestClassifier(20, random_state=SEED),
        "support vectors": SVC(random_state=SEED),
        "5 nearest": KNeighborsClassifier(5),
        "logistic": LogisticRegression(max_iter=200),
        "naive Bayes": GaussianNB(),
    }
    with warnings.catch_warnings():
        # Whether the solver has converged to the last digit does not matter here.
        warnings.simplefilter("ignore")
        for model in models.values():
            model.fit(data.train, data.train_labels)
    return Study(
        key="model-kind",
        title="predict 597 digits at once with models of scikit-learn",
        unit="sample",
        variants=predicting({name: model.predict for name, model in models.items()}, len(data.test)),
    )


def predicting(ways: Mapping[str, Predict], batch: int) -> tuple[Variant, ...]:
    """Return as variants, by name, ways to predict all test samples, `batch` at a time."""
    return tuple(Variant(name, partial(predict_in_batches, way, batch)) for name, way in ways.items())


def predict_in_batches(predict: Predict, batch: int, seed: int) -> Outcome:
    """Predict all test samples, `batch` at a time."""
    inputs = digits().test
    found = [predict(inputs[first : first + batch]) for first in range(0, len(inputs), batch)]
    return prediction(len(inputs), accuracy_of(np.concatenate(found)))
