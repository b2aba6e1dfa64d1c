"""A simulated month in one process: is the memory of a session bounded, and are its totals right?

    python benchmarks/soak/month.py [--days 30] [--tick-seconds 10] [--windows 300000] [--domains 20]

One session runs on a clock that moves only when told to. Its counters belong to the simulation, which
knows what every phase has used. Sampler, windows, chapters and arithmetic are the real ones; only the
thread is left out. At 10 Hz a month of 20 domains and 10 million windows has 900 million rows, each of
which costs a microsecond or two of Python: `--tick-seconds 0.1 --windows 10000000` simulates all of it,
in hours. The default reads every 10 s and at both edges of 300,000 windows. A chapter has as many rows
and windows then, which is what memory depends on; there are thirty times fewer of them.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mlmeter
from mlmeter.measurement import Domain, Failure, Reading
from mlmeter.testing import FakeClock, fake_domain, fake_meter

DAY_SECONDS = 86_400
# Watts of the first domain; the others have as many per cent more as their number.
TRAINING_WATTS, INFERENCE_WATTS, BETWEEN_WATTS = 180, 310, 70
LARGEST_MIB = 512
# Of the total, as each chapter has a time base of its own, and of each phase: their edges are known to a
# fraction of a refresh.
LARGEST_ERROR, LARGEST_PHASE_ERROR = 1e-6, 1e-4
REFRESH_NS = 1_000_000
MIB = 1024


class KnownCounters:
    """Microjoule counters of domains whose power the simulation sets."""

    name = "fake"

    def __init__(self, clock: FakeClock, domains: int) -> None:
        self._clock = clock
        # Start, nanojoules up to then, and watts of this stretch of constant power, and of the one before.
        self._now = self._before = (0, 0, BETWEEN_WATTS)
        self.domains = tuple(fake_domain(name=f"fake-{number}", kind="cpu") for number in range(domains))
        # What was used before the session is not part of it.
        self.nanojoules = {BETWEEN_WATTS: -BETWEEN_WATTS * clock.now_ns()}

    def set_power(self, watts: int) -> None:
        """Change the power of the first domain now, and of the others in proportion."""
        now, (start_ns, upto, before) = self._clock.now_ns(), self._now
        used = before * (now - start_ns)
        self.nanojoules[before] = self.nanojoules.get(before, 0) + used
        self._before, self._now = self._now, (now, upto + used, watts)

    def open(self) -> Sequence[Domain]:
        return self.domains

    def read(self) -> Sequence[Reading | Failure]:
        now = self._clock.now_ns()
        shown_ns = now - (now + REFRESH_NS // 2) % REFRESH_NS
        start_ns, upto, watts = self._now if shown_ns >= self._now[0] else self._before
        nanojoules = upto + watts * (shown_ns - start_ns)
        return [
            Reading(number, nanojoules * (100 + number) // 100_000, now, now)
            for number in range(len(self.domains))
        ]

    def close(self) -> None:
        pass


def resident_mib() -> float:
    """Return the resident memory of this process now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / MIB
    return float("nan")


