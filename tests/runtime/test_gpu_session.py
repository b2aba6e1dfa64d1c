"""Sessions on GPUs: the meter, the NVML backend and the real bindings above a fake library."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

import mlmeter
from mlmeter.backends.nvml import NvmlBackend
from mlmeter.errors import NothingMeteredWarning
from mlmeter.meter import EnergyMeter
from mlmeter.sampling.sources import Source
from mlmeter.testing import FakeClock, advance, fake_meter
from tests.backends.fake_nvml import ENERGY_FIELD, FIELDS_CALL, FakeGpu, FakeNvml, gpu_uuid


def gpu_meter(clock: FakeClock, **environment: str | None) -> EnergyMeter:
    """A meter of the GPUs that CUDA_VISIBLE_DEVICES shows."""
    return fake_meter(NvmlBackend(now_ns=clock.now_ns, **environment), clock=clock)  # type: ignore[arg-type]


def test_energy_counter_gives_the_session_its_joules(clock: FakeClock) -> None:
    """300 W for 10 s are 3000 J, measured, although the counter refreshes every 0.1 s only."""
    with FakeNvml([FakeGpu(power_watts=300.0, update_period_seconds=0.1)], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 10, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(3000, rel=0.005)
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= 3000 <= total.high_joules
    assert (str(total.provenance), total.resolved) == ("measured", True)
    assert meter.session.domains()["uuid"].iloc[0] == gpu_uuid(0)


def test_power_is_integrated_where_there_is_no_counter(clock: FakeClock) -> None:
    """Without an energy counter the joules are derived from power, and say so."""
    with FakeNvml([FakeGpu(power_watts=200.0, has_energy_counter=False)], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 5, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(1000, rel=0.005)
    assert (str(total.provenance), total.method) == ("derived", "integrated_power")


def test_gpu_without_any_reading_is_named_and_not_zero(clock: FakeClock) -> None:
    """One GPU that tells nothing beside one that does: listed with the reason, not 0 J."""
    gpus = [FakeGpu(power_watts=100.0), FakeGpu(has_energy_counter=False, has_power=False)]
    with FakeNvml(gpus, now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 2, 0.1)
    assert meter.session.total("gpu").energy_joules == pytest.approx(200, rel=0.06)
    reasons = meter.session.domains().set_index("domain")["reason"].dropna()
    assert gpu_uuid(1) in " ".join(reasons)


def test_gpu_lost_in_mid_run_keeps_what_was_read(clock: FakeClock) -> None:
    """The run goes on, the joules stay, the lost time is told and nothing is invented for it."""
    with FakeNvml([FakeGpu(power_watts=100.0), FakeGpu(power_watts=50.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 4, 0.1)
            nvml.fail(ENERGY_FIELD, pynvml.NVML_ERROR_GPU_IS_LOST, gpu=0)
            advance(meter, 4, 0.1)
    domains = meter.session.domains().set_index("domain")
    assert domains.loc["gpu-0", "energy_joules"] == pytest.approx(400, rel=0.03)
    assert domains.loc["gpu-0", "coverage_ratio"] == pytest.approx(0.5, abs=0.03)
    assert domains.loc["gpu-1", "energy_joules"] == pytest.approx(400, rel=0.03)
    assert "lost" in set(meter.session.events()["kind"])


def test_gpu_that_comes_back_is_complete(clock: FakeClock) -> None:
    """A counter that counted on through an outage covers it exactly."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 2, 0.1)
            nvml.fail(ENERGY_FIELD, pynvml.NVML_ERROR_UNKNOWN)
            advance(meter, 3, 0.1)
            nvml.clear_faults()
            advance(meter, 2, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(700, rel=0.02)
    assert total.coverage_ratio == 1.0


def test_driver_reload_loses_one_step_and_is_an_event(clock: FakeClock) -> None:
    """A counter that falls back to 0 is a reset: never a negative energy."""
    with FakeNvml([FakeGpu(power_watts=100.0, energy_start_joules=5000.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 3, 0.1)
            nvml.gpus[0].energy_start_joules = -300.0
            advance(meter, 3, 0.1)
    assert meter.session.total("gpu").energy_joules == pytest.approx(590, rel=0.02)
    assert meter.session.domains()["resets"].iloc[0] == 1


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["gpu-0", "gpu-1", "gpu-2"]),
        ("1", ["gpu-1"]),
        ("2,0", ["gpu-2", "gpu-0"]),
        (gpu_uuid(1), ["gpu-1"]),
        (gpu_uuid(2)[:10], ["gpu-2"]),
    ],
)
def test_only_visible_gpus_are_metered(clock: FakeClock, visible: str | None, names: list[str]) -> None:
    """CUDA_VISIBLE_DEVICES as indices, UUIDs and abbreviations."""
    with FakeNvml([FakeGpu() for _ in range(3)], now_ns=clock.now_ns):
        meter = gpu_meter(clock, visible_devices=visible)
        with meter:
            advance(meter, 1, 0.1)
    assert sorted(meter.session.domains()["domain"]) == sorted(names)


