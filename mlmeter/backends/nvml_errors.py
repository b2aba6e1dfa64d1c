"""NVML's error numbers (nvml.h; they never change): what happened, and what to do about it."""

from __future__ import annotations

UNINITIALIZED = 1
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
VERSION_MISMATCH = 18
# NOT_FOUND (at the look-up of a handle), GPU_IS_LOST, GPU_NOT_FOUND: the device is gone.
GONE = (6, 15, 28)
# After a driver was reloaded or replaced, only a new session works.
SESSION_LOST = (UNINITIALIZED, DRIVER_NOT_LOADED, VERSION_MISMATCH)

PERMISSION_REMEDY = (
    "Give this user access to /dev/nvidiactl and /dev/nvidia*; in a container start it with --gpus and "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)
LOOK_REMEDY = "Check that nvidia-smi works"
# What happened when NVML was started and what to do, by error number.
START_FAILURES = {
    12: (
        "the NVML library (libnvidia-ml.so.1) was not found",
        "Install the NVIDIA driver; in a container use the NVIDIA container toolkit and --gpus all",
    ),
    8: ("a GPU lacks power: its external power cables are not attached", "Attach them"),
    DRIVER_NOT_LOADED: (
        "the NVIDIA driver is not loaded",
        "Load it (modprobe nvidia) and check that nvidia-smi works",
    ),
    VERSION_MISMATCH: (
        "the NVML library and the loaded NVIDIA driver have different versions",
        "Restart the machine or reload the driver: it was updated while it was in use",
    ),
    NO_PERMISSION: ("no permission to talk to the NVIDIA driver", PERMISSION_REMEDY),
    13: ("the NVML library lacks a function that its bindings need", "Update the NVIDIA driver"),
    17: ("the operating system or a control group blocks the GPU", PERMISSION_REMEDY),
    999: (
        "NVML did not start and gave no reason (Unknown Error)",
        "Look for NVRM and Xid lines in dmesg; in a container start it again",
    ),
}


class ZeroReadingError(Exception):
    """A sensor that shows 0: no GPU that works has used no energy since it was started, or draws no power."""

    def __init__(self) -> None:
        super().__init__("shows 0")


def code_of(error: Exception) -> int:
    """Return NVML's number of an error, or -1 if the error is not NVML's."""
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else -1


def words_of(error: Exception) -> str:
    """Return NVML's words for an error; any other error with its type."""
    if code_of(error) >= 0 or isinstance(error, ZeroReadingError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def start_failure(error: Exception) -> tuple[str, str]:
    """Return why NVML did not start, and the remedy."""
    return START_FAILURES.get(code_of(error), (f"NVML did not start ({words_of(error)})", LOOK_REMEDY))
