"""What entering and leaving a window costs while a backend is slow, hangs or fails.

    python benchmarks/overhead/edges.py [--quick] [--output benchmarks/results/edges.txt]

Each case runs in a fresh process, the cases in an order drawn anew for each repeat. A window is entered, the
program computes for 1.5 ms, leaves it and computes again: each edge finds counters that may be read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK_SECONDS = 0.0015
# The sources are as they should be for so long before the trouble begins.
GOOD_SECONDS = 1.0
HANG_SECONDS = 30.0
SLOW_SECONDS = 0.05
DEAR_SECONDS = 38e-6
LIMIT_US = 50.0
COUNTERS = 4
THREADS = 8
CASES = {
    "bare": "nothing is entered: what the machine does to the loop",
    "apart": "four files, read by the sampler ten times a second and not at edges",
    "cheap": "four files, read at the edges as those of RAPL are",
    "dear": "the same; after 1 s each read takes 38 us more: late, but no reason to end them",
    "slow": "the same; after 1 s each read takes 50 ms",
    "now and then": "the same; after 1 s each 50th read takes 50 ms",
    "hangs": "the same; after 1 s one read takes 30 s",
    "errors": "the same; after 1 s each third read raises",
    "GPU lost": "cheap, beside a GPU that is lost and comes back, 0.5 s each",
    "8 threads": "cheap; windows of eight threads that sleep instead of computing",
    "8 slow": "slow; windows of eight threads that sleep instead of computing",
    "8 busy": "cheap; windows of eight threads that compute and take the interpreter from each other",
}


class Files:
    """Four counters, each in a file; what goes wrong with reads is decided by the case."""

    name = "files"

    def __init__(self, trouble: Callable[[int], None], *, cheap: bool) -> None:
        self._trouble, self._reads = trouble, 0
        self._period_seconds = 0.001 if cheap else 0.1
        self._begin = time.monotonic()
        self.program_waits: list[float] = []

    def open(self) -> Sequence[object]:
        from mlmeter.testing import fake_domain

        folder = tempfile.mkdtemp(dir="/dev/shm")
        self._files = []
        for number in range(COUNTERS):
            path = Path(folder, str(number))
            path.write_text("000000000000\n")
            self._files.append(os.open(path, os.O_RDONLY))
            path.unlink()
        Path(folder).rmdir()
        fields = {"source": self.name, "update_period_seconds": self._period_seconds}
        return [fake_domain(name=f"files-{number}", **fields) for number in range(COUNTERS)]

    def read(self) -> Sequence[object]:
        from mlmeter import Reading

        self._reads += 1
        if time.monotonic() - self._begin > GOOD_SECONDS:
            begin = time.monotonic()
            try:
                self._trouble(self._reads)
            finally:
                spent = time.monotonic() - begin
                if spent > SLOW_SECONDS / 2 and not threading.current_thread().name.startswith("mlmeter"):
                    self.program_waits.append(spent)
        readings = []
        for number, file in enumerate(self._files):
            begin_ns = time.perf_counter_ns()
            int(os.pread(file, 32, 0))
            readings.append(Reading(number, begin_ns // 1_000, begin_ns, time.perf_counter_ns()))
        return readings

    def close(self) -> None:
        for file in self._files:
            os.close(file)


def troubles() -> dict[str, Callable[[int], None]]:
    """Return what happens at read number n of each case, if anything."""
    hung: list[int] = []

    def hang(reads: int) -> None:
        if not hung:
            hung.append(reads)
            time.sleep(HANG_SECONDS)

    def fail(reads: int) -> None:
        if reads % 3 == 0:
            raise OSError("by schedule")

    def dear(reads: int) -> None:
        resume = time.perf_counter() + DEAR_SECONDS
        while time.perf_counter() < resume:
            pass

    def slow(reads: int) -> None:
        time.sleep(SLOW_SECONDS)

    def now_and_then(reads: int) -> None:
        if reads % 50 == 0:
            time.sleep(SLOW_SECONDS)

    return {
        "dear": dear,
        "slow": slow,
        "8 slow": slow,
        "now and then": now_and_then,
        "hangs": hang,
        "errors": fail,
    }


def good(reads: int) -> None:
    """Let a read be as it is."""


def compute() -> None:
    """Keep this thread busy for a while."""
    resume = time.perf_counter() + WORK_SECONDS
    while time.perf_counter() < resume:
        pass


def pause() -> None:
    """Keep this thread waiting for a while."""
    time.sleep(WORK_SECONDS)


def edges(window: Callable[[], object], number: int, work: Callable[[], None]) -> tuple[list[int], list[int]]:
    """Return the nanoseconds of each enter and of each exit."""
    enters, exits, now_ns = [], [], time.perf_counter_ns
    for _ in range(number):
        begin_ns = now_ns()
        entered = window().__enter__()  # type: ignore[attr-defined]
        end_ns = now_ns()
        work()
        left_ns = now_ns()
        entered.__exit__(None, None, None)
        exits.append(now_ns() - left_ns)
        enters.append(end_ns - begin_ns)
        work()
    return enters, exits


class Nothing:
    """A window that does nothing."""

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def lose_and_return(nvml: object, end: threading.Event) -> None:
    """Lose the GPU and give it back every half second."""
    import pynvml

    while not end.wait(0.5):
        nvml.fail("nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_GPU_IS_LOST)  # type: ignore[attr-defined]
        end.wait(0.5)
        nvml.clear_faults()  # type: ignore[attr-defined]


def measure(case: str, number: int) -> dict[str, object]:
    """Run one case in this process."""
    from mlmeter import EnergyMeter

    files = Files(troubles().get(case, good), cheap=case != "apart")
    backends: list[object] = [files]
    end = threading.Event()
    with ExitStack() as stack:
        if case == "GPU lost":
            from tests.backends.fake_nvml import FakeGpu, FakeNvml

            nvml = stack.enter_context(FakeNvml([FakeGpu(power_watts=300.0)]))
            threading.Thread(target=lose_and_return, args=(nvml, end), daemon=True).start()
            backends.append("nvml")
        window: Callable[[], object] = Nothing
        if case != "bare":
            meter = stack.enter_context(EnergyMeter("edges", backends=backends))  # type: ignore[arg-type]

            def window() -> object:
                return meter.window("edge")

        results = in_threads(case, window, number)
        end.set()
    enters = [value for found, _ in results for value in found]
    exits = [value for _, found in results for value in found]
    return {"enter": figures(enters), "exit": figures(exits), "waits": files.program_waits}


def in_threads(case: str, window: Callable[[], object], number: int) -> list[tuple[list[int], list[int]]]:
    """Enter and leave windows, on eight threads if the case says so."""
    if not case.startswith("8"):
        edges(window, 50, compute)
        return [edges(window, number, compute)]
    work = compute if case == "8 busy" else pause
    results: list[tuple[list[int], list[int]]] = []
    share = number // THREADS if case == "8 busy" else number // 2
    threads = [
        threading.Thread(target=lambda: results.append(edges(window, share, work))) for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def figures(spent_ns: list[int]) -> list[float]:
    """Return p50, p99, p99.9 and the longest, in microseconds."""
    ordered = sorted(spent_ns)
    ranks = [int(share * len(ordered)) for share in (0.5, 0.99, 0.999)]
    return [ordered[min(rank, len(ordered) - 1)] / 1e3 for rank in (*ranks, len(ordered))]


def table(results: dict[str, list[dict[str, list[float]]]]) -> str:
    """Return the table: medians over the repeats, of the longest the longest."""
    edge = f"{'p50':>10}{'p99':>8}{'p99.9':>9}{'longest':>12}"
    lines = [f"{'':<14}{'enter':>10}{'exit':>39}", f"{'case':<14}{edge}{edge}{'waits':>7}"]
    for case, found in results.items():
        cells = []
        for edge in ("enter", "exit"):
            columns = list(zip(*(item[edge] for item in found), strict=True))
            values = [*(statistics.median(column) for column in columns[:3]), max(columns[3])]
            cells += [f"{value:,.1f}" for value in values]
        waits = max(len(item["waits"]) for item in found)
        widths = (10, 8, 9, 12) * 2
        cut = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(f"{case:<14}{cut}{waits:>7}")
    return "\n".join(lines)


def report(results: dict[str, list[dict[str, list[float]]]], arguments: argparse.Namespace, seed: int) -> str:
    """Return the whole text."""
    worst = max(
        statistics.median(item[edge][1] for item in found)
        for case, found in results.items()
        for edge in ("enter", "exit")
        if case != "bare"
    )
    kept = "yes" if worst <= LIMIT_US else "NO"
    cases = "\n".join(f"  {name:<14}{text}" for name, text in CASES.items())
    return (
        f"Entering and leaving a window, microseconds. {arguments.machine}, {os.cpu_count()} logical CPUs, "
        f"Linux {platform.release()}, Python {platform.python_version()}.\n"
        f"{arguments.windows:,} windows a case, 1.5 ms of work in and after each; medians of "
        f"{arguments.repeats} fresh processes in random order (seed {seed});\n"
        "longest: of all of them. waits: most slow reads that the program's threads waited for in a process."
        "\n\n"
        f"{cases}\n\n{table(results)}\n\n"
        f"p99 of enter and of exit at most {LIMIT_US:.0f} us in every case: {kept} (worst {worst:.1f} us)\n"
    )


def main() -> None:
    """Measure all cases, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", help="measure this case only, print JSON")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--windows", type=int, default=4_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--machine", default=platform.machine(), help="name of the machine for the report")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.windows, arguments.repeats = 1_000, 1
    if arguments.one:
        sys.path.insert(0, str(ROOT))
        print(json.dumps(measure(arguments.one, arguments.windows)), flush=True)
        os._exit(0)
    seed = random.SystemRandom().randrange(100_000)
    order = random.Random(seed)
    results: dict[str, list[dict[str, list[float]]]] = {case: [] for case in CASES}
    for _ in range(arguments.repeats):
        for case in order.sample(list(CASES), len(CASES)):
            command = [sys.executable, __file__, "--one", case, "--windows", str(arguments.windows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[case].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{case}: {results[case][-1]}", file=sys.stderr, flush=True)
    text = report(results, arguments, seed)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
