"""perun: a window is a monitored function with a name of its own; sampled at its shortest period, 0.1 s.

perun gives mean power and runtime of a region; the energy is their product.
"""

from collections.abc import Callable, Sequence
from typing import Any

BACKEND = {"cpu": "powercap_rapl", "gpu": "nvml"}


def run(kind: str, blocks: Sequence[Callable[..., None]], output: str) -> dict[str, Any]:
    """Run all blocks as one application."""
    from perun import monitor, perun, register_callback
    from perun.data_model.data import MetricType

    windows: dict[int, dict[str, Any]] = {}

    def enclose(number: int, phase: str, milliseconds: int, body: Callable[[], None]) -> None:
        monitor(str(number))(body)()

    def collect(data: Any) -> None:
        (once,) = data.nodes.values()
        for name, region in once.regions.items():
            power, runtime = region.metrics.get(MetricType.POWER), region.metrics[MetricType.RUNTIME]
            joules = None if power is None else float(power.mean) * float(runtime.mean)
            windows[int(name)] = {"joules": joules}

    def application() -> None:
        register_callback(collect)
        for block in blocks:
            block(enclose)

    options = {"data_out": output, "format": "csv", "rounds": 1, "warmup_rounds": 0}
    perun(**options, sampling_period=0.1, include_backends=BACKEND[kind])(application)()
    return {"windows": windows}
