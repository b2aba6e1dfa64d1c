"""Decorators on every kind of function."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

import mlmeter
from mlmeter.errors import ArgumentError, StateError
from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeBackend, FakeClock, fake_meter


@pytest.fixture
def meter(clock: FakeClock) -> EnergyMeter:
    """A meter of one 100 W counter."""
    return fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)


def rows(meter: EnergyMeter, scope: str = "inclusive") -> list[tuple[str, str, float]]:
    """Name, phase and energy of the windows of a session."""
    frame = meter.session.windows()
    frame = frame[(frame["domain"] == "total") & (frame["scope"] == scope) & (frame["window"] > 0)]
    return [(row.name, row.phase, row.energy_joules) for row in frame.itertuples(index=False)]


def test_plain_function(clock: FakeClock, meter: EnergyMeter) -> None:
    """Each call is a window with the function's name; the result comes back."""

    @meter.inference
    def predict(x: int) -> int:
        """Predict."""
        clock.advance(1)
        return x + 1

    with meter:
        assert [predict(1), predict(2)] == [2, 3]
    assert rows(meter) == [("predict", "inference", pytest.approx(100, rel=1e-2))] * 2
    assert predict.__doc__ == "Predict."


def test_calls_share_no_units(meter: EnergyMeter) -> None:
    """What somebody writes into the units of one call is not in those of the next."""
    seen = []

    @meter.inference
    def predict() -> None:
        window = mlmeter.current_window()
        assert window is not None
        seen.append(dict(window.units))
        window.units["tokens"] = 5  # type: ignore[index]  # not what `units` is for

    with meter:
        predict()
        predict()
    assert seen == [{}, {}]


def test_brackets_name_and_constant_units(clock: FakeClock, meter: EnergyMeter) -> None:
    """A decorator with brackets takes a name and counts of work."""

    @meter.training("epoch", samples=50)
    def epoch() -> None:
        clock.advance(1)

    with meter:
        epoch()
        epoch()
    frame = meter.session.phases()
    row = frame[(frame["phase"] == "training") & (frame["domain"] == "total")].iloc[0]
    assert row["samples"] == 100
    assert row["joules_per_sample"] == pytest.approx(2, rel=1e-2)


def test_units_computed_from_result_and_arguments(clock: FakeClock, meter: EnergyMeter) -> None:
    """A unit may be a function of the result, and of the call's arguments by name."""

    @meter.inference(tokens=len, characters=lambda result, prompt: len(result) * len(prompt))
    def generate(prompt: str, size: int = 3) -> list[int]:
        clock.advance(1)
        return [0] * size

    with meter:
        generate("ab", size=4)
        generate(prompt="abc")
    frame = meter.session.window_names()
    row = frame[frame["domain"] == "total"].iloc[0]
    assert (row["tokens"], row["characters"]) == (7, 4 * 2 + 3 * 3)


def test_failing_unit_is_an_event(clock: FakeClock, meter: EnergyMeter) -> None:
    """A rule that raises leaves the function's result alone."""

    @meter.inference(tokens=lambda result: result.missing)
    def predict() -> int:
        return 3

    with meter:
        assert predict() == 3
    assert "counting tokens failed" in " ".join(meter.session.events()["message"])


def test_unit_that_is_no_number_is_an_event(meter: EnergyMeter) -> None:
    """A rule that returns nonsense leaves the function's result alone."""

    @meter.inference(tokens=lambda result: "many")
    def predict() -> int:
        return 3

    with meter:
        assert predict() == 3
    assert "many" in " ".join(meter.session.events()["message"])


def test_method_classmethod_and_staticmethod(clock: FakeClock, meter: EnergyMeter) -> None:
    """Methods keep their binding, on either side of classmethod and staticmethod."""

    class Model:
        @meter.inference
        def plain(self, x: int) -> tuple[object, int]:
            return type(self), x

        @classmethod
        @meter.inference
        def made(cls) -> type:
            return cls

        @meter.inference
        @classmethod
        def outside(cls) -> type:
            return cls

        @meter.inference
        @staticmethod
        def static(x: int) -> int:
            return x

    with meter:
        assert Model().plain(1) == (Model, 1)
        assert Model.made() is Model
        assert Model.outside() is Model
        assert Model.static(4) == 4
    assert [name for name, _, _ in rows(meter)] == [
        "Model.plain",
        "Model.made",
        "Model.outside",
        "Model.static",
    ]


def test_coroutine_function_is_metered_to_its_end(clock: FakeClock, meter: EnergyMeter) -> None:
    """An `async def` stays one and its whole run is the window."""

    @meter.inference
    async def predict() -> int:
        clock.advance(1)
        await asyncio.sleep(0)
        clock.advance(1)
        return 5

    assert inspect.iscoroutinefunction(predict)
    with meter:
        assert asyncio.run(predict()) == 5
    assert rows(meter) == [("predict", "inference", pytest.approx(200, rel=1e-2))]


