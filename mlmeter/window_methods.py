"""The ways to open a window, which meters and the module have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mlmeter.arguments import checked_phase
from mlmeter.errors import ArgumentError
from mlmeter.windows import Window

if TYPE_CHECKING:
    from mlmeter.recorder import Recorder

Function = TypeVar("Function", bound=Callable[..., Any])
# A count of work, or in a decorator what computes it from the result.
Unit = float | Callable[..., float]

TRAINING, INFERENCE, EVALUATION, OTHER = "training", "inference", "evaluation", "other"


class WindowMethods:
    """Opens windows; shared by `EnergyMeter` and the functions of the module `mlmeter`."""

    @property
    def recorder(self) -> Recorder:
        """The recorder of the next window."""
        raise NotImplementedError

    def window(self, name: str, *, phase: str | None = None, **units: Unit) -> Window:
        """Return a window: a context manager, and a decorator.

        Args:
            name: what the program does; windows of one name are pooled in reports.
            phase: label such as ``"inference"``; None for that of the enclosing window.
            units: counts of work, such as ``samples=64``. In a decorator also a callable of
                the function's result: ``tokens=lambda result: len(result)``.

        Raises:
            ArgumentError: `name` or `phase` is no text; a count is no number (at the opening).
        """
        if type(name) is not str or not name:
            raise ArgumentError(f"window name {name!r}: expected a text that is not empty")
        return Window(self, name, phase if phase is None else checked_phase(phase), units)

    @overload
    def training(self, name: Function, /) -> Function: ...
    @overload
    def training(self, name: str | None = None, **units: Unit) -> Window: ...
    def training(self, name: Any = None, **units: Unit) -> Any:
        """Return a window of the phase ``"training"``; as a decorator with or without brackets."""
        return self._phase_window(TRAINING, name, units)

    @overload
    def inference(self, name: Function, /) -> Function: ...
    @overload
    def inference(self, name: str | None = None, **units: Unit) -> Window: ...
    def inference(self, name: Any = None, **units: Unit) -> Any:
        """Return a window of the phase ``"inference"``; as a decorator with or without brackets."""
        return self._phase_window(INFERENCE, name, units)

    @overload
    def evaluation(self, name: Function, /) -> Function: ...
    @overload
    def evaluation(self, name: str | None = None, **units: Unit) -> Window: ...
    def evaluation(self, name: Any = None, **units: Unit) -> Any:
        """Return a window of the phase ``"evaluation"``; as a decorator with or without brackets."""
        return self._phase_window(EVALUATION, name, units)

    def phase(self, label: str) -> Window:
        """Return a window whose name and phase are `label`: any text of the user's."""
        return Window(self, checked_phase(label), label, None)

    def _phase_window(self, phase: str, name: Any, units: dict[str, Unit]) -> Any:
        if name is None or (type(name) is str and name):
            return Window(self, name, phase, units)
        if callable(name) or isinstance(name, (classmethod, staticmethod)):
            return Window(self, None, phase, units)(name)
        raise ArgumentError(f"{phase}({name!r}): expected a name, or a function to decorate")
