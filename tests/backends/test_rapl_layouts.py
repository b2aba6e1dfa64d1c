"""Every layout and trap of RAPL, metered: which domains a session has, and what it adds up to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from mlmeter.backends.powercap_zones import modulus
from mlmeter.backends.rapl import RaplBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import Source
from mlmeter.sampling.thread_time import ThreadTime
from mlmeter.testing import FakeClock, advance, fake_meter
from tests.backends import powercap_tree as trees
from tests.backends.powercap_tree import PowercapTree, Zone, build_tree


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree, the watts of its zones, and what a session of it must show.

    Attributes:
        watts: by the zone's folder.
        shown: watts by domain.
        total: watts of the session.
    """

    name: str
    zones: Sequence[Zone]
    watts: Mapping[str, int]
    shown: Mapping[str, int]
    total: int
    cpuinfo: str = trees.INTEL_CPUINFO


_CLIENT_WATTS = {
    "intel-rapl:0": 15,
    "intel-rapl:0:0": 8,
    "intel-rapl:0:1": 2,
    "intel-rapl:0:2": 3,
    "intel-rapl:1": 25,
}
_CLIENT_SHOWN = {"package-0": 15, "core-0": 8, "uncore-0": 2, "dram-0": 3, "psys": 25}
_SERVER_WATTS = {"intel-rapl:0": 90, "intel-rapl:0:0": 9, "intel-rapl:1": 110, "intel-rapl:1:0": 11}
_SERVER_SHOWN = {"package-0": 90, "dram-0": 9, "package-1": 110, "dram-1": 11}
_PSYS_WATTS = {
    "intel-rapl:0": 90,
    "intel-rapl:0:0": 9,
    "intel-rapl:1": 300,
    "intel-rapl:2": 110,
    "intel-rapl:2:0": 11,
    "intel-rapl:3": 100,
}
_DIE_WATTS = {"intel-rapl:0": 40, "intel-rapl:0:0": 4, "intel-rapl:1": 50, "intel-rapl:1:0": 5}

LAYOUTS = (
    Layout("client", trees.CLIENT, _CLIENT_WATTS, _CLIENT_SHOWN, 18),
    Layout("server", trees.SERVER_TWO_SOCKETS, _SERVER_WATTS, _SERVER_SHOWN, 220),
    Layout(
        "amd",
        trees.AMD_TWO_SOCKETS,
        {"intel-rapl:0": 120, "intel-rapl:0:0": 1, "intel-rapl:1": 130, "intel-rapl:1:0": 2},
        {"package-0": 120, "core-0": 1, "package-1": 130, "core-1": 2},
        250,
        trees.AMD_CPUINFO,
    ),
    Layout(
        "sapphire rapids",
        trees.PSYS_IN_THE_MIDDLE,
        _PSYS_WATTS,
        {"package-0": 90, "dram-0": 9, "package-1": 110, "dram-1": 11, "psys": 300},
        220,
    ),
    Layout(
        "psys per package",
        trees.PSYS_PER_PACKAGE,
        _PSYS_WATTS,
        {"package-0": 90, "dram-0": 9, "package-1": 110, "dram-1": 11, "psys": 300, "psys-1": 100},
        220,
    ),
    Layout(
        "psys first",
        [replace(trees.CLIENT[4], label="intel-rapl:0"), replace(trees.CLIENT[0], label="intel-rapl:1")],
        {"intel-rapl:0": 25, "intel-rapl:1": 15},
        {"package-0": 15, "psys": 25},
        15,
    ),
    Layout(
        "mmio twin",
        trees.MMIO_DUPLICATE,
        {**_CLIENT_WATTS, "intel-rapl-mmio:1": 15, "intel-rapl-mmio:1:0": 3},
        _CLIENT_SHOWN,
        18,
    ),
    Layout(
        "mmio alone",
        trees.MMIO_ALONE,
        {"intel-rapl-mmio:0": 15, "intel-rapl-mmio:0:0": 3},
        {"package-0": 15, "dram-0": 3},
        18,
    ),
    Layout(
        "mirrored dies",
        trees.MULTI_DIE_MIRRORED,
        {"intel-rapl:0": 68, "intel-rapl:0:0": 4, "intel-rapl:1": 68, "intel-rapl:1:0": 4},
        {"package-0-die-0": 68, "core-0-die-0": 4},
        68,
        trees.AMD_CPUINFO,
    ),
    Layout(
        "real dies",
        trees.MULTI_DIE_REAL,
        _DIE_WATTS,
        {"package-0-die-0": 40, "dram-0-die-0": 4, "package-0-die-1": 50, "dram-0-die-1": 5},
        99,
    ),
    Layout(
        "reversed",
        trees.REVERSED_ORDER,
        {"intel-rapl:0": 110, "intel-rapl:0:0": 11, "intel-rapl:1": 90, "intel-rapl:1:0": 9},
        _SERVER_SHOWN,
        220,
    ),
    Layout(
        "ids 0 and 3",
        trees.SPARSE_PACKAGES,
        {"intel-rapl:0": 30, "intel-rapl:1": 60},
        {"package-0": 30, "package-3": 60},
        90,
    ),
    Layout(
        "eleven sockets",
        trees.TEN_SOCKETS,
        {zone.label: 10 + number for number, zone in enumerate(trees.TEN_SOCKETS)},
        {f"package-{number}": 10 + number for number in range(11)},
        165,
    ),
    Layout(
        "dram beside",
        trees.DRAM_BESIDE,
        {"intel-rapl:0": 15, "intel-rapl:1": 3},
        {"package-0": 15, "dram": 3},
        18,
    ),
    Layout(
        "a wrap on one of two",
        [
            replace(trees.AMD_TWO_SOCKETS[0]),
            replace(trees.AMD_TWO_SOCKETS[2], energy_uj=trees.AMD_RANGE - 70_000_000),
        ],
        {"intel-rapl:0": 120, "intel-rapl:1": 130},
        {"package-0": 120, "package-1": 130},
        250,
        trees.AMD_CPUINFO,
    ),
)


