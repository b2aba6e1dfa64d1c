"""Fit the machine formula of the CPU estimate, and judge it on processors that it has not seen.

    python benchmarks/accuracy/cpu_estimate_fit.py --data FILE.csv [--output machine_power.json]

Groups of a cross-validation are processor models by their key: no model stands on both sides. The
spreads are quantiles of true to predicted power in such a cross-validation.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cpu_servers import Estimates, Floats, Server, read_servers, truth_of

from mlmeter.backends.cpu_power.host import describe
from mlmeter.backends.cpu_power.machine_model import (
    LOADS,
    Coefficients,
    MachineInputs,
    features,
    linear_terms,
    machine_curve,
    scaled_year,
)
from mlmeter.backends.cpu_power.tables import read_coefficients

KERNEL_LENGTH = 2.0
# Of the noise of one server to the size of what servers near each other have in common.
NOISE_RATIO = 0.3
JITTER = 1e-6
FOLDS = 10
SEEDS = (0, 1, 2)
# A little more than 68 and 95 %: unseen servers differ more than those left out of a fit.
QUANTILES = (0.02, 0.15, 0.85, 0.98)
# Bands of load that share a spread.
BANDS = ((0,), (1, 2, 3), (4, 5, 6, 7), (8, 9, 10))
NO_SPREADS = [[1.0, 1.0, 1.0, 1.0]] * len(BANDS)


def known_inputs(server: Server) -> MachineInputs:
    """Return what the product finds out, with the file's TDP where it finds none."""
    inputs = describe(server.facts).inputs
    return inputs if inputs.tdp_watts is not None else replace(inputs, tdp_watts=server.tdp_watts)


def fit(servers: Sequence[Server]) -> dict[str, Any]:
    """Return the fields of ``machine_power.json`` without spreads."""
    inputs = [known_inputs(server) for server in servers]
    with_tdp = [index for index, item in enumerate(inputs) if item.tdp_watts is not None]
    without = [replace(item, tdp_watts=None) for item in inputs]
    return {
        "kernel_length": KERNEL_LENGTH,
        "processors": sorted({server.group for server in servers}),
        "with_tdp": _surface([servers[i] for i in with_tdp], [inputs[i] for i in with_tdp]),
        "without_tdp": _surface(servers, without),
        **_implied_tdp([inputs[i] for i in with_tdp]),
    }


def _surface(servers: Sequence[Server], inputs: Sequence[MachineInputs]) -> dict[str, Any]:
    terms = np.array([linear_terms(item) for item in inputs])
    positions = np.array([features(item) for item in inputs])
    # One centre for each processor and number of sockets: where servers are, not what they draw.
    groups: dict[tuple[str, int], list[int]] = {}
    for index, (server, item) in enumerate(zip(servers, inputs, strict=True)):
        groups.setdefault((server.group, item.sockets), []).append(index)
    centres = np.round([positions[rows].mean(axis=0) for rows in groups.values()], 3)
    shared = kernels(centres, centres)
    near = kernels(positions, centres)
    linear, weights = [], []
    for target in _targets(truth_of(servers)).T:
        known = np.isfinite(target)
        if not known.any():
            # Power that rises straight with load, where the file has idle and full only.
            linear.append(np.array([0.0, 0.0, 0.0, 0.0, math.log(LOADS[len(linear)])]))
            weights.append(np.zeros(len(centres)))
            continue
        rows, left = terms[known], near[known]
        coefficients = np.linalg.solve(rows.T @ rows + 1e-3 * np.eye(5), rows.T @ target[known])
        rest = target[known] - rows @ coefficients
        system = left.T @ left + NOISE_RATIO * shared + JITTER * np.eye(len(centres))
        linear.append(coefficients)
        weights.append(np.linalg.solve(system, left.T @ rest))
    return {
        "linear": np.round(linear, 5).tolist(),
        "centres": centres.tolist(),
        "weights": np.round(np.transpose(weights), 4).tolist(),
        "spreads": NO_SPREADS,
    }


def kernels(left: Floats, right: Floats) -> Floats:
    """Return the kernel of each pair of rows; the product's, for arrays."""
    squares = ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=-1)
    scaled = math.sqrt(3) * np.sqrt(squares) / KERNEL_LENGTH
    return (1 + scaled) * np.exp(-scaled)


def _targets(watts: Floats) -> Floats:
    """Return ln idle, ln of nine rises as a share of full less idle, and ln full."""
    idle, full = watts[:, :1], watts[:, -1:]
    rises = (watts[:, 1:-1] - idle) / (full - idle)
    rises[rises <= 0] = math.nan
    targets: Floats = np.hstack([np.log(idle), np.log(rises), np.log(full)])
    return targets


