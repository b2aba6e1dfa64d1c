"""Work at the end of a process, which leaves the end as it is: the exit code stays the program's."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

# That of this process, and its id: a forked child has inherited another's.
_worker_end: tuple[int, Finalize] | None = None


def at_exit(work: Callable[[], None]) -> None:
    """Have work done when the interpreter ends."""
    atexit.register(_do, work)


def at_exit_of_worker(work: Callable[[], None]) -> None:
    """Have it done also where this process is a worker of `multiprocessing`, which does not run `atexit`.

    Called again in the same process, it changes nothing.
    """
    global _worker_end
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return
    from multiprocessing.util import Finalize

    # A worker that has just begun forgets what was asked for while it was being imported.
    if _worker_end is None or _worker_end[0] != os.getpid() or not _worker_end[1].still_active():
        _worker_end = os.getpid(), Finalize(None, work, exitpriority=0)


def _do(work: Callable[[], None]) -> None:
    work()
    _keep_exit_code()


def _keep_exit_code() -> None:
    """Let a program that Ctrl-C has ended die of the signal, whatever was imported since.

    The interpreter remembers whether the last text that it has executed ended by KeyboardInterrupt,
    and named tuples and data classes are made by executing texts.
    """
    trace = getattr(sys, "last_traceback", None)
    interactive = hasattr(sys, "ps1") or (trace is not None and trace.tb_frame.f_back is not None)
    if getattr(sys, "last_type", None) is KeyboardInterrupt and not interactive:
        with contextlib.suppress(KeyboardInterrupt):
            exec("raise KeyboardInterrupt")
