"""Advances the counters of a live powercap tree; run as a process of its own.

Gets on its standard input lines ``zone_number time_ns watts``: from that monotonic time on
the zone draws so much. Writes each zone's counter every millisecond.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

WIDTH = 20
PERIOD_NS = 1_000_000


def main() -> None:
    """Run until standard input is closed."""
    files, modulus = json.loads(sys.argv[1])
    descriptors = [os.open(file, os.O_WRONLY) for file in files]
    joules = [0.0] * len(files)
    watts = [0.0] * len(files)
    since_ns = [time.perf_counter_ns()] * len(files)
    pending = b""
    deadline_ns = time.perf_counter_ns()
    while True:
        while select.select([0], [], [], 0)[0]:
            data = os.read(0, 65_536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                number, at_ns, power = line.split()
                zone = int(number)
                joules[zone] += watts[zone] * (int(at_ns) - since_ns[zone]) * 1e-9
                watts[zone], since_ns[zone] = float(power), int(at_ns)
        for zone, descriptor in enumerate(descriptors):
            elapsed_seconds = (time.perf_counter_ns() - since_ns[zone]) * 1e-9
            total = int((joules[zone] + watts[zone] * elapsed_seconds) * 1e6)
            # Fixed width: a reader never sees half a number.
            os.pwrite(descriptor, f"{total % modulus:<{WIDTH - 1}}\n".encode(), 0)
        deadline_ns += PERIOD_NS
        time.sleep(max(0.0, (deadline_ns - time.perf_counter_ns()) * 1e-9))


if __name__ == "__main__":
    main()
