"""Windows that nobody closed, or that were closed elsewhere, keep nothing alive and enclose nothing."""

from __future__ import annotations

import contextvars
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from mlmeter import current_window
from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
from mlmeter.windows import Window


def meter_of(clock: FakeClock) -> EnergyMeter:
    return fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)


def alone(work: Callable[[], None]) -> None:
    contextvars.copy_context().run(work)


def close_elsewhere(window: Window) -> None:
    thread = threading.Thread(target=window.__exit__, args=(None, None, None))
    thread.start()
    thread.join()


def test_sessions_with_windows_left_open_are_let_go() -> None:
    """Of ten sessions with a window that was never closed, only the last is kept by being current."""

    def work() -> None:
        kept = []
        for _ in range(10):
            with meter_of(FakeClock()) as meter:
                meter.window("open").__enter__()
            kept.append(weakref.ref(meter.recorder))
            del meter
        gc.collect()
        assert sum(one() is not None for one in kept) == 1

    alone(work)


def test_windows_closed_in_another_thread_are_let_go() -> None:
    """A service that hands its windows over keeps one of them, not all."""

    def work() -> None:
        with meter_of(FakeClock()) as meter:
            for _ in range(20):
                close_elsewhere(meter.window("request").__enter__())
            # As each tick of the sampler does.
            meter.recorder.log.compact()
            gc.collect()
            windows = [thing for thing in gc.get_objects() if type(thing) is Window]
            assert sum(window.name == "request" for window in windows) == 1

    alone(work)


def test_one_closed_elsewhere_encloses_nothing() -> None:
    """The next window has no parent, and after it no window is current."""

    def work() -> None:
        with meter_of(FakeClock()) as meter:
            handed_over = meter.window("handed over").__enter__()
            close_elsewhere(handed_over)
            with meter.window("next") as window:
                assert window.parent_id == 0
            assert current_window() is None

    alone(work)


def test_windows_of_other_meters_stay_current() -> None:
    """A window of a running meter, and one of a meter that never ran, enclose those of another meter."""

    def work() -> None:
        with pytest.warns(UserWarning, match="never started"):
            idle = EnergyMeter().window("idle").__enter__()
        with meter_of(FakeClock()) as meter, meter.window("outer") as outer:
            with meter_of(FakeClock()) as other, other.window("inner"):
                pass
            assert current_window() is outer
        assert current_window() is idle

    alone(work)
