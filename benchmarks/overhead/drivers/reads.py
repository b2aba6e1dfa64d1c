"""No tool: what plain reads of the four counters cost, on descriptors that are kept.

A thread wakes ten times a second beside them, as a sampler does: on some machines that alone
makes every system call of the other threads dearer.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = "os"


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Open the counters; a window is one read of each."""
    paths = sorted(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]

    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.1):
            pass

    threading.Thread(target=tick, daemon=True).start()

    def window() -> None:
        for descriptor in descriptors:
            os.pread(descriptor, 32, 0)

    yield window
    stop.set()
    for descriptor in descriptors:
        os.close(descriptor)
