"""`mlmeter baseline`: refuses a busy machine, stores, shows, forgets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlmeter import cli, idle
from mlmeter.baseline import Baseline, Machine, StoredIdlePower, baseline_path, store
from mlmeter.energy.idle_power import IdlePower


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["baseline", *arguments])


def baseline(*remarks: str, days: float = 0) -> Baseline:
    power = StoredIdlePower(
        name="gpu-0", source="nvml", provenance="measured", power=IdlePower(62.5, 0.3, 1.0)
    )
    return Baseline(
        machine=Machine.of_root(),
        measured_at=datetime.now(UTC).replace(microsecond=0) - timedelta(days=days),
        seconds=60.0,
        domains={"GPU-1": power},
        remarks=remarks,
    )


def measured_as(monkeypatch: pytest.MonkeyPatch, found: Baseline, *busy: str) -> None:
    monkeypatch.setattr(idle, "look", lambda load, wait: list(busy))
    monkeypatch.setattr(idle, "measure", lambda *arguments, **others: found)


def test_what_was_measured_is_stored_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table fits 80 columns; --show prints it again, --json all of it."""
    measured_as(monkeypatch, baseline())
    result = invoke()
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "62.5" in result.stdout
    assert invoke("--show").stdout == result.stdout
    assert json.loads(invoke("--show", "--json").stdout) == baseline_file()


def baseline_file() -> object:
    return json.loads(baseline_path(Machine.of_root()).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("busy", "remarks"), [(["gpu-0 was 97 % busy"], []), ([], ["gpu-0 was 97 % busy"])])
def test_a_busy_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, busy: list[str], remarks: list[str]
) -> None:
    """Busy before or during the measurement: code 1, the reason, nothing stored."""
    measured_as(monkeypatch, baseline(*remarks), *busy)
    result = invoke()
    assert result.exit_code == 1
    assert "gpu-0 was 97 % busy" in result.stderr
    assert not baseline_path(Machine.of_root()).exists()


def test_force_stores_with_the_remarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who insists gets the figure, and the file says what was wrong."""
    measured_as(monkeypatch, baseline("the CPUs were 40 % busy"), "the CPUs were 40 % busy")
    result = invoke("--force")
    assert result.exit_code == 0
    assert "remark: the CPUs were 40 % busy" in result.stdout


def test_an_old_one_is_shown_as_not_used() -> None:
    """--show says that sessions do not use it any more, and why."""
    store(baseline(days=90), baseline_path(Machine.of_root()))
    result = invoke("--show")
    assert "NOT USED any more: 90 days old" in result.stdout


def test_clear_forgets_and_show_then_says_what_to_do() -> None:
    """Twice is harmless."""
    store(baseline(), baseline_path(Machine.of_root()))
    assert invoke("--clear").exit_code == 0
    assert invoke("--clear").exit_code == 0
    result = invoke("--show")
    assert result.exit_code == 1
    assert "measure one with `mlmeter baseline`" in result.stderr


@pytest.mark.parametrize("arguments", [["--show", "--clear"], ["--seconds", "1"], ["--backends", "nvlm"]])
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    """Contradictions, too short a time and unknown sources."""
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("seconds", ["nan", "inf", "2", "-60"])
def test_a_time_that_nobody_can_wait_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    """Before anything is measured."""
    measured_as(monkeypatch, baseline())
    result = invoke("--force", "--seconds", seconds)
    assert result.exit_code == 2
    assert "--seconds" in result.stderr
