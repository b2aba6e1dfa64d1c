"""pyRAPL: a measurement is a window."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = "pyRAPL"


def session(output: str) -> None:
    """Measure nothing and write one row."""
    import pyRAPL
    from pyRAPL.outputs import CSVOutput

    pyRAPL.setup()
    rows = CSVOutput(str(Path(output) / "pyrapl.csv"))
    measurement = pyRAPL.Measurement("session", output=rows)
    measurement.begin()
    measurement.end()
    measurement.export()
    rows.save()


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Set pyRAPL up; a window is a measurement."""
    import pyRAPL

    pyRAPL.setup()

    def window() -> None:
        measurement = pyRAPL.Measurement("empty")
        measurement.begin()
        measurement.end()

    yield window
