"""Windows of asynchronous GPU work: a fake CUDA whose work ends long after the host's windows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import mlmeter
from mlmeter.device_time import events
from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.runtime.fake_cuda import FakeGpu, FakeStream, fake_torch
from tests.runtime.gpu_queue import CPU_WATTS, messages, meter_of, row, run_queue


@pytest.fixture
def meter(clock: FakeClock, gpu: FakeGpu) -> EnergyMeter:
    return meter_of(gpu)


def test_gpu_energy_is_that_of_the_work_and_cpu_energy_that_of_the_host(
    gpu: FakeGpu, meter: EnergyMeter
) -> None:
    """300 W while the queued work runs; the CPU's millisecond stays a millisecond."""
    run_queue(gpu, meter)
    assert row(meter, "long").energy_joules == pytest.approx(300 * 0.4, rel=0.01)
    assert row(meter, "longer").energy_joules == pytest.approx(300 * 0.6, rel=0.01)
    assert row(meter, "rest").energy_joules == pytest.approx(50 * 0.502, rel=0.02)
    for name, seconds in (("long", 0.001), ("longer", 0.001), ("rest", 1.5)):
        assert row(meter, name, "package-0").energy_joules == pytest.approx(CPU_WATTS * seconds, rel=0.3)
        assert row(meter, name, "package-0").duration_seconds == pytest.approx(seconds)
    assert row(meter, "long").duration_seconds == pytest.approx(0.4, abs=1e-4)
    assert meter.session.windows()["synchronised"].sum() == 3 * 6
    assert gpu.waits == 0


def test_without_events_the_next_window_pays(gpu: FakeGpu) -> None:
    """What the events are for: by the host's times the launches are cheap, and waiting is expensive."""
    meter = meter_of(gpu, sync="none")
    run_queue(gpu, meter)
    assert row(meter, "longer").energy_joules < 1
    assert row(meter, "rest").energy_joules > 300 * 0.9
    assert not meter.session.windows()["synchronised"].any()


@pytest.mark.parametrize("drift", [0.0, 1e-4, -1e-4])
def test_drifting_clock_of_the_device_is_followed(clock: FakeClock, gpu: FakeGpu, drift: float) -> None:
    """0.01 % in a minute are 6 ms, and references tell them."""
    gpu.drift, gpu.call_ns = drift, 5_000
    meter = meter_of(gpu)
    with meter:
        for number in range(60):
            with meter.window(f"step {number}"):
                gpu.launch(0.3)
            advance(meter, 1.0, 0.1)
    for number in (0, 1, 30, 58, 59):
        start, end = gpu.spans[number]
        found = row(meter, f"step {number}")
        assert found.start_seconds == pytest.approx(start, abs=1e-4)
        assert found.duration_seconds == pytest.approx(end - start, abs=1e-4)


