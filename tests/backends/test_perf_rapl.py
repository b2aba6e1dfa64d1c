"""RAPL through perf events: layouts, rights, faults, and its place beside powercap."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.backends.base import Backend
from mlmeter.backends.perf_events import PerfEvents
from mlmeter.backends.perf_rapl import PerfRaplBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.testing import FakeClock, advance, check_backend, fake_meter
from tests.backends import perf_tree, powercap_tree
from tests.backends.perf_tree import Cpu, FakeKernel, build_pmu
from tests.backends.refusals import refused


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def kernel_of(clock: FakeClock, cpus: Sequence[Cpu], watts: float = 10.0) -> FakeKernel:
    """Each event has watts of its own: 10, 11, 12 ... on the first CPU, 110, 111 ... on the next."""
    events = perf_tree.CLIENT_EVENTS
    return FakeKernel(
        clock,
        {
            (cpu.number, name): watts + 100 * row + column
            for row, cpu in enumerate(cpus)
            for column, name in enumerate(events)
        },
    )


def refusal(backend: PerfRaplBackend) -> BackendUnavailableError:
    return refused(backend, "perf_rapl")


# --- layouts ----------------------------------------------------------------------------------

TWO_SOCKETS = (Cpu(0, 0), Cpu(18, 1))


@pytest.mark.parametrize(
    ("cpus", "events", "cpuinfo", "expected"),
    [
        (
            (Cpu(0),),
            perf_tree.CLIENT_EVENTS,
            powercap_tree.INTEL_CPUINFO,
            {"package-0": 11, "core-0": 10, "uncore-0": 13, "dram-0": 12, "psys": 14},
        ),
        (
            TWO_SOCKETS,
            perf_tree.SERVER_EVENTS,
            powercap_tree.INTEL_CPUINFO,
            {"package-0": 11, "dram-0": 12, "package-1": 111, "dram-1": 112},
        ),
        (
            TWO_SOCKETS,
            (*perf_tree.SERVER_EVENTS, "energy-psys"),
            powercap_tree.INTEL_CPUINFO,
            {"package-0": 11, "dram-0": 12, "psys": 14, "package-1": 111, "dram-1": 112, "psys-1": 114},
        ),
        (
            (Cpu(0, 3), Cpu(1, 0)),
            perf_tree.AMD_EVENTS,
            powercap_tree.AMD_CPUINFO,
            {"package-0": 111, "package-3": 11},
        ),
        (
            (Cpu(0, 0, 0), Cpu(24, 0, 1)),
            perf_tree.SERVER_EVENTS,
            powercap_tree.INTEL_CPUINFO,
            {"package-0-die-0": 11, "dram-0-die-0": 12, "package-0-die-1": 111, "dram-0-die-1": 112},
        ),
        (
            (Cpu(0, 0, 0), Cpu(8, 0, 1), Cpu(16, 1, 0), Cpu(24, 1, 1)),
            perf_tree.AMD_EVENTS,
            powercap_tree.AMD_CPUINFO,
            {"package-0": 11, "package-1": 211},
        ),
        (
            (Cpu(0, 0, None), Cpu(24, 0, None)),
            perf_tree.AMD_EVENTS,
            powercap_tree.INTEL_CPUINFO,
            {"package-0-die-0": 11, "package-0-die-1": 111},
        ),
        ((Cpu(5, None, None),), perf_tree.AMD_EVENTS, powercap_tree.INTEL_CPUINFO, {"package-0": 11}),
    ],
    ids=["client", "server", "psys", "ids 0 and 3", "dies", "amd dies", "dies without ids", "no topology"],
)
def test_each_event_is_one_domain_with_its_own_watts(
    tmp_path: Path,
    clock: FakeClock,
    cpus: Sequence[Cpu],
    events: Sequence[str],
    cpuinfo: str,
    expected: dict[str, int],
) -> None:
    """Domains are called as powercap calls them and count the watts of their event on their CPU."""
    backend = build_pmu(tmp_path, cpus, events, cpuinfo=cpuinfo).backend(kernel_of(clock, cpus))
    domains = backend.open()
    clock.advance(100.0)
    joules = {
        domains[item.position].name: item.value * (domains[item.position].joules_per_count or 0)
        for item in backend.read()
        if isinstance(item, Reading)
    }
    assert joules == pytest.approx({name: 100 * watts for name, watts in expected.items()}, rel=1e-5)
    assert [domain.id for domain in domains] == [f"rapl:{domain.name}" for domain in domains]
    assert backend.unreadable == ()
    backend.close()


def test_properties_of_a_package(tmp_path: Path, clock: FakeClock) -> None:
    """A package is a measured counter in steps of a microjoule that never starts again."""
    backend = build_pmu(tmp_path).backend(kernel_of(clock, [Cpu(0)]))
    (package,) = (domain for domain in backend.open() if domain.name == "package-0")
    assert package == Domain(
        name="package-0",
        id="rapl:package-0",
        kind="cpu",
        source="perf_rapl",
        provenance=Provenance.MEASURED,
        update_period_seconds=0.001,
        joules_per_count=2.0**-20,
        modulus=None,
        cheap_read=True,
        model_name="Intel(R) Core(TM) i7-8550U CPU",
    )
    backend.close()


def test_it_keeps_the_protocol(tmp_path: Path, clock: FakeClock) -> None:
    """The conformance kit finds nothing."""
    backend = build_pmu(tmp_path).backend(kernel_of(clock, [Cpu(0)]))
    assert isinstance(backend, Backend)
    check_backend(backend)


def test_what_is_counted(tmp_path: Path, clock: FakeClock) -> None:
    """Package and DRAM; cores and graphics are in the package, the platform contains it."""
    backend = build_pmu(tmp_path).backend(kernel_of(clock, [Cpu(0)]))
    domains = {domain.name: (domain.kind, domain.parent, domain.counted) for domain in backend.open()}
    assert domains == {
        "package-0": ("cpu", None, True),
        "core-0": ("cpu", "package-0", False),
        "uncore-0": ("cpu", "package-0", False),
        "dram-0": ("dram", None, True),
        "psys": ("psys", None, False),
    }
    backend.close()


def test_only_the_package_of_amd_is_trusted(tmp_path: Path, clock: FakeClock) -> None:
    """Linux before 5.17 lists every event for AMD; all but the package's are left out, and named."""
    tree = build_pmu(tmp_path, cpuinfo=powercap_tree.AMD_CPUINFO)
    backend = tree.backend(kernel_of(clock, [Cpu(0)]))
    assert [domain.name for domain in backend.open()] == ["package-0"]
    (note,) = backend.notes
    assert "energy-ram" in note
    assert "energy-pkg only" in note
    backend.close()


