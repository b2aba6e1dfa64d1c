"""Zeus: `ZeusMonitor`, without synchronisation, as there is no GPU framework."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any


def run(
    kind: str, blocks: Sequence[Callable[..., None]], output: str, *, instant: bool = False
) -> dict[str, Any]:
    """Meter all blocks; a window for which Zeus warns counts as one that it calls unknown."""
    from zeus.monitor import ZeusMonitor

    indices = {"gpu_indices": [0], "cpu_indices": []} if kind == "gpu" else {"gpu_indices": []}
    monitor = ZeusMonitor(**indices, approx_instant_energy=instant)
    windows: dict[int, dict[str, Any]] = {}
    warned: list[str] = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: warned.append(str(message))

    def enclose(number: int, phase: str, milliseconds: int, body: Callable[[], None]) -> None:
        key = str(number)
        warned.clear()
        monitor.begin_window(key, sync_execution=False)
        body()
        measured = monitor.end_window(key, sync_execution=False)
        joules = measured.gpu_energy if kind == "gpu" else measured.cpu_energy
        windows[number] = {"joules": joules.get(0) if joules else None, "unknown": bool(warned)}

    for block in blocks:
        block(enclose)
    return {"windows": windows}
