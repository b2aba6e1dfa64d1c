"""Numbers with fewer bits: what a library without kernels for them makes of it, and one with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads.digits import Floats, Labels, accuracy_of, digits
from benchmarks.workloads.inference import predicting
from benchmarks.workloads.network import CLASSES, Network, trained
from benchmarks.workloads.study import Outcome, Study, Variant, prediction

SEED = 1
HIDDEN = (256, 256)
LARGE = 1024
BATCH = 128
INT8_LIMIT = 127
TORCH_EPOCHS = 6


def numpy_precision() -> Study:
    """Return the study of types in NumPy, which hands float32 and float64 to BLAS and loops over others."""
    network = trained(HIDDEN, SEED, 12)
    ways: dict[str, Callable[[Floats], Labels]] = {
        "float32": network.predict,
        "float64": partial(_predict_as, network, np.float64),
        "float16": partial(_predict_as, network, np.float16),
        "int8": Int8Network(network).predict,
    }
    return Study(
        key="precision-numpy",
        title=f"predict with 2 x 256 hidden units in NumPy, batches of {BATCH}",
        unit="sample",
        variants=predicting(ways, BATCH),
    )


def torch_in_batches() -> Study:
    """Return the study of types in PyTorch, which has kernels for int8 and bfloat16."""
    return _torch_study("precision-torch", BATCH)


def torch_one_by_one() -> Study:
    """Return the same study with one sample at a time."""
    return _torch_study("precision-torch-1", 1)


def _torch_study(key: str, batch: int) -> Study:
    import torch

    torch.set_num_threads(1)
    network = _trained_in_torch()
    with warnings.catch_warnings():
        # It announces its successor, torchao.
        warnings.simplefilter("ignore")
        int8 = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
    inputs = torch.from_numpy(digits().test)
    ways = (
        ("float32", network, inputs),
        ("int8, dynamic", int8, inputs),
        ("bfloat16", copy.deepcopy(network).bfloat16(), inputs.bfloat16()),
    )
    return Study(
        key=key,
        title=f"predict with 2 x {LARGE:,} hidden units in PyTorch, batches of {batch}",
        unit="sample",
        variants=tuple(
            Variant(name, partial(_predict_in_torch, model, given, batch)) for name, model, given in ways
        ),
    )


class Int8Network:
    """Weights and activations as whole numbers from -127 to 127, one scale each; sums as int32."""

    def __init__(self, network: Network) -> None:
        self._layers = [
            (*_quantised(weights), biases)
            for weights, biases in zip(network.weights, network.biases, strict=True)
        ]

    def predict(self, inputs: Floats) -> Labels:
        """Return labels, shape (samples,)."""
        for weights, scale, biases in self._layers[:-1]:
            inputs = np.maximum(_product(inputs, weights, scale) + biases, 0)
        weights, scale, biases = self._layers[-1]
        return np.argmax(_product(inputs, weights, scale) + biases, axis=1)


def _quantised(values: Floats) -> tuple[NDArray[np.int8], np.float32]:
    scale = np.float32(max(float(np.abs(values).max()), 1e-12) / INT8_LIMIT)
    return np.rint(values / scale).astype(np.int8), scale


def _product(inputs: Floats, weights: NDArray[np.int8], scale: np.float32) -> Floats:
    whole, input_scale = _quantised(inputs)
    return np.matmul(whole, weights, dtype=np.int32) * (input_scale * scale)


def _predict_as(network: Network, dtype: type[np.floating[Any]], inputs: Floats) -> Labels:
    values = inputs.astype(dtype)
    layers = _converted(network, dtype)
    for weights, biases in layers[:-1]:
        values = np.maximum(values @ weights + biases, 0)
    return np.argmax(values @ layers[-1][0] + layers[-1][1], axis=1)


_kept: dict[tuple[int, type], list[tuple[Any, Any]]] = {}


def _converted(network: Network, dtype: type[np.floating[Any]]) -> list[tuple[Any, Any]]:
    key = (id(network), dtype)
    if key not in _kept:
        _kept[key] = [
            (weights.astype(dtype), biases.astype(dtype))
            for weights, biases in zip(network.weights, network.biases, strict=True)
        ]
    return _kept[key]


@cache
def _trained_in_torch() -> Any:
    import torch

    torch.manual_seed(SEED)
    data = digits()
    network = torch.nn.Sequential(
        torch.nn.Linear(data.train.shape[1], LARGE),
        torch.nn.ReLU(),
        torch.nn.Linear(LARGE, LARGE),
        torch.nn.ReLU(),
        torch.nn.Linear(LARGE, CLASSES),
    )
    inputs, labels = torch.from_numpy(data.train), torch.from_numpy(data.train_labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(TORCH_EPOCHS):
        for chosen in torch.randperm(len(inputs)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[chosen]), labels[chosen]).backward()
            optimiser.step()
    return network.eval()


def _predict_in_torch(network: Any, inputs: Any, batch: int, seed: int) -> Outcome:
    import torch

    with torch.inference_mode():
        found = torch.cat([network(part).argmax(dim=1) for part in inputs.split(batch)])
    return prediction(len(inputs), accuracy_of(found.numpy()))
