"""What is left of a thousand sessions: threads, descriptors, processes, files, objects and memory.

    make soak-cycles [BENCH_ARGS="--cycles 100 --scenarios rapl,nvml"]

Each scenario starts and stops meters on made-up hardware in this process, in the ordinary way or in
one that goes wrong. Counted is what there is more of after the cycles than before them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from mlmeter import EnergyMeter
from mlmeter.backends.nvml import NvmlBackend
from mlmeter.backends.perf_rapl import PerfRaplBackend
from mlmeter.backends.rapl import RaplBackend
from mlmeter.clock import MonotonicClock
from mlmeter.testing import FakeBackend, FakeClock, fake_domain
from tests.backends.fake_nvml import FakeGpu, FakeNvml
from tests.backends.perf_tree import FakeKernel, build_pmu
from tests.backends.powercap_tree import LivePowercapTree

WARM_UP_CYCLES = 3
PARTS = 10
PATIENCE_SECONDS = 10.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Free lists of the interpreter fill for a while.
MOST_BYTES_PER_CYCLE = 512.0
GAUGE = """
import time
from mlmeter.measurement import Domain, Reading

class Gauge:
    name = "soak_gauge"

    def open(self):
        return (Domain(name="gpu-0", id="soak_gauge:0", kind="gpu", source="soak_gauge",
                       provenance="derived", update_period_seconds=0.02, watts_per_count=1e-3),)

    def read(self):
        now = time.perf_counter_ns()
        return (Reading(0, 100_000, now, now),)

    def close(self):
        pass
"""

Cycle = Callable[[], object]


@dataclass(frozen=True)
class Left:
    """What there is in this process; of two of them, the difference.

    Attributes:
        threads, descriptors, children: of the operating system.
        files: below the folder for temporary files, without what users asked for.
        objects: of classes of mlmeter, after a garbage collection.
        traced_bytes: allocated by Python.
        resident_bytes: resident memory.
    """

    threads: int
    descriptors: int
    children: int
    files: int
    objects: int
    traced_bytes: int
    resident_bytes: int

    def since(self, before: Left) -> Left:
        """Return what has been added."""
        old = asdict(before)
        return Left(**{name: value - old[name] for name, value in asdict(self).items()})

    def is_nothing(self, cycles: int) -> bool:
        """Whether so many cycles have left nothing, memory apart.

        What is kept of the last one may consist of a few objects more or less.
        """
        return max(self.threads, self.descriptors, self.children, self.files) <= 0 and self.objects < cycles


def count_all() -> Left:
    """Count what there is now."""
    gc.collect()
    own = Path("/proc/self")
    children = [path.read_text().split() for path in own.glob("task/*/children")]
    traced, _ = tracemalloc.get_traced_memory()
    return Left(
        threads=len(list((own / "task").iterdir())),
        descriptors=len(list((own / "fd").iterdir())),
        children=sum(map(len, children)),
        files=len(list(Path(tempfile.gettempdir()).iterdir())),
        objects=sum(str(type(thing).__module__).startswith("mlmeter.") for thing in gc.get_objects()),
        traced_bytes=traced,
        resident_bytes=int((own / "statm").read_text().split()[1]) * PAGE_BYTES,
    )


def settled(before: Left | None = None) -> Left:
    """Count what there is; threads that are about to end are waited for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        idle = not any(thread.name.startswith("mlmeter") for thread in threading.enumerate())
        now = count_all()
        same = before is None or (now.threads <= before.threads and now.children <= before.children)
        if (idle and same) or time.monotonic() > deadline:
            return now
        time.sleep(0.01)


