"""Six experiments that tell how a GPU's energy counter works, on the GPU at hand.

    python benchmarks/accuracy/gpu_experiments.py [--device 0] [--only abf] [--quick] [--output STEM]

NVML is only read: no clock, limit or mode is changed. The loads are matrix products of torch; where
it is missing or sees no CUDA, the experiments that need one are skipped. Without an NVIDIA GPU
simulated ones take its place, which the first line and every result say; then the exit status
tells whether what was found is what was simulated. --output writes STEM.txt and STEM.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gpu_device import Gpu, NoGpuError, NvidiaGpu
from gpu_procedures import (
    Session,
    counter_alone,
    counter_and_power,
    power_ring,
    reading_wakes,
    square_waves,
    steps,
)
from gpu_simulation import SimulatedGpu, Truth
from progress import progress

import mlmeter

QUICK_RATIO = 0.3
# What is found on a simulated GPU must be this near to what was simulated.
PERIOD_TOLERANCE, LAG_TOLERANCE_SECONDS, SEEN_TOLERANCE = 0.01, 2e-3, 0.1
SIMULATED_WORD = " [SIMULATED]"
SIMULATED = (Truth(), Truth(lag_seconds=0.0, seen_ratio=0.25))


@dataclass(frozen=True)
class Experiment:
    """A letter, what does it and whether it needs a load."""

    letter: str
    run: Callable[[Session], Iterator[str]]
    needs_load: bool = False

    @property
    def title(self) -> str:
        """What it is about."""
        return (self.run.__doc__ or "").strip().removeprefix(f"({self.letter}) ").rstrip(".")


EXPERIMENTS = (
    Experiment("a", counter_alone),
    Experiment("b", square_waves, needs_load=True),
    Experiment("c", steps, needs_load=True),
    Experiment("d", reading_wakes),
    Experiment("e", power_ring),
    Experiment("f", counter_and_power),
)


def examine(gpu: Gpu, letters: str, ratio: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run experiments on one GPU, tell their tables and return everything for the JSON."""
    session = Session(gpu, ratio)
    for name, fact in gpu.facts.items():
        tell(f"{name}: {fact}")
    results = {}
    word = SIMULATED_WORD if gpu.simulated else ""
    for experiment in EXPERIMENTS:
        if experiment.letter not in letters:
            continue
        tell(f"\n({experiment.letter}){word} {experiment.title}")
        lines = list(_lines_of(experiment, session))
        for line in lines:
            tell(line)
        results[experiment.letter] = {"simulated": gpu.simulated, "lines": lines}
    tell(f"\nSuggested defaults{word}")
    for line in suggestions(session.found):
        tell(line)
    return {
        "simulated": gpu.simulated,
        "facts": gpu.facts,
        "experiments": results,
        "found": session.found,
    }


def _lines_of(experiment: Experiment, session: Session) -> Iterator[str]:
    """Yield the lines of an experiment; one that cannot be run says why and leaves the others alone."""
    if experiment.needs_load and session.gpu.no_load_reason:
        yield f"skipped: {session.gpu.no_load_reason}"
        return
    progress(experiment.title)
    try:
        yield from experiment.run(session)
    # Drivers refuse calls in many ways.
    except Exception as error:
        yield f"failed: {type(error).__name__}: {error}"
    progress("")


def suggestions(found: dict[str, float]) -> Iterator[str]:
    """Yield what the library should start from, and where it comes from."""
    sources = (
        ("T", "period_seconds", 1e3, "ms", "(a) mean time between refreshes"),
        ("jitter", "period_sigma_seconds", 1e3, "ms", "(a) standard deviation of one period"),
        ("lag", "lag_seconds", 1e3, "ms", "(c) likeliest over load steps"),
        ("seen share w/T", "seen_ratio", 100, "%", "(c) likeliest over load steps"),
        ("lag", "wave_lag_seconds", 1e3, "ms", "(b) likeliest over square waves"),
        ("seen share w/T", "wave_seen_ratio", 100, "%", "(b) likeliest over square waves"),
        ("eps_t", "edge_seconds", 1e3, "ms", "(b) |z| of the split nearest 1"),
        ("power: window", "power_window_seconds", 1e3, "ms", "(c) likeliest over load steps"),
        ("one call", "call_seconds", 1e3, "ms", "(a) median"),
    )
    for name, key, scale, unit, source in sources:
        value = f"{scale * found[key]:8.2f} {unit}" if key in found else "not found"
        yield f"{name:16}{value:14}{source}"


def wrong(found: dict[str, float], truth: Truth) -> list[str]:
    """Return which estimates are not what was simulated; one that was not made is wrong, too."""
    checks = (
        ("period_seconds", truth.period_seconds, PERIOD_TOLERANCE * truth.period_seconds),
        ("lag_seconds", truth.lag_seconds, LAG_TOLERANCE_SECONDS),
        ("wave_lag_seconds", truth.lag_seconds, LAG_TOLERANCE_SECONDS),
        ("seen_ratio", truth.seen_ratio, SEEN_TOLERANCE * truth.seen_ratio),
        ("wave_seen_ratio", truth.seen_ratio, SEEN_TOLERANCE * truth.seen_ratio),
    )
    return [
        f"FAIL {name}: {found.get(name, float('nan')):.4g}, simulated was {true:.4g}"
        for name, true, tolerance in checks
        if not abs(found.get(name, float("nan")) - true) <= tolerance
    ]


def headline(simulated_because: str) -> str:
    """Return the first line of the output."""
    if simulated_because:
        return f"SIMULATED GPU: nothing below was measured on hardware\n  ({simulated_because})"
    return "measured on a real GPU"


def versions() -> str:
    """Name versions, as far as they matter to results."""
    return (
        f"mlmeter {mlmeter.__version__}, nvidia-ml-py {version('nvidia-ml-py')}, numpy {np.__version__},\n"
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    )


def devices(index: int, *, simulate: bool) -> tuple[Sequence[Gpu], str]:
    """Return the GPU at hand, or simulated ones and why."""
    if simulate:
        return [SimulatedGpu(truth) for truth in SIMULATED], "as asked for"
    try:
        return [NvidiaGpu(index)], ""
    except NoGpuError as error:
        return [SimulatedGpu(truth) for truth in SIMULATED], f"no NVIDIA GPU: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How a GPU's energy counter works.")
    parser.add_argument("--device", type=int, default=0, help="NVML's number of the GPU (default 0)")
    parser.add_argument("--simulate", action="store_true", help="simulated GPUs, whatever is at hand")
    parser.add_argument("--only", default="abcdef", help="letters of the experiments; (a) is always run")
    parser.add_argument("--quick", action="store_true", help="shorter: estimates are worse")
    parser.add_argument("--output", type=Path, help="also write STEM.txt and STEM.json", metavar="STEM")
    options = parser.parse_args(arguments)
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    gpus, simulated_because = devices(options.device, simulate=options.simulate)
    tell(headline(simulated_because))
    tell(versions())
    results, failures = [], []
    for gpu in gpus:
        tell("")
        results.append(examine(gpu, "a" + options.only, QUICK_RATIO if options.quick else 1.0, tell))
        gpu.close()
        if isinstance(gpu, SimulatedGpu) and set("abc") <= set("a" + options.only):
            failures += wrong(results[-1]["found"], gpu.truth)
    for failure in failures:
        tell(failure)
    if options.output:
        everything = {"headline": lines[0], "versions": lines[1], "devices": results}
        options.output.with_suffix(".txt").write_text("\n".join(lines) + "\n")
        options.output.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
