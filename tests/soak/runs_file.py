"""Many processes append to one runs.csv at once, and some are killed: is a row lost or torn?

Run with `make soak-runs-file`, or as a short form by the tests.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Each session is written as a meter writes it; its id is told when its row is said to be there.
WORKER = """
import sys
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
for _ in range(int(sys.argv[2])):
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=5), clock=clock, output_dir=sys.argv[1])
    with meter, meter.window("a, \\"b\\"\\nc"):
        clock.advance(1)
    if meter.write_error:
        sys.exit(meter.write_error)
    print(meter.session.id, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        acknowledged: sessions that were told to be written.
        rows: rows of the file.
        lost: acknowledged sessions without a row.
        doubled: sessions with several rows.
        torn: rows that have too few or too many cells, or another energy than they must.
        killed: processes that were killed while they wrote.
        failures: what the others said that did not end well.
        seconds: how long it all took.
    """

    acknowledged: int
    rows: int
    lost: int
    doubled: int
    torn: int
    killed: int
    failures: list[str]
    seconds: float


def soak(folder: Path, *, processes: int, sessions: int, victims: int, seed: int) -> Outcome:
    """Let processes write sessions into a folder, kill others, and count.

    Args:
        folder: empty.
        processes: so many at once, all of which come to their end.
        sessions: of each.
        victims: so many more, killed one after the other as soon as they have written a few sessions.
        seed: of the instants of the kills.
    """
    begin = time.perf_counter()
    rng = random.Random(seed)
    writing = [_start(folder, sessions) for _ in range(processes)]
    acknowledged: list[str] = []
    for _ in range(victims):
        victim = _start(folder, 1_000_000)
        assert victim.stdout is not None
        acknowledged += [victim.stdout.readline().strip() for _ in range(2)]
        time.sleep(rng.uniform(0, 0.05))
        victim.kill()
        acknowledged += victim.communicate()[0].split()
    failures = []
    for process in writing:
        told, problems = process.communicate()
        acknowledged += told.split()
        if process.returncode:
            failures.append(problems.strip())
    return _counted(folder / "runs.csv", acknowledged, victims, failures, time.perf_counter() - begin)


def _start(folder: Path, sessions: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(sessions)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _counted(
    path: Path, acknowledged: list[str], killed: int, failures: list[str], seconds: float
) -> Outcome:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    energy = header.index("energy_joules")
    found = Counter(row[0] for row in rows)
    return Outcome(
        acknowledged=len(acknowledged),
        rows=len(rows),
        lost=sum(name not in found for name in acknowledged),
        doubled=sum(count > 1 for count in found.values()),
        torn=sum(len(row) != len(header) or float(row[energy]) != 5.0 for row in rows),
        killed=killed,
        failures=failures,
        seconds=seconds,
    )


def main() -> None:
    """Run the long form and print its figures; end with code 1 if anything was lost or torn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--victims", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), **vars(arguments))
    print(
        f"runs.csv: {arguments.processes} processes x {arguments.sessions} sessions, {found.killed} more"
        f" killed while writing: {found.acknowledged} sessions acknowledged, {found.rows} rows, "
        f"{found.lost} lost, {found.doubled} doubled, {found.torn} torn, in {found.seconds:.1f} s"
    )
    for failure in found.failures:
        print(failure)
    sys.exit(bool(found.lost or found.doubled or found.torn or found.failures))


if __name__ == "__main__":
    main()
