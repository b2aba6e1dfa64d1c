"""Edges of windows at which the program waits for a device, because its user asked for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlmeter.device_time.cuda import Cuda, initialised_cuda


class FunctionEdges:
    """The user's function, called at every edge."""

    waits = False

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def mark(self) -> Any:
        """Call the function, whatever it raises; True for the window: it has been waited for."""
        self._function()
        return True

    def submit(self, window_id: int, piece: int, start: Any, end: Any) -> None:
        """Do nothing: no marks are made."""


class WaitingEdges:
    """The current CUDA device, and results of JAX, waited for at every edge."""

    waits = True

    def __init__(self) -> None:
        self._cuda: Cuda | None = None

    def mark(self) -> Any:
        """Wait for the device; None where there is nothing to wait for or waiting would break a capture."""
        cuda = self._cuda
        if cuda is None:
            cuda = self._cuda = initialised_cuda()
        if cuda is None or cuda.capturing(cuda.current_stream()):
            return None
        cuda.synchronise()
        return True

    def submit(self, window_id: int, piece: int, start: Any, end: Any) -> None:
        """Do nothing: no marks are made."""
