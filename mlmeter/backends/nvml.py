"""NVIDIA GPUs through NVML: the energy counter where there is one, else power.

The bindings are the module `pynvml` of nvidia-ml-py, imported when the backend is opened.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlmeter.backends.nvml_boards import Gpu, answer, listed_gpus, unreadable_gpu, visible_gpus
from mlmeter.backends.nvml_errors import (
    GONE,
    LOOK_REMEDY,
    NO_PERMISSION,
    PERMISSION_REMEDY,
    SESSION_LOST,
    UNINITIALIZED,
    code_of,
    start_failure,
    words_of,
)
from mlmeter.backends.nvml_processes import ProcessLists, Uses
from mlmeter.backends.nvml_quantities import (
    ENERGY_AND_POWER,
    MODULE_QUANTITIES,
    POWER_INSTANT,
    QUANTITIES,
    Quantity,
    Timing,
    has_module,
    module_limit_milliwatts,
    timing_of,
)
from mlmeter.backends.nvml_state import state_of
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading, Unavailable
from mlmeter.units import JOULES_PER_MILLIJOULE, WATTS_PER_MILLIWATT

# Boards exceed their limit for tens of milliseconds: 1.34 x was seen on an RTX 3090
# (traces of JimZeyuYang/GPU_Power_Benchmark).
_HIGHEST_POWER_PER_LIMIT = 1.5

# A GPU that fails is asked again after these times, twice as long after each failure.
_FIRST_RETRY_NS = 100_000_000
_LAST_RETRY_NS = 5_000_000_000
# When nothing answers so often in a row, NVML is started anew.
_FAILURES_OF_A_DEAD_SESSION = 3
# Calls to find out what one costs; a call as slow as the last figure is not repeated.
_MEASURED_CALLS = 3
_SLOW_CALL_SECONDS = 0.02


@dataclass(slots=True, eq=False)
class _Meter:
    """What is read of a GPU, or of the module that it sits on.

    `handle` is None from a failed read (or a fork) to the next attempt.
    """

    gpu: Gpu
    quantity: Quantity
    handle: Any
    of_module: bool = False
    failures: int = 0
    failure: Failure | None = None
    retry_at_ns: int = 0

    def failed(self, failure: Failure) -> Failure:
        """Keep a failure, and wait the longer the more there were before the next attempt."""
        self.handle, self.failure = None, failure
        self.retry_at_ns = failure.at_ns + min(_FIRST_RETRY_NS << min(self.failures, 16), _LAST_RETRY_NS)
        self.failures += 1
        return failure


class NvmlBackend:
    """Reads the energy of NVIDIA GPUs, or their power where there is no energy counter.

    Only the GPUs that the program can use are metered, as a framework that has initialised CUDA
    says, else as CUDA_VISIBLE_DEVICES says; both are asked in `open`, so a later change has no
    effect, just as in CUDA. A GPU in MIG mode is metered as a whole board (``shared=True``),
    because a slice has no counter of its own. Where CPU and GPU are one module (Grace Hopper), the
    module is a domain of kind ``psys``, which contains the GPU and is never added to it.

    `read` makes one call for energy or power, or both, per domain and nothing else: other NVML
    calls take milliseconds and stop the driver for everybody (MangoHud issue 2104). A GPU that
    fails is tried afresh, with a new handle, after 0.1 s, then at longer and longer intervals up
    to 5 s; in between its last failure is repeated. After a fork the child gets an NVML session of
    its own at its first `read`.

    Args:
        visible_devices: used in place of the value of CUDA_VISIBLE_DEVICES; None takes it
            from the environment.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        notes: after `open`, sentences about what was assumed or degraded.
        unreadable: after `open`, visible GPUs that give neither energy nor power, and why.
        call_seconds: after `open`, what one read call costs: the fastest of a few, of the slowest
            domain.

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
        self.call_seconds = 0.0
        self._visible_devices = visible_devices
        self._now_ns = now_ns
        self._nvml: Any = None
        self._session_pid: int | None = None
        self._meters: list[_Meter] = []
        self._process_lists = ProcessLists(now_ns)

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
                self.name, f"the GPUs cannot be listed ({words_of(error)})", LOOK_REMEDY
            ) from error

    def read(self) -> Sequence[Reading | Failure]:
        """Read every domain once; one that fails gives a `Failure` and does not disturb the others."""
        if self._session_pid is not None and self._session_pid != os.getpid():
            self._session_pid = None
            self._forget_handles()
        items = [self._read_one(position, meter) for position, meter in enumerate(self._meters)]
        if self._meters and all(meter.failures >= _FAILURES_OF_A_DEAD_SESSION for meter in self._meters):
            self._end_session()
        return items

    def close(self) -> None:
        """Leave NVML; harmless when called twice, before `open`, and in a forked child."""
        self._meters = []
        self._end_session()

    def device_states(self) -> list[dict[str, Any]]:
        """Return clocks, temperature, throttle reasons and the like of each domain, in their order.

        What a GPU does not tell is left out; an empty table if it tells nothing or is lost. For the
        start and the end of a session only: these calls are slow.
        """
        return [
            {} if meter.handle is None or meter.of_module else state_of(self._nvml, meter.handle)
            for meter in self._meters
        ]

    def gpu_uses(self) -> dict[int, Uses]:
        """Return who uses each GPU, by position of the domain, or why that is not known.

        The driver is asked at most once a second; sooner, the last answer is returned. A GPU that is
        lost at present is left out.
        """
        return {
            position: self._process_lists.uses_of(self._nvml, meter.handle, meter.gpu.board.uuid)
            for position, meter in enumerate(self._meters)
            if meter.handle is not None and not meter.of_module
        }

    # -- sessions of NVML ------------------------------------------------------------------

    def _start(self) -> None:
        """Import the bindings and begin a session."""
        try:
            import pynvml
        except Exception as error:
            raise BackendUnavailableError(
                self.name,
                f"the NVML bindings cannot be imported ({words_of(error)})",
                "Install them with: pip install nvidia-ml-py",
            ) from error
        self._nvml = pynvml
        try:
            self._join_session()
        except Exception as error:
            raise BackendUnavailableError(self.name, *start_failure(error)) from error

    def _join_session(self) -> None:
        """Begin an NVML session unless this process has one; NVML counts its sessions."""
        if self._session_pid != os.getpid():
            self._nvml.nvmlInit()
            self._session_pid = os.getpid()

    def _end_session(self) -> None:
        """End the session if it is this process's own."""
        # A child that never read has only its parent's session, which is not its to end.
        own_session = self._session_pid == os.getpid()
        self._session_pid = None
        self._forget_handles()
        if own_session:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def _forget_handles(self) -> None:
        for meter in self._meters:
            meter.handle = None

    # -- opening ---------------------------------------------------------------------------

    def _open_domains(self) -> tuple[Domain, ...]:
        """Choose the GPUs and what to read of each."""
        listed = listed_gpus(self._nvml)
        if not listed:
            raise BackendUnavailableError(self.name, "the NVIDIA driver works but lists no GPU")
        visible, hidden_by = visible_gpus([gpu.board for gpu in listed], self._visible_devices)
        self.notes.extend(visible.notes)
        if not visible.boards:
            raise BackendUnavailableError(
                self.name,
                f"CUDA_VISIBLE_DEVICES={hidden_by!r} hides every GPU",
                "Unset it or name a GPU of `nvidia-smi -L`, if this program is to use one",
            )
        chosen = [gpu for gpu in listed if gpu.board in visible.boards]
        found = [(gpu, self._best_quantity(gpu)) for gpu in chosen]
        gpus = [_Meter(gpu, quantity, gpu.handle) for gpu, quantity in found if quantity is not None]
        self.unreadable = tuple(unreadable_gpu(gpu, self.name) for gpu, quantity in found if quantity is None)
        if not gpus:
            reasons = "; ".join(unavailable.reason for unavailable in self.unreadable)
            raise BackendUnavailableError(self.name, reasons, self.unreadable[0].remedy)
        self._meters = [*gpus, *self._modules([meter.gpu for meter in gpus])]
        self.call_seconds = max(self._call_seconds(meter) for meter in self._meters)
        driver_version = str(answer(self._nvml.nvmlSystemGetDriverVersion) or "")
        return tuple(self._domain(meter, driver_version) for meter in self._meters)

    def _best_quantity(self, gpu: Gpu) -> Quantity | None:
        """Return the best quantity that this GPU gives; None if it gives none."""
        for quantity in QUANTITIES if gpu.handle is not None else ():
            try:
                shown = quantity.shown(self._nvml, gpu.handle)
            except Exception as error:
                gpu.errors.append(error)
                continue
            if quantity is ENERGY_AND_POWER and shown.power_milliwatts is None:
                continue
            if gpu.errors and not quantity.counter:
                reason = words_of(gpu.errors[0])
                self.notes.append(
                    f"{gpu} gives no energy counter ({reason}): its {quantity.words} is integrated"
                )
            return quantity
        return None

    def _modules(self, gpus: Sequence[Gpu]) -> list[_Meter]:
        """Return the modules of CPU and GPU that those GPUs sit on (Grace Hopper)."""
        meters: list[_Meter] = []
        for gpu in gpus:
            for quantity in MODULE_QUANTITIES if has_module(self._nvml, gpu.handle) else ():
                try:
                    quantity.shown(self._nvml, gpu.handle)
                # The other quantity may be there.
                except Exception:
                    continue
                meters.append(_Meter(gpu, quantity, gpu.handle, of_module=True))
                break
        return meters

    def _call_seconds(self, meter: _Meter) -> float:
        """Return what a read call costs: the fastest of a few is least disturbed by others."""
        costs = []
        for _ in range(_MEASURED_CALLS):
            begin_ns = self._now_ns()
            # A call that fails costs something, too.
            with contextlib.suppress(Exception):
                meter.quantity.read(self._nvml, meter.handle)
            costs.append((self._now_ns() - begin_ns) * 1e-9)
            if costs[-1] >= _SLOW_CALL_SECONDS:
                break
        return min(costs)

    def _domain(self, meter: _Meter, driver_version: str) -> Domain:
        """Describe what is read."""
        nvml, handle, board = self._nvml, meter.handle, meter.gpu.board
        architecture: int | None = answer(lambda: int(nvml.nvmlDeviceGetArchitecture(handle)))
        timing = timing_of(architecture, board.model_name, driver_version)
        if meter.of_module:
            return self._module_domain(meter, timing)
        counter = meter.quantity.counter
        instant = meter.quantity is POWER_INSTANT
        window_seconds = timing.instant_window_seconds if instant else timing.usage_window_seconds
        limit_milliwatts = answer(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) or answer(
            lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle)
        )
        if board.in_mig_mode:
            self.notes.append(
                f"{meter.gpu} is in MIG mode: its energy is that of the whole board, all slices"
            )
        elif meter.gpu.virtual:
            self.notes.append(
                f"{meter.gpu} is a virtual GPU (vGPU): its energy may be that of the whole board"
            )
        return Domain(
            name=f"gpu-{board.index}",
            id=board.uuid,
            kind="gpu",
            source=self.name,
            provenance=Provenance.MEASURED if counter else Provenance.DERIVED,
            update_period_seconds=timing.update_seconds,
            joules_per_count=JOULES_PER_MILLIJOULE if counter else None,
            watts_per_count=None if counter else WATTS_PER_MILLIWATT,
            power_watts_per_count=WATTS_PER_MILLIWATT if meter.quantity is ENERGY_AND_POWER else None,
            averaging_window_seconds=0.0 if counter else window_seconds,
            uuid=board.uuid,
            model_name=board.model_name,
            max_power_watts=_highest_watts(limit_milliwatts),
            shared=board.in_mig_mode or meter.gpu.virtual,
        )

    def _module_domain(self, meter: _Meter, timing: Timing) -> Domain:
        """Describe a module: of a kind that is shown and never added, because it contains its GPU."""
        board, counter = meter.gpu.board, meter.quantity.counter
        self.notes.append(
            f"module-{board.index} is CPU, memory and {meter.gpu} together: it is shown beside the total and "
            "never added to it"
        )
        return Domain(
            name=f"module-{board.index}",
            id=f"{board.uuid}:module",
            kind="psys",
            source=self.name,
            provenance=Provenance.MEASURED if counter else Provenance.DERIVED,
            update_period_seconds=timing.update_seconds,
            joules_per_count=JOULES_PER_MILLIJOULE if counter else None,
            watts_per_count=None if counter else WATTS_PER_MILLIWATT,
            averaging_window_seconds=0.0 if counter else timing.instant_window_seconds,
            model_name=board.model_name,
            max_power_watts=_highest_watts(module_limit_milliwatts(self._nvml, meter.handle)),
        )

    # -- reading ---------------------------------------------------------------------------

    def _read_one(self, position: int, meter: _Meter) -> Reading | Failure:
        """Read one domain, with a new handle if it has none; not before it is to be tried again."""
        begin_ns = self._now_ns()
        if meter.failure is not None and begin_ns < meter.retry_at_ns:
            return meter.failure._replace(at_ns=begin_ns)
        try:
            if meter.handle is None:
                self._join_session()
                meter.handle = self._nvml.nvmlDeviceGetHandleByUUID(meter.gpu.board.uuid)
                begin_ns = self._now_ns()
            shown = meter.quantity.shown(self._nvml, meter.handle)
            end_ns = self._now_ns()
        # Not only NVML's own errors: nothing about one GPU may take the others with it.
        except Exception as error:
            return meter.failed(self._failure(position, meter, error, begin_ns))
        meter.failures, meter.failure = 0, None
        return Reading(position, shown.value, begin_ns, end_ns, shown.power_milliwatts, shown.driver_time_ns)

    def _failure(self, position: int, meter: _Meter, error: Exception, at_ns: int) -> Failure:
        """Say what happened, and end the session if it is what has been lost."""
        code = code_of(error)
        if code == UNINITIALIZED:
            # Another part of the program ended NVML once too often: there is no session to end.
            self._session_pid = None
        if code in SESSION_LOST:
            self._end_session()
        remedy = f". {PERMISSION_REMEDY}" if code == NO_PERMISSION else ""
        reason = f"{meter.gpu}: {meter.quantity.words}: {words_of(error)}{remedy}"
        return Failure(position, reason, code in GONE, at_ns)


def _highest_watts(limit_milliwatts: int | None) -> float | None:
    """Return the power that a board does not exceed; None if its limit is not known."""
    return limit_milliwatts * WATTS_PER_MILLIWATT * _HIGHEST_POWER_PER_LIMIT if limit_milliwatts else None
