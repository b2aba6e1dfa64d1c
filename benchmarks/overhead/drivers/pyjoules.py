"""pyJoules: an energy meter; a window is one start and stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODULE = "pyJoules.energy_meter"


def _meter() -> Any:
    from pyJoules.device import DeviceFactory
    from pyJoules.energy_meter import EnergyMeter

    return EnergyMeter(DeviceFactory.create_devices())


def session(output: str) -> None:
    """Measure nothing and write one row."""
    from pyJoules.handler.csv_handler import CSVHandler

    meter = _meter()
    meter.start(tag="session")
    meter.stop()
    handler = CSVHandler(str(Path(output) / "pyjoules.csv"))
    handler.process(meter.get_trace())
    handler.save_data()


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Make a meter; a window is its start and stop."""
    meter = _meter()

    def window() -> None:
        meter.start(tag="empty")
        meter.stop()

    yield window
