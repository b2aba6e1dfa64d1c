"""Powercap and perf events on one machine: each joule once, and both compared."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from mlmeter import EnergyMeter
from mlmeter.backends import registry
from mlmeter.backends.base import Backend
from mlmeter.backends.rapl import RaplBackend
from mlmeter.energy.cross_check import twins_disagree
from mlmeter.errors import BackendUnavailableError
from mlmeter.sampling.sampler import Sampler
from mlmeter.sampling.sources import POOL
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain
from tests.backends import perf_tree, powercap_tree
from tests.backends.perf_tree import Cpu, FakeKernel, PmuTree, build_pmu
from tests.backends.powercap_tree import PowercapTree, build_tree

WATTS = {"package-0": 90.0, "dram-0": 9.0, "package-1": 110.0, "dram-1": 11.0}
CPUS = (Cpu(0, 0), Cpu(18, 1))
_EVENTS = {
    "package-0": (0, "energy-pkg"),
    "dram-0": (0, "energy-ram"),
    "package-1": (18, "energy-pkg"),
    "dram-1": (18, "energy-ram"),
}
_LABELS = {
    "package-0": "intel-rapl:0",
    "dram-0": "intel-rapl:0:0",
    "package-1": "intel-rapl:1",
    "dram-1": "intel-rapl:1:0",
}


class Machine:
    """A server of which powercap and perf events show the same counters; an estimate stands by."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.tree: PowercapTree = build_tree(directory / "powercap", powercap_tree.SERVER_TWO_SOCKETS)
        self.pmu: PmuTree = build_pmu(directory / "pmu", CPUS, perf_tree.SERVER_EVENTS)
        self.perf_watts = dict(WATTS)
        watts = {event: (lambda s, name=name: self.perf_watts[name] * s) for name, event in _EVENTS.items()}
        self.kernel = FakeKernel(self.clock, watts)
        # Sources of other hardware: what a machine has besides must not matter.
        self.hidden = tuple(set(registry.default_names()) - {"rapl", "perf_rapl", "cpu_estimate"})
        self.meter = EnergyMeter(sampler=Sampler(self.clock, threaded=False))
        self._seconds = 0.0
        self._write()

    def load(self, name: str) -> Backend:
        if name in self.hidden:
            raise BackendUnavailableError(name, "hidden by the test")
        if name == "rapl":
            return RaplBackend(self.tree.class_root, cpuinfo=self.tree.cpuinfo, now_ns=self.clock.now_ns)
        if name == "perf_rapl":
            return self.pmu.backend(self.kernel)
        assert name == "cpu_estimate", name
        return FakeBackend([fake_domain(provenance="estimated")], [lambda now: now], self.clock)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self._seconds += 0.1
            self._write()
            advance(self.meter, 0.1, 0.1)

    def _write(self) -> None:
        for name, label in _LABELS.items():
            count = 30_000_000 + round(WATTS[name] * self._seconds * 1e6)
            self.tree.energy_file(label).write_text(f"{count}\n")

    def deny(self, mocker: MockerFixture, *labels: str) -> None:
        """Refuse to open these counters, as the kernel does for users."""
        real_open = os.open
        denied = {os.path.realpath(self.tree.energy_file(label)) for label in labels}

        def guarded(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
            if os.path.realpath(path) in denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real_open(path, flags, mode, **options)

        mocker.patch("mlmeter.backends.rapl.os.open", side_effect=guarded)

    def facts(self) -> dict[str, tuple[str, float]]:
        """Return source and joules by domain."""
        domains = self.meter.session.domains().dropna(subset=["energy_joules"])
        return {
            name: (source, round(joules))
            for name, source, joules in zip(
                domains["domain"], domains["source"], domains["energy_joules"], strict=True
            )
        }

    def messages(self, kind: str) -> list[str]:
        events = self.meter.session.events()
        return list(events[events["kind"] == kind]["message"])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)
    monkeypatch.setattr(registry, "load_backend", made.load)
    POOL.after_fork_in_child()
    yield made
    POOL.after_fork_in_child()


def joules_of(watts: dict[str, float], source: str, seconds: int) -> dict[str, tuple[str, int]]:
    return {name: (source, round(value * seconds)) for name, value in watts.items()}


# --- which is used ----------------------------------------------------------------------------


