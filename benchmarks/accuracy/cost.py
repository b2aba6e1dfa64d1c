"""What resolving costs: seconds and memory for ten thousand to a million windows.

    python benchmarks/accuracy/cost.py [--output FILE]

Each size runs in a fresh process: windows of about 2 ms with gaps of about as much, of three
phases, metered by a GPU counter that changes every 100 ms and by two CPU packages that are read at
all edges; a million of them last an hour. Resolving is all that it takes from the readings to the
energies of phases and session, with intervals.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np
from recordings import ORIGIN_NS, integers, nanoseconds
from scenarios import Floats

import mlmeter
from mlmeter.energy.counters import Rows
from mlmeter.measurement import Domain, Provenance
from mlmeter.recording import Recording, Run
from mlmeter.window_records import Label, WindowRecords

SIZES = (10_000, 100_000, 1_000_000)
SECONDS_PER_WINDOW = 3.6e-3
PHASES = ("training", "inference", "evaluation")
GAP_WATTS, PHASE_WATTS = 60.0, (300.0, 180.0, 120.0)
MAX_WATTS = 450.0
LARGEST_SECONDS, LARGEST_MIB = 5.0, 1024.0
MIB = 1024


def recording(count: int) -> Recording:
    """Return a session of so many windows."""
    random = np.random.default_rng(0)
    seconds = count * SECONDS_PER_WINDOW
    cuts = np.sort(random.uniform(0.001, seconds, 2 * count))
    phase = random.integers(0, len(PHASES), count)
    watts = np.full(2 * count + 1, GAP_WATTS)
    watts[1::2] = np.array(PHASE_WATTS)[phase]
    edges = np.concatenate([[0.0], cuts, [seconds]])
    joules = np.concatenate([[0.0], np.cumsum(watts * np.diff(edges))])
    zeros = integers(np.zeros(count))
    windows = WindowRecords(
        ids=integers(np.arange(1, count + 1)),
        parent_ids=zeros,
        labels=integers(phase),
        threads=zeros,
        starts_ns=nanoseconds(cuts[::2]),
        ends_ns=nanoseconds(cuts[1::2]),
        flags=zeros,
        pieces=(),
        units={},
        label_table=tuple(Label(name, name) for name in PHASES),
        thread_names=("main",),
    )
    domains = (
        _gpu(edges, joules, random),
        *(_package(number, edges, joules) for number in range(2)),
    )
    end_ns = ORIGIN_NS + round(seconds * 1e9)
    return Recording(Run("cost", "cost", "other", ORIGIN_NS, end_ns, 0, True, {}), domains, windows, (), ())


def _gpu(edges: Floats, joules: Floats, random: np.random.Generator) -> tuple[Domain, Rows]:
    refreshes = np.arange(0.03, edges[-1], 0.1)
    refreshes = np.sort(refreshes + random.normal(0, 1e-3, len(refreshes)))
    before = refreshes + random.uniform(0, 1e-3, len(refreshes))
    shown = np.interp(refreshes, edges, joules)
    return _domain("gpu-0", "gpu", 0.1, 1e-3), _rows(before - 1e-3, before, shown / 1e-3)


def _package(number: int, edges: Floats, joules: Floats) -> tuple[Domain, Rows]:
    """A counter of 1 ms that is read at all edges and ten times a second."""
    reads = np.unique(np.concatenate([edges, np.arange(0, edges[-1], 0.1)]))
    refresh = np.floor(reads / 1e-3)
    changed = np.flatnonzero(np.diff(refresh, prepend=-1) > 0)
    before = reads[changed]
    after = np.maximum(reads[np.maximum(changed - 1, 0)], before - 1.2e-3)
    shown = np.interp(refresh[changed] * 1e-3, edges, joules)
    return _domain(f"package-{number}", "cpu", 1e-3, 61e-6), _rows(after, before, shown / 61e-6)


def _domain(name: str, kind: str, period_seconds: float, count_joules: float) -> Domain:
    return Domain(
        name=name,
        id=name,
        kind=kind,
        source="cost",
        provenance=Provenance.MEASURED,
        update_period_seconds=period_seconds,
        joules_per_count=count_joules,
        max_power_watts=MAX_WATTS,
        cheap_read=kind == "cpu",
    )


def _rows(after: Floats, before: Floats, counts: Floats) -> Rows:
    bracket: tuple[array[int], array[int]] = nanoseconds(after), nanoseconds(before)
    counted = integers(np.floor(counts))
    return Rows(*bracket, counted, (), bracket[1][-1], len(counts), 0, 0.0)


def measure(count: int) -> dict[str, float]:
    """Resolve one session in this process; peak memory is that of the whole process meanwhile."""
    session = recording(count)
    gc.collect()
    # Forget the peak of making the session.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_mib("VmRSS")
    started = time.perf_counter()
    resolution = session.resolution
    phases = list(resolution.by_domain("phases"))
    list(resolution.by_domain("total"))
    seconds = time.perf_counter() - started
    fitted = sum("phase_power" in columns["method"].tolist() for _, _, columns in phases)
    return {"seconds": seconds, "before_mib": before, "peak_mib": _memory_mib("VmHWM"), "fitted": fitted}


def _memory_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / MIB for line in lines if line.startswith(name))


def main() -> int:
    parser = argparse.ArgumentParser(description="What resolving many windows costs. Linux only.")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    lines = [
        f"mlmeter {mlmeter.__version__}, numpy {np.__version__}, Python {platform.python_version()}",
        f"{platform.system()} {platform.machine()}",
        "  windows  seconds  us/window  MiB before   peak  domains fitted",
    ]
    failed = []
    for count in SIZES:
        command = [sys.executable, __file__, "--one", str(count)]
        found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        lines.append(
            f"{count:9,}{found['seconds']:9.2f}{1e6 * found['seconds'] / count:11.1f}"
            f"{found['before_mib']:12.0f}{found['peak_mib']:7.0f}{found['fitted']:16.0f}"
        )
        if found["seconds"] > LARGEST_SECONDS:
            failed.append(f"FAIL {count:,} windows: {found['seconds']:.1f} s (must: {LARGEST_SECONDS:g})")
        if found["peak_mib"] > LARGEST_MIB:
            failed.append(f"FAIL {count:,} windows: {found['peak_mib']:.0f} MiB (must: {LARGEST_MIB:g})")
    text = "\n".join([*lines, *failed])
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
