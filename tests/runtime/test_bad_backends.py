"""A backend that fails in any way is contained and named; the one beside it goes on."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlmeter import EnergyMeter
from mlmeter.backends import registry
from mlmeter.errors import NothingMeteredWarning
from mlmeter.measurement import Domain, Failure, Reading
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.runtime.waiting import LONG_SECONDS, wait_until


class Odd(FakeBackend):
    """A second backend, of whose `open` and `read` a test decides."""

    name = "odd"

    def __init__(
        self,
        clock: FakeClock,
        *,
        opening: Callable[[], Any] | None = None,
        reading: Callable[[], Any] | None = None,
    ) -> None:
        domain = fake_domain(
            name="odd-0", source="odd", kind="gpu", cheap_read=False, update_period_seconds=0.1
        )
        super().__init__([domain], [lambda now: now // 10], clock)
        self.opening, self.reading = opening, reading

    def open(self) -> Sequence[Domain]:
        return super().open() if self.opening is None else self.opening()

    def read(self) -> Sequence[Reading | Failure]:
        return super().read() if self.reading is None else self.reading()


def good(clock: FakeClock) -> FakeBackend:
    return FakeBackend.with_power(clock, watts=10)


def messages(meter: EnergyMeter) -> str:
    return " ".join(meter.session.events()["message"])


# -- fails to import ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "import no_such_module_of_a_vendor",
        "raise KeyError('libamd_smi.so')",
        "import sys; sys.exit(3)",
        "def (",
    ],
    ids=["missing", "odd error", "exits", "syntax"],
)
def test_backend_that_fails_to_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: FakeClock, statement: str
) -> None:
    """Whatever an import does, the session has the others and says what to do."""
    (tmp_path / "broken_vendor_backend.py").write_text(statement)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_vendor_backend", raising=False)
    broken = registry.Builtin("broken", "broken_vendor_backend:Backend", ("gpu",))
    monkeypatch.setattr(registry, "BUILTINS", (*registry.BUILTINS, broken))
    meter = EnergyMeter(backends=["broken", good(clock)], sampler=Sampler(clock, threaded=False))
    with meter:
        advance(meter, 10)
    assert meter.session.total().energy_joules == pytest.approx(100, rel=0.01)
    assert "broken: opening it raised" in messages(meter)
    (missing,) = meter.session.recording.unavailable
    assert missing.source == "broken"
    assert '"broken" out of backends' in missing.remedy


# -- raises at open -----------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


@pytest.mark.parametrize(
    "opening",
    [
        raising(RuntimeError("driver")),
        raising(SystemExit(1)),
        lambda: None,
        list,
        lambda: ["gpu-0"],
        lambda: [fake_domain(name="odd-0", source="odd", update_period_seconds=math.nan)],
    ],
    ids=["raises", "exits", "none", "nothing", "no domains", "no period"],
)
def test_backend_that_cannot_be_opened(clock: FakeClock, opening: Callable[[], Any]) -> None:
    """What is no domain is no domain."""
    meter = fake_meter(Odd(clock, opening=opening), good(clock), clock=clock)
    with meter:
        advance(meter, 10)
    assert meter.session.total().energy_joules == pytest.approx(100, rel=0.01)
    assert "odd: opening it raised" in messages(meter)


def test_ctrl_c_while_a_backend_is_opened_is_the_users(clock: FakeClock) -> None:
    """Not every exception is a backend's."""
    meter = fake_meter(Odd(clock, opening=raising(KeyboardInterrupt())), clock=clock)
    with pytest.raises(KeyboardInterrupt):
        meter.start()


def test_hardware_that_is_not_there_is_not_worth_a_word() -> None:
    """A session that looked for Jetsons by itself does not list that there is none; named, it does."""
    by_itself = {missing.source for missing in registry.probe(None).unavailable}
    assert not {"jetson", "apple_silicon", "amdsmi"} & by_itself
    assert "jetson" in {missing.source for missing in registry.probe(("jetson",)).unavailable}


# -- gives nonsense -----------------------------------------------------------------------


def reading_of(clock: FakeClock, **fields: Any) -> Callable[[], Any]:
    def act() -> Any:
        now = clock.now_ns()
        return [Reading(0, 1, now, now)._replace(**fields)]

    return act


