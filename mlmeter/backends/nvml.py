"""NVIDIA GPUs through NVML: the energy counter where there is one, else power.

The bindings are the module `pynvml` of nvidia-ml-py, imported when the backend is opened.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlmeter.backends.nvml_quantities import (
    ENERGY,
    ENERGY_AND_POWER,
    POWER_INSTANT,
    QUANTITIES,
    Quantity,
    timing_of,
)
from mlmeter.backends.visible_devices import Board, visible_boards
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading, Unavailable
from mlmeter.units import JOULES_PER_MILLIJOULE, WATTS_PER_MILLIWATT

# Error numbers of nvml.h, which never change.
_UNINITIALIZED = 1
_NO_PERMISSION = 4
_GONE = (6, 15, 28)  # NOT_FOUND (at the look-up of a handle), GPU_IS_LOST, GPU_NOT_FOUND

# Boards exceed their limit for tens of milliseconds: 1.34 x was seen on an RTX 3090
# (traces of JimZeyuYang/GPU_Power_Benchmark).
_HIGHEST_POWER_PER_LIMIT = 1.5

_PERMISSION_REMEDY = (
    "Give this user access to /dev/nvidiactl and /dev/nvidia*; in a container start it with --gpus and "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)
# What happened and what to do, by NVML's error number.
_START_FAILURES = {
    12: (
        "the NVML library (libnvidia-ml.so.1) was not found",
        "Install the NVIDIA driver; in a container use the NVIDIA container toolkit and --gpus all",
    ),
    9: ("the NVIDIA driver is not loaded", "Load it (modprobe nvidia) and check that nvidia-smi works"),
    18: (
        "the NVML library and the loaded NVIDIA driver have different versions",
        "Restart the machine or reload the driver: it was updated while it was in use",
    ),
    _NO_PERMISSION: ("no permission to talk to the NVIDIA driver", _PERMISSION_REMEDY),
    13: ("the NVML library lacks a function that its bindings need", "Update the NVIDIA driver"),
    999: (
        "NVML did not start and gave no reason (Unknown Error)",
        "Look for NVRM and Xid lines in dmesg; in a container start it again",
    ),
}


@dataclass(slots=True, eq=False)
class _Gpu:
    """A GPU being read; `handle` is None from a failed read (or a fork) to the next attempt."""

    board: Board
    handle: Any
    pci_address: tuple[int, int, int] | None
    quantity: Quantity = ENERGY
    errors: list[Exception] = field(default_factory=list)

    def __str__(self) -> str:
        model = f"{self.board.model_name}, " if self.board.model_name else ""
        return f"gpu-{self.board.index} ({model}{self.board.uuid or 'no UUID'})"


class NvmlBackend:
    """Reads the energy of NVIDIA GPUs, or their power where there is no energy counter.

    Only the GPUs that CUDA_VISIBLE_DEVICES shows are metered; the variable is read in `open`,
    so a later change has no effect, just as in CUDA. A GPU in MIG mode is metered as a whole
    board (``shared=True``), because a slice has no counter of its own.

    `read` makes one call for energy or power, or both, per GPU and nothing else: other NVML calls
    take milliseconds and stop the driver for everybody (MangoHud issue 2104). A GPU that fails is
    tried afresh, with a new handle, at the next `read`: how soon that is, is the caller's
    business. After a fork the child gets an NVML session of its own at its first `read`.

    Args:
        visible_devices: used in place of the value of CUDA_VISIBLE_DEVICES; None takes it
            from the environment.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        notes: after `open`, sentences about what was assumed or degraded.
        unreadable: after `open`, visible GPUs that give neither energy nor power, and why.

    Example:
        >>> try:
        ...     NvmlBackend(visible_devices="").open()  # an empty list hides every GPU
        ... except BackendUnavailableError as error:
        ...     print(error.backend)
        nvml
    """

    name = "nvml"

    def __init__(
        self, *, visible_devices: str | None = None, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.notes: list[str] = []
        self.unreadable: tuple[Unavailable, ...] = ()
        self._visible_devices = visible_devices
        self._now_ns = now_ns
        self._nvml: Any = None
        self._session_pid: int | None = None
        self._gpus: list[_Gpu] = []

    def open(self) -> Sequence[Domain]:
        """Start NVML, find the visible GPUs and choose how to meter each.

        Raises:
            BackendUnavailableError: no bindings, library, driver, permission or visible GPU, or
                no visible GPU can be metered. NVML is then shut down again.
        """
        self.notes = []
        self.unreadable = ()
        self._start()
        try:
            return self._open_domains()
        except BackendUnavailableError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise BackendUnavailableError(
                self.name, f"the GPUs cannot be listed ({_words(error)})", "Check that nvidia-smi works"
            ) from error

    def read(self) -> Sequence[Reading | Failure]:
        """Read every GPU once; a GPU that fails gives a `Failure` and does not disturb the others."""
        if self._session_pid != os.getpid():
            for gpu in self._gpus:
                gpu.handle = None
        return [self._read_one(index, gpu) for index, gpu in enumerate(self._gpus)]

    def close(self) -> None:
        """Leave NVML; harmless when called twice, before `open`, and in a forked child."""
        # A child that never read has only its parent's session, which is not its to end.
        own_session = self._session_pid == os.getpid()
        self._session_pid = None
        self._gpus = []
        if own_session:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def _start(self) -> None:
        """Import the bindings and begin a session."""
        try:
            import pynvml
        except Exception as error:
            raise BackendUnavailableError(
                self.name,
                f"the NVML bindings cannot be imported ({_words(error)})",
                "Install them with: pip install nvidia-ml-py",
            ) from error
        self._nvml = pynvml
        try:
            self._join_session()
        except Exception as error:
            reason, remedy = _START_FAILURES.get(
                _code(error), (f"NVML did not start ({_words(error)})", "Check that nvidia-smi works")
            )
            raise BackendUnavailableError(self.name, reason, remedy) from error

    def _join_session(self) -> None:
        """Begin an NVML session unless this process has one; NVML counts its sessions."""
        if self._session_pid != os.getpid():
            self._nvml.nvmlInit()
            self._session_pid = os.getpid()

    def _open_domains(self) -> tuple[Domain, ...]:
        """Choose the GPUs and what to read of each."""
        listed = [self._look_at(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        if not listed:
            raise BackendUnavailableError(self.name, "the NVIDIA driver works but lists no GPU")
        if all(gpu.pci_address is not None for gpu in listed):
            listed.sort(key=lambda gpu: gpu.pci_address or (0, 0, 0))
        hidden_by = self._visible_devices
        hidden_by = os.environ.get("CUDA_VISIBLE_DEVICES") if hidden_by is None else hidden_by
        visible = visible_boards(
            [gpu.board for gpu in listed],
            visible_devices=hidden_by,
            device_order=os.environ.get("CUDA_DEVICE_ORDER"),
        )
        self.notes.extend(visible.notes)
        if not visible.boards:
            raise BackendUnavailableError(
                self.name,
                f"CUDA_VISIBLE_DEVICES={hidden_by!r} hides every GPU",
                "Unset it or name a GPU of `nvidia-smi -L`, if this program is to use one",
            )
        chosen = [gpu for gpu in listed if gpu.board in visible.boards]
        self._gpus = [gpu for gpu in chosen if self._choose_quantity(gpu)]
        self.unreadable = tuple(self._unavailable(gpu) for gpu in chosen if gpu not in self._gpus)
        if not self._gpus:
            reasons = "; ".join(unavailable.reason for unavailable in self.unreadable)
            raise BackendUnavailableError(self.name, reasons, self.unreadable[0].remedy)
        driver_version = str(_answer(self._nvml.nvmlSystemGetDriverVersion) or "")
        return tuple(self._domain(gpu, driver_version) for gpu in self._gpus)

    def _look_at(self, index: int) -> _Gpu:
        """Ask a GPU who it is; one that does not answer is kept, with its problem."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(nvml.nvmlDeviceGetUUID(handle))
        except Exception as error:
            return _Gpu(Board(index=index, uuid=""), None, None, errors=[error])
        mig_mode = _answer(lambda: nvml.nvmlDeviceGetMigMode(handle)[0]) == 1
        board = Board(
            index=index,
            uuid=uuid,
            model_name=_answer(lambda: str(nvml.nvmlDeviceGetName(handle))),
            in_mig_mode=mig_mode,
            slices=_slices(nvml, handle, uuid) if mig_mode else (),
        )
        pci = _answer(lambda: nvml.nvmlDeviceGetPciInfo(handle))
        return _Gpu(board, handle, None if pci is None else (pci.domain, pci.bus, pci.device))

    def _choose_quantity(self, gpu: _Gpu) -> bool:
        """Take the best quantity that this GPU gives; return whether there is one."""
        for quantity in QUANTITIES if gpu.handle is not None else ():
            try:
                shown = quantity.read(self._nvml, gpu.handle)
            except Exception as error:
                gpu.errors.append(error)
                continue
            if quantity is ENERGY_AND_POWER and shown.power_milliwatts is None:
                continue
            gpu.quantity = quantity
            if gpu.errors and not quantity.counter:
                reason = _words(gpu.errors[0])
                self.notes.append(
                    f"{gpu} gives no energy counter ({reason}): its {quantity.words} is integrated"
                )
            return True
        return False

    def _unavailable(self, gpu: _Gpu) -> Unavailable:
        """Say why a GPU is not metered."""
        reasons = ", ".join(dict.fromkeys(_words(error) for error in gpu.errors))
        refused = any(_code(error) == _NO_PERMISSION for error in gpu.errors)
        look_remedy = "Look with nvidia-smi -q -d POWER at what the GPU reports"
        return Unavailable(
            source=self.name,
            kinds=("gpu",),
            reason=f"{gpu} gives neither energy nor power ({reasons})",
            remedy=_PERMISSION_REMEDY if refused else look_remedy,
        )

    def _domain(self, gpu: _Gpu, driver_version: str) -> Domain:
        """Describe a GPU whose quantity is chosen."""
        nvml, handle, board = self._nvml, gpu.handle, gpu.board
        architecture: int | None = _answer(lambda: int(nvml.nvmlDeviceGetArchitecture(handle)))
        timing = timing_of(architecture, board.model_name, driver_version)
        counter = gpu.quantity.counter
        instant = gpu.quantity is POWER_INSTANT
        window_seconds = timing.instant_window_seconds if instant else timing.usage_window_seconds
        limit_milliwatts = _answer(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) or _answer(
            lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle)
        )
        highest_watts_per_count = _HIGHEST_POWER_PER_LIMIT * WATTS_PER_MILLIWATT
        if board.in_mig_mode:
            self.notes.append(f"{gpu} is in MIG mode: its energy is that of the whole board, all slices")
        return Domain(
            name=f"gpu-{board.index}",
            id=board.uuid,
            kind="gpu",
            source=self.name,
            provenance=Provenance.MEASURED if counter else Provenance.DERIVED,
            update_period_seconds=timing.update_seconds,
            joules_per_count=JOULES_PER_MILLIJOULE if counter else None,
            watts_per_count=None if counter else WATTS_PER_MILLIWATT,
            power_watts_per_count=WATTS_PER_MILLIWATT if gpu.quantity is ENERGY_AND_POWER else None,
            averaging_window_seconds=0.0 if counter else window_seconds,
            uuid=board.uuid,
            model_name=board.model_name,
            max_power_watts=limit_milliwatts * highest_watts_per_count if limit_milliwatts else None,
            shared=board.in_mig_mode,
        )

    def _read_one(self, index: int, gpu: _Gpu) -> Reading | Failure:
        """Read one GPU, with a new handle if it has none."""
        begin_ns = self._now_ns()
        try:
            if gpu.handle is None:
                self._join_session()
                gpu.handle = self._nvml.nvmlDeviceGetHandleByUUID(gpu.board.uuid)
                begin_ns = self._now_ns()
            shown = gpu.quantity.read(self._nvml, gpu.handle)
            end_ns = self._now_ns()
            return Reading(index, shown.value, begin_ns, end_ns, shown.power_milliwatts, shown.driver_time_ns)
        # Not only NVML's own errors: nothing about one GPU may take the others with it.
        except Exception as error:
            gpu.handle = None
            if _code(error) == _UNINITIALIZED:
                # Another part of the program ended NVML once too often.
                self._session_pid = None
            reason = f"{gpu}: {gpu.quantity.words}: {_words(error)}"
            return Failure(index, reason, _code(error) in _GONE, begin_ns)


