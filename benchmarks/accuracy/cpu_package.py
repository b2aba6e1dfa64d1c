"""The package formula of the CPU estimate against package power that RAPL told under known loads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from cpu_servers import Floats

from mlmeter.backends.cpu_power.package_model import SPREAD, package_watts

POINTS = Path(__file__).parent / "servers" / "package_power.csv"
# Base clocks of the processors whose clock was recorded.
BASE_MHZ = {"EPYC 8024P": 2400, "1950X": 3400, "E3-1240": 3400, "E5-2620": 2400}
IDLE_RATIOS = np.linspace(0.04, 0.30, 14)
BUSY_RATIOS = np.linspace(0.4, 1.2, 17)
EXPONENTS = np.linspace(0.5, 1.1, 13)


def package_lines() -> list[str]:
    """Return a table of the formula and of others on the points of `POINTS`."""
    with POINTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = np.array([row["cpu_name"] for row in rows])
    load = np.array([min(float(row["load"]), 1.0) for row in rows])
    some = np.array([row["load_mode"] == "some" for row in rows])
    # With two threads per core: one thread on each core first, or all threads in part.
    busy = np.where(some, np.minimum(2 * load, 1.0), 1 - (1 - load) ** 2)
    clock = np.array(
        [
            float(row["cpu_mhz"]) / BASE_MHZ[row["cpu_name"]] if row["cpu_name"] in BASE_MHZ else 1.0
            for row in rows
        ]
    )
    tdp = np.array([float(row["tdp_w_total"]) for row in rows])
    truth = np.array([float(row["pkg_watts"]) for row in rows])
    shipped = np.array([package_watts(t, c, f) for t, c, f in zip(tdp, busy, clock, strict=True)])
    refit = np.zeros_like(truth)
    for name in sorted(set(names)):
        mine = names == name
        refit[mine] = tdp[mine] * _refit(busy, clock, truth / tdp, names, name)[mine]
    lines = [
        f"Packages: {len(rows)} points of {len(set(names))} processors, truth is RAPL",
        f"{'':44s} {'MAPE':>6} {'median':>6} {'bias':>6} {'in 68%':>6} {'in 95%':>6}",
        _line("mlmeter cpu-estimate, as shipped", shipped, truth, inside=True),
        _line("mlmeter, fitted without the judged processor", refit, truth, inside=True),
        _line("CodeCarbon's formula", tdp * (0.1 + 0.9 * load**3), truth),
        _line("50 % of TDP", 0.5 * tdp, truth),
    ]
    return [*lines, "The shipped interval was chosen on these points; eleven processors are few."]


def _refit(busy: Floats, clock: Floats, ratio: Floats, names: Floats, without: str) -> Floats:
    """Return power / TDP of all points by the formula of least mean relative error elsewhere."""
    other = names != without
    # Each processor counts alike, however many points it has.
    weight = np.array([1 / np.sum(names == name) for name in names[other]])
    clocks = np.clip(clock, 0.4, 1.3)
    best, best_error = np.zeros_like(ratio), np.inf
    for exponent in EXPONENTS:
        shape = busy**exponent * clocks
        for idle in IDLE_RATIOS:
            for slope in BUSY_RATIOS:
                predicted = idle + slope * shape
                error = float(np.sum(weight * np.abs(np.log(predicted[other] / ratio[other]))))
                if error < best_error:
                    best, best_error = predicted, error
    return best


def _line(title: str, watts: Floats, truth: Floats, *, inside: bool = False) -> str:
    error = 100 * (watts / truth - 1)
    text = (
        f"{title:44s} {np.mean(np.abs(error)):6.1f} {np.median(np.abs(error)):6.1f} {np.median(error):6.1f}"
    )
    for low, high in ((SPREAD.low_68, SPREAD.high_68), (SPREAD.low_95, SPREAD.high_95)):
        held = (watts * low <= truth) & (truth <= watts * high)
        text += f" {100 * np.mean(held):6.1f}" if inside else f" {'-':>6}"
    return text