def simulate(
    days: float, tick_seconds: float, windows: int, domains: int
) -> tuple[mlmeter.Session, KnownCounters]:
    """Run the session, print one line per simulated day, and return it with what is true."""
    clock = FakeClock(start_ns=10**9)
    counters = KnownCounters(clock, domains)
    meter = fake_meter(counters, clock=clock, name="month", phase="other")
    tick_ns = round(tick_seconds * 1e9)
    ticks = round(days * DAY_SECONDS / tick_seconds)
    started, opened = time.perf_counter(), 0
    print(f"{'day':>4} {'MiB':>6} {'windows':>11} {'wall s':>7}", flush=True)
    with meter:
        sampler = meter.recorder._sampler
        epoch = None
        for tick in range(ticks):
            if tick * tick_seconds % DAY_SECONDS < tick_seconds:
                # An epoch lasts a day: it begins and ends in different chapters.
                if epoch is not None:
                    epoch.__exit__(None, None, None)
                epoch = meter.window("epoch", phase="training")
                epoch.__enter__()
                day = round(tick * tick_seconds / DAY_SECONDS)
                wall = time.perf_counter() - started
                print(f"{day:>4} {resident_mib():>6.0f} {opened:>11,} {wall:>7.0f}", flush=True)
            begin_ns = clock.now_ns()
            due = (tick + 1) * windows // ticks - opened
            for number in range(due):
                training = (opened + number) % 10 < 7
                # Outside of these windows the epoch goes on.
                with meter.window(
                    "step" if training else "predict", phase=None if training else "inference"
                ) as w:
                    counters.set_power(TRAINING_WATTS if training else INFERENCE_WATTS)
                    clock.advance(0.4 * tick_seconds / due)
                    w.add(samples=64)
                    counters.set_power(BETWEEN_WATTS)
                clock.advance(0.4 * tick_seconds / due)
            opened += due
            clock.advance((begin_ns + tick_ns - clock.now_ns()) / 1e9)
            sampler.tick()
        assert epoch is not None
        epoch.__exit__(None, None, None)
        counters.set_power(BETWEEN_WATTS)
    print(
        f"{days:>4g} {resident_mib():>6.0f} {opened:>11,} {time.perf_counter() - started:>7.0f}", flush=True
    )
    return meter.session, counters


def judge(session: mlmeter.Session, counters: KnownCounters, windows: int) -> bool:
    """Print totals beside what is true; return whether they agree and memory was bounded."""
    factor = sum(100 + number for number in range(len(counters.domains))) / 100
    true = {watts: nanojoules * 1e-9 * factor for watts, nanojoules in counters.nanojoules.items()}
    inference = true.get(INFERENCE_WATTS, 0.0)
    expected = {"training": sum(true.values()) - inference, "inference": inference}
    rows = [row for row in session.records("phases") if row["domain"] == "total"]
    good = True
    print(f"\n{'phase':>10} {'joules':>20} {'true':>20} {'error':>9}  {'in its interval':>15}")
    for row in rows:
        joules, truth = row["energy_joules"], expected.get(row["phase"], 0.0)
        error = abs(joules - truth) / sum(true.values())
        inside = row["low_joules"] - 1e-3 <= truth <= row["high_joules"] + 1e-3
        good = good and error < LARGEST_PHASE_ERROR and inside
        print(f"{row['phase']:>10} {joules:>20,.1f} {truth:>20,.1f} {error:>9.1e}  {inside!s:>15}")
    total, truth = session.total(), sum(true.values())
    assert total.energy_joules is not None
    error = abs(total.energy_joules / truth - 1)
    good = good and error < LARGEST_ERROR
    print(f"{'session':>10} {total.energy_joules:>20,.1f} {truth:>20,.1f} {error:>9.1e}")
    names = [row for row in session.records("window_names") if row["domain"] == "total"]
    counted = {row["name"]: row["windows"] for row in names}
    samples = sum(row["samples"] or 0 for row in names)
    print(
        "windows",
        ", ".join(f"{name} {count:,}" for name, count in counted.items()),
        f"samples {samples:,.0f}",
    )
    good = good and counted["step"] + counted["predict"] == windows and samples == 64 * windows
    for event in session.records("events"):
        print(f"{event['kind']}: {event['message']}")
    print("sampler", session.recording.run.facts["sampler"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    print(f"peak {peak:.0f} MiB (must: {LARGEST_MIB})")
    return good and peak <= LARGEST_MIB


def main() -> int:
    """Run the month; 1 if a total is wrong or memory exceeds its bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--tick-seconds", type=float, default=10.0)
    parser.add_argument("--windows", type=int, default=300_000)
    parser.add_argument("--domains", type=int, default=20)
    given = parser.parse_args()
    print(f"mlmeter {mlmeter.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(
        f"{given.days:g} days, a reading every {given.tick_seconds:g} s, "
        f"{given.domains} domains, {given.windows:,} windows"
    )
    session, counters = simulate(given.days, given.tick_seconds, given.windows, given.domains)
    return 0 if judge(session, counters, given.windows) else 1


if __name__ == "__main__":
    sys.exit(main())
