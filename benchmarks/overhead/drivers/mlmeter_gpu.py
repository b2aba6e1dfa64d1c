"""mlmeter with a GPU beside the RAPL counters: the real NVML bindings above the tests' fake library."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = "mlmeter"


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Run a session; a window is an empty block."""
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from mlmeter import EnergyMeter
    from tests.backends.fake_nvml import FakeGpu, FakeNvml

    with FakeNvml([FakeGpu(power_watts=300.0)]), EnergyMeter("benchmark") as meter:

        def window() -> None:
            with meter.window("empty"):
                pass

        yield window
