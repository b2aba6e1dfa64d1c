"""When devices reached the edges of windows, raw: by each device's own clock."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlmeter.measurement import Domain

# An edge that no event marks; one that the device had not reached yet. Other times are not negative.
NOT_MARKED = -1
NOT_REACHED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """Edges of windows by the clocks of devices, and what ties those clocks to the host's.

    Attributes:
        ids: window numbers; pieces: which of the window's uninterrupted pieces, from 0;
            devices: CUDA's number of the device, all of shape (spans,).
        starts_ns, ends_ns: by the device's clock, `NOT_MARKED` or `NOT_REACHED`, shape (spans,).
        reference_devices: CUDA's number of the device, shape (references,), in order of time.
        reference_device_ns: its clock, from 0 at its first reference, shape (references,).
        reference_host_ns: the host's monotonic clock at that instant, shape (references,).
        reference_half_widths_ns: the instant is known to this, either way, shape (references,).
        uuids: the device's identity as NVML spells it, by CUDA's number; empty if it is not known.
    """

    ids: array[int] = field(default_factory=partial(array, "q"))
    pieces: array[int] = field(default_factory=partial(array, "i"))
    devices: array[int] = field(default_factory=partial(array, "i"))
    starts_ns: array[int] = field(default_factory=partial(array, "q"))
    ends_ns: array[int] = field(default_factory=partial(array, "q"))
    reference_devices: array[int] = field(default_factory=partial(array, "i"))
    reference_device_ns: array[int] = field(default_factory=partial(array, "q"))
    reference_host_ns: array[int] = field(default_factory=partial(array, "q"))
    reference_half_widths_ns: array[int] = field(default_factory=partial(array, "q"))
    uuids: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


# Columns and their types, for files.
SPAN_COLUMNS = {"ids": "q", "pieces": "i", "devices": "i", "starts_ns": "q", "ends_ns": "q"}
REFERENCE_COLUMNS = {
    "reference_devices": "i",
    "reference_device_ns": "q",
    "reference_host_ns": "q",
    "reference_half_widths_ns": "q",
}


def numbers_of_domains(domains: Iterable[Domain], uuids: Mapping[int, str]) -> dict[str, int]:
    """Return CUDA's number of each metered GPU by the domain's name, so far as that can be told.

    Args:
        domains: all domains of the session.
        uuids: of the devices, by CUDA's number; empty where not known.
    """
    identities = {domain.name: domain.uuid or domain.id for domain in domains if domain.kind == "gpu"}
    numbers = {uuid: number for number, uuid in uuids.items() if uuid}
    found = {name: numbers[identity] for name, identity in identities.items() if identity in numbers}
    if not found and len(uuids) == 1 and len(set(identities.values())) == 1:
        # One of each, whatever they are called.
        return dict.fromkeys(identities, next(iter(uuids)))
    return found
