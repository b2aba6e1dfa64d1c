"""How right the CPU estimate is, against servers whose wall power was measured.

    python benchmarks/accuracy/cpu_estimate.py --data FILE.csv [--output FILE]
    python benchmarks/accuracy/cpu_estimate.py [--output FILE]

With ``--data`` the shipped formula meets the servers of the file through the product's own path:
from the name and the topology that the system would show. Without it, the formula is fitted anew to
the servers beside this script, each time without the processors that are judged.
``--data FILE --cross-validate`` does that with a file.

The file has the columns cpu_name, cpu_vendor, year, sockets, cores_total, threads_total, base_mhz,
tdp_w_per_socket, mem_gb and watts_0, watts_10, ... watts_100; cells may be empty. The TDP of the file
is used by the other tools' formulas and by the lines that say so.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cpu_estimate_fit import SEEDS, cross_validated
from cpu_package import package_lines
from cpu_servers import COLUMNS, HEADER, Estimates, Floats, Server, line, of_watts, read_servers, truth_of

import mlmeter
from mlmeter.backends.cpu_power.host import Host, describe
from mlmeter.backends.cpu_power.machine_model import LOADS, machine_curve
from mlmeter.backends.cpu_power.names import model_key
from mlmeter.backends.cpu_power.tables import coefficients, fitted_processors

SHIPPED = Path(__file__).parent / "servers" / "specpower_idle_full.csv"
RECENT_YEAR = 2017


def product_estimates(servers: Sequence[Server], *, told_tdp: bool = False) -> Estimates:
    """Return what the product says of servers; with `told_tdp` the user gives the file's TDP."""
    hosts = [describe(server.facts, tdp_watts=server.tdp_watts if told_tdp else None) for server in servers]
    return Estimates(*np.moveaxis(np.array([_row(host) for host in hosts]), -1, 0))


def _row(host: Host) -> list[tuple[float, ...]]:
    """Return watts and factors (low 95, low 68, high 68, high 95) at all loads."""
    curve = machine_curve(host.inputs, coefficients())
    return [(host.share * curve.watts(load), *curve.spread(load).combined(host.spread)) for load in LOADS]


def tdp_formula(servers: Sequence[Server], of_tdp: Sequence[float]) -> Estimates:
    """Return shares of all packages' TDP, of the file's TDP or else of what the product finds."""
    watts = []
    for server in servers:
        tdp_watts = server.tdp_watts or describe(server.facts).inputs.tdp_watts or math.nan
        watts.append([server.sockets * tdp_watts * share for share in of_tdp])
    return of_watts(np.array(watts))


def other_tools(servers: Sequence[Server]) -> list[tuple[str, Estimates]]:
    """Return formulas that claim the power of the processors, not of the wall."""
    # CodeCarbon 3, mode of the whole machine without its figure for memory.
    cubic = tdp_formula(servers, [0.1 + 0.9 * load**3 for load in LOADS])
    half = tdp_formula(servers, [0.5] * len(LOADS))
    return [("CodeCarbon's formula, CPU", cubic), ("50 % of TDP", half)]


def comparison(servers: Sequence[Server], methods: Sequence[tuple[str, Estimates]]) -> list[str]:
    """Return tables of all methods: overall, recent servers, and by load."""
    truth = truth_of(servers)
    lines = ["All loads", HEADER, *(line(title, item, truth) for title, item in methods)]
    recent = np.array([(server.facts.firmware_year or 0) >= RECENT_YEAR for server in servers])
    if recent.any() and not recent.all():
        lines += ["", f"Servers of {RECENT_YEAR} and later", HEADER]
        lines += [line(title, _part(item, recent), truth[recent]) for title, item in methods]
    for title, item in methods:
        lines += ["", f"{title}, by load", HEADER]
        for column, name in enumerate(COLUMNS):
            if np.isfinite(truth[:, column]).any():
                lines.append(line(f"  {name.removeprefix('watts_')} %", item, truth, [column]))
    return lines


def _part(item: Estimates, rows: Floats) -> Estimates:
    return Estimates(*(getattr(item, name)[rows] for name in Estimates.__slots__))


def judged(path: Path) -> list[str]:
    """Return the tables for the shipped formula and the servers of a file."""
    servers = read_servers(path)
    if not servers:
        return [f"{path.name}: no row has a power"]
    found = product_estimates(servers)
    named = np.array([describe(server.facts).inputs.tdp_watts is not None for server in servers])
    known = np.array([model_key(server.facts.model_name or "") in fitted_processors() for server in servers])
    truth = truth_of(servers)
    groups = len({server.group for server in servers})
    lines = [f"{path.name}: {len(servers)} servers, {groups} processor models; truth is wall power.", ""]
    if known.any():
        lines += [
            f"CAUTION: the formula was fitted to servers with {known.sum()} of these servers' processors;",
            "errors on those are not what to expect elsewhere (see --cross-validate).",
            "",
        ]
    lines += comparison(servers, [("mlmeter machine-estimate", found), *other_tools(servers)])
    lines += ["", "mlmeter, by what is known", HEADER]
    told = product_estimates(servers, told_tdp=True)
    parts = (
        ("  name in the table", found, named),
        ("  name not in the table", found, ~named),
        ("  user tells the TDP", told, np.ones(len(servers), bool)),
        ("  processor seen in the fit", found, known),
        ("  processor not seen in the fit", found, ~known),
    )
    lines += [line(title, _part(item, rows), truth[rows]) for title, item, rows in parts if rows.any()]
    return lines


def cross_validation(path: Path, group_column: str | None) -> list[str]:
    """Return the tables of a grouped cross-validation of the servers of a file."""
    once = read_servers(path, group_column)
    groups = len({server.group for server in once})
    servers = once * len(SEEDS)
    lines = [
        f"{path.name}: {len(once)} servers in {groups} groups, by {group_column or 'processor model'}.",
        f"Ten folds of groups, seeds {', '.join(map(str, SEEDS))}: each server is judged by fits that saw",
        "none of its group, and by intervals from other folds. Truth is wall power.",
        "",
    ]
    methods = []
    for title, tdp in (("mlmeter, as found", "found"), ("mlmeter, TDP never known", "unknown")):
        runs = [cross_validated(once, seed, tdp=tdp) for seed in SEEDS]
        joined = (np.vstack([getattr(run, name) for run in runs]) for name in Estimates.__slots__)
        methods.append((title, Estimates(*joined)))
    return lines + comparison(servers, [*methods, *other_tools(servers)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="servers to judge; without it: the shipped ones")
    parser.add_argument("--cross-validate", action="store_true", help="fit anew without what is judged")
    parser.add_argument("--groups", metavar="COLUMN", help="left out as a whole; default: processor models")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.data is not None and not options.data.is_file():
        parser.error(f"--data: there is no file {options.data}")
    words = sys.argv[1:]
    if "--output" in words:
        place = words.index("--output")
        del words[place : place + 2]
    arguments = " ".join(word if word.startswith("-") else Path(word).name for word in words)
    lines = [
        f"mlmeter {mlmeter.__version__}, numpy {np.__version__}",
        f"$ python benchmarks/accuracy/cpu_estimate.py {arguments}".rstrip(),
        "Errors in per cent of the truth; bias is the median, mean the mean of signed errors.",
        "",
    ]
    if options.data is None or options.cross_validate:
        lines += cross_validation(options.data or SHIPPED, options.groups)
        lines += ["", *package_lines()]
    else:
        lines += judged(options.data)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