@pytest.mark.parametrize("visible", ["", "-1", "nonsense", "7"])
def test_no_visible_gpu_is_said_and_is_not_zero(clock: FakeClock, visible: str) -> None:
    """A session that may use no GPU has no GPU energy and says why."""
    with FakeNvml([FakeGpu()], now_ns=clock.now_ns):
        meter = gpu_meter(clock, visible_devices=visible)
        with pytest.warns(NothingMeteredWarning), meter:
            clock.advance(1)
    assert meter.session.total("gpu").energy_joules is None
    assert "CUDA_VISIBLE_DEVICES" in meter.session.domains()["reason"].iloc[0]


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeNvml([], load_error=OSError("no library")), "not found"),
        (FakeNvml([FakeGpu()], init_error=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), "different versions"),
        (FakeNvml([FakeGpu()], init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), "driver"),
        (FakeNvml([]), "no GPU"),
    ],
)
def test_no_usable_nvml_is_explained(clock: FakeClock, fake: FakeNvml, words: str) -> None:
    """Missing library, mismatch, no driver, no device: the session runs and tells the reason."""
    with fake:
        meter = gpu_meter(clock)
        with pytest.warns(NothingMeteredWarning), meter:
            clock.advance(1)
    assert words in meter.session.domains()["reason"].iloc[0]


def test_read_costs_one_call_per_gpu(clock: FakeClock) -> None:
    """The sampler asks for energy and power at once, and for nothing else."""
    with FakeNvml([FakeGpu(), FakeGpu()], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            nvml.calls.clear()
            advance(meter, 1, 0.1)
            assert dict(nvml.calls) == {FIELDS_CALL: 20}


def test_short_window_on_a_slow_counter_is_an_interval(clock: FakeClock) -> None:
    """A 10 ms window between two refreshes is unresolved; its interval holds the truth."""
    with FakeNvml([FakeGpu(power_watts=300.0, update_period_seconds=0.1)], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 1, 0.1)
            clock.advance(0.03)
            with meter.window("short") as window:
                clock.advance(0.01)
            advance(meter, 1, 0.1)
    energy = window.energy()
    assert not energy.resolved
    assert energy.low_joules is not None
    assert energy.high_joules is not None
    assert energy.low_joules <= 3.0 <= energy.high_joules


def test_power_is_read_often_enough_whatever_the_period(clock: FakeClock) -> None:
    """A gauge that was read every 5 s would be one long gap: the sampler shortens its period."""
    with FakeNvml([FakeGpu(has_energy_counter=False)], now_ns=clock.now_ns):
        backend = NvmlBackend(now_ns=clock.now_ns)
        assert Source.of(backend, backend.open()).longest_safe_period_seconds() == 0.5


def cross_check_events(meter: EnergyMeter) -> list[str]:
    events = meter.session.events()
    return list(events.loc[events["kind"] == "cross-check", "message"])


def test_counter_that_disagrees_with_power_is_told_once(clock: FakeClock) -> None:
    """A counter of half the power: one event at the end, both figures in the frame and after loading."""
    gpus = [FakeGpu(power_watts=100.0, energy_joules=lambda seconds: 1_000.0 + 50.0 * seconds), FakeGpu()]
    with FakeNvml(gpus, now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 20, 0.1)
            assert cross_check_events(meter) == []
    (message,) = cross_check_events(meter)
    assert message.startswith("gpu-0: its energy counter shows 1000 J")
    assert "2000 J" in message
    domains = meter.session.domains().set_index("domain")
    for number, counter, power in ((0, 1000, 2000), (1, 6000, 6000)):
        row = domains.loc[f"gpu-{number}"]
        assert row["cross_check_counter_joules"] == pytest.approx(counter, rel=0.01)
        assert row["cross_check_power_joules"] == pytest.approx(power, rel=0.01)


def test_each_session_is_checked_for_itself(clock: FakeClock, tmp_path: Path) -> None:
    """Two meters share a source: the second sees its own 10 s only, and so does its run directory."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns):
        backend = NvmlBackend(now_ns=clock.now_ns)
        first = fake_meter(backend, clock=clock)
        second = EnergyMeter(backends=[backend], sampler=first._sampler)
        with first:
            advance(first, 20, 0.1)
            with second:
                advance(second, 10, 0.1)
    assert first.session.domains()["cross_check_power_joules"][0] == pytest.approx(3000, rel=0.01)
    loaded = mlmeter.load(second.session.save(tmp_path))
    assert loaded.domains()["cross_check_power_joules"][0] == pytest.approx(1000, rel=0.01)
    ((_, rows),) = loaded.recording.domains
    ((_, saved),) = second.session.recording.domains
    assert rows == saved
    assert rows.driver_ns is not None
    assert len(rows.driver_ns) == len(rows.counts)


def test_session_without_power_has_no_cross_check(clock: FakeClock) -> None:
    """An absent comparison is an empty cell, not 0 J."""
    with FakeNvml([FakeGpu(fields=frozenset())], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 20, 0.1)
    domains = meter.session.domains()
    assert domains[["cross_check_counter_joules", "cross_check_power_joules"]].isna().all(axis=None)
    assert cross_check_events(meter) == []
