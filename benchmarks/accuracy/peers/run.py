"""mlmeter and its peers on the same live counters of known energy, windows of 3 ms to 1 s.

    python benchmarks/accuracy/peers/run.py [--quick] [--output benchmarks/results/peers.md]

Every tool gets a virtual environment of its own and runs in fresh processes, in random order. All
see the same made-up counters, which follow a load drawn beforehand: a powercap zone that a process
refreshes every millisecond, in a mount namespace of this run (Linux, `unshare`), or an NVIDIA GPU
whose counter is refreshed every 20 or 100 ms, beneath the real pynvml.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compare import Run
from load import Beginning, draw, now_ns
from report import report

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INSIDE = "MLMETER_BENCHMARK_INSIDE"
TIMEOUT_SECONDS = 240
QUICK_SHARE = 1 / 3
COUNTER = Path("/sys/class/powercap/intel-rapl/intel-rapl:0/energy_uj")
POWERCAP_PERIOD_NS = 1_000_000
# While a GPU is metered, the zone is only kept alive: some tools read it as well.
POWERCAP_IDLE_PERIOD_NS = 10_000_000
# First the distribution whose version is told.
PACKAGES = {
    "mlmeter": [str(ROOT)],
    "zeus": ["zeus"],
    "zeus_instant": ["zeus"],
    "codecarbon": ["codecarbon"],
    "pyjoules": ["pyJoules", "nvidia-ml-py"],
    "pyrapl": ["pyRAPL"],
    "perun": ["perun", "nvidia-ml-py"],
}
NOT_OFFERED = {
    ("pyrapl", "gpu"): "reads CPU counters only",
    ("zeus_instant", "cpu"): "an option for GPUs only",
}


@dataclass(frozen=True)
class Mode:
    """Which counter is metered, and for how many seconds windows of each length go on."""

    name: str
    kind: str
    title: str
    blocks: tuple[tuple[int, float], ...]
    gpu: dict[str, Any] | None = None


def _gpu(name: str, architecture: int, period: float, jitter: float, averaging: float) -> dict[str, Any]:
    return {
        "name": name,
        "architecture": architecture,
        "period_seconds": period,
        "jitter_seconds": jitter,
        "averaging_seconds": averaging,
    }


_GPU_BLOCKS = ((3, 8.0), (10, 8.0), (30, 8.0), (100, 8.0), (1000, 10.0))
MODES = (
    Mode(
        "gpu100",
        "gpu",
        "GPU counter, refreshed every 100 ms (jitter 1 ms), as of an A100",
        _GPU_BLOCKS,
        _gpu("NVIDIA A100-SXM4-80GB", 7, 0.1, 1e-3, 0.025),
    ),
    Mode(
        "gpu20",
        "gpu",
        "GPU counter, refreshed every 20 ms (jitter 0.5 ms), as of a V100",
        _GPU_BLOCKS,
        _gpu("Tesla V100-SXM2-32GB", 5, 0.02, 0.5e-3, 0.01),
    ),
    Mode(
        "cpu",
        "cpu",
        "CPU package counter (RAPL through powercap), refreshed every 1 ms",
        ((3, 4.0), (10, 4.0), (30, 4.0), (100, 4.0), (1000, 10.0)),
    ),
)


def enter_namespace() -> None:
    """Run this script again where /sys/class can be covered without touching the machine's."""
    os.environ[INSIDE] = "1"
    flags = "-m" if os.geteuid() == 0 else "-rm"
    os.execvp("unshare", ["unshare", flags, sys.executable, *sys.argv])


def make_tree() -> None:
    """Mount a powercap tree of one package; its counter stands still until a run starts."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/class"], check=True)
    zone, top = COUNTER.parent, COUNTER.parents[2]
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    COUNTER.write_text(f"{0:016d}\n")
    (top / zone.name).symlink_to(zone)
    (zone / "subsystem").symlink_to(top)
    (zone.parent / "subsystem").symlink_to(top)


def prepare(tool: str, folder: Path) -> tuple[Path, str]:
    """Make the tool's environment unless it is there; return its interpreter and the tool's version."""
    packages = PACKAGES[tool]
    # Tools that are one package share an environment.
    name = next(other for other in PACKAGES if PACKAGES[other] == packages)
    python = environment(folder / name, packages)
    distribution = "mlmeter" if tool == "mlmeter" else packages[0]
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return python, done.stdout.strip()


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the interpreter of a virtual environment with these packages."""
    python = folder / "bin" / "python"
    if not python.exists():
        note(f"installing {folder.name}")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, *packages], check=True)
    return python


