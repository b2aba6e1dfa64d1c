"""What saves energy in machine learning: studies on real data, metered on this machine.

    make bench-workloads                          # about ten minutes, writes benchmarks/results/workloads.*
    make bench-workloads BENCH_ARGS=--quick       # three minutes at most, writes nothing
    make bench-workloads BENCH_ARGS="--only batch-size,pruning --minutes 2"

What is not installed is left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.workloads import compression, features, inference, life, precision, processes, training
from benchmarks.workloads.metering import Metering, metering
from benchmarks.workloads.report import report, table
from benchmarks.workloads.schedule import FEWEST_ROUNDS, Plan, Result, run
from benchmarks.workloads.study import Entry
from benchmarks.workloads.summary import Summary, summarise

OUTPUT = Path(__file__).parents[1] / "results" / "workloads"
FULL, QUICK = Plan(0.3, pilot=5, limit=30), Plan(0.08, pilot=3, limit=3, effect=0.25)
FULL_MINUTES, QUICK_MINUTES = 11.0, 1.75

ESTIMATED = """\
**Joules are estimated**: {sources}, this process' part by CPU time
A factor of 2 or more in joules, common to all variants, cancels in ratios
What does not cancel: some code draws more power than other code; the formula sees time only"""
MEASURED = "Joules are measured: {sources}, the whole machine"

ENTRIES = (
    Entry("model-size", training.model_size),
    Entry("model-kind", inference.model_kind),
    Entry("data-size", training.data_size),
    Entry("epochs", training.epochs),
    Entry("batch-size", inference.batch_size),
    Entry("pruning", compression.pruning),
    Entry("precision-numpy", precision.numpy_precision),
    Entry("precision-torch", precision.torch_in_batches, ("torch",)),
    Entry("precision-torch-1", precision.torch_one_by_one, ("torch",)),
    Entry("distillation", compression.distillation),
    Entry("distillation-training", compression.distillation_training),
    Entry("life-128", life.life_in_batches),
    Entry("life-1", life.life_one_by_one),
    Entry("cached-features", features.cached_features),
    Entry("processes", processes.processes),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the studies, print their tables and write the results."""
    options = parsed(arguments)
    seed = random.SystemRandom().randrange(100_000) if options.seed is None else options.seed
    chosen = [entry for entry in ENTRIES if not options.only or entry.key in options.only]
    possible = [entry for entry in chosen if not missing(entry)]
    left_out = [
        f"{entry.key}: {', '.join(missing(entry))} not installed" for entry in chosen if missing(entry)
    ]
    load, begin = os.getloadavg(), time.monotonic()
    end = begin + 60 * options.minutes
    results, summaries = [], []
    with metering() as meters:
        for position, entry in enumerate(possible):
            if time.monotonic() > end:
                left_out.append(f"{entry.key}: the time was up")
                continue
            share = (end - time.monotonic()) / (len(possible) - position)
            plan = QUICK if options.quick else FULL
            result = one_study(entry, meters, plan, seed, time.monotonic() + share)
            if len(result.rounds) < FEWEST_ROUNDS:
                left_out.append(f"{entry.key}: no energy of the processor could be read")
                continue
            results.append(result)
            summaries.append(summarise(result))
            print("\n".join(["", *table(summaries[-1])]), flush=True)
        facts = facts_of(meters, load, (time.monotonic() - begin) / 60, seed)
    for line in left_out:
        print(f"\nleft out: {line}")
    output = None if options.quick and options.output is None else options.output or OUTPUT
    if output is not None:
        write(output, results, summaries, facts, left_out)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="make bench-workloads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few, short rounds; results are printed only")
    parser.add_argument("--only", type=lambda text: text.split(","), help="keys of studies, with commas")
    parser.add_argument("--minutes", type=float, help="time limit; studies share what is left")
    parser.add_argument("--seed", type=int, help="of the order of blocks")
    parser.add_argument("--output", type=Path, help="path of the results without its ending")
    options = parser.parse_args(arguments)
    if options.minutes is None:
        options.minutes = QUICK_MINUTES if options.quick else FULL_MINUTES
    unknown = set(options.only or ()) - {entry.key for entry in ENTRIES}
    if unknown:
        keys = ", ".join(entry.key for entry in ENTRIES)
        parser.error(f"unknown study {', '.join(sorted(unknown))}; there are {keys}")
    return options


def missing(entry: Entry) -> list[str]:
    """Return the modules that a study needs and that are not installed."""
    return [module for module in entry.needs if importlib.util.find_spec(module) is None]


def one_study(entry: Entry, meters: Metering, plan: Plan, seed: int, until: float) -> Result:
    """Make a study and run it."""
    progress(f"{entry.key}: preparing")
    study = entry.build()
    # On an estimate the rest of the machine's load is noise; what a counter says is better not divided.
    own_part = meters.estimated and not study.whole_machine
    joules = "joules" if own_part else "machine_joules"
    try:
        return run(study, meters.block, plan, joules=joules, seed=seed, until=until, progress=progress)
    finally:
        study.close()


def progress(text: str) -> None:
    """Say on stderr what is being done: in place on a terminal, otherwise a line for each study."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text.endswith("preparing"):
        print(text, file=sys.stderr, flush=True)


def facts_of(
    meters: Metering, load: tuple[float, float, float], minutes: float, seed: int
) -> tuple[str, ...]:
    """Return what a reader must know about machine and meter, a line each."""
    cpus, after = os.cpu_count() or 1, os.getloadavg()
    modules = ("mlmeter", "numpy", "scipy", "scikit-learn", "torch")
    versions = [f"{name} {found}" for name in modules if (found := version(name))]
    return (
        f"{processor()}, {cpus} logical CPUs, {platform.system()} {platform.release()}, one BLAS thread",
        f"Python {platform.python_version()}, {', '.join(versions)}",
        *(ESTIMATED if meters.estimated else MEASURED).format(sources=meters.sources).splitlines(),
        f"Load (1 minute mean): {load[0]:.1f} to {after[0]:.1f} on {cpus} CPUs; {minutes:.1f} minutes",
        f"Order of blocks drawn with seed {seed}",
    )


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def version(distribution: str) -> str | None:
    """Return the version of what is installed, None if it is not."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(distribution)
    except PackageNotFoundError:
        return None


def write(
    output: Path,
    results: Sequence[Result],
    summaries: Sequence[Summary],
    facts: Sequence[str],
    left_out: Sequence[str],
) -> None:
    """Write the page, the figures with all rounds, and the picture if matplotlib is there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    page, data = output.with_suffix(".md"), output.with_suffix(".json")
    page.write_text(report(summaries, facts, left_out), encoding="utf-8")
    studies = [
        asdict(summary)
        | {"blocks": [{name: asdict(block) for name, block in one.items()} for one in result.rounds]}
        for summary, result in zip(summaries, results, strict=True)
    ]
    text = json.dumps({"facts": facts, "left_out": left_out, "studies": studies}, indent=1)
    data.write_text(text + "\n", encoding="utf-8")
    print(f"\n{page}\n{data}")
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
        return
    from benchmarks.workloads.plot import draw

    picture = output.with_suffix(".svg")
    draw(summaries, picture)
    print(picture)


if __name__ == "__main__":
    main()
