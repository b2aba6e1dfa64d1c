"""Measure one thing of one tool in a fresh process; prints one line of JSON.

python measure.py TOOL MODE OUTPUT_DIR [NUMBER]
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WARM_UP = 500
APART_SECONDS = 0.0015


def driver_of(tool: str) -> ModuleType:
    """Load a driver by its file: some are called like the package that they drive."""
    spec = importlib.util.spec_from_file_location(f"driver_{tool}", HERE / "drivers" / f"{tool}.py")
    assert spec is not None
    assert spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    return driver


def family() -> list[int]:
    """Process numbers of this process and its descendants."""
    found, pending = [], [os.getpid()]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            pending.extend(map(int, task.read_text().split()))
    return found


def resident_bytes() -> int:
    """Resident memory of the family."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family()) * PAGE_BYTES


def cpu_seconds() -> float:
    """CPU time of the family so far, threads that have ended included, to the nanosecond."""
    # Linux makes the number of a process' CPU clock from its process number in this way.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in family())


def measure_import(driver: ModuleType, output: str, number: int) -> dict[str, float]:
    """Wall and CPU time of the import."""
    wall, cpu = time.perf_counter(), time.process_time()
    importlib.import_module(driver.MODULE)
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure_session(driver: ModuleType, output: str, number: int) -> dict[str, float]:
    """Start and stop with CSV; the caller times the whole process."""
    driver.session(output)
    return {}


def measure_windows(driver: ModuleType, output: str, number: int) -> dict[str, float]:
    """Enter and exit of an empty window."""
    with driver.started(output) as window:
        for _ in range(min(WARM_UP, number)):
            window()
        spent = []
        for _ in range(number):
            begin = time.perf_counter_ns()
            window()
            spent.append(time.perf_counter_ns() - begin)
    spent.sort()
    return {"median_us": spent[len(spent) // 2] / 1e3, "p99_us": spent[int(0.99 * len(spent))] / 1e3}


def measure_apart(driver: ModuleType, output: str, number: int) -> dict[str, float]:
    """Enter and exit of empty windows in a program that computes between them."""
    with driver.started(output) as window:
        spent = []
        for _ in range(number):
            resume = time.perf_counter() + APART_SECONDS
            while time.perf_counter() < resume:
                pass
            begin = time.perf_counter_ns()
            window()
            spent.append(time.perf_counter_ns() - begin)
    return {"median_us": statistics.median(spent) / 1e3}


def measure_idle(driver: ModuleType, output: str, number: int) -> dict[str, float]:
    """CPU share of an idle session, all its processes together."""
    with driver.started(output):
        time.sleep(1)
        begin = cpu_seconds()
        time.sleep(number)
        return {"cpu_ratio": (cpu_seconds() - begin) / number}


def measure_memory(driver: ModuleType, output: str, number: int) -> dict[str, float]:
    """Resident memory after the start, and its growth by windows."""
    with driver.started(output) as window:
        for _ in range(min(WARM_UP, number)):
            window()
        time.sleep(0.5)
        begin = resident_bytes()
        for _ in range(number):
            window()
        time.sleep(0.5)
        return {"resident_bytes": begin, "bytes_per_window": (resident_bytes() - begin) / number}


def main() -> None:
    """Measure and print."""
    tool, mode, output, number = sys.argv[1], sys.argv[2], sys.argv[3], int((*sys.argv, "0")[4])
    measures = {
        "import": measure_import,
        "session": measure_session,
        "windows": measure_windows,
        "apart": measure_apart,
        "idle": measure_idle,
        "memory": measure_memory,
    }
    result = measures[mode](driver_of(tool), output, number)
    sys.stdout.flush()
    print(f"\nRESULT {json.dumps(result)}", flush=True)
    # A session is timed to the end of its process; elsewhere nothing waits for what a tool leaves behind.
    if mode != "session":
        os._exit(0)


if __name__ == "__main__":
    main()
