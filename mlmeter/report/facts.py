"""Facts about the host, the software and the job, for the manifest of a session."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Any

import mlmeter

# Variables that say which part of a job and of a machine this process is; no others are kept.
JOB_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NNODES",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "OMP_NUM_THREADS",
)
CPU_INFO = "/proc/cpuinfo"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Packages whose versions explain a run's energy, if the program has loaded them.
PACKAGES = ("numpy", "torch", "tensorflow", "jax", "sklearn", "transformers", "pytorch_lightning", "keras")


def host_facts() -> dict[str, Any]:
    """Return the facts of this process; what cannot be found out is left out."""
    versions = {
        name: version
        for name in PACKAGES
        if isinstance(version := getattr(sys.modules.get(name), "__version__", None), str)
    }
    return {
        **_constant_facts(),
        "process_id": os.getpid(),
        "arguments": list(sys.argv),
        "job": {name: os.environ[name] for name in JOB_VARIABLES if name in os.environ},
        "packages": versions,
    }


@cache
def _constant_facts() -> dict[str, Any]:
    system = os.uname()
    facts = {
        "host": socket.gethostname(),
        "system": f"{system.sysname} {system.release} {system.machine}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "mlmeter": mlmeter.__version__,
        "logical_cpus": os.cpu_count(),
        "cpu": next(
            (line.partition(":")[2].strip() for line in _lines(CPU_INFO) if "model name" in line), None
        ),
        "boot_id": next((line.strip() for line in _lines(BOOT_ID)), None),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _lines(path: str) -> list[str]:
    """Return the lines of a file of the system, none if it is not there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
