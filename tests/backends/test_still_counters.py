"""Counters that a hypervisor shows for nothing: found at once, told, and replaced by what works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mlmeter.backends import powercap_zones, registry
from mlmeter.backends.perf_rapl import PerfRaplBackend
from mlmeter.backends.rapl import RaplBackend
from mlmeter.backends.still_counters import LOOK_SECONDS, standing_still
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Provenance
from mlmeter.testing import FakeBackend, FakeClock, fake_domain
from tests.backends import perf_tree, powercap_tree
from tests.backends.perf_tree import Cpu, FakeKernel, build_pmu
from tests.backends.powercap_tree import CLIENT, SERVER_TWO_SOCKETS, Zone, build_tree

ZEROS = powercap_tree.ALL_ZERO


class Guest:
    """A tree of which some counters move while time passes, and a clock that waiting moves."""

    def __init__(
        self, directory: Path, zones: Sequence[Zone], moving: Sequence[str], vendor: str = ""
    ) -> None:
        self.clock = FakeClock()
        self.tree = build_tree(directory / "powercap", zones)
        self.moving = {label: self.tree.energy_file(label) for label in moving}
        dmi = directory / "dmi"
        dmi.mkdir()
        (dmi / "sys_vendor").write_text(f"{vendor}\n")
        self.waited = 0.0
        self.backend = RaplBackend(
            self.tree.class_root,
            cpuinfo=self.tree.cpuinfo,
            dmi=dmi,
            now_ns=self.clock.now_ns,
            wait=self.wait,
        )
        self.backend.look_seconds = LOOK_SECONDS

    def wait(self, seconds: float) -> None:
        self.waited += seconds
        self.clock.advance(seconds)
        for file in self.moving.values():
            file.write_text(f"{int(file.read_text()) + 1000}\n")

    def names(self) -> list[str]:
        return [domain.name for domain in self.backend.open()]


LABELS = [zone.label for zone in SERVER_TWO_SOCKETS]


@pytest.mark.parametrize("zones", [SERVER_TWO_SOCKETS, ZEROS], ids=["running", "from zero"])
def test_counters_that_move_cost_no_time(tmp_path: Path, zones: Sequence[Zone]) -> None:
    """The look ends with the first change of each; nothing is lost, wherever a counter begins."""
    guest = Guest(tmp_path, zones, LABELS)
    assert guest.names() == ["package-0", "dram-0", "package-1", "dram-1"]
    assert guest.waited < 0.001
    assert guest.backend.unreadable == ()


@pytest.mark.parametrize("zones", [SERVER_TWO_SOCKETS, ZEROS], ids=["stuck", "zero"])
def test_counters_that_all_stand_still_are_unreadable(tmp_path: Path, zones: Sequence[Zone]) -> None:
    """Nothing is opened; the reason has the counter and what it reads, the remedy what helps."""
    guest = Guest(tmp_path, zones, ())
    with pytest.raises(BackendUnavailableError) as caught:
        guest.backend.open()
    count = zones[0].energy_uj
    assert f"(package-0) stands still at {count}: it did not move for 5 ms" in caught.value.reason
    assert "on the host" in caught.value.remedy
    assert guest.waited <= LOOK_SECONDS + 0.001


def test_one_memory_that_stands_still_is_left_out(tmp_path: Path) -> None:
    """The others are metered, and this one is listed with its reason."""
    guest = Guest(tmp_path, SERVER_TWO_SOCKETS, [label for label in LABELS if label != "intel-rapl:1:0"])
    assert guest.names() == ["package-0", "dram-0", "package-1"]
    (missing,) = guest.backend.unreadable
    assert missing.kinds == ("dram",)
    assert "dram-1" in missing.reason


def test_parts_and_the_platform_need_not_move(tmp_path: Path) -> None:
    """Graphics that are not used, cores that sleep and a platform in whole joules are no faults."""
    guest = Guest(tmp_path, CLIENT, ["intel-rapl:0", "intel-rapl:0:2"])
    assert guest.names() == ["package-0", "core-0", "uncore-0", "dram-0", "psys"]


def test_parts_go_with_their_package(tmp_path: Path) -> None:
    """Of a package that stands still cores and graphics are nothing; memory that moves is."""
    guest = Guest(tmp_path, CLIENT, ["intel-rapl:0:0", "intel-rapl:0:2"])
    assert guest.names() == ["dram-0", "psys"]


def test_a_guest_of_qemu_keeps_what_its_host_passes_on(tmp_path: Path) -> None:
    """QEMU adds to the counters once per second: a few milliseconds prove nothing, and the period is told."""
    zones = (CLIENT[0], Zone("intel-rapl:1", "package-1", 0))
    guest = Guest(tmp_path, zones, (), vendor="QEMU")
    (domain,) = guest.backend.open()
    assert (domain.name, domain.update_period_seconds) == ("package-0", 1.0)
    assert any("every 1 s" in note for note in guest.backend.notes)
    (missing,) = guest.backend.unreadable
    assert "package-1" in missing.reason


def test_a_guest_of_kvm_with_zeros_has_no_counters(tmp_path: Path) -> None:
    """KVM without QEMU's help shows 0 for ever."""
    with pytest.raises(BackendUnavailableError):
        Guest(tmp_path, ZEROS, (), vendor="QEMU").backend.open()


