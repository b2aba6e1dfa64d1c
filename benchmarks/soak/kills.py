"""Kill metered programs at random instants and see what of their runs is left.

    python benchmarks/soak/kills.py [--kills 1000] [--jobs N] [--seed S] [--output FILE]

Each program is a process of its own with two threads that open windows; it is killed with SIGKILL
between the start of its session, or that of the process, and a little after its end, at an instant
drawn evenly. It writes into a file
of its own which windows it has closed and which of them its journal has acknowledged: their
transaction has been committed. Then `mlmeter.load` reads the journal; every tenth run is recovered,
with all its tables. Half of the programs write
their journals as usual, about once a second; the others as often as they can, so that more kills hit a write.

The exit code is 1 if a journal could not be read or an acknowledged window was lost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.clock import MonotonicClock
from mlmeter.errors import MLMeterError, RunFileError
from mlmeter.journal import JOURNAL, live_journal
from mlmeter.testing import FakeBackend
from mlmeter.window_records import OPEN

SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 2.0
# The end of a session is killed as often as any other tenth of a second.
AFTER_END_SECONDS = 0.3
WINDOW_SECONDS = 0.005
# Every window that was closed so long before the kill is to be there.
KEPT_NS = 1_000_000_000
RECOVERED_OF = 10
# Of every second program, and of the others: the default, one that fits badly into a second, a long one.
OFTEN_SECONDS = 0.01
PERIODS_SECONDS = (None, 0.34, 1.0)
# The others are killed in so long a time from the start of their process.
FROM_START_RATIO = 0.9
TOLD = "told.txt"


@dataclass
class Outcome:
    """What is left of one program.

    Attributes:
        killed: it was, before it had ended by itself.
        empty: killed before its journal held anything; broken: why a journal could not be read.
        closed: windows it has told to be closed; acknowledged: of those, in its journal.
        lost: acknowledged windows that are missing or not closed; old: others, closed 1 s before the kill.
        newest_seconds: age at the kill of the newest closed window that is there.
        wrong: what else is not as it should be.
    """

    killed: bool
    empty: bool = False
    broken: str = ""
    closed: int = 0
    acknowledged: int = 0
    lost: int = 0
    old: int = 0
    newest_seconds: float | None = None
    wrong: list[str] = field(default_factory=list)


# --- the program that is killed -----------------------------------------------------------------


def program(folder: Path, seconds: float, started: int, period_seconds: float | None) -> None:
    """Open windows in two threads and tell of them, in lines that a kill does not tear.

    Args:
        folder: for what it tells, and for its run.
        seconds: length of the session.
        started: a pipe that is closed when the session has begun.
        period_seconds: between readings; the shortest one has the journal written as often as possible.
    """
    if period_seconds == OFTEN_SECONDS:
        live_journal.PERIOD_NS, live_journal.PATIENCE_NS = 1_000_000, 0
    told = os.open(folder / TOLD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    backends = [FakeBackend.with_power(MonotonicClock(), watts, id=f"{watts} W") for watts in (100, 200)]
    meter = EnergyMeter("soak", backends=backends, output_dir=folder / "runs", period_seconds=period_seconds)
    with meter:
        os.close(started)
        deadline_ns = time.perf_counter_ns() + round(seconds * 1e9)
        worker = threading.Thread(target=work, args=(meter, told, deadline_ns), daemon=True)
        worker.start()
        work(meter, told, deadline_ns, acknowledge=True)
        worker.join()
    os.write(told, b"ended\n")


def work(meter: EnergyMeter, told: int, deadline_ns: int, *, acknowledge: bool = False) -> None:
    """Open and close windows until the time is over."""
    known = 0
    while time.perf_counter_ns() < deadline_ns:
        with meter.training("step", items=1), meter.inference("part") as part:
            time.sleep(WINDOW_SECONDS)
        os.write(told, b"closed %d %d\n" % (part.id, part.end_ns))
        if acknowledge:
            live = meter.recorder
            # The log's columns only grow.
            written = 0 if live._journal is None else live._journal.windows
            if written > known:
                ids = b" ".join(b"%d" % window for window in live.log._columns[0][known:written])
                os.write(told, b"acknowledged " + ids + b"\n")
                known = written


# --- who kills it and looks ---------------------------------------------------------------------


def killed_program(folder: Path, seed: int) -> Outcome:
    """Start a program, kill it, and return what is left."""
    rng = random.Random(seed)
    seconds = rng.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
    delay_seconds = rng.uniform(0.0, seconds + AFTER_END_SECONDS)
    reading, started = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            program(folder, seconds, started, OFTEN_SECONDS if seed % 2 else rng.choice(PERIODS_SECONDS))
            status = 0
        finally:
            os._exit(status)
    os.close(started)
    if rng.random() < FROM_START_RATIO:
        os.read(reading, 1)
    os.close(reading)
    time.sleep(delay_seconds)
    killed_ns = time.perf_counter_ns()
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcome = Outcome(killed=status == -signal.SIGKILL)
    if status not in (0, -signal.SIGKILL):
        outcome.wrong.append(f"the program failed: {status}")
    judge(folder, killed_ns, outcome, recover=seed % RECOVERED_OF == 0)
    return outcome


def judge(folder: Path, killed_ns: int, outcome: Outcome, *, recover: bool) -> None:
    """Read or recover the run and compare it with what its program has told."""
    closed, acknowledged, ended = told_by(folder)
    if ended:
        acknowledged |= closed.keys()
    outcome.closed, outcome.acknowledged = len(closed), len(acknowledged)
    old = {window for window, end_ns in closed.items() if end_ns < killed_ns - KEPT_NS} - acknowledged
    journals = list(folder.glob(f"runs/*/{JOURNAL}"))
    try:
        read = mlmeter.recover if recover else mlmeter.load
        session = read(journals[0]) if journals else None
    except RunFileError as error:
        session = None
        # One in which no transaction has come to its end says that it is empty.
        if acknowledged or "is empty" not in str(error):
            outcome.broken = str(error)
    except (MLMeterError, OSError) as error:
        session = None
        outcome.broken = f"{type(error).__name__}: {error}"
    if session is None:
        outcome.empty = not outcome.broken
        outcome.lost, outcome.old = len(acknowledged), len(old)
        return
    records = session.recording.windows
    kept = {
        window: end_ns
        for window, end_ns, flags in zip(records.ids, records.ends_ns, records.flags, strict=True)
        if not flags & OPEN
    }
    outcome.lost, outcome.old = len(acknowledged - kept.keys()), len(old - kept.keys())
    outcome.wrong += [
        f"window {w} ends elsewhere" for w in closed.keys() & kept.keys() if closed[w] != kept[w]
    ]
    if len(set(records.ids)) != len(records):
        outcome.wrong.append("a window is there twice")
    rows = folder / "runs" / "runs.csv"
    if recover and not (session.finished and len(rows.read_text().splitlines()) == 2):
        outcome.wrong.append("the run is not finished, or has not one row")
    if outcome.killed and kept:
        outcome.newest_seconds = (killed_ns - max(kept.values())) * 1e-9


def told_by(folder: Path) -> tuple[dict[int, int], set[int], bool]:
    """Return the ends of closed windows, the acknowledged ones, and whether the program has ended."""
    closed: dict[int, int] = {}
    acknowledged: set[int] = set()
    path = folder / TOLD
    lines = path.read_text().splitlines() if path.exists() else []
    for kind, *numbers in map(str.split, lines):
        if kind == "closed":
            closed[int(numbers[0])] = int(numbers[1])
        else:
            acknowledged.update(map(int, numbers))
    return closed, acknowledged, "ended" in lines


def one(seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="mlmeter-kills-") as folder:
        return killed_program(Path(folder), seed)


def run(kills: int, jobs: int, seed: int) -> list[Outcome]:
    """Kill so many programs, some at a time."""
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs) as pool:
        return list(pool.imap_unordered(one, range(seed, seed + kills)))


def figures(outcomes: list[Outcome]) -> dict[str, object]:
    """Return what is printed, by name."""
    ages = sorted(item.newest_seconds for item in outcomes if item.newest_seconds is not None)
    return {
        "programs": len(outcomes),
        "killed before they had ended": sum(item.killed for item in outcomes),
        "killed before anything was written": sum(item.empty for item in outcomes),
        "unreadable journals": sum(bool(item.broken) for item in outcomes),
        "windows closed, without those round them": sum(item.closed for item in outcomes),
        "windows acknowledged": sum(item.acknowledged for item in outcomes),
        "acknowledged windows lost": sum(item.lost for item in outcomes),
        "windows closed 1 s before the kill and lost": sum(item.old for item in outcomes),
        "age of the newest window kept, median [s]": round(ages[len(ages) // 2], 3) if ages else None,
        "age of the newest window kept, largest [s]": round(ages[-1], 3) if ages else None,
        "other faults": sum(bool(item.wrong) for item in outcomes),
    }


def complaints(outcomes: Iterable[Outcome]) -> list[str]:
    return [text for item in outcomes for text in ([item.broken] if item.broken else []) + item.wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    outcomes = run(arguments.kills, arguments.jobs, arguments.seed)
    found = figures(outcomes)
    lines = [f"{name:46} {value}" for name, value in found.items()]
    text = "\n".join([*lines, *complaints(outcomes)]) + "\n"
    print(text, end="")
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    if arguments.output is not None:
        arguments.output.write_text(text)
    good = not (found["unreadable journals"] or found["acknowledged windows lost"] or found["other faults"])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
