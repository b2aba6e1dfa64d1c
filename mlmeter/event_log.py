"""What users must know of a running session: events, each noted once, and warnings."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from mlmeter.errors import MLMeterWarning
from mlmeter.measurement import Event
from mlmeter.units import SECONDS_PER_NANOSECOND

MOST_REMARKS = 1_000

logger = logging.getLogger("mlmeter")


class EventLog:
    """The events of one session.

    Args:
        now_ns: monotonic clock.

    Attributes:
        start_ns: start of the session; None before it.
        events: what was noted, in order of time.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.start_ns: int | None = None
        self.events: list[Event] = []
        self._noted: dict[tuple[str, str], object] = {}

    def remark(self, kind: str, message: str, domain: str | None = None) -> None:
        """Note an event once, however often it happens."""
        mine = object()
        # The first of several threads notes it.
        if len(self._noted) >= MOST_REMARKS or self._noted.setdefault((kind, message), mine) is not mine:
            return
        if len(self._noted) >= MOST_REMARKS:
            kind, message, domain = "note", "further events are not kept", None
        seconds = 0.0 if self.start_ns is None else (self._now_ns() - self.start_ns) * SECONDS_PER_NANOSECOND
        self.events.append(Event(time_seconds=seconds, kind=kind, domain=domain, message=message))
        logger.info("%s: %s", kind, message)

    def warn(self, kind: str, text: str, category: type[MLMeterWarning]) -> None:
        """Note an event and warn of it at the line of the metered program."""
        self.remark(kind, text)
        try:
            warnings.warn(text, category, stacklevel=frames_of_ours() + 1)
        except MLMeterWarning:
            # Where warnings are errors, the metered program must still run; the event tells.
            logger.warning(text)


def frames_of_ours() -> int:
    """Number of frames between the caller and the metered program."""
    package = str(Path(__file__).parent)
    frame: FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None and frame.f_code.co_filename.startswith(package):
        frame, count = frame.f_back, count + 1
    return count
