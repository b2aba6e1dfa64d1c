"""Which GPUs the program uses, asked of what it has loaded itself: PyTorch, CuPy or the CUDA driver.

NVML does not know CUDA's order of devices; a framework at work knows each device's UUID.
Nothing is imported, loaded or initialised here: what has not initialised CUDA is not asked.
"""

from __future__ import annotations

import sys
import uuid
from contextlib import suppress
from typing import Any, NamedTuple

from mlmeter.device_time.cuda import CupyCuda, TorchCuda, device_uuid

# More GPUs than one machine has.
_MOST_DEVICES = 64


class UsedDevice(NamedTuple):
    """A device as a framework names it, in the framework's order.

    Attributes:
        uuid: without the prefix ``GPU-`` or ``MIG-``, in lower case; None if it is not told.
        pci_address: domain, bus and device; None if it is not told.
    """

    uuid: str | None
    pci_address: tuple[int, int, int] | None = None


def devices_in_use() -> tuple[UsedDevice, ...]:
    """Return the devices that CUDA shows to this process; none as long as it does not use CUDA."""
    for name, ask in (("torch", _torch_devices), ("cupy", _cupy_devices)):
        module = sys.modules.get(name)
        if module is not None:
            # A version that lacks something is as good as none.
            with suppress(Exception):
                if found := ask(module):
                    return found
    return _driver_devices()


def _torch_devices(torch: Any) -> tuple[UsedDevice, ...]:
    if not TorchCuda.initialised(torch):
        return ()
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return tuple(
        UsedDevice(
            _bare_uuid(getattr(device, "uuid", None)),
            _pci_address(device, "pci_domain_id", "pci_bus_id", "pci_device_id"),
        )
        for device in devices
    )


def _cupy_devices(cupy: Any) -> tuple[UsedDevice, ...]:
    if not CupyCuda.initialised(cupy):
        return ()
    runtime = cupy.cuda.runtime
    devices = [runtime.getDeviceProperties(number) for number in range(runtime.getDeviceCount())]
    return tuple(
        UsedDevice(
            _bare_uuid(device.get("uuid")),
            (int(device["pciDomainID"]), int(device["pciBusID"]), int(device["pciDeviceID"])),
        )
        for device in devices
    )


def _driver_devices() -> tuple[UsedDevice, ...]:
    """Ask the CUDA driver, which tells nothing before somebody has initialised it."""
    found: list[UsedDevice] = []
    with suppress(Exception):
        while len(found) < _MOST_DEVICES and (name := device_uuid(len(found))) is not None:
            found.append(UsedDevice(_bare_uuid(name)))
    return tuple(found)


def _bare_uuid(value: object) -> str | None:
    """Return a UUID in the spelling of all of them; None for what is none, or only zeros."""
    if isinstance(value, bytes):
        text = str(uuid.UUID(bytes=value[:16])) if len(value) >= 16 else ""
    else:
        text = "" if value is None else str(value).lower()
    text = text.removeprefix("gpu-").removeprefix("mig-")
    return text if text.strip("0-") else None


def _pci_address(device: Any, domain: str, bus: str, number: str) -> tuple[int, int, int] | None:
    try:
        return int(getattr(device, domain)), int(getattr(device, bus)), int(getattr(device, number))
    # Old versions lack them.
    except (AttributeError, TypeError, ValueError):
        return None
