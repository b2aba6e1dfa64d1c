"""pyRAPL: a window is a measurement; CPUs only."""

from collections.abc import Callable, Sequence
from typing import Any


def run(kind: str, blocks: Sequence[Callable[..., None]], output: str) -> dict[str, Any]:
    """Meter all blocks."""
    import pyRAPL

    pyRAPL.setup(devices=[pyRAPL.Device.PKG])
    windows: dict[int, dict[str, Any]] = {}

    def enclose(number: int, phase: str, milliseconds: int, body: Callable[[], None]) -> None:
        measurement = pyRAPL.Measurement("window")
        measurement.begin()
        body()
        measurement.end()
        windows[number] = {"joules": measurement.result.pkg[0] * 1e-6}

    for block in blocks:
        block(enclose)
    return {"windows": windows}