NONSENSE: dict[str, Callable[[FakeClock], Callable[[], Any]]] = {
    "none": lambda _: lambda: None,
    "a number": lambda _: lambda: 7,
    "texts": lambda _: lambda: ["7 W"],
    "no value": lambda clock: reading_of(clock, value=None),
    "not a number": lambda clock: reading_of(clock, value=math.nan),
    "a fraction": lambda clock: reading_of(clock, value=0.5),
    "negative": lambda clock: reading_of(clock, value=-1),
    "too large": lambda clock: reading_of(clock, value=2**70),
    "no time": lambda clock: reading_of(clock, begin_ns=None),
    "the wall clock": lambda clock: reading_of(clock, begin_ns=10**18, end_ns=10**18 + 5),
    "backwards": lambda clock: reading_of(clock, begin_ns=5, end_ns=4),
    "exits": lambda _: raising(SystemExit(2)),
}


@pytest.mark.parametrize("cheap", [False, True], ids=["slow", "cheap"])
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_told_and_never_counted(clock: FakeClock, kind: str, cheap: bool) -> None:
    """No joule comes of it, and the domain beside it has its own, also where windows read both."""
    odd = Odd(clock, reading=NONSENSE[kind](clock))
    if cheap:
        odd.domains = (fake_domain(name="odd-0", source="odd", kind="gpu"),)
    meter = fake_meter(odd, good(clock), clock=clock)
    with meter:
        advance(meter, 5)
        with meter.window("edges"):
            advance(meter, 5)
    assert meter.session.total("cpu").energy_joules == pytest.approx(100, rel=0.01)
    assert meter.session.total("gpu").energy_joules is None
    assert "odd" in messages(meter)
    assert "leave it out with backends" in messages(meter)


def test_a_moment_of_nonsense_is_a_gap(clock: FakeClock) -> None:
    """A counter covers it when it is back."""
    odd = Odd(clock)
    meter = fake_meter(odd, good(clock), clock=clock)
    with meter:
        advance(meter, 4)
        odd.reading = reading_of(clock, value=-7)
        advance(meter, 2)
        odd.reading = None
        advance(meter, 4)
    assert meter.session.total("gpu").energy_joules == pytest.approx(1000, rel=0.01)


