"""Zeus: ZeusMonitor on the CPU counters, log file as CSV."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODULE = "zeus.monitor"


def _monitor(output: str) -> Any:
    from zeus.monitor import ZeusMonitor

    return ZeusMonitor(gpu_indices=[], log_file=str(Path(output) / "zeus.csv"))


def session(output: str) -> None:
    """Measure one empty window; its row goes to the log file."""
    monitor = _monitor(output)
    monitor.begin_window("session")
    monitor.end_window("session")


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Make a monitor; a window is a window."""
    monitor = _monitor(output)

    def window() -> None:
        monitor.begin_window("empty", sync_execution=False)
        monitor.end_window("empty", sync_execution=False)

    yield window
