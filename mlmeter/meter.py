"""EnergyMeter: what users wrap their programs in."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlmeter import baseline as baselines
from mlmeter.arguments import (
    MACHINE,
    PROCESS,
    checked_directory,
    checked_period,
    checked_phase,
    checked_power_sampling,
    checked_scope,
    checked_sync,
    is_text,
    program_name,
)
from mlmeter.backends.base import Backend
from mlmeter.backends.registry import check_selection
from mlmeter.errors import ArgumentError, NotWrittenWarning, StateError
from mlmeter.event_log import frames_of_ours
from mlmeter.live import LiveSession
from mlmeter.living import Living
from mlmeter.process_end import at_exit, at_exit_of_worker
from mlmeter.recording import ELECTRICITY
from mlmeter.sampling.power_process import THREAD
from mlmeter.sampling.sampler import Sampler, shared_sampler
from mlmeter.session import Session
from mlmeter.window_methods import OTHER, TRAINING, WindowMethods
from mlmeter.windows import Window

if TYPE_CHECKING:
    from mlmeter.impact import Factor, ImpactFactors
    from mlmeter.measurement import Energy

OUTPUT_DIR_VARIABLE = "MLMETER_OUTPUT_DIR"
LONGEST_WAIT_AT_EXIT_SECONDS = 5.0

logger = logging.getLogger("mlmeter")

_active: ContextVar[EnergyMeter | None] = ContextVar("mlmeter_meter", default=None)
_running: list[EnergyMeter] = []
_meters: Living[EnergyMeter] = Living()
_default: EnergyMeter | None = None
# A signal's handler may open a window while the meter of the same thread is being started.
_default_lock = threading.RLock()


def _after_fork_in_child() -> None:
    """Let the parent go on alone: it counts what its children use, and writes its own files.

    What the child itself decorates is in a default meter of its own.
    """
    global _default, _default_lock
    # Another thread of the parent may have held any lock: nobody will release it here.
    _default, _default_lock = None, threading.RLock()
    _running.clear()
    for meter in _meters:
        meter._forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class EnergyMeter(WindowMethods):
    """Meters the energy of the machine while a block of code runs.

    Energies are those of the whole machine, other programs included, as every report says; with
    ``scope="process"`` this process' part of them.

    Args:
        name: name of the run; None for the program's.
        phase: label of the time that no window claims: ``"training"``, ``"inference"``,
            ``"evaluation"``, ``"data"``, ``"idle"`` or any text.
        backends: names such as ``["rapl", "nvml"]`` or `Backend` objects; None for the best
            source of every domain.
        scope: ``"machine"``: energies are those of the whole machine. ``"process"``: those of this
            process and its children, also finished ones, by their share of CPU time and their use
            of GPUs; `Session.shares` tells what others used and what idling took.
        period_seconds: longest time between two readings of a counter; None for 0.1 s, or up to 0.23 s where
            waking a thread and reading takes more than 0.1 ms of CPU time, as in a nested virtual machine.
        power_sampling: who reads devices that show their power only. ``"thread"``: the sampler's
            thread. ``"process"``: a process of its own (Linux), which no extension that holds
            the interpreter's lock keeps from reading; for backends given by name.
        output_dir: where the run directory is made at the end; None to write nothing.
        grid: where the electricity comes from: a country (``"DE"``), a state of the US (``"US-CA"``), a
            cloud region (``"aws:eu-west-1"``), grams of CO2e per kWh, or a `Factor`. Kept with the run, and
            used by `Session.impact`, reports and budgets where nothing else is named there; None is no
            place, and nobody guesses one.
        pue: energy of the data centre / energy of its computers: a number from 1, or an id of the shipped
            table such as ``"world"``.
        price: of a kWh: ``"0.30 EUR"``, or a place of the shipped table such as ``"DE"``; or a `Factor`.
        on_window: called with each finished `Window` on the sampler's thread, when the
            counters have shown its end.
        sync: how windows are delimited on a GPU, which works later than Python runs. None:
            by CUDA events, which wait for nothing, once PyTorch or CuPy has initialised CUDA
            and if a GPU is metered; ``"events"``: the same also if none is; ``"device"``: wait
            for the device at both edges of each window, and for the results of functions that
            use JAX; ``"none"``: not at all; or a function to call at both edges.
        baseline: idle power, for energy above idle. ``"auto"``: what `mlmeter baseline` has stored
            for this machine, if anything; a path of such a file; watts by name or id of domains,
            such as ``{"gpu-0": 62.5}``, or with a standard uncertainty ``{"gpu-0": (62.5, 3.0)}``;
            None for none. One that does not fit the machine is not used, and an event says so.

    Attributes:
        factors: what `grid`, `pue` and `price` name, as `mlmeter.impact.ImpactFactors`; None without any.
        run_directory: where the last run was written; None if nowhere.
        write_error: why it, or its row in ``runs.csv``, could not be written; None if both were, or were
            not to be.

    Raises:
        ArgumentError: an argument is wrong; the message says what is accepted.

    Example:
        >>> from mlmeter import EnergyMeter
        >>> with EnergyMeter() as meter:
        ...     with meter.inference("predict", samples=1):
        ...         pass
        >>> len(meter.session.windows()) > 0
        True
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        phase: str = TRAINING,
        backends: Sequence[str | Backend] | None = None,
        scope: str = MACHINE,
        period_seconds: float | None = None,
        power_sampling: str = THREAD,
        output_dir: str | os.PathLike[str] | None = None,
        grid: str | float | Factor | None = None,
        pue: float | str | None = None,
        price: str | Factor | None = None,
        on_window: Callable[[Window], object] | None = None,
        sync: Callable[[], object] | str | None = None,
        baseline: str | os.PathLike[str] | Mapping[str, Any] | None = baselines.AUTO,
        sampler: Sampler | None = None,
    ) -> None:
        if name is not None and not is_text(name):
            raise ArgumentError(f"name={name!r}: expected a text that is not empty, or None")
        if on_window is not None and not callable(on_window):
            raise ArgumentError(f"on_window={on_window!r}: expected a function of one window, or None")
        self.name = name or program_name()
        self.base_phase = checked_phase(phase)
        self._scope = checked_scope(scope)
        self._backends = check_selection(backends)
        self._period_seconds, self._paced = checked_period(period_seconds), period_seconds is None
        self._power_sampling = checked_power_sampling(power_sampling)
        self._output_dir = checked_directory(output_dir)
        self._on_window = on_window
        self._sync = checked_sync(sync)
        self._baseline = baselines.checked(baseline)
        self.factors, self._electricity = _checked_factors(grid, pue, price)
        self._sampler = sampler
        self._token: Token[EnergyMeter | None] | None = None
        self._lock = threading.RLock()
        self._starting = self._stopping = self._unwritten = False
        self._live = self._new_live()
        _meters.add(self)
        self.run_directory: Path | None = None
        self.write_error: str | None = None

    @property
    def recorder(self) -> LiveSession:
        """What records the next window."""
        return self._live

    @property
    def running(self) -> bool:
        """Whether the meter has been started and not been stopped."""
        return self._live.running

    @property
    def session(self) -> Session:
        """Result of the run; a snapshot while the meter runs, final after it has stopped.

        Raises:
            StateError: the meter was never started.
        """
        if not self._live.started:
            raise StateError("the meter was never started: use `with EnergyMeter() as meter:` or start()")
        return self._live.session()

    def start(self) -> Self:
        """Begin a session, for code that cannot use ``with``; after `stop` a new one.

        Raises:
            StateError: the meter is running.
        """
        with self._lock:
            if self._live.running or self._starting:
                raise StateError(f"meter {self.name!r} is already running: stop() it first")
            self._starting = True
            try:
                if self._live.started:
                    self._live = self._new_live()
                self._live.start()
            finally:
                self._starting = False
            _running.append(self)
            at_exit_of_worker(_stop_all)
            self._token = _active.set(self)
        return self

    def stop(self) -> None:
        """End the session and write the run directory if one was asked for; twice is harmless.

        A meter that is still running when the program ends is stopped then. What Ctrl-C has
        interrupted in here is done by the next call, or at that time. Where the handler of a signal
        calls it in the midst of another call, that one goes on after the handler.
        """
        with self._lock:
            if self._stopping:
                return
            try:
                self._stopping = True
                self._end()
            finally:
                self._stopping = False

    def _end(self) -> None:
        self._live.stop()
        # A child that an observer has just forked is no longer among the running.
        if self in _running:
            self._unwritten = self._output_dir is not None
            _running.remove(self)
            self._leave_context()
        if self._unwritten and self._output_dir is not None:
            self._write(self._output_dir)
            self._unwritten = False

    def _forget_after_fork(self) -> None:
        """In a forked child: the session, and what it will write, are the parent's."""
        self._lock = threading.RLock()
        self._starting = self._stopping = self._unwritten = False
        self._live.forget_after_fork()
        if not self._live.started:
            # The parent may have been about to start it.
            self._live = self._new_live()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def energy(self, kind: str | None = None) -> Energy:
        """Return at once the energy since the start.

        Args:
            kind: ``"cpu"``, ``"dram"`` or ``"gpu"``; None for all of them.

        Raises:
            StateError: the meter was never started.
        """
        return self.session.total(kind)

    def _new_live(self) -> LiveSession:
        facts = {
            "scope": self._scope,
            "period_seconds": self._period_seconds,
            "power_sampling": self._power_sampling,
            **self._electricity,
        }
        return LiveSession(
            self.name,
            base_phase=self.base_phase,
            backends=self._backends,
            period_seconds=self._period_seconds,
            paced=self._paced,
            power_sampling=self._power_sampling,
            sync=self._sync,
            on_window=self._on_window,
            facts=facts,
            sampler=self._sampler or shared_sampler(),
            baseline=self._baseline,
            of_process=self._scope == PROCESS,
            output_dir=self._output_dir,
        )

    def _leave_context(self) -> None:
        token, self._token = self._token, None
        try:
            if token is not None:
                _active.reset(token)
        except (ValueError, RuntimeError):
            # Stopped in another thread or task than it was started in.
            if _active.get() is self:
                _active.set(None)

    def _write(self, output_dir: Path) -> None:
        """Write the files; the metered program must not fail because of a full disk."""
        self.run_directory = self.write_error = None
        try:
            # A signal's handler may come in the midst of the program's own import of NumPy.
            from mlmeter.report.run_directory import write_run_directory
            from mlmeter.report.runs_file import RUNS, append_run

            recording = self.session.recording
            directory = output_dir / recording.run.id
            write_run_directory(recording, directory, journalled=self._live.journalled)
            self.run_directory = directory
            append_run(recording, output_dir / RUNS)
        except Exception as error:  # whatever the disk or the recording does, the program goes on
            self.write_error = f"{type(error).__name__}: {error}"
            what = "" if self.run_directory is None else "row in runs.csv of the "
            text = (
                f"the {what}run of meter {self.name!r} could not be written below {output_dir}: "
                f"{self.write_error}"
            )
            self._live.add_event("journal", text)
            logger.info(text, exc_info=True)
            with contextlib.suppress(NotWrittenWarning):
                warnings.warn(text, NotWrittenWarning, stacklevel=frames_of_ours() + 1)

    def __repr__(self) -> str:
        state = "running" if self._live.running else "stopped" if self._live.started else "not started"
        return f"<EnergyMeter {self.name!r}, {state}>"


