"""Doing what the doctor printed, and nothing else: the group and the udev rule for RAPL."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlmeter.doctor.advice import RULE, group_commands
from mlmeter.doctor.surroundings import GROUP, RULE_FILE, Surroundings
from mlmeter.errors import MLMeterError

PROGRAMS = ("groupadd", "usermod", "udevadm")
TIMEOUT_SECONDS = 60.0

Run = Callable[[Sequence[str]], None]


class ApplyError(MLMeterError):
    """What was printed could not be done; the message says which step and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command, or one file to write.

    Attributes:
        text: what is printed: a command as root types it.
        command: the same as arguments; empty for a file.
        file: path below the root folder; None for a command.
    """

    text: str
    command: tuple[str, ...] = ()
    file: str | None = None


def plan(around: Surroundings) -> list[Step]:
    """Return the steps that would open the CPU's counters; none if nothing is closed.

    Raises:
        ApplyError: this cannot be done from here.
    """
    if not around.closed:
        return []
    if around.container is not None:
        raise ApplyError(f"this is a container ({around.container}): apply it on the host")
    if around.user in ("$USER", "root"):
        user_step = []
    else:
        user_step = [_command("usermod", "--append", "--groups", GROUP, around.user)]
    return [
        _command("groupadd", "--force", "--system", GROUP),
        *user_step,
        Step(f"cat > /{RULE_FILE} <<'EOF'\n{RULE}EOF", file=RULE_FILE),
        _command("udevadm", "control", "--reload"),
        _command("udevadm", "trigger", "--subsystem-match=powercap"),
        _command("udevadm", "settle"),
    ]


def apply(steps: Sequence[Step], around: Surroundings, run: Run | None = None) -> None:
    """Do the steps in order; stop at the first that fails.

    Args:
        steps: of `plan`.
        around: whose root folder the file is written below.
        run: runs a command; for tests.

    Raises:
        ApplyError: this is not root, a program is missing, or a step fails.
    """
    if not around.is_root:
        raise ApplyError("this needs root")
    if run is None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise ApplyError(f"{', '.join(missing)} not found: this system has no udev or no user tools")
        run = _run
    for step in steps:
        try:
            if step.file is not None:
                _write(around.root / step.file, RULE)
            else:
                run(step.command)
        except (OSError, subprocess.SubprocessError) as error:
            raise ApplyError(f"{step.text.splitlines()[0]}: {error}") from error


def commands_text(around: Surroundings) -> str:
    """Return the same as lines for a user who is not root."""
    return "\n".join(group_commands(around.user))


def _command(*words: str) -> Step:
    return Step(" ".join(words), words)


def _write(path: Path, text: str) -> None:
    """Replace a file whole; the rules folder exists wherever udev is."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="ascii")
    temporary.chmod(0o644)
    temporary.replace(path)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS)
