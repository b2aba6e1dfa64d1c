"""The benchmark of the CPU estimate: any file, the product's path, and no server on both sides."""

from __future__ import annotations

from pathlib import Path

import cpu_estimate
import cpu_estimate_fit
import cpu_package
import numpy as np
import pytest
from cpu_servers import line, of_watts, read_servers, truth_of

from mlmeter.backends.cpu_power.host import describe
from mlmeter.backends.cpu_power.machine_model import machine_curve
from mlmeter.backends.cpu_power.tables import coefficients

HEADER = (
    "cpu_name,cpu_vendor,year,sockets,cores_total,threads_total,base_mhz,"
    "tdp_w_per_socket,mem_gb,watts_0,watts_50,watts_100\n"
)


def test_the_product_is_what_is_judged() -> None:
    """Estimates of the benchmark are those of the shipped formula for the facts of a server."""
    server = read_servers(cpu_estimate.SHIPPED)[100]
    found = cpu_estimate.product_estimates([server]).watts[0]
    curve = machine_curve(describe(server.facts).inputs, coefficients())
    assert tuple(found) == pytest.approx(curve.watts_at)


@pytest.mark.parametrize(
    "rows",
    [
        "Mystery 9000,Acme,1890,,,,,,,50,80,100\n",
        ",,,,,,,,,50,,100\n",
        "AMD EPYC 9965,AMD,2999,2,384,768,2250,,1536,200,,1100\n",
        "Intel Xeon Gold 6599Z,Intel,nan,0,-4,x,inf,-1,,200,,1100\n",
        "AMD EPYC 7763,AMD,2021,2\n",
    ],
)
def test_any_row_is_judged_or_left_out(tmp_path: Path, rows: str) -> None:
    """Unknown names, empty cells and years from nowhere give lines, not errors."""
    path = tmp_path / "servers.csv"
    path.write_text(HEADER + rows, encoding="utf-8")
    assert path.name in cpu_estimate.judged(path)[0]
    for server in read_servers(path):
        assert np.isfinite(cpu_estimate.product_estimates([server]).watts).all()


def test_figures_of_a_line() -> None:
    """An estimate twice the truth and one half of it: MAPE 75 %, bias and mean 25 %."""
    truth = np.full((2, 11), 100.0)
    watts = np.array([[200.0] * 11, [50.0] * 11])
    assert line("x", of_watts(watts), truth).split() == ["x", "22", "75.0", "75.0", "25.0", "25.0", "-", "-"]


def test_no_processor_is_on_both_sides() -> None:
    """All servers of one processor are in one fold, and folds follow the seed alone."""
    servers = read_servers(cpu_estimate.SHIPPED)
    folds = cpu_estimate_fit.folds_of(servers, 0)
    assert len({(server.group, fold) for server, fold in zip(servers, folds, strict=True)}) == len(
        {server.group for server in servers}
    )
    assert folds == cpu_estimate_fit.folds_of(servers, 0)
    assert folds != cpu_estimate_fit.folds_of(servers, 1)


def test_a_fit_finds_again_what_it_was_given() -> None:
    """Servers that follow a formula exactly are met within a few percent by a fit without them."""
    servers = read_servers(cpu_estimate.SHIPPED)[::4]
    exact = np.array([machine_curve(describe(s.facts).inputs, coefficients()).watts_at for s in servers])
    made = [
        type(server)(server.group, server.facts, server.tdp_watts, watts)
        for server, watts in zip(servers, exact, strict=True)
    ]
    again = cpu_estimate_fit.cross_validate(made, 0, tdp="found")
    assert np.median(np.abs(again / truth_of(made) - 1)) < 0.08


def test_shipped_formula_on_shipped_servers() -> None:
    """On servers of its own fit the formula is within 15 % and free of bias."""
    servers = read_servers(cpu_estimate.SHIPPED)
    truth = truth_of(servers)
    error = cpu_estimate.product_estimates(servers).watts / truth - 1
    assert np.nanmean(np.abs(error)) < 0.15
    assert abs(np.nanmedian(error)) < 0.03


def test_package_points() -> None:
    """The package formula errs less than the others on the points that RAPL told."""
    figures = {row[:44].strip(): float(row[44:].split()[0]) for row in cpu_package.package_lines()[2:6]}
    assert figures["mlmeter cpu-estimate, as shipped"] < 38
    assert figures["mlmeter, fitted without the judged processor"] < figures["CodeCarbon's formula"]
