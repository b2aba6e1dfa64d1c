"""perun: the decorator round an application; a window is a monitored function."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MODULE = "perun"


def session(output: str) -> None:
    """Run an empty application; its data are written as CSV."""
    from perun import perun

    perun(data_out=output, format="csv", rounds=1, warmup_rounds=0)(lambda: None)()


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Keep an application running; a window is a call of a monitored function."""
    from perun import monitor, perun

    running, done = threading.Event(), threading.Event()

    @monitor()
    def window() -> None:
        pass

    def application() -> None:
        running.set()
        done.wait()

    metered = perun(data_out=output, format="csv", rounds=1, warmup_rounds=0)(application)
    thread = threading.Thread(target=metered)
    thread.start()
    running.wait(timeout=60)
    try:
        yield window
    finally:
        done.set()
        thread.join()
