"""CodeCarbon: offline tracker; a window is a task."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MODULE = "codecarbon"


def _tracker(output: str) -> Any:
    from codecarbon import OfflineEmissionsTracker

    return OfflineEmissionsTracker(
        country_iso_code="USA", output_dir=output, log_level="critical", allow_multiple_runs=True
    )


def session(output: str) -> None:
    """Track nothing; the tracker writes emissions.csv."""
    tracker = _tracker(output)
    tracker.start()
    tracker.stop()


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Run a tracker; a window is an empty task."""
    tracker = _tracker(output)
    tracker.start()

    def window() -> None:
        tracker.start_task("empty")
        tracker.stop_task("empty")

    try:
        yield window
    finally:
        tracker.stop()
