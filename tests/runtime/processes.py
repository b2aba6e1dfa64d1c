"""Scripts run in processes of their own, as programs of users are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlmeter

# The package that the tests import: this checkout's or an installed one.
ROOT = str(Path(mlmeter.__file__).parents[1])
# Longer than any script needs on a busy machine; a test never passes because of it.
LIMIT_SECONDS = 120


def start_script(
    folder: Path, text: str, *, python: tuple[str, ...] = (), **variables: str
) -> subprocess.Popen[str]:
    """Start a script in a folder; its warnings of mlmeter are not shown.

    Args:
        folder: where the script is written and run.
        text: the script.
        python: flags of the interpreter.
        variables: of its environment.
    """
    script = folder / "script.py"
    script.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONWARNINGS": "ignore", **variables}
    return subprocess.Popen(
        [sys.executable, *python, str(script)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(
    folder: Path, text: str, *, python: tuple[str, ...] = (), **variables: str
) -> tuple[int, str, str]:
    """Run a script to its end and return its exit code, output and errors."""
    with start_script(folder, text, python=python, **variables) as process:
        output, errors = process.communicate(timeout=LIMIT_SECONDS)
        return process.returncode, output, errors
