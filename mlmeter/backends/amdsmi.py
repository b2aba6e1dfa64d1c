"""AMD GPUs through AMD SMI: the energy accumulator where there is one, else the socket power.

The bindings are the module `amdsmi`, of ROCm or of PyPI, imported when the backend is opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading, Unavailable
from mlmeter.units import JOULES_PER_MICROJOULE

LIBRARY = "libamd_smi.so"
# First guess; the sampler measures it. The firmware refreshes its metrics about every millisecond to 20 ms.
_UPDATE_PERIOD_SECONDS = 0.02
# Average socket power of the firmware.
_AVERAGING_WINDOW_SECONDS = 0.1
# The power beside a counter is for the cross-check only: once per this time.
_POWER_EVERY_NS = 100_000_000
_HIGHEST_POWER_PER_LIMIT = 1.5
# Newer drivers give the limit in microwatts, older ones in watts; no board draws as many of these.
_LARGEST_WATTS = 100_000
_WATTS_PER_MICROWATT = 1e-6

# DDR2 to LPDDR5 in amdsmi.h: memory of the processor, not of a board.
_VRAM_OF_PROCESSORS = range(10, 17)

# Error numbers of amdsmi.h.
_NO_PERMISSION = 10
_NOT_FOUND = 31

_PERMISSION_REMEDY = (
    "Add this user to the groups render and video (sudo usermod -aG render,video $USER) and log in again; "
    "in a container pass --device=/dev/kfd --device=/dev/dri"
)
_LIBRARY_REMEDY = (
    "Install amd-smi-lib (a package of ROCm) in the version of the module amdsmi; in a container mount "
    "/opt/rocm"
)
_LOOK_REMEDY = "Look with `amd-smi metric -p` at what the GPU reports"
_BINDINGS_REMEDY = 'Install them with: pip install "mlmeter[amdsmi]", in the version of the installed ROCm'


class _Shown(NamedTuple):
    """What a call gave."""

    value: int
    power_watts: int | None = None


@dataclass(slots=True, eq=False)
class _Board:
    """A GPU being read; partitions of one board are one GPU."""

    number: int
    handle: Any
    address: str
    partitions: int = 1
    resolution_microjoules: float | None = None
    power_read_ns: int = 0

    def __str__(self) -> str:
        return f"amd-gpu-{self.number} ({self.address})"


class AmdSmiBackend:
    """Reads the energy accumulator of AMD GPUs, or their power where there is none.

    The figure of an APU holds its CPU cores, too: it is shown as kind ``other`` and not added.
    A board in partitions (CPX, DPX) has one accumulator: it is metered once, as a whole, and
    marked as shared. ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES are not followed: all GPUs of
    the machine are metered, and a note says so where one of them is set.

    Args:
        module_root: where Linux lists loaded modules; without amdgpu nothing is imported.
        library_folders: where the library is looked for beside the places that the linker knows.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        notes: after `open`, sentences about what was assumed or degraded.
        unreadable: after `open`, GPUs that give neither energy nor power, and why.

    Example:
        >>> try:
        ...     AmdSmiBackend(module_root="nowhere").open()
        ... except BackendUnavailableError as error:
        ...     print(error.reason)
        the driver amdgpu is not loaded
    """

    name = "amdsmi"

    def __init__(
        self,
        *,
        module_root: str | os.PathLike[str] = "/sys/module",
        library_folders: Sequence[str | os.PathLike[str]] | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._module_root = Path(module_root)
        self._library_folders = library_folders
        self._now_ns = now_ns
        self._smi: Any = None
        self._session_pid: int | None = None
        self._boards: list[_Board] = []
        self.notes: list[str] = []
        self.unreadable: tuple[Unavailable, ...] = ()

    def open(self) -> Sequence[Domain]:
        """Start AMD SMI, list the GPUs and choose how to meter each.

        Raises:
            BackendUnavailableError: no driver, bindings, library, permission or GPU, or no GPU
                can be metered. AMD SMI is then shut down again.
        """
        self.close()
        if not (self._module_root / "amdgpu").is_dir():
            raise BackendUnavailableError(self.name, "the driver amdgpu is not loaded")
        self._smi = self._bindings()
        try:
            self._join_session()
            return self._open_domains()
        except BackendUnavailableError:
            self.close()
            raise
        except Exception as error:
            self.close()
            refused = _code(error) == _NO_PERMISSION
            remedy = _PERMISSION_REMEDY if refused else "Check that `amd-smi list` works"
            raise BackendUnavailableError(
                self.name, f"AMD SMI does not start ({_words(error)})", remedy
            ) from error

    def read(self) -> Sequence[Reading | Failure]:
        """Read every board once; one that fails does not disturb the others."""
        return [self._read_one(position, board) for position, board in enumerate(self._boards)]

    def close(self) -> None:
        """Leave AMD SMI; harmless when called twice, and in a forked child, which has no session."""
        own_session, self._session_pid = self._session_pid == os.getpid(), None
        self._boards = []
        self.notes, self.unreadable = [], ()
        if own_session:
            with contextlib.suppress(Exception):
                self._smi.amdsmi_shut_down()

    def _bindings(self) -> Any:
        """Import the bindings, which print and raise KeyError where their library is missing: look first."""
        try:
            spec = find_spec("amdsmi")
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            raise BackendUnavailableError(self.name, "the module amdsmi is not installed", _BINDINGS_REMEDY)
        if not _library_loads(self._folders(spec.origin)):
            raise BackendUnavailableError(self.name, f"{LIBRARY} cannot be loaded", _LIBRARY_REMEDY)
        try:
            import amdsmi
        except (Exception, SystemExit) as error:
            reason = f"the module amdsmi cannot be imported ({type(error).__name__}: {error})"
            remedy = "Install amdsmi in the version of the installed ROCm"
            raise BackendUnavailableError(self.name, reason, remedy) from error
        return amdsmi

    def _folders(self, origin: str | None) -> list[Path]:
        """Return where the bindings look for their library."""
        if self._library_folders is not None:
            return [Path(folder) for folder in self._library_folders]
        rocm = os.environ.get("ROCM_HOME") or os.environ.get("ROCM_PATH") or "/opt/rocm"
        beside = [Path(origin).parent] if origin else []
        return [Path(rocm) / "lib", *beside]

    def _join_session(self) -> None:
        """Begin a session unless this process has one; a forked child needs its own."""
        if self._session_pid != os.getpid():
            self._smi.amdsmi_init()
            self._session_pid = os.getpid()

    def _open_domains(self) -> tuple[Domain, ...]:
        """Choose the boards and what to read of each."""
        boards = self._list_boards()
        if not boards:
            raise BackendUnavailableError(self.name, "AMD SMI works but lists no GPU")
        problems: dict[str, Exception] = {}
        for board in boards:
            problem = self._choose(board)
            if problem is not None:
                problems[str(board)] = problem
        self.unreadable = tuple(
            Unavailable(
                source=self.name,
                kinds=("gpu",),
                reason=f"{name} gives neither energy nor power ({_words(error)})",
                remedy=_PERMISSION_REMEDY if _code(error) == _NO_PERMISSION else _LOOK_REMEDY,
            )
            for name, error in problems.items()
        )
        self._boards = [board for board in boards if str(board) not in problems]
        if not self._boards:
            raise BackendUnavailableError(
                self.name, "; ".join(item.reason for item in self.unreadable), self.unreadable[0].remedy
            )
        for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            if os.environ.get(variable):
                self.notes.append(f"amdsmi: {variable} is not followed: all GPUs of the machine are metered")
        return tuple(self._domain(board) for board in self._boards)

    def _list_boards(self) -> list[_Board]:
        """Return one entry per board: partitions share its PCI address but for the function."""
        boards: dict[str, _Board] = {}
        for place, handle in enumerate(self._smi.amdsmi_get_processor_handles()):
            address = self._address(handle) or f"unknown-{place}"
            device = address.partition(".")[0]
            if device in boards:
                boards[device].partitions += 1
            else:
                boards[device] = _Board(len(boards), handle, address)
        return list(boards.values())

    def _address(self, handle: Any) -> str | None:
        """Return the PCI address of a handle."""
        address = _answer(lambda: self._smi.amdsmi_get_gpu_device_bdf(handle))
        return None if address is None else str(address)

    def _choose(self, board: _Board) -> Exception | None:
        """Take the accumulator, else power; return why there is neither."""
        try:
            answer = self._smi.amdsmi_get_energy_count(board.handle)
            resolution = float(answer["counter_resolution"])
            if _accumulator(answer) > 0 and resolution > 0:
                board.resolution_microjoules = resolution
                return None
            why = "it stands at 0"
        except Exception as error:
            why = _words(error)
        try:
            _socket_watts(self._smi.amdsmi_get_power_info(board.handle))
        except Exception as error:
            return error
        self.notes.append(f"{board} gives no energy counter ({why}): its power is integrated")
        return None

    def _read_one(self, position: int, board: _Board) -> Reading | Failure:
        begin_ns = self._now_ns()
        try:
            self._join_session()
            shown = self._show(board, begin_ns)
        # Not only AMD SMI's own errors: nothing about one GPU may take the others with it.
        except Exception as error:
            return Failure(position, f"{board}: {_words(error)}", _code(error) == _NOT_FOUND, begin_ns)
        return Reading(position, shown.value, begin_ns, self._now_ns(), shown.power_watts)

    def _show(self, board: _Board, now_ns: int) -> _Shown:
        """Read the accumulator, at times with the power, or the power alone."""
        if board.resolution_microjoules is None:
            return _Shown(_socket_watts(self._smi.amdsmi_get_power_info(board.handle)))
        power_watts = None
        if now_ns - board.power_read_ns >= _POWER_EVERY_NS:
            board.power_read_ns = now_ns
            power_watts = _answer(lambda: _socket_watts(self._smi.amdsmi_get_power_info(board.handle)))
        return _Shown(_accumulator(self._smi.amdsmi_get_energy_count(board.handle)), power_watts)

    def _domain(self, board: _Board) -> Domain:
        """Describe a board whose quantity is chosen."""
        smi, handle = self._smi, board.handle
        counter = board.resolution_microjoules is not None
        model = _answer(lambda: str(smi.amdsmi_get_gpu_asic_info(handle)["market_name"]))
        limit_watts = _answer(lambda: _limit_watts(smi.amdsmi_get_power_cap_info(handle)["power_cap"]))
        in_processor = _is_apu(smi, handle, model)
        if in_processor:
            self.notes.append(
                f"{board} is part of a processor: its figure holds CPU cores, too, and is not added"
            )
        if board.partitions > 1:
            self.notes.append(
                f"{board} is split into {board.partitions} partitions: its energy is the board's"
            )
        return Domain(
            name=f"amd-gpu-{board.number}",
            # The name by which hwmon knows the same board.
            id=f"amdgpu:{board.address}",
            kind="other" if in_processor else "gpu",
            source=self.name,
            provenance=Provenance.MEASURED if counter else Provenance.DERIVED,
            update_period_seconds=_UPDATE_PERIOD_SECONDS,
            joules_per_count=(board.resolution_microjoules or 0) * JOULES_PER_MICROJOULE if counter else None,
            watts_per_count=None if counter else 1.0,
            power_watts_per_count=1.0 if counter else None,
            averaging_window_seconds=0.0 if counter else _AVERAGING_WINDOW_SECONDS,
            uuid=_answer(lambda: str(smi.amdsmi_get_gpu_device_uuid(handle))),
            model_name=None if model in (None, "", "N/A") else model,
            max_power_watts=_HIGHEST_POWER_PER_LIMIT * limit_watts if limit_watts else None,
            shared=board.partitions > 1,
        )


def _accumulator(answer: Any) -> int:
    """Return the raw count; the key was ``power`` before ROCm 6."""
    return int(answer["energy_accumulator"] if "energy_accumulator" in answer else answer["power"])


def _socket_watts(answer: Any) -> int:
    """Return the power that this generation gives: the present one, else the average.

    Raises:
        ValueError: it gives none.
    """
    for key in ("current_socket_power", "average_socket_power", "socket_power"):
        value = answer.get(key)
        # "N/A", or all ones where a field is not filled in.
        if isinstance(value, int) and 0 <= value < 0xFFFF:
            return value
    raise ValueError("no socket power is given")


def _is_apu(smi: Any, handle: Any, model: str | None) -> bool:
    """Return whether a GPU shares its socket with CPU cores, whose energy its socket power holds."""
    vram_type = _answer(lambda: int(smi.amdsmi_get_gpu_vram_info(handle)["vram_type"]))
    return "MI300A" in (model or "") or vram_type in _VRAM_OF_PROCESSORS


def _limit_watts(value: Any) -> float:
    return float(value) if value < _LARGEST_WATTS else float(value) * _WATTS_PER_MICROWATT


def _library_loads(folders: Sequence[Path]) -> bool:
    """Return whether the library can be loaded; the linker's own places count, too."""
    for candidate in (LIBRARY, *(str(folder / LIBRARY) for folder in folders)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(candidate)
            return True
    return False


def _answer(question: Callable[[], Any]) -> Any:
    """Return what an optional call gives; None if driver, GPU or bindings do not know it."""
    try:
        return question()
    except Exception:
        return None


def _code(error: Exception) -> int:
    """Return AMD SMI's number of an error, or -1 if the error is not its own."""
    value = getattr(error, "err_code", None)
    return value if isinstance(value, int) else -1


def _words(error: Exception) -> str:
    """Return AMD SMI's words for an error in one line; any other error with its type."""
    if _code(error) >= 0:
        return str(getattr(error, "err_info", "") or error).strip()
    return f"{type(error).__name__}: {error}"
