"""Blocks of work and what they used: the part of this process, the whole machine, CPU time."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

from benchmarks.workloads.study import Variant
from mlmeter import EnergyMeter
from mlmeter.errors import EstimateWarning
from mlmeter.measurement import Domain, Provenance

# Predictions and trainings here run on the processor; other devices only idle beside them.
KIND = "cpu"


@dataclass(frozen=True, slots=True)
class Block:
    """What some repeats of one variant's work used.

    Attributes:
        joules: part of this process and its children; 0 where it is not known.
        machine_joules: all processors, whoever used them; 0 where it is not known.
        cpu_seconds: CPU time of this process and its children: a check, for it needs no formula.
        wall_seconds: from start to end.
        units, samples: as of the outcomes, all together.
        accuracy: mean of the repeats.
    """

    joules: float
    machine_joules: float
    cpu_seconds: float
    wall_seconds: float
    units: float
    samples: int
    accuracy: float | None


class Metering:
    """Two meters at once, which share one sampler."""

    def __init__(self, process: EnergyMeter, machine: EnergyMeter) -> None:
        self._process, self._machine = process, machine

    @property
    def estimated(self) -> bool:
        """Whether a processor's energy is a formula's."""
        return any(domain.provenance is Provenance.ESTIMATED for domain in self._domains())

    @property
    def sources(self) -> str:
        """Name of each metered domain of processors, with its source."""
        return ", ".join(f"{domain.name} ({domain.source})" for domain in self._domains())

    def _domains(self) -> list[Domain]:
        # What domains are is known from the start, what they have used is not.
        domains = (domain for domain, _ in self._machine.session.recording.domains)
        return [domain for domain in domains if domain.kind == KIND]

    def block(self, variant: Variant, seeds: range) -> Block:
        """Do the work once for each seed."""
        cpu, wall = cpu_seconds(), time.perf_counter()
        with self._process.window(variant.name) as own, self._machine.window(variant.name) as whole:
            outcomes = [variant.work(seed) for seed in seeds]
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        told = [one.accuracy for one in outcomes if one.accuracy is not None]
        return Block(
            joules=own.result(kind=KIND).energy_joules or 0.0,
            machine_joules=whole.result(kind=KIND).energy_joules or 0.0,
            cpu_seconds=cpu + sum(one.other_cpu_seconds for one in outcomes),
            wall_seconds=wall,
            units=sum(one.units for one in outcomes),
            samples=sum(one.samples for one in outcomes),
            accuracy=fmean(told) if told else None,
        )


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@contextmanager
def metering() -> Iterator[Metering]:
    """Meter until the end of the block."""
    with warnings.catch_warnings():
        # The report says it in its first lines.
        warnings.simplefilter("ignore", EstimateWarning)
        with EnergyMeter("workloads", scope="process") as process, EnergyMeter("workloads") as machine:
            yield Metering(process, machine)
