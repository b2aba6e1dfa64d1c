"""Laptop batteries, read from frozen power_supply folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlmeter import EnergyMeter
from mlmeter.backends.battery import BatteryBackend
from mlmeter.backends.registry import Opened, backend_names, default_names
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Reading
from mlmeter.sampling.power_process import with_power_process
from mlmeter.testing import FakeBackend, FakeClock, advance, check_backend, fake_meter


def supply(root: Path, label: str, **files: object) -> Path:
    folder = root / label
    folder.mkdir(exist_ok=True, parents=True)
    for name, value in {"type": "Battery", **files}.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def value_of(backend: BatteryBackend) -> int:
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    return reading.value


def test_power_now(tmp_path: Path) -> None:
    """Microwatts, whatever their sign."""
    supply(tmp_path, "BAT0", status="Discharging", power_now=-12_500_000, model_name="LNV-45N1")
    backend = BatteryBackend(tmp_path)
    (domain,) = backend.open()
    assert (domain.kind, domain.counted, domain.model_name) == ("machine", False, "LNV-45N1")
    assert value_of(backend) == 12_500_000
    check_backend(backend)


def test_current_times_voltage(tmp_path: Path) -> None:
    """Controllers that count charge have no power_now."""
    supply(tmp_path, "BAT1", status="Discharging", current_now=1_000_000, voltage_now=11_400_000)
    backend = BatteryBackend(tmp_path)
    backend.open()
    assert value_of(backend) == 11_400_000


def test_two_batteries_are_one_machine(tmp_path: Path) -> None:
    """A second battery that is idle adds nothing; that of a mouse is none of the machine's."""
    supply(tmp_path, "BAT0", status="Discharging", power_now=8_000_000)
    second = supply(tmp_path, "BAT1", status="Not charging", power_now=3_000_000)
    supply(tmp_path, "hidpp_battery_0", status="Discharging", scope="Device", power_now=1)
    supply(tmp_path, "AC", type="Mains", online=0)
    backend = BatteryBackend(tmp_path)
    backend.open()
    assert value_of(backend) == 8_000_000
    (second / "status").write_text("Discharging\n")
    assert value_of(backend) == 11_000_000


def test_plugged_in_is_absent_with_the_reason(tmp_path: Path) -> None:
    """The power that charges a battery is not what the machine draws."""
    supply(tmp_path, "BAT0", status="Charging", power_now=30_000_000)
    with pytest.raises(BackendUnavailableError, match="plugged in") as caught:
        BatteryBackend(tmp_path).open()
    assert "Unplug" in caught.value.remedy


def test_plugged_in_during_a_session_is_a_gap(tmp_path: Path) -> None:
    """What is drawn meanwhile is not known; unplugged, it goes on."""
    battery = supply(tmp_path, "BAT0", status="Discharging", power_now=9_000_000)
    backend = BatteryBackend(tmp_path)
    backend.open()
    (battery / "status").write_text("Charging\n")
    (failure,) = backend.read()
    assert isinstance(failure, Failure)
    assert not failure.lost
    assert "plugged in" in failure.reason
    (battery / "status").write_text("Discharging\n")
    assert value_of(backend) == 9_000_000


def test_battery_without_a_gauge(tmp_path: Path) -> None:
    """Some controllers tell the charge only."""
    supply(tmp_path, "BAT0", status="Discharging", capacity=80)
    with pytest.raises(BackendUnavailableError, match="tells neither"):
        BatteryBackend(tmp_path).open()


def test_machine_is_never_added_to_its_parts(tmp_path: Path) -> None:
    """10 W of the processor beside 30 W of the machine: the total is 10 W."""
    supply(tmp_path, "BAT0", status="Discharging", power_now=30_000_000)
    clock = FakeClock()
    processor = FakeBackend.with_power(clock, watts=10)
    meter = fake_meter(processor, BatteryBackend(tmp_path, now_ns=clock.now_ns), clock=clock)
    with meter:
        advance(meter, 10.0)
    assert meter.session.total().energy_joules == pytest.approx(100, rel=0.01)
    assert meter.session.total("machine").energy_joules == pytest.approx(300, rel=0.01)


def test_two_meters_of_one_machine_are_not_added_up(tmp_path: Path) -> None:
    """A battery and a plug both know the whole; the second is shown beside the first."""
    supply(tmp_path, "BAT0", status="Discharging", power_now=30_000_000)
    clock = FakeClock()
    plug = FakeBackend.with_power(clock, watts=40, name="wall", kind="machine")
    meter = fake_meter(plug, BatteryBackend(tmp_path, now_ns=clock.now_ns), clock=clock)
    with meter:
        advance(meter, 10.0)
    assert meter.session.total("machine").energy_joules == pytest.approx(400, rel=0.01)
    assert "both meter the machine" in " ".join(meter.session.events()["message"])


def test_no_process_reads_a_battery(tmp_path: Path) -> None:
    """A process for gauges reads four times per second; no battery is asked so often."""
    supply(tmp_path, "BAT0", status="Discharging", power_now=30_000_000)
    backend = BatteryBackend(tmp_path)
    opened = Opened(backend, tuple(backend.open()), "battery")
    assert with_power_process(opened) == (backend, None)


def test_it_is_opened_by_its_name_only() -> None:
    """A question to a battery's controller takes milliseconds."""
    named_only = set(backend_names()) - set(default_names())
    assert {"battery", "ipmi", "smart_plug", "accelerator_estimate"} <= named_only
    EnergyMeter(backends=["battery"])
