"""Checks of what users give to a meter: each returns the value, or raises an `ArgumentError`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from mlmeter.errors import ArgumentError
from mlmeter.sampling.power_process import POWER_SAMPLINGS
from mlmeter.sampling.sampler import DEFAULT_PERIOD_SECONDS

SYNC_WORDS = ("events", "device", "none")
MACHINE, PROCESS = SCOPES = ("machine", "process")


def program_name() -> str:
    """Return a name for a run of this program."""
    return Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c") else "python"


def is_text(value: object) -> bool:
    """Tell whether a value is a text that is not empty."""
    return isinstance(value, str) and value != ""


def checked_phase(phase: str) -> str:
    """Return a phase."""
    if not is_text(phase):
        raise ArgumentError(f'phase={phase!r}: expected a text such as "training" or "inference"')
    return phase


def checked_scope(scope: object) -> str:
    """Return whose energy is metered."""
    if not isinstance(scope, str) or scope not in SCOPES:
        accepted = " or ".join(f'"{name}"' for name in SCOPES)
        raise ArgumentError(f"scope={scope!r}: expected {accepted}")
    return scope


def checked_period(period_seconds: object) -> float:
    """Return the time between two readings, in seconds."""
    if period_seconds is None:
        return DEFAULT_PERIOD_SECONDS
    number = isinstance(period_seconds, (int, float)) and not isinstance(period_seconds, bool)
    if not number or not 0.001 <= period_seconds <= 60:  # type: ignore[operator]
        raise ArgumentError(f"period_seconds={period_seconds!r}: expected a number from 0.001 to 60, or None")
    return float(period_seconds)  # type: ignore[arg-type]


def checked_power_sampling(power_sampling: object) -> str:
    """Return where gauges of power are read."""
    if not isinstance(power_sampling, str) or power_sampling not in POWER_SAMPLINGS:
        accepted = " or ".join(f'"{name}"' for name in POWER_SAMPLINGS)
        raise ArgumentError(f"power_sampling={power_sampling!r}: expected {accepted}")
    return power_sampling


def checked_directory(output_dir: object) -> Path | None:
    """Return an absolute path; None for no directory."""
    if output_dir is None:
        return None
    if not isinstance(output_dir, (str, os.PathLike)) or not os.fspath(output_dir):
        raise ArgumentError(f"output_dir={output_dir!r}: expected a directory's path, or None")
    if "\0" in os.fsdecode(output_dir):
        raise ArgumentError(f"output_dir={output_dir!r}: a path cannot hold a null character")
    # The program may change its directory before the run is written.
    path = Path(os.path.abspath(os.fsdecode(output_dir)))  # noqa: PTH100  # keeps links, unlike resolve()
    # Unlike the methods of Path, these call what may not be looked at, or has too long a name, not there.
    if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112
        raise ArgumentError(f"output_dir={output_dir!r}: there is a file of that name, not a directory")
    return path


def checked_sync(sync: object) -> Callable[[], object] | str | None:
    """Return what is done at the edges of windows on a GPU."""
    if sync is None or callable(sync) or (isinstance(sync, str) and sync in SYNC_WORDS):
        return sync
    words = ", ".join(f'"{word}"' for word in SYNC_WORDS)
    raise ArgumentError(f"sync={sync!r}: expected {words}, a function without arguments, or None")