def test_generator_is_charged_for_its_own_time_only(clock: FakeClock, meter: EnergyMeter) -> None:
    """What the consumer does between two values is the consumer's."""

    @meter.inference
    def stream() -> Iterator[int]:
        for token in range(3):
            clock.advance(1)
            yield token

    assert inspect.isgeneratorfunction(stream)
    with meter:
        received = []
        for token in stream():
            received.append(token)
            with meter.window("consumer", phase="data"):
                clock.advance(5)
    assert received == [0, 1, 2]
    assert rows(meter)[0] == ("stream", "inference", pytest.approx(300, rel=1e-2))
    assert [energy for name, _, energy in rows(meter) if name == "consumer"] == [
        pytest.approx(500, rel=1e-2)
    ] * 3
    assert not meter.session.windows()["concurrent"].any()


def test_generator_passes_sent_values_thrown_errors_and_its_return(meter: EnergyMeter) -> None:
    """The decorated generator behaves as the plain one."""

    @meter.inference
    def echo() -> Iterator[object]:
        got = yield "ready"
        try:
            yield got
        except KeyError as error:
            yield f"caught {error}"
        return "done"

    with meter:
        generator = echo()
        assert next(generator) == "ready"
        assert generator.send("x") == "x"
        assert generator.throw(KeyError("k")) == "caught 'k'"
        with pytest.raises(StopIteration) as stop:
            next(generator)
    assert stop.value.value == "done"


def test_generator_left_early_is_closed_and_recorded(clock: FakeClock, meter: EnergyMeter) -> None:
    """A consumer that breaks off closes the window; it has not failed."""
    cleaned = []

    @meter.inference
    def stream() -> Iterator[int]:
        try:
            for token in range(10):
                clock.advance(1)
                yield token
        finally:
            cleaned.append(True)

    with meter:
        generator = stream()
        next(generator)
        next(generator)
        generator.close()
        clock.advance(4)
    assert cleaned == [True]
    assert rows(meter) == [("stream", "inference", pytest.approx(200, rel=1e-2))]
    assert not meter.session.windows()["failed"].any()


def test_generator_that_fails_is_marked(clock: FakeClock, meter: EnergyMeter) -> None:
    """An exception of the generator travels on and marks the window."""

    @meter.inference
    def stream() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with meter, pytest.raises(ValueError, match="broken"):
        list(stream())
    frame = meter.session.windows()
    assert frame[frame["name"] == "stream"]["failed"].all()


def test_async_generator(clock: FakeClock, meter: EnergyMeter) -> None:
    """An async generator is charged for its own time only."""

    @meter.inference
    async def stream() -> AsyncIterator[int]:
        for token in range(3):
            clock.advance(1)
            await asyncio.sleep(0)
            yield token

    async def consume() -> list[int]:
        received = []
        async for token in stream():
            received.append(token)
            clock.advance(5)
        return received

    assert inspect.isasyncgenfunction(stream)
    with meter:
        assert asyncio.run(consume()) == [0, 1, 2]
    assert rows(meter) == [("stream", "inference", pytest.approx(300, rel=1e-2))]


def test_recursion_nests(clock: FakeClock, meter: EnergyMeter) -> None:
    """A recursive function opens a fresh window at each level; pooled energy counts it once."""

    @meter.inference
    def descend(depth: int) -> None:
        clock.advance(1)
        if depth:
            descend(depth - 1)

    with meter:
        descend(2)
    frame = meter.session.window_names()
    row = frame[frame["domain"] == "total"].iloc[0]
    assert row["energy_joules"] == pytest.approx(300, rel=1e-2)
    assert row["windows"] == 1


def test_decorator_runs_unmetered_without_a_session(meter: EnergyMeter) -> None:
    """Before the start and after the stop the function just runs."""

    @meter.inference
    def predict() -> int:
        return 1

    assert predict() == 1
    with meter:
        predict()
    assert predict() == 1
    assert len(rows(meter)) == 1


def test_decorator_follows_a_restarted_meter(clock: FakeClock, meter: EnergyMeter) -> None:
    """A decorated function records in the session that runs when it is called."""

    @meter.inference
    def predict() -> None:
        clock.advance(1)

    for _ in range(2):
        with meter:
            predict()
        assert len(rows(meter)) == 1


def test_module_decorator_uses_the_active_meter(clock: FakeClock, meter: EnergyMeter) -> None:
    """`@mlmeter.inference` records on whichever meter is active at the call."""

    @mlmeter.inference(samples=2)
    def predict() -> None:
        clock.advance(1)

    with meter:
        predict()
    assert rows(meter) == [("predict", "inference", pytest.approx(100, rel=1e-2))]


def test_window_object_as_decorator(clock: FakeClock, meter: EnergyMeter) -> None:
    """`meter.window(...)` decorates too, and opens a fresh window at each call."""

    @meter.window("step", phase="training", steps=1)
    def step() -> None:
        clock.advance(1)

    with meter:
        step()
        step()
    assert [name for name, _, _ in rows(meter)] == ["step", "step"]


def test_window_is_used_once(meter: EnergyMeter) -> None:
    """A second entry of the same window is an error that says what to do."""
    with meter:
        window = meter.window("a")
        with window:
            pass
        with pytest.raises(StateError, match="open a new one"), window:
            pass


