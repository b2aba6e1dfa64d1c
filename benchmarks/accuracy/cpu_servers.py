"""Servers of known wall power, as the product would meet them, and what an estimate makes of them.

A row becomes the facts that the operating system of that server would show: the processor's name,
sockets, cores, threads, memory, base clock, and the year in place of the firmware's date. The
thermal design power of the file is not shown to the product, which has to find its own.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlmeter.backends.cpu_power.facts import Facts
from mlmeter.backends.cpu_power.machine_model import LOADS
from mlmeter.backends.cpu_power.names import model_key

Floats = npt.NDArray[np.float64]
COLUMNS = tuple(f"watts_{round(100 * load)}" for load in LOADS)


@dataclass(frozen=True, slots=True)
class Server:
    """A row: facts, thermal design power of the file, and wall power.

    Attributes:
        group: what must not stand on both sides of a cross-validation.
        tdp_watts: of one socket; None if the file has none.
        watts: at `LOADS`, shape (11,); NaN where the file has none.
    """

    group: str
    facts: Facts
    tdp_watts: float | None
    watts: Floats

    @property
    def sockets(self) -> int:
        return self.facts.sockets or 1


def read_servers(path: Path, group_column: str | None = None) -> list[Server]:
    """Return the servers of a file that has at least names and one column of watts.

    Groups are processor models by their key, or the values of a column.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = list(csv.DictReader(file))
    servers = [_server(row, (row.get(group_column) or "") if group_column else None) for row in rows]
    return [server for server in servers if np.isfinite(server.watts).any()]


def _server(row: dict[str, str], group: str | None) -> Server:
    name = (row.get("cpu_name") or "").strip()
    vendor = (row.get("cpu_vendor") or name).lower()
    numbers = {key: _number(value) for key, value in row.items() if isinstance(value, str)}
    sockets, cores = numbers.get("sockets"), numbers.get("cores_total")
    megahertz, year = numbers.get("base_mhz"), numbers.get("year")
    facts = Facts(
        model_name=name or None,
        vendor="GenuineIntel" if "intel" in vendor else "AuthenticAMD" if "amd" in vendor else None,
        sockets=round(sockets) if sockets else None,
        cores=round(cores) if cores else None,
        threads=round(numbers.get("threads_total") or 0) or None,
        memory_gigabytes=numbers.get("mem_gb"),
        base_ghz=megahertz / 1000 if megahertz else None,
        firmware_year=round(year) if year else None,
    )
    watts = np.array([numbers.get(column) or math.nan for column in COLUMNS])
    key = model_key(name) or name.lower()
    return Server(key if group is None else group, facts, numbers.get("tdp_w_per_socket"), watts)


def _number(text: str) -> float | None:
    """Return a positive finite number; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


@dataclass(frozen=True, slots=True)
class Estimates:
    """What a method says of servers, shapes (servers, 11); factors are NaN if it tells none."""

    watts: Floats
    low_95: Floats
    low_68: Floats
    high_68: Floats
    high_95: Floats


def of_watts(watts: Floats) -> Estimates:
    """Return estimates without an interval."""
    nothing = np.full_like(watts, math.nan)
    return Estimates(watts, nothing, nothing, nothing, nothing)


HEADER = (
    f"{'':34s} {'points':>6} {'MAPE':>6} {'median':>6} {'bias':>6} {'mean':>6} {'in 68%':>6} {'in 95%':>6}"
)


def line(title: str, estimates: Estimates, truth: Floats, columns: Iterable[int] = range(11)) -> str:
    """Return one line of errors in per cent of the truth.

    MAPE and median are of absolute errors; bias is the median and mean the mean of signed ones.
    """
    chosen = list(columns)
    true, watts = truth[:, chosen], estimates.watts[:, chosen]
    known = np.isfinite(true) & np.isfinite(watts)
    if not known.any():
        return f"{title:34s} {0:6d}"
    error = 100 * (watts[known] / true[known] - 1)
    figures = (np.mean(np.abs(error)), np.median(np.abs(error)), np.median(error), np.mean(error))
    text = f"{title:34s} {known.sum():6d} " + " ".join(f"{figure:6.1f}" for figure in figures)
    for low, high in ((estimates.low_68, estimates.high_68), (estimates.low_95, estimates.high_95)):
        ratio = true[known] / watts[known]
        inside = (low[:, chosen][known] <= ratio) & (ratio <= high[:, chosen][known])
        told = np.isfinite(low[:, chosen][known]).all()
        text += f" {100 * np.mean(inside):6.1f}" if told else f" {'-':>6}"
    return text


def truth_of(servers: Sequence[Server]) -> Floats:
    """Return wall power, shape (servers, 11)."""
    return np.array([server.watts for server in servers])