class Machine:
    """A tree whose counters are written as fake time passes."""

    def __init__(
        self,
        directory: Path,
        zones: Sequence[Zone],
        watts: Mapping[str, float],
        cpuinfo: str = trees.INTEL_CPUINFO,
    ) -> None:
        self.clock = FakeClock()
        self.tree: PowercapTree = build_tree(directory, zones, cpuinfo=cpuinfo)
        self.backend = RaplBackend(self.tree.class_root, cpuinfo=self.tree.cpuinfo, now_ns=self.clock.now_ns)
        self.meter = fake_meter(self.backend, clock=self.clock)
        self.watts = dict(watts)
        self._counts = {zone.label: int(zone.energy_uj or 0) for zone in zones}
        self._moduli = {zone.label: modulus(int(zone.range_uj or 0)) or 2**62 for zone in zones}

    def run(self, seconds: float, *, read: bool = True) -> None:
        """Let the counters go on; without `read` nobody looks until the end of that time."""
        steps = max(1, round(seconds / 0.1)) if read else 1
        for _ in range(steps):
            for label, count in self._counts.items():
                step = round(self.watts.get(label, 0) * seconds / steps * 1e6)
                self.write(label, (count + step) % self._moduli[label])
            advance(self.meter, seconds / steps, seconds / steps)

    def write(self, label: str, count: int) -> None:
        self._counts[label] = count
        self.tree.energy_file(label).write_text(f"{count}\n")

    def messages(self, kind: str) -> list[str]:
        events = self.meter.session.events()
        return list(events[events["kind"] == kind]["message"])

    def joules(self) -> dict[str, float]:
        domains = self.meter.session.domains()
        return dict(zip(domains["domain"], domains["energy_joules"], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_session_shows_every_domain_and_adds_each_joule_once(tmp_path: Path, layout: Layout) -> None:
    """Domains have the energy of their zone, and the total that of packages and DRAM, once."""
    machine = Machine(tmp_path, layout.zones, layout.watts, layout.cpuinfo)
    with machine.meter:
        machine.run(10.0)
    assert machine.joules() == pytest.approx(
        {name: 10 * watts for name, watts in layout.shown.items()}, rel=0.01
    )
    total = machine.meter.session.total()
    assert total.energy_joules == pytest.approx(10 * layout.total, rel=0.01)
    assert total.coverage_ratio == pytest.approx(1.0)
    assert machine.messages("reset") + machine.messages("gap") == []


# --- what counters do -------------------------------------------------------------------------

AMD_PACKAGE = (trees.AMD_TWO_SOCKETS[0],)


def test_two_wraps_between_two_readings_are_a_gap_and_no_guess(tmp_path: Path) -> None:
    """After such a silence nothing is claimed of it, and the interval holds the truth."""
    machine = Machine(tmp_path, AMD_PACKAGE, {"intel-rapl:0": 400}, trees.AMD_CPUINFO)
    with machine.meter:
        machine.run(1.0)
        machine.run(330.0, read=False)  # 2.01 times the range
        machine.run(1.0)
    (message,) = machine.messages("gap")
    assert "longer than it takes to wrap" in message
    total = machine.meter.session.total()
    assert total.coverage_ratio < 0.02
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= 400 * 332 <= total.high_joules
    assert total.low_joules <= 400 * 3


def test_a_counter_that_starts_again_is_a_reset(tmp_path: Path) -> None:
    """A fall that no wrap explains loses the time around it, and nothing else."""
    machine = Machine(tmp_path, trees.SERVER_TWO_SOCKETS, _SERVER_WATTS)
    with machine.meter:
        machine.run(5.0)
        machine.write("intel-rapl:1", 0)
        machine.run(5.0)
    (message,) = machine.messages("reset")
    assert message.startswith("package-1: ")
    joules = machine.joules()
    assert joules["package-0"] == pytest.approx(900, rel=0.01)
    assert joules["package-1"] == pytest.approx(1100, rel=0.03)


@pytest.mark.parametrize("zones", [trees.ALL_ZERO, trees.SERVER_TWO_SOCKETS], ids=["zero", "stuck"])
def test_counters_of_a_virtual_machine_that_never_move_are_no_energy(
    tmp_path: Path, zones: Sequence[Zone]
) -> None:
    """Counters that stand still give no figure, not 0 J, and an event for each."""
    machine = Machine(tmp_path, zones, {})
    with machine.meter:
        machine.run(5.0)
    assert machine.meter.session.total().energy_joules is None
    assert machine.meter.session.domains()["energy_joules"].isna().all()
    assert len(machine.messages("stuck")) == 4


def test_a_counter_that_stops_moving_is_not_taken_for_zero_power(tmp_path: Path) -> None:
    """Time in which a counter stands still is not covered; the other domains are."""
    machine = Machine(tmp_path, trees.SERVER_TWO_SOCKETS, _SERVER_WATTS)
    with machine.meter:
        machine.run(5.0)
        machine.watts["intel-rapl:1"] = 0
        machine.run(5.0)
    domains = machine.meter.session.domains().set_index("domain")
    assert domains.loc["package-1", "coverage_ratio"] == pytest.approx(0.5, abs=0.02)
    assert domains.loc["package-0", "coverage_ratio"] == pytest.approx(1.0)
    assert len(machine.messages("stuck")) == 1


def test_a_counter_without_data_for_a_while_loses_nothing(tmp_path: Path, mocker: MockerFixture) -> None:
    """ENODATA is a passing failure: the counter tells afterwards what was used."""
    machine = Machine(tmp_path, AMD_PACKAGE, {"intel-rapl:0": 120}, trees.AMD_CPUINFO)
    real_pread = os.pread
    with machine.meter:
        machine.run(2.0)
        error = OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        mocker.patch("mlmeter.backends.rapl.os.pread", side_effect=error)
        machine.run(2.0)
        mocker.patch("mlmeter.backends.rapl.os.pread", side_effect=real_pread)
        machine.run(2.0)
    assert machine.joules() == pytest.approx({"package-0": 720}, rel=0.01)
    assert "No data available" in machine.messages("gap")[0]


def test_limits_without_data_are_unknown(tmp_path: Path, mocker: MockerFixture) -> None:
    """Reads of some limits give ENODATA: the highest power is then unknown, the zone is metered."""
    machine = Machine(tmp_path, trees.CLIENT, {})
    real_open = os.open

    def guarded(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if "constraint" in str(path):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), path)
        return real_open(path, flags, mode, **options)

    mocker.patch("mlmeter.backends.powercap_zones.os.open", side_effect=guarded)
    domains = machine.backend.open()
    assert [domain.max_power_watts for domain in domains] == [None] * 5
    machine.backend.close()


# --- what kernels and drivers do --------------------------------------------------------------


def test_dram_in_the_wrong_unit_is_told(tmp_path: Path) -> None:
    """Sapphire Rapids with an old kernel: the session says that DRAM is about 4 times too low."""
    machine = Machine(tmp_path, trees.WRONG_DRAM_UNIT, _PSYS_WATTS)
    with machine.meter:
        machine.run(2.0)
    (note,) = machine.messages("note")
    assert "dram-0, dram-1" in note
    assert "4 times too low" in note
    assert "Update Linux" in note


@pytest.mark.parametrize("zones", [trees.SERVER_TWO_SOCKETS, trees.PSYS_IN_THE_MIDDLE, trees.CLIENT])
def test_right_units_are_not_complained_of(tmp_path: Path, zones: Sequence[Zone]) -> None:
    """The old unit is right on old servers, and the new one beside a platform in joules."""
    machine = Machine(tmp_path, zones, {})
    machine.backend.open()
    assert machine.backend.notes == ()
    machine.backend.close()


def test_zones_of_a_driver_that_is_loaded_late_are_metered_by_the_next_session(tmp_path: Path) -> None:
    """Before the module there is no folder, and the remedy names it; after it the zones are there."""
    backend = RaplBackend(tmp_path / "class/powercap", cpuinfo=tmp_path / "cpuinfo")
    with pytest.raises(BackendUnavailableError, match="there is no folder") as caught:
        backend.open()
    assert "modprobe intel_rapl_msr" in caught.value.remedy
    build_tree(tmp_path, trees.CLIENT)
    assert [domain.name for domain in backend.open()] == list(_CLIENT_SHOWN)
    backend.close()


def test_zones_that_appear_during_a_session_change_nothing_in_it(tmp_path: Path) -> None:
    """A second package whose zone appears late belongs to the next session; this one stays right."""
    machine = Machine(tmp_path, trees.SPARSE_PACKAGES[:1], {"intel-rapl:0": 30})
    with machine.meter:
        machine.run(5.0)
        late = build_tree(tmp_path / "late", trees.SPARSE_PACKAGES)
        late.folder("intel-rapl:1").rename(machine.tree.folder("intel-rapl:1"))
        (machine.tree.class_root / "intel-rapl:1").symlink_to(machine.tree.folder("intel-rapl:1"))
        machine.run(5.0)
    assert machine.joules() == pytest.approx({"package-0": 300}, rel=0.01)
    assert [domain.name for domain in machine.backend.open()] == ["package-0", "package-3"]
    machine.backend.close()


def test_a_folder_that_becomes_another_zone_is_not_read_on(tmp_path: Path) -> None:
    """After a reload of the driver the numbers can be given anew: psys is never taken for a package."""
    machine = Machine(tmp_path, trees.CLIENT[:1], {"intel-rapl:0": 15})
    with machine.meter:
        machine.run(2.0)
        machine.tree.energy_file("intel-rapl:0").write_bytes(b"")
        advance(machine.meter, 0.1)
        (machine.tree.folder("intel-rapl:0") / "name").write_text("psys\n")
        machine.watts["intel-rapl:0"] = 25
        machine.run(2.0)
    assert machine.joules()["package-0"] == pytest.approx(30, rel=0.02)
    (item,) = machine.meter.session.domains()["coverage_ratio"]
    assert item == pytest.approx(2.0 / 4.1, abs=0.02)


# --- how often they are read ------------------------------------------------------------------


class WritingClock(FakeClock):
    """A clock that brings counters up to date whenever it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.write: Callable[[float], None] = lambda seconds: None

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.write(self.now_ns() * 1e-9)


@pytest.mark.parametrize("watts", [20.0, 200.0, 500.0])
@pytest.mark.parametrize("zones", [trees.AMD_TWO_SOCKETS, trees.SERVER_TWO_SOCKETS], ids=["amd", "intel"])
def test_a_counter_is_read_four_times_per_wrap_whatever_the_period(
    tmp_path: Path, zones: Sequence[Zone], watts: float
) -> None:
    """With a period of an hour the sampler reads within a quarter of a wrap, and no wrap is lost."""
    packages = [zone for zone in zones if str(zone.name).startswith("package")]
    tree, clock = build_tree(tmp_path, packages), WritingClock()
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo, now_ns=clock.now_ns)
    wrap = modulus(int(packages[0].range_uj or 0)) or 0

    def write(seconds: float) -> None:
        for zone in packages:
            count = int(zone.energy_uj or 0) + round(watts * seconds * 1e6)
            tree.energy_file(zone.label).write_text(f"{count % wrap}\n")

    clock.write = write
    sampler = Sampler(clock, threaded=False)
    source = Source.of(backend, backend.open())
    subscription = sampler.subscribe([source], period_seconds=3600)
    times, deadline_ns = [clock.now_ns()], clock.now_ns() + sampler._period_ns
    while clock.now_ns() < 3600e9:
        sampler._wake.clear()
        before = sampler.cost().reads
        sampler._round(sampler._thread.turn, deadline_ns, ThreadTime())
        deadline_ns = sampler._next_deadline_ns(deadline_ns)
        times += [clock.now_ns()] if sampler.cost().reads > before else []
    longest_seconds = max(after - before for before, after in pairwise(times)) * 1e-9
    assert longest_seconds <= wrap * 1e-6 / watts / 4
    for _, rows in sampler.snapshot([source]):
        assert rows.counts[-1] * 1e-6 == pytest.approx(watts * times[-1] * 1e-9, rel=1e-6)
        assert rows.gaps_ns == ()
    sampler.unsubscribe(subscription)


def test_a_meter_with_a_long_period_is_woken_by_its_counters(tmp_path: Path) -> None:
    """The user's period is an upper limit of the time between reads: AMD's counters ask for 8 s."""
    tree = build_tree(tmp_path, trees.AMD_TWO_SOCKETS, cpuinfo=trees.AMD_CPUINFO)
    clock = FakeClock()
    backend = RaplBackend(tree.class_root, cpuinfo=tree.cpuinfo, now_ns=clock.now_ns)
    meter = fake_meter(backend, clock=clock, period_seconds=60)
    with meter:
        assert meter.recorder._sampler._period_ns == pytest.approx(65_532.6e9 / 2_000 / 4, rel=1e-3)