def test_dies_of_amd_are_metered_once_and_this_is_said(tmp_path: Path, clock: FakeClock) -> None:
    """What powercap shows as mirrored dies is one event here."""
    cpus = (Cpu(0, 0, 0), Cpu(8, 0, 1))
    tree = build_pmu(tmp_path, cpus, perf_tree.AMD_EVENTS, cpuinfo=powercap_tree.AMD_CPUINFO)
    backend = tree.backend(kernel_of(clock, cpus))
    assert [domain.name for domain in backend.open()] == ["package-0"]
    assert "metered once" in backend.notes[0]
    backend.close()


def test_events_of_one_cpu_are_read_by_one_call(tmp_path: Path, clock: FakeClock) -> None:
    """Two packages with two events each cost two calls."""
    kernel = kernel_of(clock, TWO_SOCKETS)
    backend = build_pmu(tmp_path, TWO_SOCKETS, perf_tree.SERVER_EVENTS).backend(kernel)
    assert len(backend.open()) == 4
    before = kernel.reads
    backend.read()
    assert kernel.reads == before + 2
    backend.close()


def test_events_that_cannot_be_joined_are_read_by_themselves(tmp_path: Path, clock: FakeClock) -> None:
    """A kernel that refuses a group still gives every domain."""
    kernel = kernel_of(clock, [Cpu(0)])
    kernel.alone = ("energy-ram", "energy-psys")
    backend = build_pmu(tmp_path).backend(kernel)
    assert len(backend.open()) == 5
    clock.advance(1.0)
    assert [item.position for item in backend.read()] == [0, 1, 2, 3, 4]
    backend.close()


