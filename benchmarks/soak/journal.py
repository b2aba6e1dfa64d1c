"""What the journal of a day costs: CPU time, disk, and the time to recover it after a kill.

    python benchmarks/soak/journal.py [--hours 24] [--domains 20]

A fake clock drives the sampler: twenty microjoule counters with noise of power and of read times are read ten
times a second, a window opens every ten seconds. The readings are then recovered as if the
program had been killed. Only the time on disk and CPU is real.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import mlmeter
from mlmeter.journal import JOURNAL
from mlmeter.journal.live_journal import LiveJournal
from mlmeter.measurement import Domain, Reading
from mlmeter.testing import FakeClock, fake_domain, fake_meter

TICK_SECONDS = 0.1
TICKS_PER_WINDOW = 100
# As the sampler's thread does: at the last tick within a second.
TICKS_PER_BOOKING = 9
DAY_SECONDS = 86_400
# Power of one domain: mean, and scatter from tick to tick; time of one read and its scatter; delay of a tick.
MEAN_WATTS, SIGMA_WATTS = 100.0, 3.0
READ_NS, READ_SCATTER_NS, TICK_SCATTER_NS = 1_000, 400, 200_000
# A RAPL unit of 61 microjoules, as most packages have.
UNIT = 61


class Board:
    """Counters with noise."""

    name = "simulated"

    def __init__(self, clock: FakeClock, domains: int) -> None:
        self._clock, self._random = clock, random.Random(1)
        self._read_ns = clock.now_ns()
        self._domains = [
            fake_domain(name=f"package-{number}", modulus=2**40, max_power_watts=400.0)
            for number in range(domains)
        ]
        self._counts = [0] * domains
        self.joules = 0.0

    def open(self) -> Sequence[Domain]:
        return self._domains

    def read(self) -> Sequence[Reading]:
        clock, rng, now = self._clock, self._random, self._clock.now_ns()
        seconds, self._read_ns = (now - self._read_ns) * 1e-9, now
        found = []
        for position in range(len(self._counts)):
            step = round(rng.gauss(MEAN_WATTS, SIGMA_WATTS) * seconds * 1e6 / UNIT) * UNIT
            self._counts[position] = (self._counts[position] + step) % 2**40
            self.joules += step * 1e-6
            begin_ns = clock.now_ns()
            clock.advance((READ_NS + rng.randrange(READ_SCATTER_NS)) * 1e-9)
            found.append(Reading(position, self._counts[position], begin_ns, clock.now_ns()))
        return found

    def close(self) -> None:
        pass


class Stopwatch:
    """CPU time of this thread in the ticks of the journal."""

    def __init__(self) -> None:
        self.cpu_ns = 0
        tick = LiveJournal.tick

        def timed(journal: LiveJournal) -> None:
            begin_ns = time.thread_time_ns()
            tick(journal)
            self.cpu_ns += time.thread_time_ns() - begin_ns

        LiveJournal.tick = timed  # type: ignore[method-assign]


def run_day(folder: Path, hours: float, domains: int) -> tuple[Path, int, Stopwatch, Board]:
    """Write the journal of so many hours and leave it as a killed program would."""
    clock = FakeClock(start_ns=10**15)
    board, stopwatch = Board(clock, domains), Stopwatch()
    meter = fake_meter(board, clock=clock, output_dir=folder)
    samples = round(hours * 3600 / TICK_SECONDS)
    pause_ns = round(TICK_SECONDS * 1e9) - domains * (READ_NS + READ_SCATTER_NS // 2)
    meter.start()
    sampler, rng = meter._sampler, random.Random(2)
    assert sampler is not None
    for number in range(samples):
        if number % TICKS_PER_WINDOW == 0:
            window = meter.inference("request", samples=1).__enter__()
        clock.advance((pause_ns + rng.randrange(TICK_SCATTER_NS) - TICK_SCATTER_NS // 2) * 1e-9)
        sampler.tick(booking=number % TICKS_PER_BOOKING == 0)
        if number % TICKS_PER_WINDOW == TICKS_PER_WINDOW // 2:
            window.__exit__(None, None, None)
        if number % 36_000 == 35_999:
            print(f"  hour {number // 36_000 + 1} of {hours:g}", file=sys.stderr)
    (journal,) = folder.glob(f"*/{JOURNAL}")
    # The meter is still running: what is on the disk now is what a kill would leave.
    copy = folder / "killed" / journal.parent.name
    shutil.copytree(journal.parent, copy)
    return copy, samples, stopwatch, board


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--domains", type=int, default=20)
    arguments = parser.parse_args()
    cpus = os.cpu_count()
    print(
        f"mlmeter {mlmeter.__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
    print(f"{platform.machine()}, {cpus} CPUs, {platform.system()} {platform.release()}")
    with tempfile.TemporaryDirectory() as folder:
        run, samples, stopwatch, board = run_day(Path(folder), arguments.hours, arguments.domains)
        size = sum(path.stat().st_size for path in run.iterdir())
        begin = time.perf_counter()
        session = mlmeter.recover(run)
        seconds = time.perf_counter() - begin
        journal_bytes = (run / JOURNAL).stat().st_size
    days = samples * TICK_SECONDS / DAY_SECONDS
    total = session.total()
    print(f"{samples:,} samples of {arguments.domains} domains in {days * 24:g} simulated hours, one run")
    print(f"journal, CPU per sample        {stopwatch.cpu_ns / samples * 1e-3:8.1f} us   (must: 60)")
    print(f"journal, per day               {journal_bytes / days * 1e-6:8.1f} MB   (must: 120)")
    print(f"with SQLite's log beside it    {size * 1e-6:8.1f} MB")
    print(f"recover, all files written     {seconds:8.1f} s    (must: 10 for a day)")
    lost = (samples * TICK_SECONDS) - session.duration_seconds
    print(f"lost at the end                {lost:8.2f} s    (must: 1)")
    print(f"energy {total.energy_joules:,.0f} J, read from the counters {board.joules:,.0f} J")
    peak = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            peak = int(line.split()[1])
    print(f"peak resident memory           {peak / 1024:8.0f} MiB")


if __name__ == "__main__":
    main()
