"""The plug-in, in pytest runs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import mlmeter

ROOT = Path(mlmeter.__file__).parent.parent
PLUGIN = "mlmeter.integrations.pytest_plugin"

CONFTEST = """
import pytest
from mlmeter import meter
from mlmeter.testing import FakeBackend, FakeClock, fake_meter

clock = FakeClock()


class EnergyMeter:
    def __new__(cls, name, *, phase, backends, scope):
        assert (backends, scope) == (None, "machine")
        return fake_meter(FakeBackend.with_power(clock, 100.0), clock=clock, name=name, phase=phase)


meter.EnergyMeter = EnergyMeter
"""


def pytest_run(
    tmp_path: Path, text: str, *options: str, conftest: str = CONFTEST
) -> subprocess.CompletedProcess[str]:
    """Run tests at 100 W of a clock that they advance."""
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(f"import pytest\nfrom conftest import clock\n{text}")
    installed = any(found.value == PLUGIN for found in entry_points(group="pytest11"))
    load = [] if installed else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", *load, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "150"}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_limits_of_tests(tmp_path: Path) -> None:
    """100 J within 150 J passes, above 50 J fails; per unit as well; a test without either is left alone."""
    result = pytest_run(
        tmp_path,
        "@pytest.mark.max_joules(150)\n"
        "def test_within():\n    clock.advance(1.0)\n"
        "@pytest.mark.max_joules(50)\n"
        "def test_above():\n    clock.advance(1.0)\n"
        "@pytest.mark.max_joules(11, unit='tokens')\n"
        "def test_unit(energy_meter):\n"
        "    with energy_meter.inference('work', tokens=10):\n        clock.advance(1.0)\n"
        "def test_alone():\n    pass\n",
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 failed, 3 passed" in result.stdout
    assert "energy: 100.0 J (" in result.stdout
    assert "measured), above the limit 50.00 J" in result.stdout
    assert "energy (mlmeter)" in result.stdout
    assert "test_it.py::test_unit: 100.0 J in " in result.stdout
    assert "test_alone: " not in result.stdout


def test_a_failing_test_keeps_its_own_failure(tmp_path: Path) -> None:
    result = pytest_run(
        tmp_path,
        "@pytest.mark.max_joules(1)\ndef test_broken():\n    clock.advance(1.0)\n    assert 1 == 2\n",
    )
    assert "assert 1 == 2" in result.stdout
    assert "above the limit" not in result.stdout


def test_properties_are_in_the_junit_report(tmp_path: Path) -> None:
    result = pytest_run(
        tmp_path, "def test_it(energy_meter):\n    clock.advance(1.0)\n", "--junitxml", "report.xml"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    text = (tmp_path / "report.xml").read_text()
    assert 'name="energy_joules" value="100' in text
    assert 'name="provenance" value="measured"' in text


def test_wrong_markers_are_errors_of_the_test(tmp_path: Path) -> None:
    result = pytest_run(
        tmp_path,
        "@pytest.mark.max_joules()\ndef test_nothing():\n    pass\n"
        "@pytest.mark.max_joules('5')\ndef test_text():\n    pass\n"
        "@pytest.mark.max_joules(-5)\ndef test_negative():\n    pass\n"
        "@pytest.mark.max_joules(5, unit='tokens')\ndef test_no_unit():\n    clock.advance(1.0)\n",
    )
    assert "4 failed" in result.stdout
    assert "-5 is no limit in joules" in result.stdout
    assert "unit='tokens': not in all runs" in result.stdout
    assert "Traceback" not in result.stdout
    assert "pytest_plugin.py" not in result.stdout


def test_a_real_meter_on_this_machine(tmp_path: Path) -> None:
    """With whatever is here, and warnings as errors: the test runs, and its energy is told."""
    result = pytest_run(
        tmp_path,
        "import time\ndef test_it(energy_meter):\n    time.sleep(0.2)\n",
        "-W",
        "error",
        conftest="clock = None\n",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_it.py::test_it: " in result.stdout


def test_the_plugin_imports_nothing_heavy() -> None:
    """Every pytest run of a user's environment loads it."""
    code = (
        f"import sys, {PLUGIN}\n"
        "heavy = ('numpy', 'pandas', 'click', 'psutil', 'mlmeter.meter')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
