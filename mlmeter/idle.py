"""Measuring idle power: `mlmeter baseline`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlmeter.baseline import Baseline, Machine, StoredIdlePower
from mlmeter.energy.baseline import idle_power
from mlmeter.measurement import Domain, Provenance
from mlmeter.meter import EnergyMeter
from mlmeter.session import Session

PIECES = 12
LOOK_SECONDS = 1.0
# Of all CPUs together, and of one GPU: a desktop's clock and indicators use less.
BUSY_CPU_RATIO, BUSY_GPU_RATIO = 0.10, 0.05
# Power of an idle machine that varies by more from piece to piece is not idle power.
UNSTEADY_RATIO = 0.25
LEAST_COVERAGE = 0.9
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits")
SMI_TIMEOUT_SECONDS = 5.0

Progress = Callable[[Iterable[int], str], AbstractContextManager[Iterable[int]]]
Wait = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Load:
    """Readers of what the machine is doing; files are looked for below `root`."""

    root: Path = Path("/")
    run: Callable[[tuple[str, ...]], str | None] = field(default_factory=lambda: _output)

    def cpu_times(self) -> tuple[float, float] | None:
        """Return busy and all ticks of all CPUs since the start; None where the system does not tell."""
        try:
            words = (self.root / "proc/stat").read_text(encoding="ascii", errors="replace").split(None, 11)
            ticks = [float(word) for word in words[1:9]]
        except (OSError, ValueError):
            return None
        # user nice system idle iowait irq softirq steal: proc_stat(5)
        return (sum(ticks) - sum(ticks[3:5]), sum(ticks)) if len(ticks) == 8 else None

    def gpus(self) -> dict[str, float]:
        """Return how busy each GPU is that tells, 0 to 1."""
        found = {}
        for line in (self.run(NVIDIA_SMI) or "").splitlines():
            index, _, percent = line.partition(",")
            if percent.strip().isdigit():
                found[f"gpu-{index.strip()}"] = int(percent) / 100
        for path in sorted((self.root / "sys/class/drm").glob("card*/device/gpu_busy_percent")):
            try:
                found[path.parent.parent.name] = int(path.read_text(encoding="ascii")) / 100
            except (OSError, ValueError):
                continue
        return found


def busy_remarks(load: Load, before: tuple[float, float] | None) -> list[str]:
    """Say what is not idle: CPUs since `before`, GPUs now."""
    remarks = []
    now = load.cpu_times()
    if before is not None and now is not None and now[1] > before[1]:
        ratio = (now[0] - before[0]) / (now[1] - before[1])
        if ratio > BUSY_CPU_RATIO:
            remarks.append(f"the CPUs were {100 * ratio:.0f} % busy")
    for name, ratio in load.gpus().items():
        if ratio > BUSY_GPU_RATIO:
            remarks.append(f"{name} was {100 * ratio:.0f} % busy")
    return remarks


def look(load: Load, wait: Wait) -> list[str]:
    """Watch the machine for a second and say what is not idle."""
    before = load.cpu_times()
    wait(LOOK_SECONDS)
    return busy_remarks(load, before)


def measure(
    meter: EnergyMeter, seconds: float, *, load: Load, wait: Wait, progress: Progress, machine: Machine
) -> Baseline:
    """Meter an idle machine and return its idle powers.

    Args:
        meter: not started; its domains are measured.
        seconds: how long.
        load: tells whether the machine was idle; it does not stop the measurement.
        wait: lets time pass without using the CPU.
        progress: shows how far it is.
        machine: whose baseline it becomes.
    """
    before = load.cpu_times()
    with meter:
        with progress(range(PIECES), "idle") as pieces:
            for _ in pieces:
                wait(seconds / PIECES)
    remarks = busy_remarks(load, before)
    session = meter.session
    domains: dict[str, StoredIdlePower] = {}
    for domain, _ in session.recording.domains:
        stored = _stored(session, domain, remarks)
        if stored is not None:
            domains[domain.id] = stored
    start = session.recording.run.start_wall_ns / 1e9
    return Baseline(
        machine=machine,
        measured_at=datetime.fromtimestamp(start, UTC).replace(microsecond=0),
        seconds=round(session.duration_seconds, 3),
        domains=domains,
        remarks=tuple(remarks),
    )


def _stored(session: Session, domain: Domain, remarks: list[str]) -> StoredIdlePower | None:
    """Return the idle power of one domain; None if it could not be read throughout."""
    import numpy as np

    resolution = session.recording.resolution
    timeline = resolution.timelines[domain.name]
    columns: Any = next((c for name, _, c in resolution.by_domain("total") if name == domain.name), None)
    if timeline is None or columns is None or not columns["coverage_ratio"][0] >= LEAST_COVERAGE:
        return None
    duration = session.duration_seconds
    joules = timeline.energy_at(np.linspace(0.0, duration, PIECES + 1))
    # An estimate's factor is in the energies that this is taken off already.
    estimated = domain.provenance is Provenance.ESTIMATED
    width = 0.0 if estimated else float(columns["high_joules"][0] - columns["low_joules"][0])
    power = idle_power(joules, duration / PIECES, interval_joules=width)
    if power.scatter_watts > UNSTEADY_RATIO * power.watts:
        remarks.append(
            f"{domain.name} was not steady: {power.watts:.3g} W, scatter {power.scatter_watts:.3g} W"
        )
    return StoredIdlePower(
        name=domain.name, source=domain.source, provenance=str(domain.provenance), power=power
    )


def _output(command: tuple[str, ...]) -> str | None:
    """Return what a program prints; None if it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SMI_TIMEOUT_SECONDS, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
