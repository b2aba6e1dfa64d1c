"""A powercap tree whose counters advance with real time and known power."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from bisect import bisect_right
from pathlib import Path
from types import TracebackType
from typing import Self

from mlmeter.backends.rapl import modulus

PROCESS = Path(__file__).with_name("live_tree_process.py")


class LiveTree:
    """Context manager: zones of one package that refresh every millisecond.

    Args:
        root: empty folder for the tree.
        zones: folder and name of each zone, such as ``{"intel-rapl:0": "package-0"}``.
        max_energy_range_uj: range of all counters.
    """

    def __init__(self, root: Path, zones: dict[str, str], max_energy_range_uj: int) -> None:
        self.root = root
        self._zones = list(zones)
        self._schedule: dict[str, list[tuple[int, float]]] = {zone: [] for zone in zones}
        wrap = modulus(max_energy_range_uj)
        files = []
        for zone, name in zones.items():
            folder = root / zone
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text(f"{max_energy_range_uj}\n")
            (folder / "energy_uj").write_text("0".ljust(19) + "\n")
            files.append(str(folder / "energy_uj"))
        self._arguments = json.dumps([files, wrap])

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROCESS), self._arguments], stdin=subprocess.PIPE
        )
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def set_watts(self, watts: float, zone: str = "intel-rapl:0") -> int:
        """Let a zone draw so much from now on; return the time."""
        now = time.perf_counter_ns()
        self._schedule[zone].append((now, watts))
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._zones.index(zone)} {now} {watts}\n".encode())
        self._process.stdin.flush()
        return now

    def true_joules(self, start_ns: int, end_ns: int, zone: str = "intel-rapl:0") -> float:
        """Return the exact energy of a zone between two monotonic times."""
        schedule = self._schedule[zone]
        times = [at for at, _ in schedule]
        joules, at = 0.0, start_ns
        while at < end_ns:
            k = bisect_right(times, at)
            until = min(end_ns, times[k]) if k < len(times) else end_ns
            joules += (schedule[k - 1][1] if k else 0.0) * (until - at) * 1e-9
            at = until
        return joules
