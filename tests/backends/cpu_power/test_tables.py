"""The shipped tables are whole, plausible and of one shape."""

from __future__ import annotations

import math
from importlib.resources import files

import pytest

from mlmeter.backends.cpu_power.names import model_key
from mlmeter.backends.cpu_power.tables import coefficients, find_family, fitted_processors, processors


def test_processors_are_plausible() -> None:
    """Every processor has a positive power, and counts that make sense where they are told."""
    assert len(processors()) > 4000
    for key, processor in processors().items():
        assert 0 < processor.tdp_watts < 1000, key
        assert processor.cores is None or 1 <= processor.cores <= 512, key
        assert processor.cores is None or processor.threads is None or processor.threads >= processor.cores
        assert processor.base_ghz is None or 0.1 <= processor.base_ghz < 7, key
        assert processor.year is None or 1993 <= processor.year <= 2026, key


def test_keys_occur_once() -> None:
    """No key hides another row's power."""
    table = files("mlmeter.backends.cpu_power").joinpath("data", "cpu_tdp.csv").read_text("utf-8")
    assert len(table.splitlines()) - 1 == len(processors())


@pytest.mark.parametrize(
    ("name", "tdp_watts"),
    [
        ("AMD EPYC 7763 64-Core Processor", 280),
        ("AMD EPYC 9654 96-Core Processor", 360),
        ("Intel(R) Xeon(R) Platinum 8480+", 350),
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", 150),
        ("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", 135),
        ("AWS Graviton3", 220),
        ("Ampere(R) Altra(R) Processor Q80-30", 210),
        ("NVIDIA Grace CPU Superchip", 500),
        ("AMD Ryzen 9 5950X 16-Core Processor", 105),
        ("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", 95),
    ],
)
def test_known_processors(name: str, tdp_watts: float) -> None:
    """Names as systems show them find the vendor's figure."""
    assert tdp_watts == processors()[model_key(name)].tdp_watts


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "name"),
    [
        ("AuthenticAMD", 25, 1, 1, "EPYC 7003 Milan"),
        ("AuthenticAMD", 26, 2, None, "EPYC 9005 Turin"),
        ("GenuineIntel", 6, 85, 4, "Skylake-SP"),
        ("GenuineIntel", 6, 85, 7, "Cascade Lake-SP"),
        ("GenuineIntel", 6, 85, 11, "Cooper Lake-SP"),
        ("GenuineIntel", 6, 143, 8, "Sapphire Rapids"),
        ("ARM", 8, 0xD40, None, "Neoverse-V1 (Graviton3)"),
    ],
)
def test_families(vendor: str, family: int, model: int, stepping: int | None, name: str) -> None:
    """CPUID numbers name the family."""
    found = find_family(vendor, family, model, stepping)
    assert found is not None
    assert name == found.name
    assert 0 < found.tdp_watts < 1000
    assert found.sockets in (1, 2)


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping"),
    [("GenuineIntel", 6, 85, None), ("GenuineIntel", 6, 85, 99), ("Acme", 6, 85, 4), ("ARM", 8, 1, None)],
)
def test_unknown_families(vendor: str, family: int, model: int, stepping: int | None) -> None:
    """Numbers that fit no family, or two, name none."""
    assert find_family(vendor, family, model, stepping) is None


def test_coefficients_fit_together() -> None:
    """Eleven quantities, features of one length, and spreads that contain their estimate."""
    table = coefficients()
    for surface, features in ((table.with_tdp, 8), (table.without_tdp, 7)):
        assert [len(row) for row in surface.linear] == [5] * 11
        assert {features} == {len(row) for row in surface.centres}
        assert {11} == {len(row) for row in surface.weights}
        assert len(surface.centres) == len(surface.weights)
        assert len(surface.spreads) == 4
        numbers = [*surface.linear, *surface.centres, *surface.weights]
        assert all(math.isfinite(number) for row in numbers for number in row)
        for low_95, low_68, high_68, high_95 in (*surface.spreads, table.implied_tdp_spread):
            assert 0.3 < low_95 <= low_68 <= 1 <= high_68 <= high_95 < 3


def test_fitted_processors_are_keys() -> None:
    """What the fit has seen is told by keys that names lead to."""
    assert {"epyc7763", "xeon8480+", "xeone52699v4"} <= fitted_processors()


def test_data_come_with_their_notices() -> None:
    """Whoever has the tables has their sources and licences."""
    data = files("mlmeter.backends.cpu_power").joinpath("data")
    assert "SPEC" in data.joinpath("NOTICE.md").read_text("utf-8")
    assert "Code Carbon" in data.joinpath("LICENSE-MIT.txt").read_text("utf-8")