def test_current_window_counts_work(clock: FakeClock, meter: EnergyMeter) -> None:
    """Code deep inside a decorated function can count work on its window."""

    @meter.inference
    def predict() -> None:
        window = mlmeter.current_window()
        assert window is not None
        window.add(tokens=5)
        clock.advance(1)

    assert mlmeter.current_window() is None
    with meter:
        predict()
    frame = meter.session.window_names()
    assert frame["tokens"].iloc[0] == 5


def test_work_counted_after_the_end_is_kept(clock: FakeClock, meter: EnergyMeter) -> None:
    """The number of samples is often known only when the window has ended."""
    with meter:
        with meter.window("a", samples=1) as window:
            clock.advance(1)
        window.add(samples=2)
    assert window.units == {"samples": 3}
    assert meter.session.window_names()["samples"].iloc[0] == 3


@pytest.mark.parametrize("count", [-1, float("nan"), float("inf"), "3", None, True])
def test_wrong_count_is_refused(meter: EnergyMeter, count: object) -> None:
    """A count of work is a finite number of 0 or more."""
    with meter, meter.window("a") as window, pytest.raises(ArgumentError, match="finite number"):
        window.add(samples=count)  # type: ignore[arg-type]


def test_callable_count_in_a_block_is_refused(meter: EnergyMeter) -> None:
    """A block has no result to compute a count from."""
    with meter, pytest.raises(ArgumentError, match="finite number"), meter.inference(tokens=len):
        pass


@pytest.mark.parametrize("wrong", [3, "", object()])
def test_wrong_name_is_refused(meter: EnergyMeter, wrong: object) -> None:
    """A window's name is a text; what cannot be called cannot be decorated."""
    with pytest.raises(ArgumentError):
        meter.inference(wrong)  # type: ignore[call-overload]
    with pytest.raises(ArgumentError):
        meter.window(wrong)  # type: ignore[arg-type]


def test_class_is_not_decorated(meter: EnergyMeter) -> None:
    """A class would be wrapped into a function: refused."""
    with pytest.raises(ArgumentError, match="only functions"):

        @meter.inference
        class Model:
            pass


def test_energy_before_opening_is_an_error(meter: EnergyMeter) -> None:
    """A window that was never opened has no energy and no result."""
    with pytest.raises(StateError, match="not been opened"):
        meter.window("a").energy()
    with pytest.raises(StateError, match="still open"):
        meter.window("a").result()


def test_provisional_and_final_energy(clock: FakeClock, meter: EnergyMeter) -> None:
    """`energy` answers at once, `result` after the next refresh, both with the truth inside."""
    with meter:
        with meter.window("a") as window:
            clock.advance(1)
        provisional, final = window.energy(), window.result()
        clock.advance(1)
    after = window.energy()
    for energy in (provisional, final, after):
        assert energy.energy_joules == pytest.approx(100, rel=1e-2)
        assert energy.low_joules <= 100 <= energy.high_joules


def test_rules_that_cannot_work_are_refused_at_decoration(meter: EnergyMeter) -> None:
    """A rule that asks for an argument that is not there, or of an async generator's result."""
    with pytest.raises(ArgumentError, match="prompt"):

        @meter.inference(tokens=lambda result, prompt: len(prompt))
        def predict(text: str) -> str:
            return text

    with pytest.raises(ArgumentError, match="current_window"):

        @meter.inference(tokens=len)
        async def stream() -> AsyncIterator[int]:
            yield 1


def test_object_with_an_async_call_is_a_coroutine_function(clock: FakeClock, meter: EnergyMeter) -> None:
    """Its window lasts until it has been awaited."""

    class Model:
        async def __call__(self) -> int:
            clock.advance(1)
            return 1

    predict = meter.inference("predict")(Model())

    async def serve() -> int:
        return await predict()

    with meter:
        assert asyncio.run(serve()) == 1
    names = meter.session.window_names().set_index("name")
    assert names["energy_joules"].iloc[0] == pytest.approx(100, rel=1e-2)


def test_normal_ends_are_no_failures(clock: FakeClock, meter: EnergyMeter) -> None:
    """`sys.exit(0)` and a generator that is left early end a window, but nothing has failed."""
    with meter:
        for error in (SystemExit(0), SystemExit(None), GeneratorExit(), SystemExit(1), ValueError()):
            with contextlib.suppress(BaseException), meter.window("w"):
                raise error
    frame = meter.session.windows().query("name == 'w' and domain == 'total' and scope == 'exclusive'")
    assert list(frame["failed"]) == [False, False, False, True, True]


def test_sync_runs_where_a_generator_is_interrupted(clock: FakeClock) -> None:
    """Work that a generator has launched is waited for before its consumer goes on."""
    calls: list[float] = []
    meter = fake_meter(
        FakeBackend.with_power(clock, 100), clock=clock, sync=lambda: calls.append(clock.now_ns())
    )

    @meter.inference
    def stream() -> Iterator[int]:
        yield 1
        yield 2

    with meter:
        list(stream())
    # Opening, two interruptions with their resumptions, end.
    assert len(calls) == 6