def _checked_factors(grid: object, pue: object, price: object) -> tuple[ImpactFactors | None, dict[str, Any]]:
    """Return factors, and the facts that keep them with the run; tables are read if one is named.

    Raises:
        ArgumentError: a place is not known, or a factor is negative or absurd.
    """
    if grid is None and pue is None and price is None:
        return None, {}
    from mlmeter.impact.of_meter import meter_factors

    named = meter_factors(grid, pue, price)
    return named.factors, {ELECTRICITY: named.facts()}


class _ActiveMeter(WindowMethods):
    """Opens windows on the meter that is active where and when they open."""

    @property
    def recorder(self) -> LiveSession:
        """The innermost meter of this context, else the last started one, else the default one."""
        return (active_meter() or default_meter()).recorder


def default_meter() -> EnergyMeter:
    """Return the process-wide meter, started now if need be and stopped at exit.

    It has the base phase ``"other"``. Where the environment variable ``MLMETER_OUTPUT_DIR``
    names a directory, its run directory is written there at exit.
    """
    global _default
    with _default_lock:
        if _default is None:
            _default = _new_default_meter()
        if not (_default.running or _default._starting or _default.recorder.started):
            _default.start()
        return _default


def _new_default_meter() -> EnergyMeter:
    """Make the meter; a wrong directory in the environment must not break a decorated function."""
    directory = os.environ.get(OUTPUT_DIR_VARIABLE) or None
    try:
        return EnergyMeter(phase=OTHER, output_dir=directory)
    except ArgumentError as error:
        with contextlib.suppress(NotWrittenWarning):
            text = f"{OUTPUT_DIR_VARIABLE}: {error}; no run is written"
            warnings.warn(text, NotWrittenWarning, stacklevel=frames_of_ours() + 1)
        return EnergyMeter(phase=OTHER)


def _stop_all() -> None:
    """At the end of the process, stop the meters that nobody has stopped, and write their runs."""
    for meter in _meters:
        # A thread that hangs in a driver may hold it for ever.
        if not meter._lock.acquire(timeout=LONGEST_WAIT_AT_EXIT_SECONDS):
            continue
        try:
            if meter._output_dir is None and meter._on_window is None:
                # Nobody looks any more: the exit does not wait until slow counters have shown the end.
                meter._live.stop(settle=False)
            meter.stop()
        except Exception:  # the next meter has its own files
            logger.exception("meter %r could not be stopped", meter.name)
        finally:
            meter._lock.release()


at_exit(_stop_all)


def active_meter() -> EnergyMeter | None:
    """Return the innermost running meter of this context, else the last started one, else None."""
    meter = _active.get()
    if meter is not None and meter.running:
        return meter
    # A thread of a pool does not inherit the context of the block that uses it.
    # Another one may be stopped at any moment.
    last = _running[-1:]
    return last[0] if last else None


def active_recorder() -> LiveSession:
    """Return the recorder of the meter that is active here and now; the default meter's where none is."""
    return _module.recorder


_module = _ActiveMeter()
window = _module.window
training = _module.training
inference = _module.inference
evaluation = _module.evaluation
