"""Which GPUs have times of their own, and what becomes of them where frameworks and drivers fail."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mlmeter.device_time import cuda, events
from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter
from tests.runtime.fake_cuda import FakeGpu, fake_cupy, fake_torch
from tests.runtime.gpu_queue import messages, meter_of, row, run_queue


@pytest.fixture
def meter(clock: FakeClock, gpu: FakeGpu) -> EnergyMeter:
    return meter_of(gpu)


def test_auto_is_off_without_initialised_cuda(gpu: FakeGpu, meter: EnergyMeter) -> None:
    """A PyTorch that has not used the GPU is asked nothing else, and windows are the host's."""
    gpu.initialised = False
    with meter, meter.window("a"):
        advance(meter, 0.5)
    assert gpu.events == 0
    assert not meter.session.windows()["synchronised"].any()


def test_auto_begins_when_cuda_is_initialised(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """A model that is moved to the GPU in mid-session: windows from then on have the GPU's times."""
    gpu.initialised = False
    with meter, meter.window("whole"):
        with meter.window("before"):
            advance(meter, 0.5)
        gpu.initialised = True
        advance(meter, 0.1)
        with meter.window("after"):
            gpu.launch(0.3)
        advance(meter, 1.0)
    assert not row(meter, "before").synchronised
    assert row(meter, "after").synchronised
    assert row(meter, "after").energy_joules == pytest.approx(300 * 0.3, rel=0.02)
    # Its beginning was before there was anything to mark.
    assert not row(meter, "whole").synchronised
    assert row(meter, "whole").energy_joules == pytest.approx(50 * 1.3 + 300 * 0.3, rel=0.02)


def test_auto_needs_a_metered_gpu(clock: FakeClock, gpu: FakeGpu) -> None:
    """Times of a GPU that no domain is about serve nobody; "events" records them all the same."""
    for sync, expected in ((None, False), ("events", True)):
        meter = fake_meter(FakeBackend.with_power(clock, watts=10), clock=clock, sync=sync)
        with meter, meter.window("a"):
            advance(meter, 0.1)
        assert (gpu.events > 0) is expected


def test_hip_is_not_cuda(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch for ROCm calls its GPUs CUDA devices; they are not the ones that NVML meters."""
    gpu = FakeGpu(clock, hip="6.4")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(gpu))
    meter = meter_of(gpu)
    with meter, meter.window("a"):
        advance(meter, 0.1)
    assert gpu.events == 0


def test_half_imported_framework_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread imports PyTorch, its module has no attributes yet; it may also be broken."""
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    broken = SimpleNamespace(is_initialized=lambda: 1 / 0)
    for module in (SimpleNamespace(), SimpleNamespace(cuda=SimpleNamespace()), SimpleNamespace(cuda=broken)):
        monkeypatch.setitem(sys.modules, "torch", module)
        assert cuda.initialised_cuda() is None


def test_cupy_alone(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's events do as well, once CUDA runs in the process."""
    gpu = FakeGpu(clock)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(gpu))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    meter = meter_of(gpu)
    run_queue(gpu, meter)
    assert gpu.events == 0
    monkeypatch.setattr(cuda, "cuda_runs", lambda: True)
    clock.advance(1.0)
    gpu.spans.clear()
    meter = meter_of(gpu)
    run_queue(gpu, meter)
    assert row(meter, "longer").duration_seconds == pytest.approx(0.6, abs=1e-4)


def test_events_without_cuda_say_so(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for events and uses no CUDA is told."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    meter = meter_of(FakeGpu(clock), sync="events")
    with meter, meter.window("a"):
        advance(meter, 0.1)
    assert "host times only" in messages(meter)


def test_capture_is_left_alone(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """While a graph is captured nothing is recorded or asked: the window is the host's."""
    with meter, meter.window("outer"):
        gpu.capturing = True
        with meter.window("captured"):
            advance(meter, 0.2)
            meter.session.total()
        gpu.capturing = False
        with meter.window("replayed"):
            gpu.launch(0.2)
        advance(meter, 0.5)
    assert gpu.records_in_capture == 0
    assert not row(meter, "captured").synchronised
    assert row(meter, "captured").duration_seconds == pytest.approx(0.2)
    assert row(meter, "replayed").energy_joules == pytest.approx(60, rel=0.01)
    assert row(meter, "outer").synchronised


@pytest.mark.parametrize("when", ["record", "collect"])
def test_driver_errors_do_not_reach_the_program(
    clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter, when: str
) -> None:
    """An error is an event, later windows are the host's, earlier ones keep their times."""
    with meter:
        with meter.window("good"):
            gpu.launch(0.2)
        advance(meter, 0.5)
        if when == "record":
            gpu.error = RuntimeError("CUDA error: device-side assert triggered")
        with meter.window("bad"):
            clock.advance(0.1)
        gpu.error = RuntimeError("CUDA error: device-side assert triggered")
        advance(meter, 0.5)
        with meter.window("worse"):
            advance(meter, 0.1)
    assert "device-side assert" in messages(meter)
    assert row(meter, "good").synchronised
    for name in ("bad", "worse"):
        assert not row(meter, name).synchronised
        assert row(meter, name).duration_seconds == pytest.approx(0.1)


def test_device_that_never_catches_up(
    clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are bounded; windows beyond are the host's, and the session ends without waiting."""
    monkeypatch.setattr(events, "MOST_EVENTS", 100)
    with meter:
        with meter.window("first"):
            gpu.launch(3600.0)
        for _ in range(500):
            with meter.window("step"):
                clock.advance(0.001)
        advance(meter, 0.1)
        stop_ns = clock.now_ns()
    assert gpu.events < 120
    assert gpu.waits == 0
    assert clock.now_ns() - stop_ns < 300_000_000
    assert "100 events wait" in messages(meter)
    assert "had not finished" in messages(meter)
    assert not row(meter, "first").synchronised
    frame = meter.session.windows().query("domain == 'gpu-0' and scope == 'exclusive'")
    assert frame["energy_joules"].sum() == pytest.approx(meter.session.total("gpu").energy_joules, rel=1e-9)


def test_events_are_used_again(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """Ten thousand windows take a handful of events."""
    with meter:
        for _ in range(100):
            for _ in range(100):
                with meter.window("step"):
                    clock.advance(1e-5)
            advance(meter, 0.001)
    assert gpu.events < 100 * 2 + 3 * 10
    assert meter.session.windows().query("name == 'step'")["synchronised"].all()


def test_program_reads_events_where_the_sampler_cannot_keep_up(
    clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a tick in between, all windows are timed with few events all the same."""
    monkeypatch.setattr(events, "MOST_EVENTS", 100)
    with meter:
        for _ in range(1_000):
            with meter.window("step"):
                clock.advance(1e-5)
    assert gpu.events < 120
    assert meter.session.windows().query("name == 'step'")["synchronised"].all()


def test_stuck_device_blocks_nobody(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """Not even a reference: the device is given up on at once, and tried again later."""
    gpu.stuck = True
    with meter:
        with meter.window("a"):
            clock.advance(0.1)
        advance(meter, 0.1)
        gpu.stuck = False
        advance(meter, 0.1)
        with meter.window("b"):
            gpu.launch(0.1)
        advance(meter, 0.5)
    assert not row(meter, "a").synchronised
    assert row(meter, "b").energy_joules == pytest.approx(30, rel=0.02)


@pytest.fixture
def awaited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a fake JAX was asked to wait for."""
    values: list[Any] = []
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(block_until_ready=values.append))
    return values


@pytest.mark.parametrize(("sync", "expected"), [("device", [42]), (None, [])])
def test_decorated_functions_wait_for_jax_if_asked(
    clock: FakeClock, awaited: list[Any], sync: str | None, expected: list[Any]
) -> None:
    """With sync="device" the window of a decorated function ends when its result is ready."""
    meter = fake_meter(FakeBackend.with_power(clock, watts=1), clock=clock, sync=sync)

    @meter.inference
    def predict() -> int:
        clock.advance(0.1)
        return 42

    with meter:
        assert predict() == 42
    assert awaited == expected
    assert row(meter, predict.__qualname__.rpartition(".")[2], "fake-0").synchronised is (sync == "device")


def test_blocks_wait_for_jax(clock: FakeClock, awaited: list[Any]) -> None:
    """`wait_for` returns what it waited for, in any mode."""
    meter = fake_meter(FakeBackend.with_power(clock, watts=1), clock=clock)
    with meter, meter.window("a") as window:
        assert window.wait_for([1, 2]) == [1, 2]
    assert awaited == [[1, 2]]
    assert row(meter, "a", "fake-0").synchronised


def test_failing_jax_computation_is_the_programs_business(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting raises nothing: whoever uses the result will hear of it."""
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(block_until_ready=lambda value: 1 / 0))
    meter = fake_meter(FakeBackend.with_power(clock, watts=1), clock=clock)
    with meter, meter.window("a") as window:
        window.wait_for(3)
    assert "ZeroDivisionError" in messages(meter)
    assert not row(meter, "a", "fake-0").synchronised