def test_powercap_is_used_where_both_can_be_read(machine: Machine) -> None:
    """Perf adds no domain and no joule; a note says that it is compared."""
    with machine.meter:
        machine.run(12)
    assert machine.facts() == joules_of(WATTS, "rapl", 12)
    assert machine.meter.session.total().energy_joules == pytest.approx(12 * 220, rel=0.01)
    assert "perf_rapl reads the same counters" in machine.messages("note")[0]
    assert machine.messages("cross-check") == []
    assert machine.kernel.opened == {}


def test_perf_is_used_where_there_is_no_powercap(machine: Machine) -> None:
    """Without the folder perf meters everything, and no estimate is made."""
    machine.hidden += ("rapl",)
    with machine.meter:
        machine.run(4)
    assert machine.facts() == joules_of(WATTS, "perf_rapl", 4)
    assert machine.kernel.opened == {}


def test_perf_is_used_where_powercap_is_closed(machine: Machine, mocker: MockerFixture) -> None:
    """With 0400 everywhere and CAP_PERFMON the counters are measured all the same."""
    machine.deny(mocker, *_LABELS.values())
    with machine.meter:
        machine.run(4)
    assert machine.facts() == joules_of(WATTS, "perf_rapl", 4)
    assert any("Permission denied" in message for message in machine.messages("unavailable"))


def test_what_powercap_hides_is_added_and_the_rest_is_not_doubled(
    machine: Machine, mocker: MockerFixture
) -> None:
    """With DRAM readable only, packages come from perf, and DRAM is shown twice and added once."""
    machine.deny(mocker, "intel-rapl:0", "intel-rapl:1")
    with machine.meter:
        machine.run(4)
    facts = machine.facts()
    assert facts["package-0"] == ("perf_rapl", 360)
    assert facts["dram-0"] == ("rapl", 36)
    assert facts["dram-0-2"] == ("perf_rapl", 36)
    assert machine.meter.session.total().energy_joules == pytest.approx(4 * 220, rel=0.01)


def test_powercap_alone_is_enough(machine: Machine) -> None:
    """Where perf is refused and nothing is missing nobody is told to lower the guard of the machine."""
    machine.kernel.refused = dict.fromkeys(perf_tree.CONFIGS, errno.EACCES)
    with machine.meter:
        machine.run(4)
    assert machine.facts() == joules_of(WATTS, "rapl", 4)
    assert machine.messages("unavailable") == ["nvml: hidden by the test"]


def test_two_closed_ways_are_both_told(machine: Machine, mocker: MockerFixture) -> None:
    """Where nothing can be read each way has its reason, and the estimate stands in."""
    machine.deny(mocker, *_LABELS.values())
    machine.kernel.refused = dict.fromkeys(perf_tree.CONFIGS, errno.EACCES)
    with pytest.warns(UserWarning, match="estimated"), machine.meter:
        machine.run(1)
    sources = [message.partition(":")[0] for message in machine.messages("unavailable")]
    assert sources == ["rapl", "perf_rapl", "nvml"]
    assert list(machine.facts()) == ["fake-0"]


@pytest.mark.parametrize("names", [("rapl", "perf_rapl"), ("perf_rapl", "rapl")])
def test_who_asks_for_both_sees_both_and_counts_once(machine: Machine, names: Sequence[str]) -> None:
    """By name both are read all the time; the second one stands inside the first."""
    machine.meter = EnergyMeter(backends=list(names), sampler=Sampler(machine.clock, threaded=False))
    with machine.meter:
        machine.run(4)
    facts = machine.facts()
    assert facts["package-1"] == (names[0], 440)
    assert facts["package-1-2"] == (names[1], 440)
    assert machine.meter.session.total().energy_joules == pytest.approx(4 * 220, rel=0.01)


@pytest.mark.parametrize(
    ("ids", "counted"),
    [
        (("rapl:package-0-die-0", "rapl:package-0"), [True, False]),
        (("rapl:package-0", "rapl:package-0-die-1"), [True, False]),
        (("rapl:package-0-die-0", "rapl:package-0-die-1"), [True, True]),
        (("rapl:package-0", "rapl:package-1"), [True, True]),
        (("rapl:package-1", "rapl:package-11-die-0"), [True, True]),
    ],
)
def test_a_package_and_its_die_are_never_both_counted(ids: tuple[str, str], counted: list[bool]) -> None:
    """One kernel interface may count dies where the other one counts packages."""
    backends = [
        FakeBackend([fake_domain(name=domain_id.partition(":")[2], id=domain_id)], [0], FakeClock())
        for domain_id in ids
    ]
    found = registry.probe(backends)
    assert [domain.counted for opened in found.opened for domain in opened.domains] == counted


