"""Facts about the host, the software and the job, for the manifest of a session."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
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
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "system": f"{system.sysname} {system.release} {system.machine}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "mlmeter": mlmeter.__version__,
        "logical_cpus": os.cpu_count(),
    }
    for name, value in (("cpu", _cpu_name()), ("boot_id", _first_line(BOOT_ID))):
        if value:
            facts[name] = value
    return facts


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return ""


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
