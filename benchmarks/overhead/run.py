"""What metering costs: mlmeter and its peers, side by side in one run.

    python benchmarks/overhead/run.py [--quick] [--output benchmarks/results/overhead.md]

Every tool gets a virtual environment of its own and sees the same made-up powercap tree of four
zones at /sys/class/powercap, in a mount namespace of this run (Linux, `unshare`). There is no
GPU. The tools take turns, in an order drawn anew for each repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INSIDE = "MLMETER_BENCHMARK_INSIDE"
TIMEOUT_SECONDS = 300
ZONES = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0/intel-rapl:0:0": "core",
    "intel-rapl:0/intel-rapl:0:1": "uncore",
    "intel-rapl:0/intel-rapl:0:2": "dram",
}
PACKAGES = {
    "bare": [],
    "reads": [],
    "mlmeter": [str(ROOT)],
    "mlmeter_gpu": [str(ROOT)],
    "codecarbon": ["codecarbon"],
    "zeus": ["zeus"],
    "pyrapl": ["pyRAPL"],
    "pyjoules": ["pyJoules"],
    "perun": ["perun"],
}
# What is measured of a tool if not everything.
ONLY = {"mlmeter_gpu": ("idle",), "reads": ("windows", "apart")}
# Slow peers get fewer windows for the growth of memory; the table says how many.
GROWTH_WINDOWS = {"mlmeter": 1_000_000, "bare": 1_000_000}
OTHER_GROWTH_WINDOWS = 5_000
APART_WINDOWS = 1_000


@dataclass
class Tool:
    """One tool: its interpreter, its version and what was measured."""

    name: str
    python: Path
    version: str = ""
    results: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def enter_namespace() -> None:
    """Run this script again where /sys/class can be covered without touching the machine's."""
    os.environ[INSIDE] = "1"
    flags = "-m" if os.geteuid() == 0 else "-rm"
    os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])


def make_tree() -> subprocess.Popen[bytes]:
    """Mount the tree and start the process that advances its counters by 50 W."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/class"], check=True)
    root = Path("/sys/class/powercap/intel-rapl")
    files = []
    for folder, name in ZONES.items():
        zone = root / folder
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        (zone / "energy_uj").write_text(f"{0:015d}\n")
        files.append(str(zone / "energy_uj"))
        for at, to in ((root.parent / zone.name, zone), (zone / "subsystem", root.parent)):
            if not at.exists():
                at.symlink_to(to)
    (root / "subsystem").symlink_to(root.parent)
    code = (
        "import os, sys, time\n"
        "files = [os.open(name, os.O_WRONLY) for name in sys.argv[1:]]\n"
        "begin = time.monotonic()\n"
        "while True:\n"
        "    text = b'%015d\\n' % int((time.monotonic() - begin) * 5e7)\n"
        "    for file in files: os.pwrite(file, text, 0)\n"
        "    time.sleep(0.01)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, *files])


def prepare(name: str, folder: Path) -> Tool:
    """Make the tool's environment unless it is there."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        note(f"installing {name}")
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    if PACKAGES[name]:
        subprocess.run([*pip, *PACKAGES[name]], check=True)
    tool = Tool(name, python)
    distribution = "mlmeter" if name.startswith("mlmeter") else (PACKAGES[name] or ["pip"])[0]
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    tool.version = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not PACKAGES[name]:
        tool.version = platform.python_version()
    return tool


def measure(tool: Tool, mode: str, number: int) -> None:
    """Run one measurement in a fresh process and keep its result or the reason for none."""
    if mode in tool.failures or mode not in ONLY.get(tool.name, (mode,)):
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as output:
        command = [str(tool.python), str(HERE / "measure.py"), tool.name, mode, output, str(number)]
        done = run_to_its_end(command, output)
    lines = [line for line in done.output.splitlines() if line.startswith("RESULT ")]
    if done.timed_out:
        tool.failures[mode] = f"had not ended after {TIMEOUT_SECONDS} s"
    elif not lines:
        tool.failures[mode] = (done.errors.strip().splitlines() or ["no output"])[-1][:150]
    else:
        result = json.loads(lines[-1].removeprefix("RESULT "))
        if mode == "session":
            result = {"wall_seconds": done.wall_seconds, "cpu_seconds": done.cpu_seconds}
        tool.results.setdefault(mode, []).append(result)


@dataclass(frozen=True)
class Done:
    """What a process wrote and used."""

    output: str
    errors: str
    wall_seconds: float
    cpu_seconds: float
    timed_out: bool


def run_to_its_end(command: list[str], folder: str) -> Done:
    """Run a process in a group of its own, of which nothing is left over afterwards."""
    # Files, not pipes: a worker that a tool leaves behind would hold a pipe open.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=folder, start_new_session=True)
        timed_out = False
        try:
            process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            timed_out = True
        wall_seconds = time.perf_counter() - begin
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        for file in (output, errors):
            file.seek(0)
        return Done(output.read(), errors.read(), wall_seconds, cpu_seconds, timed_out)