def test_a_backend_that_is_only_asked_for_by_name_is_not_opened(machine: Machine) -> None:
    """What is no default, such as pyRAPL, is never tried unless it is named."""
    assert "pyrapl" in registry.backend_names()
    with machine.meter:  # `load` would fail
        machine.run(0.2)
    assert not any("pyrapl" in message for message in machine.messages("unavailable"))


# --- the comparison ---------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.25, 0.9, 1.1])
def test_two_ways_that_disagree_are_an_event_with_both_figures(machine: Machine, ratio: float) -> None:
    """DRAM that one of the ways counts in a wrong unit is found; the others are not accused."""
    machine.perf_watts["dram-1"] = ratio * WATTS["dram-1"]
    with machine.meter:
        machine.run(20)
    (message,) = machine.messages("cross-check")
    assert message.startswith("dram-1: its counter shows 220 J for 20 s")
    assert f"perf_rapl, another way to the same register, shows {220 * ratio:.3g} J" in message
    assert machine.facts()["dram-1"] == ("rapl", 220)


def test_units_of_dram_may_differ_by_what_the_kernel_makes_them_differ(machine: Machine) -> None:
    """15.3 µJ in powercap and 2**-16 J in perf are 0.27 % apart and no disagreement."""
    machine.perf_watts["dram-0"] = WATTS["dram-0"] * 2**-16 / 15.3e-6
    with machine.meter:
        machine.run(20)
    assert machine.messages("cross-check") == []


def test_the_comparison_is_of_this_session(machine: Machine) -> None:
    """What the ways showed before the session does not matter, and each session is judged anew."""
    machine.perf_watts["package-0"] = 45.0
    with machine.meter:
        machine.run(12)
    assert len(machine.messages("cross-check")) == 1
    machine.perf_watts["package-0"] = 90.0
    with machine.meter:
        machine.run(12)
    assert machine.messages("cross-check") == []


def test_a_meter_that_joins_another_one_compares_its_own_time(machine: Machine) -> None:
    """Two meters share the sources; what perf counted before the second one began is not compared."""
    outer = EnergyMeter(sampler=machine.meter._sampler)
    with outer:
        machine.run(12)
        with machine.meter:
            machine.run(12)
    assert machine.messages("cross-check") == []
    assert machine.facts() == joules_of(WATTS, "rapl", 12)
    assert machine.kernel.opened == {}


def test_short_sessions_are_not_judged(machine: Machine) -> None:
    """In less than 10 s a refresh more or less matters."""
    machine.perf_watts["package-0"] = 45.0
    with machine.meter:
        machine.run(5)
    assert machine.messages("cross-check") == []


def test_a_comparison_that_fails_harms_nothing(machine: Machine) -> None:
    """Perf events that can no longer be read are not compared; the session is complete."""
    with machine.meter:
        machine.run(6)
        machine.kernel.broken = RuntimeError("the driver is gone")
        machine.run(6)
    assert machine.facts() == joules_of(WATTS, "rapl", 12)
    assert machine.messages("cross-check") == []


def test_the_second_way_is_read_often_enough_for_the_kernel(machine: Machine) -> None:
    """Between the ends of a long session perf is read every 8 s, and not at every tick."""
    with machine.meter:
        machine.run(1)
        before = machine.kernel.reads
        machine.run(60)
        during = machine.kernel.reads - before
    assert 2 * 60 / 8.192 - 2 <= during <= 2 * 60 / 8.192 + 2


@pytest.mark.parametrize(
    ("seconds", "counter", "other", "judged"),
    [
        (60.0, 100.0, 103.0, True),
        (60.0, 103.0, 100.0, True),
        (60.0, 0.0, 100.0, True),
        (60.0, 100.0, 101.9, False),
        (9.0, 100.0, 200.0, False),
        (60.0, 0.0, 0.9, False),
        (60.0, 0.0, 0.0, False),
    ],
)
def test_what_is_a_disagreement(seconds: float, counter: float, other: float, judged: bool) -> None:
    """More than 2 % of at least 1 J in at least 10 s, whichever is the larger one."""
    text = twins_disagree("package-0", "perf_rapl", seconds, counter, other)
    assert (text is not None) is judged
