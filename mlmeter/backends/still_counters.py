"""Whether RAPL counters move: those that a hypervisor shows for nothing are not worth metering.

A processor adds to its counters every millisecond, so that a look of a few milliseconds tells. One
hypervisor passes counters on slowly: QEMU adds to those of its guests once per second, and
KVM without QEMU's help shows 0. What its guest reads is dead, then, if it is 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from mlmeter.backends.powercap_zones import ESTIMATE, KINDS, Zone, read_text
from mlmeter.measurement import Unavailable
from mlmeter.units import SECONDS_PER_NANOSECOND

LOOK_SECONDS = 0.005
SLOW_PERIOD_SECONDS = 1.0
DEFAULT_DMI = "/sys/class/dmi/id"

# Cores that sleep and graphics that are not used need no energy; the platform of servers counts joules.
JUDGED = ("package", "dram")

_STEP_SECONDS = 0.0005
_DMI_FILES = ("sys_vendor", "product_name", "chassis_vendor", "bios_vendor")
_SLOW_HYPERVISORS = ("qemu", "kvm")

REMEDY = (
    "Virtual machines show such counters for nothing: measure on the host or on real hardware (docs: "
    f"how-to/get-real-counters), or {ESTIMATE}"
)

Wait = Callable[[float], None]


def standing_still(
    first: Mapping[Zone, int],
    read: Callable[[Iterable[Zone]], Mapping[Zone, int]],
    now_ns: Callable[[], int],
    *,
    seconds: float = LOOK_SECONDS,
    wait: Wait = time.sleep,
) -> set[Zone]:
    """Return the zones that did not move while they were looked at; the look ends as soon as all do.

    Args:
        first: a reading of each.
        read: reads some of them again; those that it leaves out are not judged.
        now_ns: the clock; nothing is told of counters that had no time to move.
        seconds: how long to look; 0 for not at all.
        wait: lets so many seconds pass.
    """
    still = {zone: count for zone, count in first.items() if zone.word in JUDGED}
    begin_ns = now_ns()
    for _ in range(math.ceil(seconds / _STEP_SECONDS) + 2 if seconds > 0 else 0):
        at_ns = now_ns()
        counts = read(still)
        still = {zone: count for zone, count in still.items() if counts.get(zone) == count}
        if not still or (at_ns - begin_ns) * SECONDS_PER_NANOSECOND >= seconds:
            return set(still)
        wait(_STEP_SECONDS)
        if now_ns() <= at_ns:
            break
    return set()


def with_parts(still: Collection[Zone], zones: Iterable[Zone]) -> list[Zone]:
    """Return, in order, the zones that stand still and what is nothing without them.

    These are the parts of a package, and all zones if none moves.
    """
    everything = list(zones)
    if not still or not any(zone.word in JUDGED and zone not in still for zone in everything):
        return everything if still else []
    packages = {(zone.package, zone.die) for zone in still if zone.word == "package"}
    parts = ("core", "uncore")
    return [
        zone
        for zone in everything
        if zone in still or (zone.word in parts and (zone.package, zone.die) in packages)
    ]


def is_refreshed_slowly(dmi: str) -> bool:
    """Whether this is a guest of QEMU, whose counters may be refreshed once per second."""
    for name in _DMI_FILES:
        try:
            text = read_text(f"{dmi}/{name}").lower()
        except (OSError, ValueError):
            continue
        if any(word in text for word in _SLOW_HYPERVISORS):
            return True
    return False


def standing(source: str, zone: Zone, what: str, count: int | None, seconds: float) -> Unavailable:
    """Say that a counter stands still.

    Args:
        source: name of the backend.
        zone: what is counted.
        what: the counter, in words.
        count: what it reads; None where that tells nothing.
        seconds: how long it was looked at.
    """
    value = "" if count is None else f" at {count}"
    reason = f"{what} stands still{value}: it did not move for {1e3 * seconds:.0f} ms"
    return Unavailable(source=source, kinds=(KINDS[zone.word],), reason=reason, remedy=REMEDY)