def test_a_clock_that_stands_still_tells_nothing(tmp_path: Path) -> None:
    """Counters that had no time to move are not judged."""
    guest = Guest(tmp_path, SERVER_TWO_SOCKETS, ())
    guest.backend._wait = lambda seconds: None
    assert len(guest.names()) == 4


def test_a_counter_that_fails_during_the_look_is_not_judged() -> None:
    """The session's reads tell about it."""
    clock = FakeClock()
    zone = powercap_zones.Zone("intel-rapl:0", "", "package", 0, None)
    for seconds, counts, still in ((0.005, {}, set()), (0.005, {zone: 5}, {zone}), (0.0, {zone: 5}, set())):
        found = standing_still(
            {zone: 5}, lambda _, counts=counts: counts, clock.now_ns, seconds=seconds, wait=clock.advance
        )
        assert found == still


# --- perf events --------------------------------------------------------------------------------


def perf_guest(directory: Path, watts: dict[str, float], vendor: str = "") -> PerfRaplBackend:
    """Return the PMU of a machine whose events use these watts, none if they are not named."""
    clock = FakeClock()
    pmu = build_pmu(directory / "pmu", (Cpu(0),), perf_tree.CLIENT_EVENTS)
    (directory / "dmi").mkdir(parents=True)
    (directory / "dmi" / "sys_vendor").write_text(f"{vendor}\n")
    kernel = FakeKernel(clock, {(0, name): value for name, value in watts.items()})
    return PerfRaplBackend(
        pmu.root,
        cpus=pmu.cpus,
        cpuinfo=pmu.cpuinfo,
        paranoid=pmu.paranoid,
        powercap=directory / "nothing",
        dmi=directory / "dmi",
        calls=kernel,
        now_ns=clock.now_ns,
        wait=clock.advance,
    )


def test_perf_events_that_stand_still_are_unreadable(tmp_path: Path) -> None:
    """As with powercap: a reason and a remedy, no domain."""
    backend = perf_guest(tmp_path, {})
    with pytest.raises(BackendUnavailableError, match="energy-pkg of package-0 stands still"):
        backend.open()


def test_a_perf_event_that_stands_still_is_left_out(tmp_path: Path) -> None:
    """Memory that counts nothing is listed; the others are read in their group."""
    backend = perf_guest(tmp_path, {"energy-pkg": 50.0, "energy-cores": 30.0})
    assert [domain.name for domain in backend.open()] == ["package-0", "core-0", "uncore-0", "psys"]
    assert len(backend.read()) == 4
    assert [item.kinds for item in backend.unreadable] == [("dram",)]
    backend.close()


def test_perf_events_of_a_guest_of_qemu_are_slow(tmp_path: Path) -> None:
    """The kernel lists no event whose register is 0: what is there is passed on."""
    domains = perf_guest(tmp_path, {}, vendor="QEMU").open()
    assert {domain.update_period_seconds for domain in domains} == {1.0}


# --- what a session makes of it -------------------------------------------------------------------


def test_the_estimate_steps_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters that stand still are no reason for having no energy at all."""
    estimate = FakeBackend([fake_domain(provenance=Provenance.ESTIMATED)], [0], FakeClock())
    found = {
        "rapl": Guest(tmp_path, SERVER_TWO_SOCKETS, ()).backend,
        "perf_rapl": perf_guest(tmp_path / "perf", {}),
        "cpu_estimate": estimate,
    }
    chosen = tuple(entry for entry in registry.BUILTINS if entry.name in found)
    monkeypatch.setattr(registry, "BUILTINS", chosen)
    monkeypatch.setattr(registry, "load_backend", found.__getitem__)
    probed = registry.probe()
    assert [opened.registry_name for opened in probed.opened] == ["cpu_estimate"]
    assert [missing.source for missing in probed.unavailable] == ["rapl", "perf_rapl"]


def test_perf_events_step_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead powercap tree does not keep perf events that move from being used."""
    found = {
        "rapl": Guest(tmp_path, SERVER_TWO_SOCKETS, ()).backend,
        "perf_rapl": perf_guest(tmp_path / "perf", {"energy-pkg": 50.0}),
    }
    chosen = tuple(entry for entry in registry.BUILTINS if entry.name in found)
    monkeypatch.setattr(registry, "BUILTINS", chosen)
    monkeypatch.setattr(registry, "load_backend", found.__getitem__)
    assert [opened.registry_name for opened in registry.probe().opened] == ["perf_rapl"]
