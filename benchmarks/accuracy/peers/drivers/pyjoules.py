"""pyJoules: a window is one start and stop of an energy meter."""

from collections.abc import Callable, Sequence
from typing import Any

JOULES_PER_COUNT = {"cpu": 1e-6, "gpu": 1e-3}


def run(kind: str, blocks: Sequence[Callable[..., None]], output: str) -> dict[str, Any]:
    """Meter all blocks."""
    from pyJoules.device import DeviceFactory
    from pyJoules.device.nvidia_device import NvidiaGPUDomain
    from pyJoules.device.rapl_device import RaplPackageDomain
    from pyJoules.energy_meter import EnergyMeter

    domain = NvidiaGPUDomain(0) if kind == "gpu" else RaplPackageDomain(0)
    meter = EnergyMeter(DeviceFactory.create_devices([domain]))
    windows: dict[int, dict[str, Any]] = {}

    def enclose(number: int, phase: str, milliseconds: int, body: Callable[[], None]) -> None:
        meter.start(tag="window")
        body()
        meter.stop()
        (sample,) = list(meter.get_trace())
        (counts,) = sample.energy.values()
        windows[number] = {"joules": counts * JOULES_PER_COUNT[kind]}

    for block in blocks:
        block(enclose)
    return {"windows": windows}