def run_once(tool: str, python: Path, mode: Mode, blocks: list[tuple[int, float]], seed: int) -> Run:
    """Drive a tool through the load of a seed in a fresh process."""
    load = draw(blocks, seed)
    folder = Path(tempfile.mkdtemp(prefix="mlmeter-peers-"))
    try:
        load.save(folder / "load.json")
        Beginning(folder / "beginning")
        epoch_ns = now_ns()
        period_ns = POWERCAP_PERIOD_NS if mode.kind == "cpu" else POWERCAP_IDLE_PERIOD_NS
        command = [sys.executable, str(HERE / "powercap.py"), str(folder), str(epoch_ns), str(period_ns)]
        with subprocess.Popen(
            [*command, str(COUNTER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as counter:
            assert counter.stdout is not None
            counter.stdout.readline()
            failure = _drive(tool, python, mode, folder, epoch_ns, seed)
            updates, _ = counter.communicate()
        path = folder / "result.json"
        result = json.loads(path.read_text()) if failure is None and path.exists() else None
        if result is None and failure is None:
            failure = "wrote no result"
        return Run(tool, mode.name, seed, failure, result, json.loads(updates))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drive(tool: str, python: Path, mode: Mode, folder: Path, epoch_ns: int, seed: int) -> str | None:
    """Run the tool's process to its end; return why it failed."""
    variables = dict(os.environ)
    if mode.gpu is not None:
        settings = {**mode.gpu, "folder": str(folder), "epoch_ns": epoch_ns, "seed": seed}
        variables["MLMETER_BENCHMARK_GPU"] = json.dumps(settings)
        variables["PYTHONPATH"] = str(HERE / "site")
        # CodeCarbon looks for a GPU only where this program runs without error; it is not asked anything.
        program = folder / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
        variables["PATH"] = f"{program.parent}{os.pathsep}{variables['PATH']}"
    command = [str(python), str(HERE / "drive.py"), tool, mode.kind, str(folder)]
    # A file, not a pipe: a worker that a tool leaves behind would hold a pipe open.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )
        timed_out = False
        try:
            process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            timed_out = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        if timed_out:
            return f"had not ended after {TIMEOUT_SECONDS} s"
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    return None if code == 0 else (lines or [f"exit status {code}"])[-1][:150]


def plot(output: Path, venvs: Path) -> None:
    """Draw the figures beside `output`."""
    venvs.mkdir(parents=True, exist_ok=True)
    python = environment(venvs / "plot", ["matplotlib"])
    files = [str(output.with_suffix(suffix)) for suffix in (".json", ".png")]
    subprocess.run([str(python), str(HERE / "plot.py"), *files], check=True)


def note(text: str) -> None:
    """Tell the progress: in one line on a terminal, else line by line."""
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repeat, a third of the windows")
    parser.add_argument("--repeats", type=int, default=2, help="fresh processes of each tool and counter")
    parser.add_argument("--seed", type=int, help="of the first load; drawn if not given")
    parser.add_argument("--tools", default=",".join(PACKAGES))
    parser.add_argument("--modes", default=",".join(mode.name for mode in MODES))
    parser.add_argument("--venvs", type=Path, default=ROOT / "build" / "peers-venvs")
    parser.add_argument(
        "--runs", type=Path, help="tables of earlier runs (build/peers-runs.json); meter nothing"
    )
    parser.add_argument(
        "--output", type=Path, help="Markdown file; figures (JSON) and plot (PNG) go beside it"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1_000_000)
    return arguments


def main() -> None:
    """Run every tool on every counter, or take up earlier runs, and print the tables."""
    arguments = parse()
    if arguments.runs is not None:
        saved = json.loads(arguments.runs.read_text())
        facts, runs = saved["facts"], [Run(**run) for run in saved["runs"]]
    else:
        if INSIDE not in os.environ:
            enter_namespace()
        facts, runs = measure(arguments)
    text, figures = report(runs, facts)
    print(text)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
        arguments.output.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
        plot(arguments.output, arguments.venvs.resolve())


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Run]]:
    """Run every tool on every counter; return the facts of the run, and what the tools reported."""
    arguments.venvs.mkdir(parents=True, exist_ok=True)
    tools = arguments.tools.split(",")
    prepared = {tool: prepare(tool, arguments.venvs.resolve()) for tool in tools}
    modes = [mode for mode in MODES if mode.name in arguments.modes.split(",")]
    share = QUICK_SHARE if arguments.quick else 1.0
    facts = {
        "machine": machine(),
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "versions": {tool: version for tool, (_, version) in prepared.items()},
        "modes": {mode.name: {**asdict(mode), "seconds_share": share} for mode in modes},
        "not_offered": [[*key, reason] for key, reason in NOT_OFFERED.items() if key[0] in tools],
    }
    make_tree()
    runs: list[Run] = []
    begin, plan = time.monotonic(), planned(tools, modes, arguments)
    for done, (tool, mode, seed) in enumerate(plan):
        minutes = (time.monotonic() - begin) / 60
        left = f", about {minutes / done * (len(plan) - done):.0f} min left" if done else ""
        note(f"{done + 1}/{len(plan)} {mode.name} {tool}{left}")
        blocks = [(milliseconds, seconds * share) for milliseconds, seconds in mode.blocks]
        runs.append(run_once(tool, prepared[tool][0], mode, blocks, seed))
        if runs[-1].failure:
            note(f"{tool}, {mode.name}: {runs[-1].failure}\n")
    note(f"{(time.monotonic() - begin) / 60:.0f} min\n")
    saved = {"facts": facts, "runs": [asdict(run) for run in runs]}
    (arguments.venvs.parent / "peers-runs.json").write_text(json.dumps(saved))
    return facts, runs


def planned(
    tools: Sequence[str], modes: Sequence[Mode], arguments: argparse.Namespace
) -> list[tuple[str, Mode, int]]:
    """Return every tool, counter and seed, in an order drawn anew for each repeat."""
    order = random.Random(arguments.seed)
    plan = []
    for repeat in range(arguments.repeats):
        jobs = [(tool, mode, arguments.seed + repeat) for mode in modes for tool in tools]
        plan += order.sample(jobs, len(jobs))
    return [job for job in plan if (job[0], job[1].kind) not in NOT_OFFERED]


def machine() -> str:
    """Return the machine in words."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in facts if "model name" in line), "unknown CPU")
    return (
        f"{cpu}, {os.cpu_count()} logical CPUs, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
