"""Windows round functions, coroutines, generators and async generators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, TypeVar, cast

from mlmeter.errors import ArgumentError
from mlmeter.windows import Window

Function = TypeVar("Function", bound=Callable[..., Any])
UnitRule = Callable[..., float]


def metered(function: Function, open_window: Callable[[], Window], rules: Mapping[str, UnitRule]) -> Function:
    """Return `function` so wrapped that each call runs in a fresh window.

    A generator's window is interrupted while the generator waits to be asked for its next
    value: that time is its consumer's.

    Args:
        function: plain function, method, coroutine function, generator function, async
            generator function, classmethod or staticmethod object.
        open_window: makes the window of one call.
        rules: units that are computed from the result (and from arguments, by name).

    Raises:
        ArgumentError: `function` cannot be called, or a rule cannot get what it asks for.
    """
    if isinstance(function, (classmethod, staticmethod)):
        inner = metered(function.__func__, open_window, rules)
        return cast("Function", type(function)(inner))
    if isinstance(function, type) or not callable(function):
        raise ArgumentError(f"only functions can be decorated, not {function!r}")
    count = _counter(function, rules)
    if inspect.isasyncgenfunction(function):
        if rules:
            raise ArgumentError(
                f"{', '.join(rules)}: an async generator returns nothing to count from; count inside it, "
                f"with mlmeter.current_window().add({next(iter(rules))}=...)"
            )
        wrapper = _async_generator(function, open_window)
    elif inspect.isgeneratorfunction(function):
        wrapper = _generator(function, open_window, count)
    elif inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(_call_of(function)):
        wrapper = _coroutine(function, open_window, count)
    else:
        wrapper = _plain(function, open_window, count)
    return cast("Function", wrapper)


Count = Callable[[Window, Any, tuple[Any, ...], dict[str, Any]], None]


def _plain(function: Callable[..., Any], open_window: Callable[[], Window], count: Count) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with open_window() as window:
            result = function(*args, **kwargs)
            if window.waits:
                window.wait_for(result)
        count(window, result, args, kwargs)
        return result

    return wrapper


def _coroutine(function: Callable[..., Any], open_window: Callable[[], Window], count: Count) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with open_window() as window:
            result = await function(*args, **kwargs)
            if window.waits:
                window.wait_for(result)
        count(window, result, args, kwargs)
        return result

    return wrapper


def _generator(function: Callable[..., Any], open_window: Callable[[], Window], count: Count) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with open_window() as window:
            generator = function(*args, **kwargs)
            advance, argument = generator.send, None
            while True:
                try:
                    value = advance(argument)
                except StopIteration as stop:
                    result = stop.value
                    break
                if window.waits:
                    window.wait_for(value)
                window.suspend()
                try:
                    argument = yield value
                    advance = generator.send
                except GeneratorExit:
                    window.resume()
                    generator.close()
                    # Left early by its consumer: that is no failure.
                    result = None
                    break
                except BaseException as error:
                    advance, argument = generator.throw, error
                window.resume()
        count(window, result, args, kwargs)
        return result

    return wrapper


def _async_generator(function: Callable[..., Any], open_window: Callable[[], Window]) -> Any:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with open_window() as window:
            generator = function(*args, **kwargs)
            advance, argument = generator.asend, None
            while True:
                try:
                    value = await advance(argument)
                except StopAsyncIteration:
                    break
                if window.waits:
                    window.wait_for(value)
                window.suspend()
                try:
                    argument = yield value
                    advance = generator.asend
                except GeneratorExit:
                    window.resume()
                    await generator.aclose()
                    break
                except BaseException as error:
                    advance, argument = generator.athrow, error
                window.resume()

    return wrapper


def _counter(function: Callable[..., Any], rules: Mapping[str, UnitRule]) -> Count:
    """Return what adds the units of one call to its window, after the window has ended."""
    if not rules:
        return _count_nothing
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = None
    wanted = {unit: _wanted_arguments(rule) for unit, rule in rules.items()}
    for unit, names in wanted.items():
        unknown = [name for name in names if signature is None or name not in signature.parameters]
        if unknown:
            text = f"{unit}: its rule asks for {', '.join(unknown)}, which the function does not take"
            raise ArgumentError(text)

    def count(window: Window, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments: Mapping[str, Any] = {}
        if signature is not None and any(wanted.values()):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
        for unit, rule in rules.items():
            try:
                window.add(**{unit: rule(result, **{name: arguments[name] for name in wanted[unit]})})
            except Exception as error:  # the user's rule must not break the user's function
                window.remark(f"counting {unit} failed: {type(error).__name__}: {error}")

    return count


def _call_of(function: Callable[..., Any]) -> Any:
    """Return what a callable object runs when it is called; a function itself is no such object."""
    return None if inspect.isroutine(function) else getattr(type(function), "__call__", None)  # noqa: B004


def _count_nothing(window: Window, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Do nothing: the decorator has no computed units."""


def _wanted_arguments(rule: UnitRule) -> tuple[str, ...]:
    """Names of the call's arguments that a rule asks for, after its first: the result."""
    try:
        parameters = list(inspect.signature(rule).parameters.values())
    except (TypeError, ValueError):
        # Builtins such as len() have no signature everywhere: they get the result only.
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(
        parameter.name
        for parameter in parameters[1:]
        if parameter.kind in named and parameter.default is inspect.Parameter.empty
    )
