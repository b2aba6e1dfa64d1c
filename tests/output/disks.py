"""Disks that are full, made in whatever way this machine allows."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = 4096


@dataclass
class Disk:
    """A folder, and how to take its last free bytes."""

    folder: Path

    def full(self) -> contextlib.AbstractContextManager[None]:
        """Leave no room while a block runs."""
        raise NotImplementedError


class SmallDisk(Disk):
    """A file system of 64 pages in memory."""

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Write until it says that nothing more fits."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        try:
            yield
        finally:
            filler.unlink()


class LimitedFiles(Disk):
    """Files may not grow beyond a size: the system's limit for this process, for which nobody needs root."""

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Let files grow by a few bytes beyond the largest one that is there."""
        largest = max((path.stat().st_size for path in self.folder.rglob("*")), default=0)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 20, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory; skip the test, saying why, where that is not permitted."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a mounted file system read-only; root may write where modes forbid it."""
    for option in ("ro", "rw"):
        subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)
        if option == "ro":
            yield


def disk_of(kind: str, folder: Path) -> contextlib.AbstractContextManager[Disk]:
    """Return a disk of one kind, for a ``with`` block."""
    return _small(folder) if kind == "small tmpfs" else contextlib.nullcontext(LimitedFiles(folder))


@contextlib.contextmanager
def _small(folder: Path) -> Iterator[Disk]:
    with mounted(folder, f"size={64 * PAGE}"):
        yield SmallDisk(folder)
