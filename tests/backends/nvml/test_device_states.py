"""Clocks, heat and limits, noted at the start and the end of a session."""

from __future__ import annotations

import json
from pathlib import Path

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.testing import FakeClock, advance, fake_meter
from tests.backends.fake_nvml import FIELDS_CALL, FakeGpu, FakeNvml
from tests.backends.nvml.machine import Machine, ManualClock, opened


def test_state_has_units_in_its_names(machine: Machine) -> None:
    """What nvidia-smi shows, in plain values."""
    machine(FakeGpu(throttle_reasons=0x4 | 0x40, persistence_mode=0, performance_state=2))
    backend, _ = opened(NvmlBackend())
    assert backend.device_states() == [
        {
            "persistence_mode": False,
            "performance_state": 2,
            "throttle_reasons": ["sw_power_cap", "hw_thermal_slowdown"],
            "temperature_celsius": 45,
            "sm_clock_megahertz": 1980,
            "memory_clock_megahertz": 2619,
            "power_limit_watts": 700.0,
        }
    ]


def test_what_a_gpu_does_not_tell_is_left_out(machine: Machine) -> None:
    """Absent, not 0."""
    machine(
        FakeGpu(
            temperature_celsius=None,
            sm_clock_megahertz=None,
            memory_clock_megahertz=None,
            throttle_reasons=None,
            persistence_mode=None,
            performance_state=32,
            enforced_limit_watts=None,
        )
    )
    backend, _ = opened(NvmlBackend())
    assert backend.device_states() == [{}]


def test_no_throttling_is_an_empty_list(machine: Machine) -> None:
    """Nothing holds the clocks back: that is an answer."""
    machine(FakeGpu(throttle_reasons=0))
    backend, _ = opened(NvmlBackend())
    assert backend.device_states()[0]["throttle_reasons"] == []


def test_reason_without_a_name_is_told_by_its_bit(machine: Machine) -> None:
    """Newer drivers have more reasons."""
    machine(FakeGpu(throttle_reasons=1 << 40))
    backend, _ = opened(NvmlBackend())
    assert backend.device_states()[0]["throttle_reasons"] == ["bit_40"]


@pytest.mark.parametrize(
    "missing",
    ["nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", "nvmlDeviceGetCurrentClocksEventReasons"],
)
def test_old_and_new_names_of_functions_do(machine: Machine, missing: str) -> None:
    """Old drivers lack the new ones; the old ones are to be removed."""
    machine(FakeGpu(throttle_reasons=1)).remove(missing)
    backend, _ = opened(NvmlBackend())
    state = backend.device_states()[0]
    assert (state["temperature_celsius"], state["throttle_reasons"]) == (45, ["gpu_idle"])


def test_lost_gpu_and_module_tell_nothing(machine: Machine, clock: ManualClock) -> None:
    """One table for each domain, empty for those."""
    nvml = machine(FakeGpu(module_power_watts=500.0), FakeGpu())
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(FIELDS_CALL, pynvml.NVML_ERROR_GPU_IS_LOST, gpu=1)
    backend.read()
    assert [bool(state) for state in backend.device_states()] == [True, False, False]


def test_session_notes_states_at_its_start_and_end(tmp_path: Path) -> None:
    """They are in the manifest, by domain; no read in between asks for them."""
    clock = FakeClock()
    with FakeNvml([FakeGpu(), FakeGpu(temperature_celsius=None)], now_ns=clock.now_ns) as nvml:
        meter = fake_meter(NvmlBackend(now_ns=clock.now_ns), clock=clock)
        with meter:
            nvml.calls.clear()
            advance(meter, 5, 0.1)
            assert dict(nvml.calls) == {FIELDS_CALL: 100}
            nvml.gpus[0].temperature_celsius = 78
            nvml.gpus[0].throttle_reasons = 0x20
    manifest = json.loads((meter.session.save(tmp_path) / "session.json").read_text(encoding="utf-8"))
    states = manifest["run"]["facts"]["device_states"]
    assert states["gpu-0"]["start"]["temperature_celsius"] == 45
    assert states["gpu-0"]["end"]["temperature_celsius"] == 78
    assert states["gpu-0"]["end"]["throttle_reasons"] == ["sw_thermal_slowdown"]
    assert "temperature_celsius" not in states["gpu-1"]["start"]


def test_states_that_cannot_be_asked_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that raises instead costs the facts, not the run."""
    clock = FakeClock()
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns):
        backend = NvmlBackend(now_ns=clock.now_ns)
        monkeypatch.setattr(backend, "device_states", lambda: 1 / 0)
        meter = fake_meter(backend, clock=clock)
        with meter:
            advance(meter, 2, 0.1)
    assert meter.session.total("gpu").energy_joules == pytest.approx(200, rel=0.06)
    assert meter.session.recording.run.facts["device_states"] == {}
