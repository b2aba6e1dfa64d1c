"""Drive one tool through the load of a run in a fresh process; writes what it said as JSON.

python drive.py TOOL KIND RUN_FOLDER

KIND is "cpu" or "gpu". A window is entered and left at the instants of the load; each call is
stamped before and after, and an edge counts as the middle of its call.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from load import NS, TRAINING, Beginning, Load, Window, load_from, now_ns

# A long sleep ends later than a short one, so the last milliseconds are slept once more.
NAP_NS, SPIN_NS = 3_000_000, 300_000
WARM_UP_SECONDS = 0.3
# Between the warm-up and the load: tools may start processes with the first window.
SETTLE_SECONDS = 2.5
WARM_UP = -1

# Enters a window, calls the body and leaves the window: number, phase, typical ms, body.
Enclose = Callable[[int, str, int, Callable[[], None]], None]


def wait_until(instant_ns: int) -> None:
    """Sleep, then spin for the last part."""
    for margin_ns in (NAP_NS, SPIN_NS):
        remaining = instant_ns - now_ns() - margin_ns
        if remaining > 0:
            time.sleep(remaining / NS)
    while now_ns() < instant_ns:
        pass


class Schedule:
    """The blocks of a run, each a function that takes the tool's way to enclose a window."""

    def __init__(self, load: Load, beginning: Beginning) -> None:
        self.load, self.beginning = load, beginning
        # Of each window: before and after entering, before and after leaving; ns since the load began.
        self.stamps: dict[int, tuple[int, int, int, int]] = {}

    @property
    def blocks(self) -> list[Callable[[Enclose], None]]:
        """A warm-up that does not count, then the blocks of the load."""
        return [self.warm_up, *(self._block(windows) for windows in self.load.blocks)]

    def warm_up(self, enclose: Enclose) -> None:
        """Let the tool load what it loads with its first window, then say when the load begins."""
        enclose(WARM_UP, TRAINING, 0, lambda: time.sleep(WARM_UP_SECONDS))
        time.sleep(SETTLE_SECONDS)
        self.beginning.set(now_ns() + NS // 2)

    def _block(self, windows: list[Window]) -> Callable[[Enclose], None]:
        def run(enclose: Enclose) -> None:
            for window in windows:
                self._run(window, enclose)

        return run

    def _run(self, window: Window, enclose: Enclose) -> None:
        origin = self.beginning.ns
        begin, end = origin + round(window.begin * NS), origin + round(window.end * NS)
        if now_ns() > end:
            return
        inside: list[int] = []

        def body() -> None:
            inside.append(now_ns())
            wait_until(end)
            inside.append(now_ns())

        wait_until(begin)
        before = now_ns()
        enclose(window.number, window.phase, window.milliseconds, body)
        after = now_ns()
        entered, leaving = inside
        self.stamps[window.number] = (before - origin, entered - origin, leaving - origin, after - origin)


def driver_of(tool: str) -> ModuleType:
    """Load a driver by its file: some are called like the package that they drive."""
    path = Path(__file__).parent / "drivers" / f"{tool}.py"
    spec = importlib.util.spec_from_file_location(f"driver_{tool}", path)
    assert spec is not None
    assert spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    return driver


def main() -> None:
    """Run and write the stamps beside what the tool reported."""
    tool, kind, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    schedule = Schedule(load_from(folder / "load.json"), Beginning(folder / "beginning"))
    output = folder / "output"
    output.mkdir()
    reported: dict[str, Any] = driver_of(tool).run(kind, schedule.blocks, str(output))
    (folder / "result.json").write_text(json.dumps({"stamps": schedule.stamps, **reported}))
    sys.stdout.flush()
    # Nothing waits for what a tool leaves behind.
    os._exit(0)


if __name__ == "__main__":
    main()