def test_months_of_a_server_stay_within_the_rows(tmp_path: Path, clock: FakeClock) -> None:
    """After 100 days at 400 W the kernel's count has 64 bits; the session's has room."""
    backend = build_pmu(tmp_path, events=perf_tree.AMD_EVENTS).backend(
        FakeKernel(clock, {(0, "energy-pkg"): 400.0})
    )
    meter = fake_meter(backend, clock=clock)
    with meter:
        clock.advance(1.0)
        advance(meter, 100 * 86_400.0, 86_400.0)
    assert meter.session.total().energy_joules == pytest.approx(400 * 8_640_001, rel=1e-6)


def test_nobody_waits_longer_than_the_kernel_may(tmp_path: Path, clock: FakeClock) -> None:
    """The kernel looks for wraps as for 200 W: the sampler reads often enough for 2000 W."""
    backend = build_pmu(tmp_path).backend(kernel_of(clock, [Cpu(0)]))
    meter = fake_meter(backend, clock=clock, period_seconds=60)
    with meter:
        assert meter.recorder._sampler._period_ns <= 65_536 / 2_000 / 4 * 1e9


@pytest.mark.parametrize(
    ("zones", "told"),
    [(powercap_tree.WRONG_DRAM_UNIT, True), (powercap_tree.PSYS_IN_THE_MIDDLE, False)],
    ids=["old kernel", "new kernel"],
)
def test_dram_in_the_wrong_unit_is_told(
    tmp_path: Path, clock: FakeClock, zones: Sequence[powercap_tree.Zone], told: bool
) -> None:
    """Both ways of a kernel take one unit; powercap's ranges, open to everybody, tell which."""
    powercap_tree.build_tree(tmp_path, zones)
    backend = build_pmu(tmp_path, TWO_SOCKETS, perf_tree.SERVER_EVENTS).backend(kernel_of(clock, TWO_SOCKETS))
    backend.open()
    assert ["perf_rapl: dram-0, dram-1" in note for note in backend.notes] == [True] * told
    backend.close()


# --- nothing to read --------------------------------------------------------------------------


def test_no_pmu(tmp_path: Path, clock: FakeClock) -> None:
    """A virtual machine without the PMU is told as that."""
    backend = PerfRaplBackend(tmp_path / "power", calls=FakeKernel(clock, {}))
    error = refusal(backend)
    assert "there is no PMU" in error.reason
    assert "modprobe rapl" in error.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_missing_rights(tmp_path: Path, clock: FakeClock, number: int) -> None:
    """The level of the machine is named, and each of the ways to be let in."""
    kernel = kernel_of(clock, [Cpu(0)])
    kernel.refused = dict.fromkeys(perf_tree.CONFIGS, number)
    error = refusal(build_pmu(tmp_path).backend(kernel))
    assert "energy-pkg" in error.reason
    assert "perf_event_paranoid is 2" in error.reason
    assert "5 events" in error.reason
    assert "CAP_PERFMON" in error.remedy
    assert "perf_event_paranoid=0" in error.remedy
    assert 'backends=["cpu_estimate"]' in error.remedy
    assert kernel.opened == {}


def test_an_event_that_the_processor_lacks_is_listed(tmp_path: Path, clock: FakeClock) -> None:
    """What can be opened is metered; the rest is named with the kernel's words."""
    kernel = kernel_of(clock, [Cpu(0)])
    kernel.refused = {"energy-ram": errno.EINVAL}
    backend = build_pmu(tmp_path).backend(kernel)
    assert [domain.name for domain in backend.open()] == ["package-0", "core-0", "uncore-0", "psys"]
    (missing,) = backend.unreadable
    assert (missing.source, missing.kinds) == ("perf_rapl", ("dram",))
    assert "energy-ram for dram-0: Invalid argument" in missing.reason
    backend.close()


