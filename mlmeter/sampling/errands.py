"""Calls of backends on threads of their own: one that hangs keeps nobody else.

A call cannot be interrupted; what can be done is to wait for it no longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

# Drivers wake devices within 2 s; what takes longer than this hangs.
READ_LIMIT_SECONDS = 3.0


class HangingError(Exception):
    """A call has not come back within the limit."""


def start_thread(name: str, work: Callable[..., object], *arguments: object) -> threading.Thread:
    """Start a thread that does not keep the program from ending."""
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def came_back(work: Callable[[], object], limit_seconds: float) -> bool:
    """Do work on another thread and return whether it was done within the limit.

    Args:
        work: must not raise.
        limit_seconds: how long to wait.
    """
    done = threading.Event()

    def errand() -> None:
        try:
            work()
        finally:
            done.set()

    try:
        start_thread("mlmeter-errand", errand)
    except RuntimeError:  # no thread can be started while the interpreter ends
        work()
        return True
    return done.wait(limit_seconds)


def answer_of(call: Callable[[], Any], limit_seconds: float) -> Any:
    """Return what a call gives.

    Raises:
        HangingError: it has not come back within the limit.
        Exception: what it raises; what would end a program is a RuntimeError.
    """
    answers: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # it must not reach the metered program
            errors.append(error)

    if not came_back(work, limit_seconds):
        raise HangingError(f"it has not come back for {limit_seconds:g} s")
    for error in errors:
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return answers[0]


def is_the_users(error: BaseException) -> bool:
    """Whether an exception is Ctrl-C, which only the main thread gets, and not a backend's."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
