"""What backends do beside reading: close, answer questions, say what they cost. Nothing of it hurts."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlmeter import EnergyMeter
from mlmeter.measurement import Failure, GpuUse, Reading
from mlmeter.sampling import sources
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.runtime.fake_processes import OWN_PID, FakeGpus, FakeTimes
from tests.runtime.waiting import LONG_SECONDS


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What hanging calls wait for."""
    event = threading.Event()
    yield event
    event.set()


def raising(error: BaseException) -> Callable[..., Any]:
    def act(*arguments: object) -> Any:
        raise error

    return act


def gpu(clock: FakeClock, **methods: Any) -> FakeBackend:
    """Return a GPU of 100 W with methods of its own."""
    backend = FakeBackend.with_power(clock, watts=100, name="gpu-0", kind="gpu")
    for name, method in methods.items():
        setattr(backend, name, method)
    return backend


def good(clock: FakeClock) -> FakeBackend:
    return FakeBackend.with_power(clock, watts=10)


def messages(meter: EnergyMeter) -> str:
    return " ".join(meter.session.events()["message"])


# -- closing ------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("error", [OSError("gone"), SystemExit(3)], ids=["raises", "exits"])
def test_backend_that_fails_to_close(clock: FakeClock, error: BaseException, threaded: bool) -> None:
    """Neither the program nor the closing of the others ends."""
    bad, other = gpu(clock, close=raising(error)), good(clock)
    meter = EnergyMeter(backends=[bad, other], sampler=Sampler(clock, threaded=threaded))
    with meter:
        clock.advance(1)
    assert other.closed


def test_backend_that_hangs_when_it_is_closed(released: threading.Event) -> None:
    """The program waits no longer than the limit, and the others are closed."""
    hanging, other = gpu(FakeClock(), close=lambda: released.wait(LONG_SECONDS)), good(FakeClock())
    with EnergyMeter(backends=[hanging, other], sampler=Sampler(read_limit_seconds=0.05)):
        pass
    assert not released.is_set()
    assert other.closed


def test_session_that_ends_before_the_first_read_says_so(released: threading.Event) -> None:
    """Energy that is absent has a reason."""
    slow = gpu(FakeClock(), blocking=True, read=lambda: released.wait(LONG_SECONDS))
    slow.domains = (fake_domain(name="gpu-0", kind="gpu", cheap_read=False, update_period_seconds=0.1),)
    with EnergyMeter(backends=[slow], sampler=Sampler(read_limit_seconds=0.5)) as meter:
        pass
    assert meter.session.total().energy_joules is None
    assert "come back" in messages(meter)


# -- questions that not all backends answer ------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [raising(SystemExit(1)), lambda: None, lambda: [{"clock": math.nan}], lambda: [7]],
    ids=["exits", "none", "no number", "no table"],
)
def test_odd_states_of_devices(clock: FakeClock, answer: Callable[[], Any], tmp_path: Any) -> None:
    """The run is written without them."""
    meter = fake_meter(gpu(clock, device_states=answer), clock=clock, output_dir=tmp_path)
    with meter:
        advance(meter, 1)
    assert meter.write_error is None
    assert meter.session.recording.run.facts["device_states"] == {}


