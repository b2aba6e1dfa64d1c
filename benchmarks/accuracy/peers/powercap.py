"""Keeps the made-up powercap counter up to date, in a process of its own; ends with its input.

python powercap.py RUN_FOLDER EPOCH_NS PERIOD_NS COUNTER_FILE

Prints "ready", and at the end one line of JSON: how many updates came late.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from load import Machine, now_ns

FIRST_MICROJOULES, RANGE_MICROJOULES = 1_000_000, 262_143_328_850
LATE_PERIODS = 0.5


def main() -> None:
    """Write the counter at absolute deadlines."""
    folder, epoch_ns, period_ns, path = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    machine = Machine(folder, epoch_ns)
    file = os.open(path, os.O_WRONLY)
    with contextlib.suppress(OSError):
        # Before other processes, as hardware would be.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.set_blocking(0, False)
    updates = late = 0
    deadline_ns = now_ns()
    print("ready", flush=True)
    while not _ended():
        at_ns = now_ns()
        # Of fixed length: a reader never sees half of a longer number.
        count = FIRST_MICROJOULES + int(machine.joules(at_ns) * 1e6)
        os.pwrite(file, b"%016d\n" % (count % RANGE_MICROJOULES), 0)
        updates += 1
        late += at_ns - deadline_ns > LATE_PERIODS * period_ns
        deadline_ns += period_ns
        wait_ns = deadline_ns - now_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        else:
            deadline_ns -= wait_ns // period_ns * period_ns
    print(json.dumps({"updates": updates, "late": late}), flush=True)


def _ended() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


if __name__ == "__main__":
    main()
