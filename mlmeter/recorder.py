"""What windows need of the meter that opens them, and of the devices that the program works on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mlmeter.measurement import Energy
    from mlmeter.window_log import WindowLog
    from mlmeter.windows import Window


class DeviceEdges(Protocol):
    """Delimits windows on a device that works later than the program."""

    # Whether windows wait for the results of decorated functions.
    waits: bool

    def mark(self) -> Any:
        """Wait for the device and return True; or mark this instant and return the mark, None if it cannot.

        Whatever it raises becomes an event of the session.
        """

    def submit(self, window_id: int, piece: int, start: Any, end: Any) -> None:
        """Hand over the marks of both edges of a window, or of one piece of it; None where there is none."""


class Recorder(Protocol):
    """What a window needs of its meter."""

    log: WindowLog
    running: bool
    base_phase: str
    # Reads cheap counters; None if there are none.
    edge: Callable[[], None] | None
    # What is to be done on a device at both edges; None if nothing.
    device: DeviceEdges | None
    now_ns: Callable[[], int]
    # Windows for the observer; None if there is none.
    finished: deque[Window] | None

    def remark(self, kind: str, message: str) -> None:
        """Note an event of the session."""

    def warn_not_running(self) -> None:
        """Warn once that windows are opened although nothing records them."""

    def window_energy(self, window: Window, kind: str | None) -> Energy:
        """Return the energy of a window with what has been read so far."""

    def final_window_energy(self, window: Window, kind: str | None, timeout_seconds: float | None) -> Energy:
        """Return the energy of a window once its end is known to the counters."""


class Origin(Protocol):
    """Who opens windows: a meter, or whichever is active when the window opens."""

    @property
    def recorder(self) -> Recorder:
        """The recorder of the next window."""