@pytest.mark.parametrize("method", ["device_states", "gpu_uses"])
def test_question_that_hangs_is_asked_once(
    clock: FakeClock, released: threading.Event, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The program waits once for as long as a read may take."""
    monkeypatch.setattr(sources, "READ_LIMIT_SECONDS", 0.05)
    asked = []

    def hang() -> None:
        asked.append(1)
        released.wait(LONG_SECONDS)

    times = FakeTimes(clock)
    backend = gpu(clock, **{method: hang})
    meter = fake_meter(backend, good(clock), clock=clock, scope="process", process_times=times)
    with meter:
        times.load(1)
        advance(meter, 5)
    assert not released.is_set()
    assert len(asked) == 1
    assert meter.session.total("cpu").energy_joules == pytest.approx(12.5, rel=0.01)


@pytest.mark.parametrize(
    "uses",
    [{0: 5}, {0: [None]}, {0: [GpuUse(OWN_PID, "much"), GpuUse(7)]}, 7],  # type: ignore[arg-type]
    ids=["no processes", "none", "a text", "a number"],
)
def test_odd_users_of_gpus(clock: FakeClock, uses: Any) -> None:
    """That GPU is not attributed, and only that; the reason names its backend."""
    times, backend = FakeTimes(clock), gpu(clock, gpu_uses=lambda: uses)
    meter = fake_meter(backend, good(clock), clock=clock, scope="process", process_times=times)
    with meter:
        times.load(1)
        advance(meter, 5)
    assert "does not tell which processes use this GPU" in messages(meter)
    assert "CPU times" not in messages(meter)
    assert meter.session.total("gpu").energy_joules is None
    assert meter.session.total("cpu").energy_joules == pytest.approx(12.5, rel=0.01)


def test_share_that_is_no_number_is_not_told(clock: FakeClock) -> None:
    """NaN of a driver is no share."""
    domain = fake_domain(name="gpu-0", kind="gpu", cheap_read=False, update_period_seconds=0.1)
    backend = FakeGpus([domain], [lambda now: now // 10], clock)
    backend.uses = [[GpuUse(OWN_PID, math.nan), GpuUse(7, 0.5)]]
    meter = fake_meter(backend, clock=clock, scope="process", process_times=FakeTimes(clock))
    with meter:
        advance(meter, 5)
    assert "the driver does not tell how much each does" in messages(meter)
    assert meter.session.total("gpu").energy_joules is None


@pytest.mark.parametrize("value", ["fast", None, math.nan, -1.0, 0])
@pytest.mark.parametrize("name", ["call_seconds", "longest_period_seconds"])
def test_costs_that_are_no_times(clock: FakeClock, name: str, value: Any) -> None:
    """They are as good as none."""
    meter = fake_meter(gpu(clock, **{name: value}), clock=clock)
    with meter:
        advance(meter, 1)
    assert meter.session.total().energy_joules == pytest.approx(100, rel=0.01)


def test_counter_that_wraps_at_once_does_not_keep_a_core_busy(clock: FakeClock) -> None:
    """Whatever a backend says of its counter."""
    domain = fake_domain(name="gpu-0", kind="gpu", cheap_read=False, modulus=2, update_period_seconds=0.1)
    meter = fake_meter(FakeBackend([domain], [lambda now: 0], clock), clock=clock)
    with meter:
        assert meter._sampler is not None
        assert meter._sampler._period_ns >= 1_000_000


# -- numbers beside the count -----------------------------------------------------------------


@pytest.mark.parametrize("cheap", [False, True], ids=["slow", "cheap"])
@pytest.mark.parametrize(
    "fields",
    [
        {"position": 0.0},
        {"position": None},
        {"power_counts": "7 W"},
        {"power_counts": math.nan},
        {"driver_time_ns": 2**80},
        {"driver_time_ns": 0.5},
    ],
    ids=str,
)
def test_nonsense_beside_the_count(clock: FakeClock, cheap: bool, fields: dict[str, Any]) -> None:
    """It is told as other nonsense is, and the domain beside it is read."""
    domain = fake_domain(
        name="odd-0", kind="gpu", cheap_read=cheap, update_period_seconds=0.001 if cheap else 0.1
    )
    odd = FakeBackend([domain], [lambda now: now // 10], clock)
    read = odd.read
    odd.read = lambda: [item._replace(**fields) for item in read()]  # type: ignore[method-assign,misc,arg-type]
    meter = fake_meter(odd, good(clock), clock=clock)
    with meter:
        advance(meter, 5)
        with meter.window("edges"):
            advance(meter, 5)
    assert meter.session.total("cpu").energy_joules == pytest.approx(100, rel=0.01)
    assert meter.session.total("gpu").energy_joules is None
    assert "leave it out with backends" in messages(meter)


# -- Ctrl-C is the main thread's -----------------------------------------------------------------


class Interrupting(FakeBackend):
    """A counter of real time that raises what Ctrl-C raises, on threads that Ctrl-C never reaches."""

    def __init__(self, name: str, *, bad: bool) -> None:
        kind = "gpu" if bad else "cpu"
        domain = fake_domain(name=f"{name}-0", kind=kind, cheap_read=False, update_period_seconds=0.01)
        super().__init__([domain], [], FakeClock())
        self.name, self._bad = name, bad
        self.read_often = threading.Event()

    def read(self) -> list[Reading | Failure]:
        self.reads += 1
        if self.reads >= 5:
            self.read_often.set()
        if self._bad:
            raise KeyboardInterrupt
        now = time.perf_counter_ns()
        return [Reading(0, now // 100, now, time.perf_counter_ns())]


def test_interrupt_that_a_backend_raises_is_its_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is printed, no round is lost, the source beside it is read."""
    printed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    bad, other = Interrupting("bad", bad=True), Interrupting("other", bad=False)
    with EnergyMeter(backends=[bad, other], sampler=Sampler(), period_seconds=0.01) as meter:
        assert other.read_often.wait(LONG_SECONDS)
    assert printed == []
    assert "one round" not in caplog.text
    assert bad.reads < other.reads
    assert meter.session.total("cpu").energy_joules is not None


# -- telling ------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [3, None, [1, object()], "text"])
@pytest.mark.parametrize("attribute", ["notes", "unreadable"])
def test_odd_notes_are_left_out(clock: FakeClock, attribute: str, told: object) -> None:
    """What is no text and no `Unavailable` is not repeated; the session begins."""
    with fake_meter(gpu(clock, **{attribute: told}), good(clock), clock=clock) as meter:
        advance(meter, 1.0)
    assert meter.session.total().energy_joules == pytest.approx(110, rel=0.05)


def test_trouble_of_the_first_read_is_told(clock: FakeClock) -> None:
    """It happens while the session begins, and is an event all the same."""
    backend = gpu(clock, read=raising(OSError("no such device")))
    with fake_meter(backend, good(clock), clock=clock) as meter:
        advance(meter, 1.0)
    assert "no such device" in messages(meter)


def test_interrupt_while_a_session_begins_leaves_nothing_behind(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler reads nothing for a session that never was."""
    meter = fake_meter(good(clock), clock=clock)
    monkeypatch.setattr(type(meter.recorder.collected), "note_states", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        meter.start()
    assert not meter.running
    assert not meter.recorder._sampler._subscriptions
