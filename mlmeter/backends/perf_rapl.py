"""Intel and AMD processors through RAPL, as Linux' perf events show it.

The registers are those that `rapl` reads through powercap. The kernel adds up their steps in 64
bits, so that no wrap is seen, and other rights are needed: this is the way to RAPL where
powercap is missing or not readable, and a check of it where both are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mlmeter.backends.perf_events import PerfEvents
from mlmeter.backends.power_pmu import Event, Place, listed_events, places, zones
from mlmeter.backends.powercap_zones import DEFAULT_ROOT as DEFAULT_POWERCAP
from mlmeter.backends.powercap_zones import (
    ESTIMATE,
    KINDS,
    UPDATE_PERIOD_SECONDS,
    Zone,
    identify,
    rapl_domain,
    read_number,
    wrong_dram_unit,
    zone_folders,
)
from mlmeter.backends.processor import AMD_VENDORS, DEFAULT_CPUINFO, vendor_and_model
from mlmeter.backends.sensor_files import words
from mlmeter.backends.still_counters import (
    DEFAULT_DMI,
    LOOK_SECONDS,
    SLOW_PERIOD_SECONDS,
    Wait,
    is_refreshed_slowly,
    standing,
    standing_still,
    with_parts,
)
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Reading, Unavailable

DEFAULT_ROOT = "/sys/bus/event_source/devices/power"
DEFAULT_CPUS = "/sys/devices/system/cpu"
DEFAULT_PARANOID = "/proc/sys/kernel/perf_event_paranoid"

_NO_LEADER = -1
_REFUSED = (errno.EACCES, errno.EPERM)
_GONE = (errno.ENODEV, errno.ENXIO)
# The kernel looks for wraps often enough for 200 W per package; a processor of 500 W whose
# counter has 65.5 kJ needs more: a quarter of its wrap at 2000 W.
_LONGEST_PERIOD_SECONDS = 65_536 / 2_000 / 4

_FOLDER_REMEDY = (
    f"On real hardware load the driver (modprobe rapl); most virtual machines have no counters; or {ESTIMATE}"
)
PERMISSION_REMEDY = (
    "Give the program CAP_PERFMON (Linux 5.8; before, CAP_SYS_ADMIN) or, as root, set sysctl "
    "kernel.perf_event_paranoid=0, which opens more than energy; a container's seccomp profile must allow "
    f"perf_event_open, too (docs: how-to/read-rapl-without-root); or {ESTIMATE}"
)


class Calls(Protocol):
    """What is needed of perf events: see `mlmeter.backends.perf_events.PerfEvents`."""

    def open(self, event_type: int, config: int, cpu: int, leader: int) -> int:
        """Open an event and return its descriptor."""

    def read(self, leader: int, events: int) -> tuple[int, ...]:
        """Read the counts of a group."""

    def close(self, descriptor: int) -> None:
        """Close an event."""


class _Group:
    """Events of one CPU that one call reads; closed when the last reference goes.

    A thread in the middle of a read then never sees its descriptors closed.
    """

    def __init__(self, calls: Calls, event_type: int, cpu: int) -> None:
        self._calls = calls
        self._event_type = event_type
        self._cpu = cpu
        self._descriptors: list[int] = []
        self.members: list[tuple[Zone, Event]] = []
        self.first_position = 0
        self.failed = False

    def add(self, zone: Zone, event: Event) -> None:
        """Open one more event; raise OSError."""
        leader = self._descriptors[0] if self._descriptors else _NO_LEADER
        self._descriptors.append(self._calls.open(self._event_type, event.config, self._cpu, leader))
        self.members.append((zone, event))

    def reopened(self) -> _Group:
        """Return a group of the same events, opened anew; they begin at 0."""
        fresh = _Group(self._calls, self._event_type, self._cpu)
        for zone, event in self.members:
            fresh.add(zone, event)
        fresh.first_position = self.first_position
        return fresh

    def read(self, now_ns: Callable[[], int]) -> list[Reading]:
        """Read all counts; raise OSError or ValueError."""
        begin_ns = now_ns()
        counts = self._calls.read(self._descriptors[0], len(self._descriptors))
        end_ns = now_ns()
        return [
            Reading(self.first_position + index, count >> event.dropped_bits, begin_ns, end_ns)
            for index, ((_, event), count) in enumerate(zip(self.members, counts, strict=True))
        ]

    def failures(self, reason: str, at_ns: int, *, lost: bool) -> list[Failure]:
        """Return a failure for each of its domains."""
        return [
            Failure(self.first_position + index, reason, lost, at_ns) for index in range(len(self.members))
        ]

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            self._calls.close(descriptor)


class PerfRaplBackend:
    """Reads the energy counters of processors through the PMU called ``power``.

    Domains have the names and ids that `mlmeter.backends.rapl.RaplBackend` gives them, so that
    the same counter is never added twice. There is one event per domain, on the CPU of the package (or
    die) that the kernel names; those of one CPU are read by one call.

    On AMD only the package is metered, once: other events are listed wrongly by Linux before 5.17,
    and dies show the counter of their package.

    Args:
        root: folder of the PMU with `type`, `cpumask` and `events`.
        cpus: folder of the CPUs, for their packages and dies.
        cpuinfo: where the processor's vendor and model are read.
        paranoid: file that says whom the kernel lets count; only told, not obeyed.
        powercap: the powercap folder, whose ranges tell of a kernel that counts DRAM wrongly.
        dmi: folder of the machine's names, which tell the hypervisor.
        calls: the system calls.
        now_ns: monotonic clock for the time stamps of the readings.
        wait: lets so many seconds pass while `open` looks whether counters move.

    Attributes:
        look_seconds: how long `open` waits for a counter to move, at most; 0 for no look.
        unreadable: events that are listed but cannot be opened, and why.
        notes: texts that users of the figures must know.
        longest_period_seconds: the kernel may miss a wrap where nobody reads for longer.
    """

    name = "perf_rapl"
    look_seconds = LOOK_SECONDS
    longest_period_seconds = _LONGEST_PERIOD_SECONDS

    def __init__(
        self,
        root: str | os.PathLike[str] = DEFAULT_ROOT,
        *,
        cpus: str | os.PathLike[str] = DEFAULT_CPUS,
        cpuinfo: str | os.PathLike[str] = DEFAULT_CPUINFO,
        paranoid: str | os.PathLike[str] = DEFAULT_PARANOID,
        powercap: str | os.PathLike[str] = DEFAULT_POWERCAP,
        dmi: str | os.PathLike[str] = DEFAULT_DMI,
        calls: Calls | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        wait: Wait = time.sleep,
    ) -> None:
        self._root = os.fspath(root)
        self._cpus = os.fspath(cpus)
        self._cpuinfo = os.fspath(cpuinfo)
        self._paranoid = os.fspath(paranoid)
        self._powercap = os.fspath(powercap)
        self._calls: Calls = PerfEvents() if calls is None else calls
        self._dmi = os.fspath(dmi)
        self._now_ns = now_ns
        self._wait = wait
        self._groups: list[_Group] = []
        self.unreadable: tuple[Unavailable, ...] = ()
        self.notes: tuple[str, ...] = ()

    def open(self) -> list[Domain]:
        """Open every event on every CPU of the mask and keep those that can be read.

        Raises:
            BackendUnavailableError: there is no PMU, or no event can be opened; reason and remedy say why.
        """
        self.close()
        vendor, model_name = vendor_and_model(self._cpuinfo)
        is_amd = vendor in AMD_VENDORS
        event_type = self._event_type()
        notes: list[str] = []
        events = listed_events(self._root, notes, is_amd=is_amd)
        try:
            found = places(self._root, self._cpus, notes, is_amd=is_amd)
        except ValueError as error:
            raise BackendUnavailableError(self.name, str(error), f"You can {ESTIMATE}") from error
        problems: dict[str, Unavailable] = {}
        wanted = {place: zones(place, events, first=found[0]) for place in found}
        groups = self._open_places(event_type, wanted, problems)
        still, period_seconds = self._still(groups, problems, notes)
        if still:
            # Events of one group are read together, so that the rest is opened anew without these.
            wanted = {
                place: [pair for pair in pairs if pair[0] not in still] for place, pairs in wanted.items()
            }
            groups = self._open_places(event_type, wanted, problems)
        if not groups:
            raise self._nothing_readable(problems)
        domains: list[Domain] = []
        for group in groups:
            group.first_position = len(domains)
            domains.extend(_domain(zone, event, model_name, period_seconds) for zone, event in group.members)
        if any(domain.kind == "dram" for domain in domains):
            notes += wrong_dram_unit(self._powercap_zones(), self.name)
        self.unreadable = tuple(problems.values())
        self.notes = tuple(notes)
        self._groups = groups
        return domains

    def read(self) -> list[Reading | Failure]:
        """Read every event once; nothing before `open` and after `close`."""
        groups = self._groups
        results: list[Reading | Failure] = []
        for index, group in enumerate(groups):
            try:
                working = group.reopened() if group.failed else group
                results.extend(working.read(self._now_ns))
                groups[index] = working
            except (OSError, ValueError) as error:
                group.failed = True
                reason = f"cannot read perf events of the processor: {words(error)}"
                lost = isinstance(error, OSError) and error.errno in _GONE
                results.extend(group.failures(reason, self._now_ns(), lost=lost))
        return results

    def close(self) -> None:
        """Let go of the events; a `read` under way in another thread ends unharmed."""
        self._groups = []
        self.unreadable = ()
        self.notes = ()

    def _powercap_zones(self) -> list[Zone]:
        """Return the zones that powercap lists: their ranges can be read where their counters cannot."""
        try:
            return identify(zone_folders(self._powercap), [])[0]
        except (OSError, ValueError):
            return []

    def _event_type(self) -> int:
        """Return the number of the PMU, or say that there is none."""
        number = read_number(f"{self._root}/type")
        if number is None:
            reason = f"there is no PMU at {self._root} (virtual machine, container or no driver)"
            if not sys.platform.startswith("linux"):
                reason = f"perf events are of Linux, and this is {sys.platform}"
            raise BackendUnavailableError(self.name, reason, _FOLDER_REMEDY)
        return number

    def _still(
        self, groups: Sequence[_Group], problems: dict[str, Unavailable], notes: list[str]
    ) -> tuple[list[Zone], float]:
        """Return the zones whose counters do not move, and the update period of the others in seconds."""
        first = self._counts(groups)
        still = standing_still(
            first,
            lambda _: self._counts(groups),
            self._now_ns,
            seconds=self.look_seconds,
            wait=self._wait,
        )
        # The kernel lists no event whose register is 0.
        if still and is_refreshed_slowly(self._dmi):
            notes.append(
                f"perf_rapl: counters passed on by QEMU are refreshed every {SLOW_PERIOD_SECONDS:g} s"
            )
            return [], SLOW_PERIOD_SECONDS
        dropped = with_parts(still, first)
        for zone in dropped:
            problems[zone.name] = standing(
                self.name, zone, f"{zone.label} of {zone.name}", None, self.look_seconds
            )
        return dropped, UPDATE_PERIOD_SECONDS

    def _counts(self, groups: Sequence[_Group]) -> dict[Zone, int]:
        """Read all events once; those that fail are left out."""
        found: dict[Zone, int] = {}
        for group in groups:
            with contextlib.suppress(OSError, ValueError):
                readings = group.read(self._now_ns)
                found.update(
                    (zone, reading.value) for (zone, _), reading in zip(group.members, readings, strict=True)
                )
        return found

    def _open_places(
        self,
        event_type: int,
        wanted: Mapping[Place, Sequence[tuple[Zone, Event]]],
        problems: dict[str, Unavailable],
    ) -> list[_Group]:
        groups: list[_Group] = []
        for place, members in wanted.items():
            groups += self._open_place(place, event_type, members, problems)
        return groups

    def _open_place(
        self,
        place: Place,
        event_type: int,
        members: Sequence[tuple[Zone, Event]],
        problems: dict[str, Unavailable],
    ) -> list[_Group]:
        """Open the events of one CPU: in one group, or by themselves where the kernel does not join them."""
        groups = [_Group(self._calls, event_type, place.cpu)]
        for zone, event in members:
            try:
                self._add(groups, _Group(self._calls, event_type, place.cpu), zone, event)
            except (OSError, ValueError) as error:
                problems[zone.name] = self._refusal(zone, event, error)
        readable: list[_Group] = []
        for group in groups:
            try:
                if group.members:
                    group.read(self._now_ns)
                    readable.append(group)
            except (OSError, ValueError) as error:
                for zone, event in group.members:
                    problems[zone.name] = self._refusal(zone, event, error)
        return readable

    @staticmethod
    def _add(groups: list[_Group], alone: _Group, zone: Zone, event: Event) -> None:
        """Open an event in the first group, or alone if the kernel does not join it with others."""
        try:
            groups[0].add(zone, event)
        except OSError as error:
            if error.errno in _REFUSED or not groups[0].members:
                raise
            alone.add(zone, event)
            groups.append(alone)

    def _refusal(self, zone: Zone, event: Event, error: Exception) -> Unavailable:
        reason, remedy = f"cannot count {event.name} for {zone.name}: {words(error)}", ""
        if isinstance(error, OSError) and error.errno in _REFUSED:
            level = read_number(self._paranoid)
            reason += "" if level is None else f" (kernel.perf_event_paranoid is {level})"
            remedy = PERMISSION_REMEDY
        return Unavailable(source=self.name, kinds=(KINDS[zone.word],), reason=reason, remedy=remedy)

    def _nothing_readable(self, problems: dict[str, Unavailable]) -> BackendUnavailableError:
        if not problems:
            reason = f"{self._root}/events lists no energy of this processor"
            return BackendUnavailableError(self.name, reason, f"You can {ESTIMATE}")
        found = list(problems.values())
        worst = next((problem for problem in found if problem.remedy), found[0])
        reason = worst.reason
        if len(found) > 1:
            reason = f"{reason}; {len(found)} events in all cannot be opened"
        return BackendUnavailableError(self.name, reason, worst.remedy or f"You can {ESTIMATE}")


def _domain(zone: Zone, event: Event, model_name: str | None, period_seconds: float) -> Domain:
    """Describe the domain of an event; the kernel's sums never start again."""
    return rapl_domain(
        zone,
        zone.name,
        PerfRaplBackend.name,
        joules_per_count=event.joules_per_count,
        wrap=None,
        model_name=model_name,
        update_period_seconds=period_seconds,
    )