def _implied_tdp(inputs: Sequence[MachineInputs]) -> dict[str, Any]:
    """Return ln of all packages' TDP against cores, sockets and year, once for each kind of machine."""
    rows, logs = [], []
    for sockets, cores, year, tdp_watts in {
        (item.sockets, item.cores, item.year, item.tdp_watts or 1.0) for item in inputs
    }:
        decades = scaled_year(year)
        rows.append((math.log(cores), math.log(sockets), decades, decades**2, 1.0))
        logs.append(math.log(sockets * tdp_watts))
    matrix, target = np.array(rows), np.array(logs)
    coefficients = np.linalg.lstsq(matrix, target, rcond=None)[0]
    ratios = np.exp(np.quantile(target - matrix @ coefficients, QUANTILES))
    return {
        "implied_tdp": np.round(coefficients, 4).tolist(),
        "implied_tdp_spread": _spread(ratios),
    }


def _spread(ratios: Floats) -> list[float]:
    low_95, low_68, high_68, high_95 = (round(float(ratio), 3) for ratio in ratios)
    return [min(low_95, 1.0), min(low_68, 1.0), max(high_68, 1.0), max(high_95, 1.0)]


def spreads_of(predicted: Floats, truth: Floats) -> list[list[float]]:
    """Return quantiles of true to predicted power, by band of load; all loads where one has none."""
    ratios = truth / predicted
    spreads = []
    for band in BANDS:
        part = ratios[:, band]
        part = part[np.isfinite(part)]
        if len(part) < 1 / QUANTILES[0]:
            part = ratios[np.isfinite(ratios)]
        spreads.append(_spread(np.quantile(part, QUANTILES)))
    return spreads


def folds_of(servers: Sequence[Server], seed: int) -> list[int]:
    """Return a fold for each server, the same for all servers of one processor model."""
    groups = sorted({server.group for server in servers})
    np.random.default_rng(seed).shuffle(groups)
    fold = {group: position % FOLDS for position, group in enumerate(groups)}
    return [fold[server.group] for server in servers]


def predict(coefficients: Coefficients, inputs: Sequence[MachineInputs]) -> Floats:
    """Return power at all loads, shape (machines, 11), through the product's formula."""
    return np.array([machine_curve(item, coefficients).watts_at for item in inputs])


def cross_validate(servers: Sequence[Server], seed: int, *, tdp: str) -> Floats:
    """Return what fits without a server's processor say of it, shape (servers, 11).

    Args:
        tdp: ``"found"`` as the product finds it, ``"known"`` with that of the file where it finds
            none, ``"unknown"`` never.
    """
    fold_of = np.array(folds_of(servers, seed))
    watts = np.full((len(servers), len(LOADS)), math.nan)
    for fold in range(FOLDS):
        rows = np.flatnonzero(fold_of == fold)
        if not len(rows):
            continue
        coefficients = read_coefficients(fit([servers[i] for i in np.flatnonzero(fold_of != fold)]))
        found = [describe(servers[i].facts).inputs for i in rows]
        if tdp == "known":
            found = [known_inputs(servers[i]) for i in rows]
        elif tdp == "unknown":
            found = [replace(item, tdp_watts=None) for item in found]
        watts[rows] = predict(coefficients, found)
    return watts


def cross_validated(servers: Sequence[Server], seed: int, *, tdp: str) -> Estimates:
    """Return cross-validated estimates; the spreads of a fold are those of the other folds."""
    watts, truth = cross_validate(servers, seed, tdp=tdp), truth_of(servers)
    fold_of = np.array(folds_of(servers, seed))
    factors = np.full((4, *watts.shape), math.nan)
    for fold in range(FOLDS):
        mine = fold_of == fold
        for band, spread in zip(BANDS, spreads_of(watts[~mine], truth[~mine]), strict=True):
            for position, value in enumerate(spread):
                factors[position][np.ix_(mine, band)] = value
    return Estimates(watts, *factors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    servers = read_servers(options.data)
    truth = np.vstack([truth_of(servers)] * len(SEEDS))
    model = fit(servers)
    for name, tdp in (("with_tdp", "known"), ("without_tdp", "unknown")):
        predicted = np.vstack([cross_validate(servers, seed, tdp=tdp) for seed in SEEDS])
        model[name]["spreads"] = spreads_of(predicted, truth)
        print(name, model[name]["spreads"])
    if options.output:
        options.output.write_text(json.dumps(model, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
