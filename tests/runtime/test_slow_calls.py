"""Calls that take long: the source is read less often, and the session says so."""

from __future__ import annotations

import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.meter import EnergyMeter
from mlmeter.sampling.read_cost import LONGEST_REST_SECONDS, RECENT_READS, ReadCost
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import Source
from mlmeter.testing import FakeClock
from tests.backends.fake_nvml import FIELDS_CALL, FakeGpu, FakeNvml

PERIOD_NS = 100_000_000


def slow_calls(nvml: FakeNvml, clock: FakeClock, seconds: float) -> None:
    """Let each call for fields take so long."""
    nvml.on_call = lambda name: clock.advance(seconds if name == FIELDS_CALL else 0.0)


def run(meter: EnergyMeter, clock: FakeClock, seconds: float) -> None:
    """Do what the sampler's thread does: a regular tick every 0.1 s."""
    deadline_ns = clock.now_ns() + round(seconds * 1e9)
    while clock.now_ns() < deadline_ns:
        clock.advance(0.1)
        meter._live._sampler.tick(polled_too=True, resting_too=False)


def notes(meter: EnergyMeter) -> list[str]:
    events = meter.session.events()
    return [text for text in events.loc[events["kind"] == "note", "message"] if "one call takes" in text]


def gpu_meter(clock: FakeClock, period_seconds: float | None = None) -> EnergyMeter:
    backend = NvmlBackend(now_ns=clock.now_ns)
    return EnergyMeter(
        backends=[backend], period_seconds=period_seconds, sampler=Sampler(clock, threaded=False)
    )


def test_cheap_calls_change_nothing(clock: FakeClock) -> None:
    """0.5 ms are less than 1 % of 0.1 s: every tick reads, and nothing is said."""
    with FakeNvml([FakeGpu(power_watts=300.0)], now_ns=clock.now_ns) as nvml:
        slow_calls(nvml, clock, 0.0005)
        meter = gpu_meter(clock)
        with meter:
            nvml.calls.clear()
            run(meter, clock, 10)
            assert nvml.calls[FIELDS_CALL] == 100
    assert notes(meter) == []


def test_calls_that_were_slow_at_the_start_are_made_less_often(clock: FakeClock) -> None:
    """5 ms are 1 % of 0.5 s: so often, and all the energy is there."""
    with FakeNvml([FakeGpu(power_watts=300.0)], now_ns=clock.now_ns) as nvml:
        slow_calls(nvml, clock, 0.005)
        meter = gpu_meter(clock)
        with meter:
            nvml.calls.clear()
            run(meter, clock, 10)
            assert 18 <= nvml.calls[FIELDS_CALL] <= 21
    assert notes(meter) == ["nvml: one call takes 5.0 ms, so it is read every 0.5 s, not every 0.1 s"]
    duration = meter.session.duration_seconds
    assert meter.session.total("gpu").energy_joules == pytest.approx(300 * duration, rel=0.02)


def test_shorter_period_allows_shorter_calls(clock: FakeClock) -> None:
    """0.5 ms are more than 1 % of 10 ms."""
    with FakeNvml([FakeGpu()], now_ns=clock.now_ns) as nvml:
        slow_calls(nvml, clock, 0.0005)
        meter = gpu_meter(clock, period_seconds=0.01)
        with meter:
            pass
    assert notes(meter) == ["nvml: one call takes 0.5 ms, so it is read every 0.05 s, not every 0.01 s"]


def test_calls_that_become_slow_are_made_less_often_and_told_once(clock: FakeClock) -> None:
    """50 ms a call: after some of them one read in 5 s; when they are fast again, as before."""
    with FakeNvml([FakeGpu(power_watts=300.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            run(meter, clock, 5)
            assert notes(meter) == []
            slow_calls(nvml, clock, 0.05)
            run(meter, clock, 5)
            nvml.calls.clear()
            run(meter, clock, 60)
            assert 11 <= nvml.calls[FIELDS_CALL] <= 13
            assert notes(meter) == ["nvml: one call takes 50.0 ms, so it is read every 5 s, not every 0.1 s"]
            nvml.on_call = None
            run(meter, clock, 10)
            nvml.calls.clear()
            run(meter, clock, 10)
            assert nvml.calls[FIELDS_CALL] == 100
    assert len(notes(meter)) == 1
    duration = meter.session.duration_seconds
    assert meter.session.total("gpu").energy_joules == pytest.approx(300 * duration, rel=0.02)


def test_one_slow_call_means_nothing() -> None:
    """Another thread held the interpreter: the fastest of the last reads counts."""
    cost = ReadCost(0.0, 1, 100.0)
    for _ in range(RECENT_READS - 1):
        cost.took(3_000_000_000)
    assert cost.rest_ns(PERIOD_NS) == 0
    cost.took(1_000)
    assert cost.rest_ns(PERIOD_NS) == 0


def test_wait_for_the_interpreter_means_nothing() -> None:
    """A busy thread makes every read 5 ms long; that is no call of 5 ms."""
    cost = ReadCost(0.0, 1, 100.0)
    for _ in range(100):
        cost.took(6_000_000)
    assert cost.rest_ns(PERIOD_NS) == 0


def test_cost_is_that_of_one_call() -> None:
    """Eight GPUs are eight calls."""
    cost = ReadCost(0.0, 8, 100.0)
    for _ in range(RECENT_READS):
        cost.took(8 * 30_000_000)
    assert cost.call_seconds == pytest.approx(0.03)


def test_rest_never_loses_a_wrap_or_a_gauge_s_power(clock: FakeClock) -> None:
    """A gauge has to be read twice a second at least, however slow it is; nothing rests longer than 5 s."""
    with FakeNvml([FakeGpu(has_energy_counter=False)], now_ns=clock.now_ns) as nvml:
        slow_calls(nvml, clock, 0.05)
        backend = NvmlBackend(now_ns=clock.now_ns)
        source = Source.of(backend, backend.open())
        assert source.cost.rest_ns(PERIOD_NS) == 500_000_000
        assert Source.of(backend, ()).cost.rest_ns(PERIOD_NS) == LONGEST_REST_SECONDS * 1e9
        backend.close()


def test_slow_calls_are_not_used_for_polls(clock: FakeClock) -> None:
    """Looking after refreshes would make dozens of them in a second."""
    with FakeNvml([FakeGpu(update_period_seconds=0.1)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            sampler = meter._live._sampler
            assert len(sampler._polled()) == 1
            slow_calls(nvml, clock, 0.05)
            run(meter, clock, 5)
            assert sampler._polled() == []


def test_cost_is_measured_when_the_backend_is_opened(clock: FakeClock) -> None:
    """The slowest GPU counts, by its fastest call of three; a slow call is not repeated."""
    with FakeNvml([FakeGpu(), FakeGpu()], now_ns=clock.now_ns) as nvml:
        slow_calls(nvml, clock, 0.002)
        backend = NvmlBackend(now_ns=clock.now_ns)
        backend.open()
        assert backend.call_seconds == pytest.approx(0.002)
        backend.close()
        slow_calls(nvml, clock, 0.4)
        nvml.calls.clear()
        backend.open()
        assert backend.call_seconds == pytest.approx(0.4)
        # For each GPU: to choose what is read, to look for a module, to time it.
        assert nvml.calls[FIELDS_CALL] == 6
        backend.close()