def soak(cycle: Cycle, cycles: int) -> tuple[Left, float]:
    """Run cycles; return what is left of them and the growth of memory in bytes per cycle.

    Growth is the median of that in ten parts: a leak is in all of them, a cache that fills or a table
    of the interpreter that doubles is in few.
    """
    tracemalloc.start()
    try:
        for _ in range(WARM_UP_CYCLES):
            cycle()
        before = settled()
        marks = [(0, before.traced_bytes)]
        for number in range(1, cycles + 1):
            cycle()
            if number % max(1, cycles // PARTS) == 0:
                marks.append((number, settled(before).traced_bytes))
        after = settled(before)
    finally:
        tracemalloc.stop()
    growths = [(later - first) / (end - begin) for (begin, first), (end, later) in pairwise(marks)]
    return after.since(before), statistics.median(growths)


# --- scenarios: each gives a cycle ---------------------------------------------------------


def session(*backends: object, **arguments: object) -> None:
    """Run a session with windows of all kinds, an observer and files; the files are removed."""
    seen: list[object] = []
    with tempfile.TemporaryDirectory() as output:
        meter = EnergyMeter(
            "soak", backends=list(backends), output_dir=output, on_window=seen.append, **arguments
        )
        with meter:
            with meter.training("epoch"):
                for _ in range(3):
                    with meter.window("step", samples=1):
                        pass
            meter.energy()
        assert len(seen) == 4
        assert meter.run_directory is not None


@contextmanager
def live_tree() -> Iterator[Callable[[], RaplBackend]]:
    """Give what makes a backend of counters that count."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LivePowercapTree(Path(folder), {"package-0": 80.0, "dram-0": 6.0}) as tree,
    ):

        def backend() -> RaplBackend:
            made = RaplBackend(tree.root)
            made.look_seconds = 0.0  # a busy machine writes the tree late
            return made

        yield backend


@contextmanager
def rapl() -> Iterator[Cycle]:
    with live_tree() as backend:
        yield lambda: session(backend())


@contextmanager
def process_scope() -> Iterator[Cycle]:
    with live_tree() as backend:
        yield lambda: session(backend(), scope="process")


@contextmanager
def nvml() -> Iterator[Cycle]:
    with FakeNvml([FakeGpu(power_watts=300.0, update_period_seconds=0.1)]):
        yield lambda: session(NvmlBackend())


@contextmanager
def perf() -> Iterator[Cycle]:
    clock = MonotonicClock()
    watts = {(0, name): 50.0 for name in ("energy-pkg", "energy-ram")}
    with tempfile.TemporaryDirectory() as folder:
        tree = build_pmu(Path(folder))
        kernel = FakeKernel(clock, watts)

        def cycle() -> None:
            backend = tree.backend(kernel)
            assert isinstance(backend, PerfRaplBackend)
            session(backend)
            assert not kernel.opened

        yield cycle


@contextmanager
def power_process() -> Iterator[Cycle]:
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder, "soak_gauge-1.0.dist-info")
        described.mkdir()
        Path(folder, "soak_gauge.py").write_text(GAUGE)
        (described / "METADATA").write_text("Metadata-Version: 2.1\nName: soak_gauge\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text("[mlmeter.backends]\nsoak_gauge = soak_gauge:Gauge\n")
        sys.path.append(folder)
        try:
            yield lambda: session("soak_gauge", power_sampling="process")
        finally:
            sys.path.remove(folder)
            sys.modules.pop("soak_gauge", None)


class Faulty(FakeBackend):
    """Opens a file, and then something goes wrong."""

    def __init__(self, wrong: str, name: str) -> None:
        super().__init__([fake_domain(name=name)], [0], FakeClock())
        self._wrong = wrong
        self._file = -1

    def open(self) -> object:
        if self._wrong == "error":
            raise OSError("no such device")
        if self._wrong == "interrupt":
            raise KeyboardInterrupt
        self._file = os.open(os.devnull, os.O_RDONLY)
        return "nonsense" if self._wrong == "nonsense" else super().open()

    def device_states(self) -> list[object]:
        if self._wrong == "late interrupt":
            raise KeyboardInterrupt
        return []

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


@contextmanager
def failing_start() -> Iterator[Cycle]:
    with live_tree() as backend:

        def cycle() -> None:
            for wrong in ("error", "nonsense", "interrupt", "late interrupt", ""):
                # One that is open already when the next one fails.
                meter = EnergyMeter(backends=[backend(), Faulty("", "fake-1"), Faulty(wrong, "fake-0")])
                with contextlib.suppress(KeyboardInterrupt), meter:
                    pass

        yield cycle


@contextmanager
def never_started() -> Iterator[Cycle]:
    def cycle() -> None:
        meter = EnergyMeter("unused")
        with meter.window("nothing"):
            pass

    yield cycle


@contextmanager
def never_closed() -> Iterator[Cycle]:
    with live_tree() as backend:

        def cycle() -> None:
            with EnergyMeter(backends=[backend()], on_window=lambda _: None) as meter:
                meter.window("epoch").__enter__()
                meter.window("step").__enter__()

        yield cycle


@contextmanager
def dropped_generators() -> Iterator[Cycle]:
    with live_tree() as backend:

        def cycle() -> None:
            with EnergyMeter(backends=[backend()]) as meter:

                @meter.training
                def batches() -> Iterator[int]:
                    with meter.window("inner"):
                        yield from range(10)

                dropped, kept = batches(), batches()
                next(dropped)
                del dropped
                next(kept)
            # It outlives its meter.
            next(kept)

        yield cycle


@contextmanager
def other_threads() -> Iterator[Cycle]:
    with live_tree() as backend:

        def cycle() -> None:
            meter = EnergyMeter(backends=[backend()]).start()
            window = meter.window("handed over").__enter__()

            def work() -> None:
                window.__exit__(None, None, None)
                meter.stop()

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        yield cycle


SCENARIOS = {
    "rapl": rapl,
    "nvml": nvml,
    "perf": perf,
    "power process": power_process,
    "process scope": process_scope,
    "failing start": failing_start,
    "never started": never_started,
    "never closed": never_closed,
    "dropped generators": dropped_generators,
    "other threads": other_threads,
}


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Keep the temporary files of other programs out of the count."""
    with tempfile.TemporaryDirectory() as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def main() -> int:
    """Run the scenarios and print a table; return 1 if anything is left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="some of " + ", ".join(SCENARIOS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| scenario | cycles | threads | descriptors | processes | files | objects | bytes/cycle | RSS, KiB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    leaks = 0
    for name in arguments.scenarios.split(","):
        with own_temporary_folder(), SCENARIOS[name]() as cycle:
            left, growth = soak(cycle, arguments.cycles)
        things = [left.threads, left.descriptors, left.children, left.files, left.objects]
        cells = [name, arguments.cycles, *things, f"{growth:+.0f}", f"{left.resident_bytes / 1024:+.0f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        leaks += not left.is_nothing(arguments.cycles) or growth > MOST_BYTES_PER_CYCLE
    print(f"\n{leaks} of {len(arguments.scenarios.split(','))} scenarios leave something behind")
    return int(leaks > 0)


if __name__ == "__main__":
    sys.exit(main())
