"""A window: a named span of time, as context manager or decorator."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Mapping
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mlmeter.errors import StateError
from mlmeter.units import SECONDS_PER_NANOSECOND
from mlmeter.window_log import MOST_PENDING
from mlmeter.window_records import FAILED, OPEN, SYNC_FAILED, SYNCHRONISED, Closed
from mlmeter.work import check_counts, check_names, checked_metrics

if TYPE_CHECKING:
    from mlmeter.measurement import Energy
    from mlmeter.recorder import DeviceEdges, Origin

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")

# A time that has not come; clocks are not negative.
NOT_YET = -1

# The innermost open window of this thread or task, of any meter.
current: contextvars.ContextVar[Window | None] = contextvars.ContextVar("mlmeter_window", default=None)


def current_window() -> Window | None:
    """Return the innermost open window of this thread or task, to count work in it."""
    window = current.get()
    while window is not None and window.end_ns != NOT_YET:
        window = window._enclosing
    return window


class Window:
    """A span of time whose energy and work are recorded; made by a meter, used once.

    As a context manager it marks the block; called with a function it becomes a decorator
    that opens a fresh window at each call. An exception inside marks the window as failed
    and travels on.

    Attributes:
        name: name given by the user.
        phase: label of what the program does in it, such as ``"inference"``.
        units: counts of work done so far, by unit.

    Example:
        >>> from mlmeter import EnergyMeter
        >>> with EnergyMeter() as meter:
        ...     with meter.window("epoch", samples=60_000) as window:
        ...         window.add(samples=1_000)
        >>> window.units
        {'samples': 61000}
    """

    __slots__ = (
        "_enclosing",
        "_flags",
        "_given",
        "_label",
        "_mark",
        "_named",
        "_origin",
        "_pieces",
        "_recorder",
        "_resumed_ns",
        "_thread",
        "_token",
        "end_ns",
        "id",
        "name",
        "parent_id",
        "phase",
        "start_ns",
        "units",
    )

    def __init__(
        self,
        origin: Origin,
        name: str | None,
        phase: str | None,
        units: Mapping[str, float | Callable[..., float]] | None,
    ) -> None:
        self._origin = origin
        self.name = name or phase or "window"
        self._named = name is not None
        # Empty until the window opens, if its phase is to be that of the enclosing window.
        self.phase = phase or ""
        if units:
            check_names(tuple(units))
        self._given = units
        self.id = 0
        # Times of the meter's clock; NOT_YET before the opening and the end.
        self.start_ns = self.end_ns = self._resumed_ns = NOT_YET

    def __enter__(self) -> Self:
        if self.id:
            raise StateError(f"window {self.name!r} was already used: open a new one for each span")
        units = self._given
        if units:
            check_counts(units)
        # No other dictionary: what is kept until the window is put away makes the garbage collector run.
        self.units: Mapping[str, float] = {} if units is None else units  # type: ignore[assignment]  # numbers
        self._recorder = recorder = self._origin.recorder
        log = recorder.log
        self._flags = 0
        self._pieces: list[tuple[int, int]] | None = None
        self._thread = get_ident()
        parent = current.get()
        # Nearly always none, or an open one of a meter that runs: without the calls that look for others.
        if parent is not None and (parent.end_ns != NOT_YET or not parent._recorder.running):
            parent = _enclosing_window()
        self._enclosing = parent
        while parent is not None and (parent._recorder is not recorder or parent.end_ns != NOT_YET):
            parent = parent._enclosing
        if parent is None:
            self.parent_id = 0
            phase = self.phase or recorder.base_phase
        else:
            self.parent_id = parent.id
            phase = self.phase or parent.phase
        self.phase = phase
        label = log.label_numbers.get((self.name, phase))
        self._label = log.label_number(self.name, phase) if label is None else label
        self._token: contextvars.Token[Window | None] | None = current.set(self)
        self.id = log.new_id()
        device = recorder.device
        # On a device the window begins behind what was launched before.
        self._mark = None if device is None else self._device_edge(device)
        # Read first, then stamp: the read is outside the window.
        if recorder.edge is not None:
            recorder.edge()
        if recorder.running:
            log.open[self.id] = self
        else:
            recorder.warn_not_running()
        self.start_ns = self._resumed_ns = recorder.now_ns()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        recorder = self._recorder
        if self.end_ns != NOT_YET:
            return
        # Another thread may stop the meter at any moment.
        device = recorder.device
        if device is not None and self._resumed_ns != NOT_YET:
            self._end_piece(device)
        if exception_type is not None and not _is_normal_end(exception):
            self._flags |= FAILED
        self.end_ns = recorder.now_ns()
        if recorder.edge is not None:
            recorder.edge()
        self._leave_context()
        log = recorder.log
        if not recorder.running:
            log.open.pop(self.id, None)
        elif self.id in log.open:
            # It stays among the open ones until the log has put it away: no snapshot misses it.
            log.pending.append(self.closed())
            if len(log.pending) >= MOST_PENDING:
                log.relieve()
            if recorder.finished is not None:
                recorder.finished.append(self)

    def __call__(self, function: Function) -> Function:
        """Return `function` wrapped so that each call is a window like this one.

        Units may be callables of the result: ``tokens=lambda result: len(result)``. Further
        parameters of the callable get the call's arguments of the same name.
        """
        from mlmeter.decorate import metered

        origin, phase, given = self._origin, self.phase or None, self._given or {}
        plain = getattr(function, "__func__", function)
        # ``Model.predict`` rather than ``predict``, without the function that it was defined in.
        own_name = getattr(plain, "__qualname__", self.name).rpartition("<locals>.")[2]
        name = self.name if self._named else own_name
        rules = {unit: count for unit, count in given.items() if callable(count)}
        fixed = {unit: count for unit, count in given.items() if not callable(count)}
        check_counts(fixed)
        # No units are None: each call has a dictionary of its own.
        return metered(function, lambda: Window(origin, name, phase, fixed or None), rules)

    def add(self, **units: float) -> None:
        """Count more work done in this window, such as ``window.add(tokens=17)``.

        Raises:
            ArgumentError: a count is not a finite number of 0 or more, or has the name of a column.
            StateError: the window has not been opened.
        """
        check_names(tuple(units))
        check_counts(units)
        totals = dict(self.units)
        for name, count in units.items():
            # Other kinds of number cannot always be added to each other.
            totals[name] = totals.get(name, 0) + (count if type(count) is int else float(count))
        if not self.id:
            raise StateError(f"window {self.name!r} is not open yet: count work inside it")
        if self.end_ns != NOT_YET:
            self._recorder.log.late_units.append((self.id, units))
        self.units = totals

    def metric(self, **values: float) -> None:
        """Record what was reached in this window, such as ``window.metric(accuracy=0.91)``.

        Metrics are never added up; of several values of one window the last one counts.

        Raises:
            ArgumentError: a value is not a finite number.
            StateError: the window has not been opened.
        """
        metrics = checked_metrics(values)
        if not self.id:
            raise StateError(f"window {self.name!r} is not open yet: record metrics inside it")
        self._recorder.log.late_units.append((self.id, metrics))

    def energy(self, kind: str | None = None) -> Energy:
        """Return at once the energy so far, children included; provisional until `result`.

        Args:
            kind: ``"cpu"``, ``"dram"`` or ``"gpu"``; None for all of them.

        Raises:
            StateError: the window has not been opened.
        """
        if not self.id:
            raise StateError(f"window {self.name!r} has not been opened: it has no energy")
        return self._recorder.window_energy(self, kind)

    def result(self, timeout_seconds: float | None = None, kind: str | None = None) -> Energy:
        """Wait until the counters have been refreshed once after the end and return the energy.

        Args:
            timeout_seconds: longest wait; None for as long as the slowest counter needs.
            kind: as for `energy`.

        Raises:
            StateError: the window is still open.
        """
        if self.end_ns == NOT_YET:
            raise StateError(f"window {self.name!r} is still open: its result is known after it ends")
        return self._recorder.final_window_energy(self, kind, timeout_seconds)

    def wait_for(self, value: Result) -> Result:
        """Wait until the arrays of JAX in `value` are computed, and return it.

        JAX works later than Python runs, on CPUs too, and nothing but its results tells when.
        Called last in a block, the block's window holds the work. With ``sync="device"`` decorated
        functions wait for what they return or yield. Without JAX it does nothing.

        Args:
            value: an array, or anything built of arrays that JAX can take apart.
        """
        jax = sys.modules.get("jax")
        if jax is not None:
            try:
                jax.block_until_ready(value)
            except Exception as error:  # the computation's own, which using the result raises as well
                self._not_waited("waiting for JAX failed", error)
            else:
                self._flags |= SYNCHRONISED
        return value

    @property
    def waits(self) -> bool:
        """Whether the meter wants windows to wait for results."""
        device = self._recorder.device
        return device is not None and device.waits

    @property
    def end_mark(self) -> Any:
        """The mark of the end on a device; None if there is none."""
        return self._mark if self.end_ns != NOT_YET else None

    @property
    def failed(self) -> bool:
        """Whether the window was left by an exception."""
        return self.end_ns != NOT_YET and bool(self._flags & FAILED)

    @property
    def duration_seconds(self) -> float:
        """Length of the window; of an open one so far."""
        if not self.id:
            return 0.0
        end_ns = self._recorder.now_ns() if self.end_ns == NOT_YET else self.end_ns
        return (end_ns - self.start_ns) * SECONDS_PER_NANOSECOND

    def suspend(self) -> None:
        """Interrupt the window: what follows is not its time (a generator that has yielded)."""
        device = self._recorder.device
        if device is not None:
            self._end_piece(device)
        now = self._recorder.now_ns()
        if self._pieces is None:
            self._pieces = []
        self._pieces.append((self._resumed_ns, now))
        self._resumed_ns = NOT_YET
        self._leave_context()

    def resume(self) -> None:
        """Go on after `suspend`."""
        device = self._recorder.device
        self._mark = None if device is None else self._device_edge(device)
        enclosing = inner = _enclosing_window()
        while inner is not None and inner is not self:
            inner = inner._enclosing
        if inner is None:
            # Else it goes on within itself, in a context that was copied inside it.
            self._enclosing = enclosing
        self._token = current.set(self)
        self._resumed_ns = self._recorder.now_ns()

    def remark(self, message: str) -> None:
        """Note something about this window as an event of the session."""
        self._recorder.remark("window", f"window {self.name!r}: {message}")

    @property
    def is_abandoned(self) -> bool:
        """Whether it was closed in another thread, or never, although the session that records it is over."""
        if self.end_ns != NOT_YET:
            return True
        return not self._recorder.running and self.id in self._recorder.log.open

    def _leave_context(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                current.reset(token)
                return
            except (ValueError, RuntimeError):
                pass
        # Closed in another thread or task than it was opened in, or interrupted before:
        # this context is left as it is, except that the window is no longer current.
        if current.get() is self:
            current.set(self._enclosing)

    def closed(self, now_ns: int | None = None) -> Closed:
        """Return the record of the window; `now_ns` is the end of one that is still open."""
        ended = self.end_ns != NOT_YET
        end_ns = self.end_ns if ended or now_ns is None else now_ns
        pieces: tuple[tuple[int, int], ...] | None = None
        if self._pieces is not None:
            last = [] if self._resumed_ns == NOT_YET else [(self._resumed_ns, end_ns)]
            pieces = (*self._pieces, *last)
        return Closed(
            self.id,
            self.parent_id,
            self._label,
            self._thread,
            end_ns if self.start_ns == NOT_YET else self.start_ns,
            end_ns,
            self._flags if ended else self._flags | OPEN,
            self.units,
            pieces,
        )

    def _device_edge(self, device: DeviceEdges) -> Any:
        """Mark this instant on the device, or wait for it; return the mark if there is one."""
        try:
            mark = device.mark()
        except Exception as error:  # the user's hook must not break the user's loop
            self._not_waited("the sync function failed", error)
            return None
        if mark is True:
            self._flags |= SYNCHRONISED
            return None
        return mark

    def _end_piece(self, device: DeviceEdges) -> None:
        """Mark the end of what has run since the opening, or since the last interruption."""
        start, self._mark = self._mark, self._device_edge(device)
        if start is not None or self._mark is not None:
            device.submit(self.id, len(self._pieces or ()), start, self._mark)

    def _not_waited(self, what: str, error: Exception) -> None:
        self.remark(f"{what}: {type(error).__name__}: {error}")
        self._flags |= SYNC_FAILED

    def __repr__(self) -> str:
        state = "not yet opened" if not self.id else "open" if self.end_ns == NOT_YET else "closed"
        return f"<Window {self.name!r} ({self.phase}), {state}>"


def _enclosing_window() -> Window | None:
    """Return the window that is current here, and let go of those that are current by neglect only.

    Each would keep the one before it alive, and with it a whole session.
    """
    window = found = current.get()
    while window is not None and window.is_abandoned:
        window = window._enclosing
    if window is not found:
        current.set(window)
    return window


def _is_normal_end(exception: BaseException | None) -> bool:
    """Whether an exception only ends a generator that is left early, or the program with success."""
    if isinstance(exception, SystemExit):
        return exception.code in (None, 0)
    return isinstance(exception, GeneratorExit)