def median(tool: Tool, mode: str, name: str) -> float | None:
    """Median of a figure over the repeats; None if it could not be measured."""
    values = [result[name] for result in tool.results.get(mode, [])]
    return statistics.median(values) if values else None


def text_of(value: float | None, factor: float, digits: int) -> str:
    """Return a cell; a dash for what could not be measured."""
    return "-" if value is None else f"{value * factor:,.{digits}f}"


def tables(tools: list[Tool]) -> str:
    """Return the two tables, each at most 80 columns wide."""
    first = [
        "| tool | version | import wall, ms | CPU, ms | session wall, ms | CPU, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    second = [
        "| tool | window us | p99 us | apart us | idle CPU % | RSS MiB | bytes/window |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for tool in tools:
        times = [
            text_of(median(tool, mode, name), 1e3, 1)
            for mode in ("import", "session")
            for name in ("wall_seconds", "cpu_seconds")
        ]
        first.append(f"| {' | '.join([tool.name, tool.version, *times])} |")
        figures = [
            text_of(median(tool, "windows", "median_us"), 1, 2),
            text_of(median(tool, "windows", "p99_us"), 1, 1),
            text_of(median(tool, "apart", "median_us"), 1, 1),
            text_of(median(tool, "idle", "cpu_ratio"), 100, 2),
            text_of(median(tool, "memory", "resident_bytes"), 2**-20, 0),
            text_of(median(tool, "memory", "bytes_per_window"), 1, 0),
        ]
        second.append(f"| {' | '.join([tool.name, *figures])} |")
    return "\n".join([*first, "", *second])


def report(tools: list[Tool], arguments: argparse.Namespace, seed: int) -> str:
    """Return the whole result as Markdown."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in facts if "model name" in line), "unknown CPU")
    machine = (
        f"{cpu}, {os.cpu_count()} logical CPUs, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}; made-up powercap tree of four zones, no GPU (mlmeter_gpu: a fake "
        f"NVML library). Medians of {arguments.repeats} fresh processes, the tools in turn in random "
        f"order (seed {seed}); windows of {min(3, arguments.repeats)}, idle and memory of one."
    )
    columns = [
        "* bare: the interpreter alone; reads: plain reads of the four counters beside a thread at 10 Hz.",
        "* import: wall and CPU time of importing the package.",
        "* session: a whole process, interpreter included, that starts and stops once and writes a CSV file.",
        f"* window, p99: enter and exit of an empty window, {arguments.windows:,} at once.",
        f"* apart: the same, {APART_WINDOWS:,} windows 1.5 ms of work apart: each reads the counters.",
        f"* idle CPU: share of one core over {arguments.idle_seconds} s, helper processes included.",
        "* RSS: resident memory of a started session, helper processes included.",
        f"* bytes/window: its growth by 1,000,000 windows, {OTHER_GROWTH_WINDOWS:,} for the peers.",
    ]
    failures = [
        f"* {tool.name}, {mode}: {reason}" for tool in tools for mode, reason in sorted(tool.failures.items())
    ]
    return "\n".join(
        [
            "# Overhead, side by side",
            "",
            machine,
            "",
            *columns,
            "",
            tables(tools),
            "",
            *(["Not measured:", "", *failures] if failures else []),
            "",
        ]
    )


def note(text: str) -> None:
    """Tell the progress: in one line on a terminal, else line by line."""
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 repeats, 3 s idle")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=int, default=30)
    parser.add_argument("--tools", default=",".join(PACKAGES))
    parser.add_argument("--venvs", type=Path, default=ROOT / "build" / "benchmark-venvs")
    parser.add_argument("--output", type=Path, help="Markdown file; the raw figures go beside it as JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.idle_seconds = 2, 3
    return arguments


def main() -> None:
    """Measure every tool in turn and print the tables."""
    arguments = parse()
    if INSIDE not in os.environ:
        enter_namespace()
    arguments.venvs.mkdir(parents=True, exist_ok=True)
    tools = [prepare(name, arguments.venvs.resolve()) for name in arguments.tools.split(",")]
    seed = random.SystemRandom().randrange(1_000_000)
    order = random.Random(seed)
    counters = make_tree()
    try:
        plan = [(mode, 0) for _ in range(arguments.repeats) for mode in ("import", "session")]
        plan += [("windows", arguments.windows), ("apart", APART_WINDOWS)] * min(3, arguments.repeats)
        plan += [("idle", arguments.idle_seconds), ("memory", -1)]
        for done, (mode, number) in enumerate(plan):
            for tool in order.sample(tools, len(tools)):
                note(f"{done + 1}/{len(plan)} {mode} {tool.name}")
                growth = GROWTH_WINDOWS.get(tool.name, OTHER_GROWTH_WINDOWS)
                measure(tool, mode, growth if number < 0 else number)
    finally:
        counters.kill()
    note("")
    text = report(tools, arguments, seed)
    print(text)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        raw = {tool.name: {"version": tool.version, **tool.results} for tool in tools}
        arguments.output.with_suffix(".json").write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
