"""--apply does what it printed, nothing else, and only for root outside of containers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlmeter import cli
from mlmeter.doctor import application, surroundings
from mlmeter.doctor.advice import RULE
from mlmeter.doctor.application import ApplyError, apply, plan
from mlmeter.doctor.surroundings import RULE_FILE, Surroundings, surroundings_of
from tests.backends.powercap_tree import CLIENT, UNREADABLE
from tests.doctor.machines import with_zones, write


class Runner:
    """Notes commands instead of running them; fails at one if told to."""

    def __init__(self, fails_at: str | None = None, opens: Path | None = None) -> None:
        self.commands: list[tuple[str, ...]] = []
        self._fails_at = fails_at
        # Whose counters udev opens, as the rule says.
        self._opens = opens

    def __call__(self, command: Sequence[str]) -> None:
        self.commands.append(tuple(command))
        if self._fails_at in command:
            raise OSError("no such program")
        if self._opens is not None and "trigger" in command:
            for counter in self._opens.glob("sys/devices/virtual/powercap/**/energy_uj"):
                counter.chmod(0o440)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with closed counters."""
    with_zones(tmp_path, UNREADABLE)
    (tmp_path / RULE_FILE).parent.mkdir(parents=True)
    return tmp_path


def machine(root: Path, *, is_root: bool = True) -> Surroundings:
    return surroundings_of(root, environment={"SUDO_USER": "ada"}, system="linux", is_root=is_root)


def files(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text(errors="replace")
        for path in root.rglob("*")
        if path.is_file()
    }


def test_exactly_the_printed_commands_are_run_and_one_file_is_written(root: Path) -> None:
    """The texts of the plan are the commands; nothing else of the root folder changes."""
    before, runner = files(root), Runner()
    steps = plan(machine(root))
    apply(steps, machine(root), runner)
    assert [" ".join(command) for command in runner.commands] == [
        step.text for step in steps if step.file is None
    ]
    assert files(root) == {**before, RULE_FILE: RULE}
    assert RULE in next(step.text for step in steps if step.file)
    assert (root / RULE_FILE).stat().st_mode & 0o777 == 0o644


def test_a_step_that_fails_ends_it(root: Path) -> None:
    """What comes after it is not done, and the message names it."""
    runner = Runner(fails_at="groupadd")
    with pytest.raises(ApplyError, match="groupadd --force --system rapl: no such program"):
        apply(plan(machine(root)), machine(root), runner)
    assert len(runner.commands) == 1
    assert not (root / RULE_FILE).exists()


def test_without_root_nothing_is_done(root: Path) -> None:
    """Also if somebody calls it directly."""
    around, runner = machine(root, is_root=False), Runner()
    with pytest.raises(ApplyError, match="needs root"):
        apply(plan(around), around, runner)
    assert runner.commands == []


def test_readable_counters_need_no_steps(tmp_path: Path) -> None:
    """An empty plan."""
    with_zones(tmp_path, CLIENT)
    assert plan(machine(tmp_path)) == []


def test_a_container_is_refused(root: Path) -> None:
    """The rule belongs to the host."""
    write(root, {".dockerenv": ""})
    with pytest.raises(ApplyError, match="on the host"):
        plan(machine(root))


# -- the command line --------------------------------------------------------------------------


def invoke(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    *arguments: str,
    stdin: str = "",
    is_root: bool = True,
    udev: bool = True,
) -> tuple[Result, Runner]:
    runner = Runner(opens=root if udev else None)
    monkeypatch.setattr(surroundings, "surroundings_of", lambda: machine(root, is_root=is_root))
    monkeypatch.setattr(application, "_run", runner)
    monkeypatch.setattr(application, "PROGRAMS", ())
    return CliRunner().invoke(cli.main, ["doctor", "--apply", *arguments], input=stdin), runner


@pytest.mark.parametrize(("stdin", "code", "done"), [("y\n", 0, True), ("n\n", 1, False), ("", 1, False)])
def test_it_asks(root: Path, monkeypatch: pytest.MonkeyPatch, stdin: str, code: int, done: bool) -> None:
    """Only a yes does it; no answer is no."""
    result, runner = invoke(monkeypatch, root, stdin=stdin)
    assert (result.exit_code, bool(runner.commands)) == (code, done)
    assert (root / RULE_FILE).exists() is done
    assert "udevadm trigger --subsystem-match=powercap" in result.output


def test_yes_does_not_ask(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For scripts; what is done is printed all the same."""
    result, runner = invoke(monkeypatch, root, "--yes")
    assert result.exit_code == 0, result.output
    assert all(" ".join(command) in result.output for command in runner.commands)
    assert RULE in result.output


def test_counters_that_stay_closed_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands succeeded, and the counters are as before: code 1, not "done"."""
    result, _ = invoke(monkeypatch, root, "--yes", udev=False)
    assert result.exit_code == 1
    assert "still closed" in result.output


def test_a_user_gets_the_commands_with_sudo(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code 1, nothing done."""
    result, runner = invoke(monkeypatch, root, "--yes", is_root=False)
    assert (result.exit_code, runner.commands) == (1, [])
    assert "sudo groupadd --force --system rapl" in result.output
    assert "Nothing was done" in result.output


def test_nothing_to_apply_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may call it on every machine."""
    with_zones(tmp_path, CLIENT)
    result, runner = invoke(monkeypatch, tmp_path, "--yes")
    assert (result.exit_code, runner.commands) == (0, [])
    assert "Nothing to apply" in result.output


@pytest.mark.parametrize("arguments", [["--yes"], ["--apply", "--json"], ["--apply", "--require-measured"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """Options that do not go together."""
    assert CliRunner().invoke(cli.main, ["doctor", *arguments]).exit_code == 2


def test_without_apply_nothing_is_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The diagnosis only reads."""
    from mlmeter.doctor import diagnosis

    runner, before = Runner(), files(root)
    monkeypatch.setattr(application, "_run", runner)
    monkeypatch.setattr(diagnosis, "surroundings_of", lambda: machine(root))
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.01)
    assert CliRunner().invoke(cli.main, ["doctor"]).exit_code == 0
    assert (runner.commands, files(root)) == ([], before)
