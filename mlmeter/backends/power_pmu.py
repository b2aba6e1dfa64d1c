"""What the folder of Linux' PMU called ``power`` says: which energies there are, and on which CPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlmeter.backends.powercap_zones import Zone, read_number, read_text

# What the kernel's events count, in the words of powercap.
WORDS = {
    "energy-pkg": "package",
    "energy-cores": "core",
    "energy-gpu": "uncore",
    "energy-ram": "dram",
    "energy-psys": "psys",
}
# Others are listed for AMD processors before Linux 5.17, and count nothing.
EVENTS_OF_AMD = ("energy-pkg",)

_MOST_CPUS = 1024  # of a mask: one for each die; more is no mask of packages
_LARGEST_CPU = 2**16
_MASK_BYTES = 4096
# The kernel counts in 2**-32 J, far below the hardware's 15 microjoules. Left at that, the
# sums would leave 63 bits after some weeks.
_FINEST_JOULES = 1e-6


class Event(NamedTuple):
    """One event of the PMU: its number, and the joules of one of the kernel's counts."""

    name: str
    config: int
    scale: float

    @property
    def dropped_bits(self) -> int:
        """Number of low bits of a count that mean less than a microjoule."""
        return max(0, math.floor(math.log2(_FINEST_JOULES / self.scale)))

    @property
    def joules_per_count(self) -> float:
        """Joules of a count without these bits."""
        return self.scale * 2.0**self.dropped_bits


class Place(NamedTuple):
    """One CPU of the mask, and the package and die for which it answers."""

    cpu: int
    package: int
    die: int | None


def listed_events(root: str, notes: list[str], *, is_amd: bool) -> list[Event]:
    """Return the events of the processor's energy; note those that are left out."""
    try:
        listed = [name for name in WORDS if Path(root, "events", name).exists()]
    except ValueError:
        listed = []
    wrong = [name for name in listed if is_amd and name not in EVENTS_OF_AMD]
    if wrong:
        notes.append(
            f"perf_rapl: {', '.join(wrong)}: not metered, AMD processors have energy-pkg only "
            "(Linux before 5.17 lists others by mistake)"
        )
    events: list[Event] = []
    for name in listed:
        if name not in wrong:
            event = _described(f"{root}/events/{name}", name)
            if event is None:
                notes.append(f"perf_rapl: {name} is not described as energy in joules and is not metered")
            else:
                events.append(event)
    return events


def _described(path: str, name: str) -> Event | None:
    """Read the description of one event; None if it is none of an energy in joules."""
    try:
        key, _, number = read_text(path).partition("=")
        config = int(number, 16)
        scale = float(read_text(f"{path}.scale"))
        unit = read_text(f"{path}.unit")
    except (OSError, ValueError):
        return None
    sensible = key == "event" and 0 <= config < 2**64 and 1e-30 < scale < 1e30
    return Event(name, config, scale) if sensible and unit == "Joules" else None


def places(root: str, cpus: str, notes: list[str], *, is_amd: bool) -> list[Place]:
    """Return the CPUs of the mask with their packages; dies are numbered where a package has several.

    On AMD every die shows the counter of its package, so that one of them is left.

    Args:
        root: folder of the PMU.
        cpus: folder of the CPUs.
        notes: takes what users must know.
        is_amd: whether the processor is one of AMD or Hygon.

    Raises:
        ValueError: the mask or the topology is no such thing; the text says what is wrong.
    """
    numbers = _cpus_of_mask(f"{root}/cpumask")
    found: list[Place] = []
    for cpu in numbers:
        topology = f"{cpus}/cpu{cpu}/topology"
        package = read_number(f"{topology}/physical_package_id")
        if package is None and len(numbers) > 1:
            raise ValueError(f"{topology} does not tell the package of CPU {cpu}")
        found.append(Place(cpu, package or 0, read_number(f"{topology}/die_id")))
    found.sort(key=lambda place: (place.package, place.die or 0, place.cpu))
    firsts = {place.package: place._replace(die=None) for place in reversed(found)}
    if len(firsts) == len(found) or is_amd:
        if len(firsts) < len(found):
            notes.append(
                f"perf_rapl: CPUs of {len(found)} dies are listed for {len(firsts)} packages; on AMD they "
                "show the counter of their package, which is metered once"
            )
        return [firsts[package] for package in sorted(firsts)]
    return _with_numbered_dies(found)


def _cpus_of_mask(path: str) -> list[int]:
    """Return the CPUs of a list such as ``0,18`` or ``0-1``, ascending."""
    cpus: set[int] = set()
    try:
        text = read_text(path, _MASK_BYTES)
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers = range(int(first), int(last if dash else first) + 1)
            if not 0 <= numbers.start < numbers.stop <= _LARGEST_CPU or len(numbers) > _MOST_CPUS:
                raise ValueError(part)
            cpus.update(numbers)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} does not tell on which CPUs to count") from error
    if len(cpus) > _MOST_CPUS:
        raise ValueError(f"{path} lists {len(cpus)} CPUs, more than there are dies")
    return sorted(cpus)


def _with_numbered_dies(found: Sequence[Place]) -> list[Place]:
    """Give each die of a package a number of its own, that of the kernel where it tells different ones."""
    result: list[Place] = []
    for place in found:
        before = [other.die for other in result if other.package == place.package]
        told = place.die is not None and place.die not in before
        free = next(number for number in range(len(before) + 1) if number not in before)
        result.append(place._replace(die=place.die if told else free))
    return result


def zones(place: Place, events: Sequence[Event], *, first: Place) -> list[tuple[Zone, Event]]:
    """Return what the events of a CPU count, in the words of powercap.

    Args:
        place: the CPU.
        events: of the PMU.
        first: the first CPU of all, whose platform is called ``psys`` without a number.
    """
    pairs: list[tuple[Zone, Event]] = []
    for event in events:
        word, package, die = WORDS[event.name], place.package, place.die
        if word != "psys":
            pairs.append((Zone(event.name, "", word, package, die), event))
        elif place == first:
            pairs.append((Zone(event.name, "", word, None, None), event))
        elif package != first.package and not die:
            pairs.append((Zone(event.name, "", word, package, None), event))
    return pairs