@pytest.mark.parametrize("mask", ["", "x", "1-", "3-1", "-1", "0-99999999", "0,,1", "0-1025"])
def test_a_mask_that_is_none(tmp_path: Path, clock: FakeClock, mask: str) -> None:
    """Nonsense in the mask is a reason, not a crash or a million events."""
    tree = build_pmu(tmp_path)
    (tree.root / "cpumask").write_text(mask)
    assert "on which CPUs to count" in refusal(tree.backend(kernel_of(clock, [Cpu(0)]))).reason


def test_a_mask_without_topology(tmp_path: Path, clock: FakeClock) -> None:
    """Of several CPUs the package must be known: guessing could count one twice."""
    cpus = (Cpu(0, 0), Cpu(1, "nowhere"))
    assert "package of CPU 1" in refusal(build_pmu(tmp_path, cpus).backend(kernel_of(clock, cpus))).reason


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("energy-pkg", "config=0x2"),
        ("energy-pkg", "event=package"),
        ("energy-pkg.scale", "0"),
        ("energy-pkg.scale", "nan"),
        ("energy-pkg.scale", "much"),
        ("energy-pkg.unit", "Watts"),
    ],
)
def test_an_event_that_is_described_otherwise_is_not_metered(
    tmp_path: Path, clock: FakeClock, file: str, text: str
) -> None:
    """An unknown unit, scale or description is left out and named; its figures would be wrong."""
    tree = build_pmu(tmp_path, events=perf_tree.SERVER_EVENTS)
    (tree.root / "events" / file).write_text(text)
    backend = tree.backend(kernel_of(clock, [Cpu(0)]))
    assert [domain.name for domain in backend.open()] == ["dram-0"]
    assert "energy-pkg is not described" in backend.notes[0]
    backend.close()


def test_no_event_of_the_processor(tmp_path: Path, clock: FakeClock) -> None:
    """A PMU without energies is told as that."""
    error = refusal(build_pmu(tmp_path, events=()).backend(kernel_of(clock, [Cpu(0)])))
    assert "lists no energy" in error.reason


# --- reading ----------------------------------------------------------------------------------