def _slices(nvml: Any, handle: Any, uuid: str) -> tuple[tuple[str, ...], ...]:
    """Return the ids of a board's MIG slices, in both spellings."""
    found: list[tuple[str, ...]] = []
    for number in range(_answer(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0):
        # Places without a slice answer "Not Found".
        with contextlib.suppress(Exception):
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            ids = [str(nvml.nvmlDeviceGetUUID(part))]
            with contextlib.suppress(Exception):
                instances = nvml.nvmlDeviceGetGpuInstanceId(part), nvml.nvmlDeviceGetComputeInstanceId(part)
                ids.append(f"MIG-{uuid}/{instances[0]}/{instances[1]}")
            found.append(tuple(ids))
    return tuple(found)


def _answer(question: Callable[[], Any]) -> Any:
    """Return what an optional NVML call gives; None if driver, GPU or bindings do not know it."""
    try:
        return question()
    # Old bindings lack functions (AttributeError), old drivers too; garbled names do not decode.
    except Exception:
        return None


def _code(error: Exception) -> int:
    """Return NVML's number of an error, or -1 if the error is not NVML's."""
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else -1


def _words(error: Exception) -> str:
    """Return NVML's words for an error; any other error with its type."""
    return str(error) if _code(error) >= 0 else f"{type(error).__name__}: {error}"
