"""The process that reads power gauges beside the metered program.

Started by `mlmeter.sampling.power_process`, never by hand, as
``python -P -m mlmeter.sampling.power_child SPEC``, SPEC being the JSON text of `ChildSpec`. It
opens a backend by its name, reads it at its own period and writes one line of JSON per reading
to standard output: ``[position, value, begin_ns, end_ns, driver_time_ns]``, or
``[position, reason, lost, at_ns]`` for a failure.

It ends when its standard input is closed or its parent is gone, and imports neither the
metered program nor NumPy.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mlmeter.backends.base import Backend
from mlmeter.backends.registry import load_backend
from mlmeter.measurement import Failure, Reading

STANDARD_INPUT, STANDARD_OUTPUT = 0, 1
# What waits for a parent that does not read, some 80,000 readings; more are dropped.
MOST_WAITING_BYTES = 4 << 20
RETRY_SECONDS = 1.0


class ChildSpec(NamedTuple):
    """What the parent wants read.

    Attributes:
        backend: name in the registry.
        positions: the parent's position of each domain, by id; others are not reported.
        period_seconds: time between two reads.
        parent_pid: when the parent process is another one, the child ends.
    """

    backend: str
    positions: dict[str, int]
    period_seconds: float
    parent_pid: int


def main(arguments: Sequence[str]) -> int:
    """Read and report until the parent is gone; return the exit status."""
    import signal

    # Ctrl-C is for the metered program, which ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = ChildSpec(*json.loads(arguments[0]))
    output = _private_output()
    try:
        backend = load_backend(spec.backend)
        domains = backend.open()
    except Exception as error:  # a backend may raise anything; the parent shall know what
        os.write(output, _line([f"{type(error).__name__}: {error}"]))
        return 1
    wanted = {
        own: spec.positions[domain.id] for own, domain in enumerate(domains) if domain.id in spec.positions
    }
    serve(backend, wanted, spec, input_fd=STANDARD_INPUT, output_fd=output)
    with contextlib.suppress(Exception):
        backend.close()
    return 0


def serve(
    backend: Backend,
    positions: Mapping[int, int],
    spec: ChildSpec,
    *,
    input_fd: int,
    output_fd: int,
    parent_pid: Callable[[], int] = os.getppid,
) -> None:
    """Read `backend` once per period and write its readings until the parent is gone.

    Args:
        backend: opened.
        positions: the parent's position of each of its domains that is wanted.
        spec: period and parent.
        input_fd: closed by the parent, or by its end, when it has had enough.
        output_fd: where to write; it never blocks.
        parent_pid: tells who the parent is now.
    """
    os.set_blocking(output_fd, False)
    waiting = bytearray()
    due = time.monotonic()
    while parent_pid() == spec.parent_pid:
        try:
            items = backend.read()
        except Exception as error:  # the parent is told; the next read may succeed
            reason = f"{backend.name} failed: {type(error).__name__}: {error}"
            items = [Failure(own, reason, False, time.perf_counter_ns()) for own in positions]
            due += RETRY_SECONDS
        for item in items:
            if item.position in positions and len(waiting) < MOST_WAITING_BYTES:
                waiting += _line(_fields(item, positions[item.position]))
        due = max(due + spec.period_seconds, time.monotonic())
        if not _write_until(due, waiting, input_fd, output_fd):
            return


def _write_until(due: float, waiting: bytearray, input_fd: int, output_fd: int) -> bool:
    """Write what waits, as far as the parent takes it; return False when the parent has had enough."""
    while True:
        timeout = max(0.0, due - time.monotonic())
        try:
            ended, ready, _ = select.select([input_fd], [output_fd] if waiting else [], [], timeout)
            if ended:
                return False
            if ready:
                del waiting[: os.write(output_fd, waiting)]
        except BlockingIOError:
            continue
        except OSError:
            return False
        if timeout <= 0:
            return True


def _fields(item: Reading | Failure, position: int) -> list[object]:
    if isinstance(item, Reading):
        return [position, item.value, item.begin_ns, item.end_ns, item.driver_time_ns]
    return [position, item.reason, item.lost, item.at_ns]


def _line(fields: Sequence[object]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _private_output() -> int:
    """Keep the pipe to ourselves: what a backend prints must not get into it."""
    output = os.dup(STANDARD_OUTPUT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_OUTPUT)
    os.close(nowhere)
    return output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