def test_a_failed_read_is_a_failure_of_its_cpu_and_the_events_are_opened_anew(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Domains of the failed group are failures, then count again, from 0; nothing stays open twice."""
    kernel = kernel_of(clock, [Cpu(0)])
    backend = build_pmu(tmp_path, events=perf_tree.SERVER_EVENTS).backend(kernel)
    backend.open()
    clock.advance(10.0)
    kernel.broken = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    for _ in range(3):
        items = backend.read()
        assert [(type(item), item.position) for item in items] == [(Failure, 0), (Failure, 1)]
        assert all(isinstance(item, Failure) and item.lost for item in items)
    kernel.broken = None
    clock.advance(1.0)
    assert [item.value for item in backend.read() if isinstance(item, Reading)] == [0, 0]
    assert len(kernel.opened) == 2
    backend.close()
    assert kernel.opened == {}


def test_energy_before_and_after_a_failure_is_kept(tmp_path: Path, clock: FakeClock) -> None:
    """Events that were opened anew are a reset: what they did not see is not claimed."""
    kernel = FakeKernel(clock, {(0, "energy-pkg"): 50.0})
    backend = build_pmu(tmp_path, events=perf_tree.AMD_EVENTS).backend(kernel)
    meter = fake_meter(backend, clock=clock)
    with meter:
        advance(meter, 5.0)
        kernel.broken = ValueError("8 bytes for 1 counts")
        advance(meter, 1.0)
        kernel.broken = None
        advance(meter, 4.0)
    total = meter.session.total()
    assert total.energy_joules == pytest.approx(450, rel=0.01)
    assert total.coverage_ratio == pytest.approx(0.9, abs=0.01)
    assert "reset" in set(meter.session.events()["kind"])


def test_close_twice_leaves_nothing_open(tmp_path: Path, clock: FakeClock) -> None:
    """Closing is idempotent and gives back every event; a later read is empty."""
    kernel = kernel_of(clock, TWO_SOCKETS)
    backend = build_pmu(tmp_path, TWO_SOCKETS).backend(kernel)
    backend.open()
    assert len(kernel.opened) == 10
    backend.close()
    backend.close()
    assert kernel.opened == {}
    assert backend.read() == []


def test_a_read_under_way_survives_close(tmp_path: Path, clock: FakeClock) -> None:
    """A thread that is in `read` when another one closes the backend gets its readings."""
    kernel = kernel_of(clock, TWO_SOCKETS)
    backend = build_pmu(tmp_path, TWO_SOCKETS, perf_tree.SERVER_EVENTS).backend(kernel)
    backend.open()
    real_read = kernel.read

    def closing_read(leader: int, events: int) -> tuple[int, ...]:
        backend.close()
        return real_read(leader, events)

    kernel.read = closing_read  # type: ignore[method-assign]
    assert [type(item) for item in backend.read()] == [Reading] * 4


_TEXTS = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"0", b"0,4", b"0-3", b"event=0x02", b"Joules", b"1e-9"])
)


@settings(max_examples=60, deadline=None)
@given(type_=_TEXTS, mask=_TEXTS, event=_TEXTS, scale=_TEXTS, unit=_TEXTS, package=_TEXTS)
def test_whatever_the_files_hold_nothing_but_unavailable_is_raised(
    tmp_path_factory: pytest.TempPathFactory, **texts: bytes
) -> None:
    """Arbitrary bytes in every file give domains with distinct names, or one error."""
    directory = tmp_path_factory.mktemp("pmu")
    tree = build_pmu(directory, (Cpu(0), Cpu(4, 1)), perf_tree.AMD_EVENTS)
    (tree.root / "type").write_bytes(texts["type_"])
    (tree.root / "cpumask").write_bytes(texts["mask"])
    (tree.root / "events/energy-pkg").write_bytes(texts["event"])
    (tree.root / "events/energy-pkg.scale").write_bytes(texts["scale"])
    (tree.root / "events/energy-pkg.unit").write_bytes(texts["unit"])
    (tree.cpus / "cpu4/topology/physical_package_id").write_bytes(texts["package"])

    class Kernel(FakeKernel):
        def open(self, event_type: int, config: int, cpu: int, leader: int) -> int:
            return super().open(perf_tree.PMU_TYPE, 2, cpu, leader)

    backend = tree.backend(Kernel(FakeClock(), {}))
    try:
        domains = backend.open()
    except BackendUnavailableError:
        return
    assert len({domain.name for domain in domains}) == len(domains)
    assert len(backend.read()) == len(domains)
    backend.close()


# --- the system call --------------------------------------------------------------------------

SOFTWARE, CPU_CLOCK, CONTEXT_SWITCHES = 1, 0, 3


@pytest.fixture
def cpu_clock() -> Iterator[tuple[PerfEvents, int]]:
    """An event that every Linux has, on CPU 0, with a second one."""
    events = PerfEvents()
    opened: list[int] = []
    try:
        opened.append(events.open(SOFTWARE, CPU_CLOCK, 0, -1))
        opened.append(events.open(SOFTWARE, CONTEXT_SWITCHES, 0, opened[0]))
    except OSError as error:
        pytest.skip(f"perf events of a whole CPU are not allowed here: {error}")
    yield events, opened[0]
    for descriptor in opened:
        events.close(descriptor)


def test_the_system_call_counts(cpu_clock: tuple[PerfEvents, int]) -> None:
    """Two events of the real kernel are read together: the CPU's clock runs on, in nanoseconds."""
    events, leader = cpu_clock
    first, second = events.read(leader, 2), events.read(leader, 2)
    assert second[0] > first[0]
    assert second[0] < 3600e9
    assert second[1] >= first[1]


def test_the_system_call_says_no() -> None:
    """A PMU that does not exist, or no right to ask, is an OSError with the kernel's words."""
    with pytest.raises(OSError, match=r".+") as caught:
        PerfEvents().open(2**31 - 1, 0, 0, -1)
    assert caught.value.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOSYS)


def test_another_processor_has_no_such_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of the call is not known nothing is called."""
    monkeypatch.setattr("mlmeter.backends.perf_events.platform.machine", lambda: "aarch64")
    with pytest.raises(OSError, match="aarch64") as caught:
        PerfEvents().open(SOFTWARE, CPU_CLOCK, 0, -1)
    assert caught.value.errno == errno.ENOSYS
