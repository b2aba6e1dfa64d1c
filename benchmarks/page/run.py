"""How large a report page is, and how fast a browser draws its picture of power.

    python benchmarks/page/run.py [--loads 20] [--starts 5] [--output benchmarks/results/page.txt]

Pages of simulated sessions. *Layout* is the browser's for the whole page; *drawing* goes from parsing the
data until the picture is on its canvas. Both as `performance.measure` tells them in headless Chromium.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import CHROMIUM, chromium  # noqa: E402
from tests.output.pages import long_session  # noqa: E402

# Domains and readings of each: the requirement, a day at 1 Hz, and a server with eight GPUs.
SIZES = ((4, 3_600), (4, 36_000), (12, 3_600))
TIMES = "['layout', 'draw'].map((name) => performance.getEntriesByName(`mlmeter-${name}`)[0].duration)"


def times_of(page: Path, loads: int) -> list[tuple[float, float]]:
    """Return times of layout and drawing in milliseconds, of a browser that was just started first."""
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        browser.size(1200)
        times = []
        for _ in range(loads):
            browser.open(page.as_uri())
            layout, draw = browser.evaluate(TIMES)
            times.append((layout, draw))
        return times


def row(domains: int, readings: int, loads: int, starts: int) -> str:
    session = long_session(domains, readings)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        session.to_html(page)
        begin = time.perf_counter()
        session.to_html(page)
        seconds = time.perf_counter() - begin
        runs = [times_of(page, loads) for _ in range(starts)]
        size = page.stat().st_size
    first = [run[0] for run in runs]
    later = [times for run in runs for times in run[1:]]
    middles = [statistics.median(column) for times in (first, later) for column in zip(*times, strict=True)]
    least = min(draw for _, draw in later)
    cells = " ".join(f"{value:10.0f}" for value in (*middles, least))
    return f"{domains:7} {readings:8,} {size / 1e3:5.0f} {1e3 * seconds:8.0f} {cells}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--loads", type=int, default=20)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    version = subprocess.run([CHROMIUM, "--version"], capture_output=True, text=True, check=False).stdout
    lines = [
        f"{version.split(' built')[0].strip()}, {platform.machine()}, {os.cpu_count()} CPUs; times in ms",
        "",
        f"{'first load':>51}{'later loads':>22}",
        "domains readings    kB  to_html     layout    drawing     layout    drawing  least drawing",
        *(row(*size, arguments.loads, arguments.starts) for size in SIZES),
        "",
        "first load: the first page of a browser that was just started; medians over starts and loads",
        f"load of the machine meanwhile: {os.getloadavg()[0]:.1f}; niceness of the benchmark: {os.nice(0)}",
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
