"""The PMU ``power`` for tests: its folders, and a kernel that counts known watts."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mlmeter.backends.perf_rapl import PerfRaplBackend
from mlmeter.testing import FakeClock
from tests.backends.powercap_tree import INTEL_CPUINFO

PMU_TYPE = 23
# As in the kernel: numbers of the events, and its one scale.
CONFIGS = {"energy-cores": 1, "energy-pkg": 2, "energy-ram": 3, "energy-gpu": 4, "energy-psys": 5}
SCALE = "2.3283064365386962890625e-10"
JOULES_PER_COUNT = 2.0**-32
CLIENT_EVENTS = ("energy-cores", "energy-pkg", "energy-ram", "energy-gpu", "energy-psys")
SERVER_EVENTS = ("energy-pkg", "energy-ram")
AMD_EVENTS = ("energy-pkg",)


class Cpu(NamedTuple):
    """One CPU of the mask."""

    number: int
    package: int | str | None = 0
    die: int | str | None = 0


@dataclass(frozen=True, slots=True)
class PmuTree:
    """Folders on disk, as `PerfRaplBackend` wants them."""

    root: Path
    cpus: Path
    cpuinfo: Path
    paranoid: Path

    def backend(self, kernel: FakeKernel) -> PerfRaplBackend:
        return PerfRaplBackend(
            self.root,
            cpus=self.cpus,
            cpuinfo=self.cpuinfo,
            paranoid=self.paranoid,
            powercap=self.root.parent / "class/powercap",
            calls=kernel,
            now_ns=kernel.clock.now_ns,
        )


def build_pmu(
    directory: Path,
    cpus: Sequence[Cpu] = (Cpu(0),),
    events: Sequence[str] = CLIENT_EVENTS,
    *,
    cpuinfo: str = INTEL_CPUINFO,
    mask: str | None = None,
) -> PmuTree:
    """Write the folder of the PMU, and the topology of the CPUs of its mask."""
    tree = PmuTree(directory / "power", directory / "cpu", directory / "cpuinfo", directory / "paranoid")
    (tree.root / "events").mkdir(parents=True)
    tree.cpuinfo.parent.mkdir(exist_ok=True)
    tree.cpuinfo.write_text(cpuinfo)
    tree.paranoid.write_text("2\n")
    (tree.root / "type").write_text(f"{PMU_TYPE}\n")
    (tree.root / "cpumask").write_text((mask or ",".join(str(cpu.number) for cpu in cpus)) + "\n")
    for name in events:
        (tree.root / "events" / name).write_text(f"event=0x{CONFIGS.get(name, 9):02x}\n")
        (tree.root / "events" / f"{name}.scale").write_text(f"{SCALE}\n")
        (tree.root / "events" / f"{name}.unit").write_text("Joules\n")
    for cpu in cpus:
        topology = tree.cpus / f"cpu{cpu.number}" / "topology"
        topology.mkdir(parents=True)
        for file, value in (("physical_package_id", cpu.package), ("die_id", cpu.die)):
            if value is not None:
                (topology / file).write_text(f"{value}\n")
    return tree


@dataclass
class FakeKernel:
    """Counts the watts of each CPU's events from their opening on.

    Attributes:
        watts: by CPU and event; a number or a function of the time in seconds that gives joules.
        refused: error numbers of the opening, by event.
        alone: events that the kernel joins with no other one.
        broken: what each read raises; None for nothing.
        opened: descriptors that are open: CPU, event, leader and time of the opening.
        reads: number of reads.
    """

    clock: FakeClock
    watts: Mapping[tuple[int, str], float | Callable[[float], float]]
    refused: dict[str, int] = field(default_factory=dict)
    alone: tuple[str, ...] = ()
    broken: Exception | None = None
    opened: dict[int, tuple[int, str, int, int]] = field(default_factory=dict)
    reads: int = 0
    closed: int = 0

    def open(self, event_type: int, config: int, cpu: int, leader: int) -> int:
        assert event_type == PMU_TYPE
        (name,) = (name for name, number in CONFIGS.items() if number == config)
        if name in self.refused:
            raise OSError(self.refused[name], os.strerror(self.refused[name]))
        if leader >= 0 and (name in self.alone or self.opened[leader][0] != cpu):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        descriptor = 100 + len(self.opened) + self.closed
        self.opened[descriptor] = (cpu, name, leader, self.clock.now_ns())
        return descriptor

    def read(self, leader: int, events: int) -> tuple[int, ...]:
        self.reads += 1
        if self.broken is not None:
            raise self.broken
        group = [leader, *(fd for fd, facts in self.opened.items() if facts[2] == leader)]
        assert len(group) == events
        return tuple(self._count(descriptor) for descriptor in group)

    def close(self, descriptor: int) -> None:
        del self.opened[descriptor]
        self.closed += 1

    def _count(self, descriptor: int) -> int:
        cpu, name, _, start_ns = self.opened[descriptor]
        watts = self.watts.get((cpu, name), 0.0)
        now = self.clock.now_ns()
        if callable(watts):
            joules = watts(now * 1e-9) - watts(start_ns * 1e-9)
        else:
            joules = watts * (now - start_ns) * 1e-9
        # Steps of the hardware: 2**-14 J.
        return int(joules * 2**14) << 18
