"""Writes the counters of a live tree; runs as a process of its own, started by `LivePowercapTree`.

Line 1 of standard input is JSON: the counters, their wraps and schedules. Each further line is a
change ``{"zone": ..., "microwatts": ..., "at_ns": ...}``, answered by the time from which it holds,
so that both processes integrate the same power and no counter ever falls. End of input ends it.
Integers only: microwatts times nanoseconds are femtojoules, and the truth is exact.
"""

import contextlib
import json
import os
import sys
import time

FEMTOJOULES_PER_MICROJOULE = 1_000_000_000
# Refreshes farther apart than so many periods are logged.
LATE_PERIODS = 1.2
# All digits below 10^8 lie in one aligned word of 8 bytes, so a reader never sees half a number there.
DIGITS = 16


class Schedule:
    """Power over monotonic time: pieces, each a square wave (or, with equal levels, a constant)."""

    def __init__(self, pieces):
        # (start_ns, low_microwatts, high_microwatts, half_period_ns), by start; the low half comes first.
        self.pieces = [tuple(piece) for piece in pieces]

    def change(self, start_ns, microwatts):
        """Hold a constant power from `start_ns` on; it must be later than every start so far."""
        if start_ns <= self.pieces[-1][0]:
            raise ValueError("power can only be changed after the latest change")
        self.pieces.append((start_ns, microwatts, microwatts, 1))

    def femtojoules(self, begin_ns, end_ns):
        """Return the exact energy between two times; the power before the first piece is 0."""
        total = 0
        ends = [piece[0] for piece in self.pieces[1:]] + [max(end_ns, self.pieces[-1][0])]
        for (start_ns, low, high, half_ns), piece_end_ns in zip(self.pieces, ends, strict=True):
            since = max(begin_ns, start_ns) - start_ns
            until = min(end_ns, piece_end_ns) - start_ns
            if until > since:
                total += _wave(until, low, high, half_ns) - _wave(since, low, high, half_ns)
        return total


def _wave(duration_ns, low, high, half_ns):
    halves, rest_ns = divmod(duration_ns, half_ns)
    full = (halves // 2) * (low + high) + (halves % 2) * low
    return full * half_ns + rest_ns * (high if halves % 2 else low)


class Counter:
    """One energy_uj file: the energy of a schedule since its start, modulo the wrap."""

    def __init__(self, path, modulus, first_microjoules, schedule):
        self.fd = os.open(path, os.O_WRONLY)
        self.modulus = modulus
        self.first = first_microjoules
        self.schedule = Schedule(schedule)
        self.start_ns = self.schedule.pieces[0][0]

    def write(self, now_ns):
        energy = self.schedule.femtojoules(self.start_ns, now_ns) // FEMTOJOULES_PER_MICROJOULE
        os.pwrite(self.fd, b"%0*d\n" % (DIGITS, (self.first + energy) % self.modulus), 0)


def run(setup):
    """Update all counters at absolute deadlines until the input ends."""
    counters = {name: Counter(*setup["counters"][name]) for name in setup["counters"]}
    late_fd = os.open(setup["late_path"], os.O_WRONLY | os.O_APPEND)
    period_ns = setup["period_ns"]
    os.set_blocking(0, False)
    last_ns = deadline_ns = time.perf_counter_ns()
    pending = b""
    first = True
    while True:
        now_ns = time.perf_counter_ns()
        for counter in counters.values():
            counter.write(now_ns)
        if first:
            os.write(1, b"ready\n")
            first = False
        written_ns = time.perf_counter_ns()
        if written_ns - last_ns > LATE_PERIODS * period_ns:
            os.write(late_fd, b"%d %d\n" % (last_ns, written_ns))
        last_ns = now_ns
        try:
            received = os.read(0, 65536)
            if not received:
                return
            pending += received
        except BlockingIOError:
            pass
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            os.write(1, b"%d\n" % apply(counters, json.loads(line)))
        deadline_ns += period_ns
        wait_ns = deadline_ns - time.perf_counter_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        else:
            deadline_ns -= wait_ns // period_ns * period_ns + period_ns


def hurry():
    """Go before other processes, as hardware does, where that is allowed (root)."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def apply(counters, change):
    """Take a change of power from the time asked for on, or from now if that is past."""
    schedule = counters[change["zone"]].schedule
    start_ns = max(time.perf_counter_ns(), change["at_ns"], schedule.pieces[-1][0] + 1)
    schedule.change(start_ns, change["microwatts"])
    return start_ns


if __name__ == "__main__":
    hurry()
    run(json.loads(sys.stdin.buffer.raw.readline()))