def test_numbers_of_numpy_are_numbers(clock: FakeClock) -> None:
    """A vendor's library may give NumPy integers."""
    odd = Odd(clock)
    odd.counts = [lambda now: np.int64(now // 10)]  # type: ignore[list-item, return-value]
    meter = fake_meter(odd, clock=clock)
    with meter:
        advance(meter, 10)
    assert meter.session.total("gpu").energy_joules == pytest.approx(1000, rel=0.01)


# -- gives older time stamps --------------------------------------------------------------


def test_older_time_stamps_are_told_and_dropped(clock: FakeClock) -> None:
    """A reading from the past changes nothing that is known."""
    odd = Odd(clock)
    meter = fake_meter(odd, good(clock), clock=clock)
    with meter:
        advance(meter, 5)
        odd.reading = lambda: [Reading(0, 10**9, 10**9, 10**9)]
        advance(meter, 1)
        odd.reading = None
        advance(meter, 4)
    assert meter.session.total("gpu").energy_joules == pytest.approx(1000, rel=0.01)
    assert meter.session.total("cpu").energy_joules == pytest.approx(100, rel=0.01)
    assert "older than the one before it" in messages(meter)


def test_the_same_reading_again_is_no_fault(clock: FakeClock) -> None:
    """A backend may show what it knows as long as it knows nothing newer."""
    odd = Odd(clock)
    meter = fake_meter(odd, clock=clock)
    with meter:
        advance(meter, 5)
        last = odd.read()
        odd.reading = lambda: last
        advance(meter, 0.3)
        odd.reading = None
        advance(meter, 4.7)
    assert meter.session.total("gpu").energy_joules == pytest.approx(1000, rel=0.01)
    assert "nonsense" not in messages(meter)


# -- hangs at a read ----------------------------------------------------------------------


class Ticking(FakeBackend):
    """A real-time counter of 10 W; `passed` is set once it has been read five times since `count_from`."""

    name = "ticking"

    def __init__(self) -> None:
        domain = fake_domain(source="ticking", cheap_read=False, update_period_seconds=0.01)
        super().__init__([domain], [], FakeClock())
        self.count_from: threading.Event | None = None
        self.passed = threading.Event()
        self._since = 0

    def read(self) -> Sequence[Reading | Failure]:
        if self.count_from is not None and self.count_from.is_set():
            self._since += 1
            if self._since >= 5:
                self.passed.set()
        begin_ns = time.perf_counter_ns()
        value = begin_ns // 100
        return [Reading(0, value, begin_ns, time.perf_counter_ns())]


class Hanging(Ticking):
    """Hangs in one read until it is released."""

    name = "hanging"

    def __init__(self, reads_before: int, *, blocking: bool = False) -> None:
        super().__init__()
        self.blocking = blocking
        self.domains = (
            fake_domain(
                name="hanging-0", source="hanging", kind="gpu", cheap_read=False, update_period_seconds=0.01
            ),
        )
        self._reads_before = reads_before
        self.hangs, self.released, self.came_back = threading.Event(), threading.Event(), threading.Event()

    def read(self) -> Sequence[Reading | Failure]:
        self.reads += 1
        if self.reads > self._reads_before and not self.released.is_set():
            self.hangs.set()
            self.released.wait(LONG_SECONDS)
            self.came_back.set()
        return super().read()


@pytest.mark.parametrize("blocking", [False, True], ids=["on the sampler's thread", "on its own thread"])
def test_hanging_read_stops_nothing_else(sampler: Sampler, blocking: bool) -> None:
    """The others are read on; the session ends; the event names the backend and what to do."""
    hanging, ticking = Hanging(3, blocking=blocking), Ticking()
    ticking.count_from = hanging.hangs
    meter = EnergyMeter(backends=[hanging, ticking], sampler=sampler, period_seconds=0.01)
    with meter:
        assert hanging.hangs.wait(LONG_SECONDS)
        assert ticking.passed.wait(LONG_SECONDS)
        assert meter.session.total("cpu").energy_joules is not None
        wait_until(lambda: "hanging has not come back from a read" in messages(meter))
    assert "leave it out with backends" in messages(meter)
    hanging.released.set()


def test_first_read_that_hangs_does_not_keep_the_program(sampler: Sampler) -> None:
    """The first read happens where the meter is started: that waits for the limit and goes on."""
    hanging, ticking = Hanging(0), Ticking()
    ticking.count_from = hanging.hangs
    meter = EnergyMeter(backends=[hanging, ticking], sampler=sampler, period_seconds=0.01)
    with meter:
        assert ticking.passed.wait(LONG_SECONDS)
    assert meter.session.total("gpu").energy_joules is None
    assert meter.session.total("cpu").energy_joules is not None
    hanging.released.set()


def test_read_that_comes_back_is_taken_up_again(sampler: Sampler) -> None:
    """A driver that was busy for a while is read again, by whichever thread is there then."""
    hanging, ticking = Hanging(3), Ticking()
    ticking.count_from = hanging.hangs
    hanging.count_from = hanging.came_back
    meter = EnergyMeter(backends=[hanging, ticking], sampler=sampler, period_seconds=0.01)
    with meter:
        assert ticking.passed.wait(LONG_SECONDS)
        hanging.released.set()
        assert hanging.passed.wait(LONG_SECONDS)
        assert sum(thread.name == "mlmeter-sampler" for thread in threading.enumerate()) >= 1
    assert meter.session.total("gpu").energy_joules is not None


def test_blocking_backend_is_read_beside_the_others(sampler: Sampler) -> None:
    """A read that takes its time does not delay the sampler: it has a thread, which ends with the meter."""
    slow = Hanging(10**9, blocking=True)
    meter = EnergyMeter(backends=[slow], sampler=sampler, period_seconds=0.01)
    names = []
    slow.count_from = threading.Event()
    slow.count_from.set()
    with meter:
        names = [thread.name for thread in threading.enumerate()]
        assert slow.passed.wait(LONG_SECONDS)
    assert "mlmeter-source" in names
    assert meter.session.total("gpu").energy_joules is not None
    assert slow.closed


def test_nothing_but_bad_backends(clock: FakeClock) -> None:
    """The program runs; the session has times."""
    meter = fake_meter(Odd(clock, opening=raising(OSError("no"))), clock=clock)
    with pytest.warns(NothingMeteredWarning), meter:
        clock.advance(1)
    assert meter.session.total().energy_joules is None