def test_precision_survives_hours(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """CUDA tells times in single precision: a quarter of a millisecond after an hour, unless asked anew."""
    with meter:
        for number in range(3):
            with meter.window(f"step {number}"):
                gpu.launch(0.010)
            advance(meter, 5_000.0, 1_000.0)
    for number in range(3):
        start, end = gpu.spans[number]
        assert row(meter, f"step {number}").start_seconds == pytest.approx(start, abs=2e-6)
        assert row(meter, f"step {number}").duration_seconds == pytest.approx(end - start, abs=2e-6)


def test_uncertainty_of_the_reference_is_told(gpu: FakeGpu) -> None:
    """Half of what passes between the host's stamps, as a standard uncertainty; the CPU's edges have none."""
    gpu.call_ns = 10_000
    meter = meter_of(gpu)
    run_queue(gpu, meter)
    bases = meter.session.recording.resolution.bases
    # Recording and asking take 10 us each.
    assert bases["gpu-0"].windows.edge_sigma_seconds == pytest.approx(20e-6 / 12**0.5)
    assert bases["package-0"].windows.edge_sigma_seconds == 0


def test_window_without_marks_stays_inside_its_parent(gpu: FakeGpu, meter: EnergyMeter) -> None:
    """The parent's work begins after the child has come and gone: the child has none of it."""
    with meter:
        with meter.window("first"):
            gpu.launch(1.0)
        with meter.window("parent"):
            gpu.capturing = True
            with meter.window("child"):
                gpu.clock.advance(0.1)
            gpu.capturing = False
            gpu.launch(0.5)
        advance(meter, 2.0)
    assert row(meter, "parent").energy_joules == pytest.approx(150, rel=0.01)
    assert row(meter, "parent", scope="exclusive").energy_joules == pytest.approx(150, rel=0.01)
    assert row(meter, "child").energy_joules == 0
    assert row(meter, "first").energy_joules == pytest.approx(300, rel=0.01)
    assert row(meter, "child", "package-0").energy_joules == pytest.approx(2, rel=0.05)


def test_parent_lasts_until_the_last_stream_is_done(gpu: FakeGpu, meter: EnergyMeter) -> None:
    """A child on a stream of its own ends after the stream that its parent was closed on."""
    with meter:
        with meter.window("parent"):
            gpu.launch(0.1)
            gpu.stream = FakeStream(0, 5)
            with meter.window("child"):
                gpu.launch(0.7, delay_seconds=0.1)
            gpu.stream = None
        advance(meter, 1.5)
    assert row(meter, "child").duration_seconds == pytest.approx(0.8, abs=1e-4)
    assert row(meter, "parent").duration_seconds == pytest.approx(0.8, abs=1e-4)
    assert row(meter, "parent").energy_joules == pytest.approx(300 * 0.8, rel=0.01)


def test_exclusive_energies_add_up_to_the_session(gpu: FakeGpu, meter: EnergyMeter) -> None:
    """Whatever streams, captures and threads do, each joule has one owner."""
    with meter:
        for number in range(12):
            gpu.capturing = number % 5 == 4
            with meter.window("outer"):
                gpu.stream = FakeStream(0, 5) if number % 3 == 1 else None
                with meter.window("inner"):
                    if not gpu.capturing:
                        gpu.launch(0.03)
                    gpu.clock.advance(0.005)
                gpu.clock.advance(0.004)
            gpu.stream, gpu.capturing = None, False
        advance(meter, 1.0)
    frame = meter.session.windows().query("domain == 'gpu-0' and scope == 'exclusive'")
    total = meter.session.total("gpu").energy_joules
    assert frame["energy_joules"].sum() == pytest.approx(total, rel=1e-9)
    phases = meter.session.phases().query("domain == 'gpu-0'")
    assert phases["energy_joules"].sum() == pytest.approx(total, rel=1e-9)
    assert phases["duration_seconds"].sum() == pytest.approx(meter.session.duration_seconds, rel=1e-9)


def test_result_waits_for_the_work(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """`energy` answers at once with what has been used; `result` when the work is done."""
    with meter:
        with meter.window("a") as window:
            gpu.launch(2.0)
        advance(meter, 0.5)
        early = window.energy("gpu")
        assert early.energy_joules == pytest.approx(150, rel=0.02)
        assert clock.now_ns() < 600_000_000
        late = window.result(kind="gpu")
        assert late.energy_joules == pytest.approx(600, rel=0.01)
        short = window.result(timeout_seconds=0, kind="gpu")
    assert short.energy_joules == pytest.approx(600, rel=0.01)
    assert window.energy("gpu").energy_joules == pytest.approx(600, rel=0.01)
    assert gpu.waits == 0


def test_observer_gets_windows_when_their_work_is_done(clock: FakeClock, gpu: FakeGpu) -> None:
    """`on_window` sees the energy of the work, not of the launch."""
    seen: list[float | None] = []
    meter = meter_of(gpu, on_window=lambda window: seen.append(window.energy("gpu").energy_joules))
    with meter:
        with meter.window("a"):
            gpu.launch(1.0)
        advance(meter, 0.5)
        assert seen == []
        advance(meter, 1.0)
    assert seen == [pytest.approx(300, rel=0.01)]


def test_generators_have_the_device_times_of_each_piece(
    clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter
) -> None:
    """What the consumer launches between two values is not the generator's."""

    @meter.window("tokens")
    def tokens() -> Any:
        for _ in range(3):
            gpu.launch(0.1)
            yield

    with meter:
        for _ in tokens():
            gpu.launch(0.2)
        advance(meter, 2.0)
    assert row(meter, "tokens").energy_joules == pytest.approx(300 * 0.3, rel=0.02)
    assert row(meter, "tokens").duration_seconds == pytest.approx(0.3, abs=1e-4)
    assert row(meter, "tokens").synchronised


def test_threads_mark_their_own_streams(clock: FakeClock, gpu: FakeGpu, meter: EnergyMeter) -> None:
    """Windows of threads, closed while another thread reads, are all timed."""
    go = threading.Barrier(4)

    def work() -> None:
        go.wait()
        for _ in range(200):
            with meter.window("step"):
                pass

    with meter:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        go.wait()
        while any(thread.is_alive() for thread in threads):
            meter.session.total()
        for thread in threads:
            thread.join()
        clock.advance(0.1)
    frame = meter.session.windows().query("name == 'step' and domain == 'gpu-0' and scope == 'inclusive'")
    assert len(frame) == 600
    assert frame["synchronised"].all()


def test_each_gpu_has_its_own_times(clock: FakeClock, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's numbers need not be NVML's: the identity decides. The idle GPU keeps the host's times."""
    monkeypatch.setattr(events, "device_uuid", lambda number: f"GPU-{1 - number}")
    other = FakeGpu(clock)
    meter = meter_of(other, gpu)
    with meter:
        with meter.window("a"):
            gpu.launch(0.5)
            clock.advance(0.001)
        advance(meter, 1.0)
    assert row(meter, "a", "gpu-1").energy_joules == pytest.approx(150, rel=0.01)
    assert row(meter, "a", "gpu-0").duration_seconds == pytest.approx(0.001)


def test_gpus_that_cannot_be_told_apart_have_host_times(clock: FakeClock, gpu: FakeGpu) -> None:
    """Two GPUs and no identity: nothing is guessed."""
    meter = meter_of(FakeGpu(clock), gpu)
    with meter:
        with meter.window("a"):
            gpu.launch(0.5)
            clock.advance(0.001)
        advance(meter, 1.0)
    assert not row(meter, "a").synchronised
    assert row(meter, "a", "gpu-1").duration_seconds == pytest.approx(0.001)
    assert "cannot be told" in messages(meter)


def test_window_may_change_the_device(
    clock: FakeClock, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that begins on one GPU and ends on another has one edge on each; nothing fails."""
    monkeypatch.setattr(events, "device_uuid", lambda number: f"GPU-{number}")
    meter = meter_of(gpu, FakeGpu(clock))
    with meter:
        with meter.window("a"):
            gpu.launch(0.5)
            clock.advance(0.001)
            gpu.device = 1
        advance(meter, 1.0)
    assert row(meter, "a").synchronised
    assert "failed" not in messages(meter)


def test_device_mode_waits_at_both_edges(clock: FakeClock, gpu: FakeGpu) -> None:
    """The host's window then holds the work, for the CPU too; a capture is not disturbed."""
    meter = meter_of(gpu, sync="device")
    with meter:
        with meter.window("a"):
            gpu.launch(0.5)
        gpu.capturing = True
        with meter.window("captured"):
            pass
    assert gpu.waits == 2
    assert row(meter, "a").energy_joules == pytest.approx(150, rel=0.01)
    assert row(meter, "a", "package-0").energy_joules == pytest.approx(10, rel=0.01)
    assert row(meter, "a").synchronised
    assert not row(meter, "captured").synchronised


def test_reloaded_session_gives_equal_numbers(gpu: FakeGpu, tmp_path: Path) -> None:
    """The raw times of the device are in the run directory."""
    gpu.drift, gpu.call_ns = 3e-5, 4_000
    meter = meter_of(gpu)
    run_queue(gpu, meter)
    again = mlmeter.load(meter.session.save(tmp_path / "run"))
    for table in ("windows", "phases", "window_names", "domains", "events"):
        assert again.to_json() == meter.session.to_json()
        assert getattr(again, table)().equals(getattr(meter.session, table)())
    assert again.recording.device == meter.session.recording.device


def test_journal_written_while_it_ran_is_the_session(gpu: FakeGpu, tmp_path: Path) -> None:
    """The device's times come to it piece by piece, what was never reached at the end."""
    gpu.drift, gpu.call_ns = 3e-5, 4_000
    meter = meter_of(gpu, output_dir=tmp_path)
    with meter:
        for _ in range(30):
            with meter.inference("step"):
                gpu.launch(0.2)
            advance(meter, 0.25)
        with meter.training("never done"):
            gpu.launch(60.0)
    assert meter.run_directory is not None
    again = mlmeter.load(meter.run_directory)
    assert len(again.recording.device) == 31
    assert again.recording.device == meter.session.recording.device
    assert again.to_json() == meter.session.to_json()


def test_final_numbers_do_not_depend_on_questions_before(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots and energies asked in mid-run leave no trace."""
    frames = []
    for ask in (False, True):
        clock = FakeClock()
        gpu = FakeGpu(clock)
        monkeypatch.setitem(sys.modules, "torch", fake_torch(gpu))
        meter = meter_of(gpu)
        with meter, meter.window("outer") as outer:
            for _ in range(5):
                with meter.window("inner") as inner:
                    gpu.launch(0.2)
                if ask:
                    inner.energy()
                    outer.energy()
                    meter.session.windows()
                advance(meter, 0.1)
            advance(meter, 1.0)
        frames.append(meter.session.windows().drop(columns="session"))
    assert frames[0].equals(frames[1])


def test_slow_counter_splits_by_the_work(clock: FakeClock, gpu: FakeGpu) -> None:
    """A counter of 100 ms and windows of 30 ms of work, launched far ahead: the mean is right."""
    domain = fake_domain(name="gpu-0", kind="gpu", cheap_read=False, update_period_seconds=0.1)
    random = Random(1)
    shown: Callable[[int], int] = lambda now: gpu.microjoules(now // 100_000_000 * 100_000_000)  # noqa: E731
    meter = fake_meter(FakeBackend([domain], [shown], clock), clock=clock)
    with meter:
        for number in range(200):
            with meter.inference("step"):
                gpu.launch(0.03)
            with meter.window("copy"):
                gpu.launch(0.011)
            if number % 5 == 4:
                # The host runs ahead of the device by up to 5 steps.
                advance(meter, random.uniform(0.21, 0.5), 0.005)
        advance(meter, 1.0, 0.005)
    frame = meter.session.window_names().query("domain == 'gpu-0'").set_index("name")
    assert frame.loc["step", "energy_joules"] == pytest.approx(300 * 0.03 * 200, rel=0.02)
    assert frame.loc["copy", "energy_joules"] == pytest.approx(300 * 0.011 * 200, rel=0.04)
    assert frame.loc["step", "mean_power_watts"] == pytest.approx(300, rel=0.02)
