"""A short form of the long kill test, `make soak-kills`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.processes import ROOT

KILLS = Path(__file__).parents[2] / "benchmarks" / "soak" / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork") or not KILLS.exists(), reason="no fork, or a wheel's tests")
def test_programs_that_are_killed_at_random_instants(tmp_path: Path) -> None:
    """No journal is unreadable, and nothing that it has acknowledged is lost."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(KILLS), "--kills", "20", "--jobs", "10"],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr.count("\n")) == (0, 1), result.stdout + result.stderr
    found = {
        name.strip(): ast.literal_eval(number)
        for name, _, number in (line.rpartition(" ") for line in result.stdout.splitlines())
    }
    assert found["programs"] == 20
    assert found["unreadable journals"] == found["acknowledged windows lost"] == found["other faults"] == 0
    # The test is worth something only if journals had acknowledged windows when they were killed.
    assert found["windows acknowledged"] > 0
