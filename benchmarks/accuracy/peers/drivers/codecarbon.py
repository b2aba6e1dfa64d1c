"""CodeCarbon: an offline tracker; a window is a task."""

from collections.abc import Callable, Sequence
from typing import Any

JOULES_PER_KWH = 3.6e6


def run(kind: str, blocks: Sequence[Callable[..., None]], output: str) -> dict[str, Any]:
    """Meter all blocks."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="USA", output_dir=output, log_level="critical", allow_multiple_runs=True
    )
    windows: dict[int, dict[str, Any]] = {}

    def enclose(number: int, phase: str, milliseconds: int, body: Callable[[], None]) -> None:
        name = str(number)
        tracker.start_task(name)
        body()
        task = tracker.stop_task(name)
        kwh = None if task is None else getattr(task, f"{kind}_energy")
        windows[number] = {"joules": None if kwh is None else kwh * JOULES_PER_KWH}

    for block in blocks:
        block(enclose)
    tracker.stop()
    return {"windows": windows}
