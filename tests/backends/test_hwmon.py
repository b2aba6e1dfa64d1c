"""Sensors of hwmon, read from frozen trees: what is metered, what is inside what, what is only shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlmeter.backends.hwmon import HwmonBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.testing import FakeBackend, FakeClock, advance, check_backend, fake_meter


def chip(root: Path, number: int, driver: str, device: str, **files: object) -> Path:
    """Make one hwmon folder; ``device__`` in a name puts the file into the device's folder."""
    folder, home = root / f"hwmon{number}", root.parent / "devices" / device
    folder.mkdir(parents=True)
    home.mkdir(parents=True, exist_ok=True)
    (folder / "device").symlink_to(home)
    (folder / "name").write_text(f"{driver}\n")
    for name, value in files.items():
        place = home / name.removeprefix("device__") if name.startswith("device__") else folder / name
        place.write_text(f"{value}\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "hwmon"
    folder.mkdir()
    return folder


def opened(root: Path, **arguments: bool) -> tuple[HwmonBackend, dict[str, Domain]]:
    backend = HwmonBackend(root, **arguments)
    return backend, {domain.name: domain for domain in backend.open()}


def test_intel_card_contains_its_package(root: Path) -> None:
    """The driver xe counts the card and, inside it, the package: only the card is added."""
    files = {"energy1_input": 5_000_000, "energy1_label": "card", "energy2_input": 3_000_000}
    chip(root, 3, "xe", "0000:03:00.0", **files, energy2_label="pkg", power1_max=190_000_000)
    backend, domains = opened(root)
    assert [name for name, domain in domains.items() if domain.counted] == ["intel-gpu-0"]
    assert domains["intel-gpu-0-pkg"].parent == "intel-gpu-0"
    assert domains["intel-gpu-0"].provenance is Provenance.MEASURED
    assert domains["intel-gpu-0"].max_power_watts == 285
    assert [reading.value for reading in backend.read() if isinstance(reading, Reading)] == [
        5_000_000,
        3_000_000,
    ]
    check_backend(backend)


def test_package_of_a_card_that_cannot_be_read_is_metered(root: Path) -> None:
    """Where the card has no value, what is inside it is the best there is."""
    files = {"energy1_input": "none", "energy1_label": "card", "energy2_input": 3_000_000}
    chip(root, 0, "xe", "0000:03:00.0", **files, energy2_label="pkg")
    backend, domains = opened(root)
    assert [(domain.name, domain.counted) for domain in domains.values()] == [("intel-gpu-0-pkg", True)]
    assert "energy1_input" in backend.unreadable[0].reason


def test_two_cards_of_i915_have_identities_of_their_own(root: Path) -> None:
    """Folders are numbered anew at every boot, PCI addresses stay; parts of a card are left out."""
    chip(root, 2, "i915", "0000:4d:00.0", energy1_input=1)
    chip(root, 10, "i915", "0000:9a:00.0", energy1_input=2)
    chip(root, 11, "i915_gt0", "0000:9a:00.0", energy1_input=1)
    _, domains = opened(root)
    assert [domain.id for domain in domains.values()] == ["i915:0000:4d:00.0", "i915:0000:9a:00.0"]


def test_amd_board_is_a_gauge_and_an_apu_is_not_metered(root: Path) -> None:
    """The socket power of an APU is in its CPU package; only boards have a limit."""
    chip(root, 1, "amdgpu", "0000:03:00.0", power1_average=35_000_000, power1_cap=300_000_000)
    chip(root, 2, "amdgpu", "0000:0a:00.0", power1_input=9_000_000, power1_label="PPT")
    mi300a = {"power1_input": 90_000_000, "power1_cap": 550_000_000, "device__device": "0x74a0"}
    chip(root, 3, "amdgpu", "0000:0b:00.0", **mi300a)
    backend, domains = opened(root)
    assert list(domains) == ["amd-gpu-0"]
    assert domains["amd-gpu-0"].id == "amdgpu:0000:03:00.0"
    assert domains["amd-gpu-0"].provenance is Provenance.DERIVED
    check_backend(backend)


def test_sockets_of_amd_energy_are_those_of_rapl(root: Path) -> None:
    """The same registers have the same id, so that a meter adds them once; cores are left out."""
    labels = {"energy1_label": "Ecore000", "energy2_label": "Esocket0", "energy3_label": "Esocket1"}
    chip(root, 0, "amd_energy", "amd_energy.0", energy1_input=1, energy2_input=2, energy3_input=3, **labels)
    _, domains = opened(root)
    assert [domain.id for domain in domains.values()] == ["rapl:package-0", "rapl:package-1"]


def test_grace_module_is_never_added_to_its_socket(root: Path) -> None:
    """Module holds CPU and GPU, the socket its CPU and I/O: one of the four is added."""
    parts = ("Module Power Socket 0", "Grace Power Socket 0", "CPU Power Socket 0", "SysIO Power Socket 0")
    for number, part in enumerate(parts):
        files = {"device__power1_average": 10_000_000 * (4 - number), "device__power1_oem_info": part}
        chip(root, number, "power_meter", f"ACPI000D:0{number}", **files, device__power1_average_interval=50)
    backend, domains = opened(root)
    assert [name for name, domain in domains.items() if domain.counted] == ["grace-0"]
    assert domains["grace-0-cpu"].parent == "grace-0"
    assert domains["module-0"].kind == "other"
    assert domains["grace-0"].update_period_seconds == 0.05
    assert domains["grace-0"].averaging_window_seconds == 0.05
    check_backend(backend)


def test_other_sensors_are_shown_only_if_wanted_and_never_added(root: Path) -> None:
    """Nobody knows what else a power supply's or a rail's sensor contains."""
    chip(root, 0, "corsairpsu", "0003:1B1C", power1_input=250_000_000, power1_label="power total")
    chip(root, 1, "ltc2947", "1-0060", energy1_input=7, power1_input=8)
    with pytest.raises(BackendUnavailableError, match="no sensor"):
        HwmonBackend(root).open()
    backend, domains = opened(root, every_sensor=True)
    assert list(domains) == ["corsairpsu-power-total", "ltc2947-power1", "ltc2947-energy1"]
    assert not any(domain.counted for domain in domains.values())
    check_backend(backend)


def test_sensor_that_vanishes_is_lost_and_the_others_go_on(root: Path) -> None:
    """A board that falls off the bus takes its own sensor with it."""
    first = chip(root, 0, "i915", "0000:03:00.0", energy1_input=1)
    chip(root, 1, "i915", "0000:04:00.0", energy1_input=2)
    backend, _ = opened(root)
    (first / "energy1_input").unlink()
    gone, working = backend.read()
    assert isinstance(gone, Failure)
    assert gone.lost
    assert isinstance(working, Reading)
    (root / "hwmon1" / "energy1_input").write_text("-5\n")
    assert isinstance(backend.read()[1], Failure)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_sensor_without_permission_has_a_remedy(root: Path) -> None:
    """amd_energy is for root only."""
    folder = chip(root, 0, "amd_energy", "amd_energy.0", energy1_input=1, energy1_label="Esocket0")
    (folder / "energy1_input").chmod(0)
    with pytest.raises(BackendUnavailableError) as caught:
        HwmonBackend(root).open()
    assert "udev" in caught.value.remedy


@pytest.mark.parametrize(
    ("kind", "identity"), [("gpu", "amdgpu:0000:03:00.0"), ("cpu", "rapl:package-0")], ids=["amdsmi", "rapl"]
)
def test_what_another_backend_reads_is_not_added_again(root: Path, kind: str, identity: str) -> None:
    """One board, or one socket, in two backends is one energy."""
    chip(root, 0, "amdgpu", "0000:03:00.0", power1_input=30_000_000, power1_cap=300_000_000)
    chip(root, 1, "amd_energy", "amd_energy.0", energy1_input=5, energy1_label="Esocket0")
    clock = FakeClock()
    other = FakeBackend.with_power(clock, watts=25, name="other-0", id=identity, kind=kind)
    meter = fake_meter(other, HwmonBackend(root, now_ns=clock.now_ns), clock=clock)
    with meter:
        advance(meter, 10.0)
    assert meter.session.total(kind).energy_joules == pytest.approx(250, rel=0.01)
    assert f"{identity} is metered as other-0 already" in " ".join(meter.session.events()["message"])


def test_no_hwmon_at_all_is_no_error_of_ours(tmp_path: Path) -> None:
    """A container may hide the folder."""
    with pytest.raises(BackendUnavailableError, match="no sensor"):
        HwmonBackend(tmp_path / "nowhere").open()
