"""mlmeter, with its edge reads of the RAPL counters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

MODULE = "mlmeter"


def session(output: str) -> None:
    """Meter nothing and write the run directory."""
    from mlmeter import EnergyMeter

    with EnergyMeter("benchmark", output_dir=output):
        pass


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Run a session; a window is an empty block."""
    from mlmeter import EnergyMeter

    with EnergyMeter("benchmark") as meter:

        def window() -> None:
            with meter.window("empty"):
                pass

        yield window
