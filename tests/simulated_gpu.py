"""The simulated GPU that tests share: a counter that is refreshed every 0.1 s."""

from __future__ import annotations

from collections.abc import Sequence

from mlmeter.testing import FakeClock, SimulatedBackend

GPU_PERIOD_SECONDS = 0.1
GPU_MAX_WATTS = 500.0


def simulated_gpu(
    clock: FakeClock,
    edges: Sequence[float] = (0.0, 1000.0),
    watts: Sequence[float] = (200.0,),
    **changes: object,
) -> SimulatedBackend:
    """Return a GPU's counter under a load; `changes` are arguments of `SimulatedBackend`."""
    fields = {
        "update_period_seconds": GPU_PERIOD_SECONDS,
        "name": "gpu-0",
        "kind": "gpu",
        "cheap_read": False,
        "max_power_watts": GPU_MAX_WATTS,
    }
    return SimulatedBackend(edges, watts, clock, **{**fields, **changes})  # type: ignore[arg-type]
