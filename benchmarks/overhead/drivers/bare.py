"""The interpreter alone: what every other row contains too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

MODULE = "sys"


def session(output: str) -> None:
    """Do nothing."""


@contextmanager
def started(output: str) -> Iterator[Callable[[], None]]:
    """Give an empty function for the window."""
    yield lambda: None
