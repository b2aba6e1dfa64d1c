"""The CPU estimate as a backend: its domains, counters that never fall, and bad input."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from mlmeter.backends.base import Backend
from mlmeter.backends.cpu_estimate import CpuEstimateBackend
from mlmeter.backends.cpu_power.machine_model import machine_curve
from mlmeter.backends.cpu_power.package_model import memory_watts, package_watts
from mlmeter.backends.cpu_power.tables import coefficients
from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Failure, Provenance, Reading
from tests.backends.cpu_power.machine_tree import write, write_machine, write_times

# Counts are whole microjoules.
ONE_COUNT = 1
TICKS_PER_SECOND = 100
NAMES = ["cpu-estimate", "dram-estimate", "machine-estimate"]


class Machine:
    """A tree of files with 2 cores of 2 threads, and a clock, both moved by hand."""

    def __init__(self, root: Path, **changes: object) -> None:
        self.root = root
        self.time_ns = 5_000_000_000
        write_machine(root, **changes)  # type: ignore[arg-type]
        self.ticks = [0, 0, 0, 0]

    def now_ns(self) -> int:
        return self.time_ns

    def backend(self, **arguments: float) -> CpuEstimateBackend:
        return CpuEstimateBackend(root=self.root, now_ns=self.now_ns, **arguments)

    def advance(self, seconds: float, *busy_seconds: float, column: int = 0) -> None:
        self.time_ns += round(seconds * 1e9)
        for thread, amount in enumerate(busy_seconds):
            self.ticks[thread] += round(amount * TICKS_PER_SECOND)
        write_times(self.root, self.ticks, column=column)


@pytest.fixture(autouse=True)
def _ticks(mocker: MockerFixture) -> None:
    mocker.patch("os.sysconf", return_value=TICKS_PER_SECOND)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def joules(backend: CpuEstimateBackend) -> list[float]:
    readings = backend.read()
    assert all(isinstance(reading, Reading) for reading in readings)
    assert [reading.position for reading in readings] == list(range(len(readings)))
    return [reading.value * 1e-6 for reading in readings if isinstance(reading, Reading)]


def expected(backend: CpuEstimateBackend, busy: float) -> list[float]:
    """Return the powers of the three domains from the formulas."""
    assert backend.host is not None
    curve = machine_curve(backend.host.inputs, coefficients())
    return [package_watts(280, busy), memory_watts(17.179869, busy), curve.watts(busy)]


def test_it_is_a_backend() -> None:
    """The class has the shape that the sampler expects."""
    assert isinstance(CpuEstimateBackend(), Backend)


def test_domains_are_estimates_apart_from_each_other(machine: Machine) -> None:
    """Packages and memory are added up; the whole machine contains them and is not."""
    domains = machine.backend().open()
    assert [domain.name for domain in domains] == NAMES
    assert [domain.kind for domain in domains] == ["cpu", "dram", "machine"]
    assert [domain.counted for domain in domains] == [True, True, False]
    assert {domain.provenance for domain in domains} == {Provenance.ESTIMATED}
    assert {domain.source for domain in domains} == {"cpu_estimate"}
    assert {domain.joules_per_count for domain in domains} == {1e-6}
    assert {domain.modulus for domain in domains} == {None}
    assert {domain.cheap_read for domain in domains} == {False}
    assert {domain.model_name for domain in domains} == {"AMD EPYC 7763 64-Core Processor"}
    assert len({domain.id for domain in domains}) == 3


def test_intervals_contain_their_estimates(machine: Machine) -> None:
    """The intervals are asymmetric and hold the estimate."""
    for domain in machine.backend().open():
        assert 0.3 < domain.interval_low_ratio < 1 < domain.interval_high_ratio < 2.5


def test_counters_start_at_zero(machine: Machine) -> None:
    """Nothing that happened before open is counted."""
    machine.advance(5.0, 5, 5, 5, 5)
    backend = machine.backend()
    backend.open()
    assert joules(backend) == [0, 0, 0]


@pytest.mark.parametrize(
    ("busy_seconds", "busy_cores"),
    [
        ((0, 0, 0, 0), 0.0),
        ((10, 0, 0, 0), 0.5),
        # Threads 0 and 2 are the first core: the second thread of a busy core adds nothing.
        ((10, 0, 10, 0), 0.5),
        ((10, 10, 0, 0), 1.0),
        ((10, 10, 10, 10), 1.0),
        ((5, 0, 5, 0), 0.375),
    ],
)
def test_power_follows_busy_cores(
    machine: Machine, busy_seconds: tuple[float, ...], busy_cores: float
) -> None:
    """Energy is the power of the formulas at the share of busy physical cores, times time."""
    backend = machine.backend()
    backend.open()
    machine.advance(10.0, *busy_seconds)
    wanted = [10 * watts for watts in expected(backend, busy_cores)]
    assert joules(backend) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("column", "busy"), [(0, 1), (1, 1), (2, 1), (3, 0), (4, 0), (5, 1), (6, 1), (7, 0), (8, 0)]
)
def test_busy_columns(machine: Machine, column: int, busy: int) -> None:
    """User, nice, system and interrupts are busy; idle, iowait and stolen time are not, guest is counted."""
    backend = machine.backend()
    backend.open()
    machine.advance(10.0, 10, 10, 10, 10, column=column)
    assert joules(backend) == pytest.approx([10 * watts for watts in expected(backend, busy)], rel=1e-6)


def test_busy_time_is_never_more_than_elapsed_time(machine: Machine) -> None:
    """Late booked ticks cannot lift an estimate over its maximum power."""
    backend = machine.backend()
    domains = backend.open()
    machine.advance(1.0, 7, 7, 7, 7)
    for domain, energy in zip(domains, joules(backend), strict=True):
        assert domain.max_power_watts is not None
        assert energy <= domain.max_power_watts + 1e-6


def test_times_that_go_back_are_no_load(machine: Machine) -> None:
    """Taking a CPU offline can lower CPU times; the machine then counts as idle."""
    backend = machine.backend()
    backend.open()
    machine.advance(10.0, 10, 10, 10, 10)
    before = joules(backend)
    machine.advance(10.0, -5, -5, -5, -5)
    after = joules(backend)
    steps = [late - early for late, early in zip(after, before, strict=True)]
    assert steps == pytest.approx([10 * watts for watts in expected(backend, 0.0)], rel=1e-6)


def test_threads_that_go_offline(machine: Machine) -> None:
    """The load is that of the cores that are left."""
    backend = machine.backend()
    backend.open()
    machine.time_ns += 10_000_000_000
    write_times(machine.root, [1000])
    assert joules(backend) == pytest.approx([10 * watts for watts in expected(backend, 1.0)], rel=1e-6)


def test_without_topology_threads_are_taken_in_pairs(tmp_path: Path) -> None:
    """Where siblings are not told, half of the threads busy is more than half of the cores."""
    machine = Machine(tmp_path, topology=False)
    backend = machine.backend()
    backend.open()
    assert backend.host is not None
    machine.advance(10.0, 10, 10, 0, 0)
    assert joules(backend)[0] == pytest.approx(10 * package_watts(280, 0.75), rel=1e-6)


def test_a_step_of_less_than_a_tick_waits(machine: Machine) -> None:
    """Less than a tick says nothing about the load: its time is counted with the next step."""
    backend = machine.backend()
    backend.open()
    machine.advance(0.004)
    assert joules(backend) == [0, 0, 0]
    machine.advance(9.996)
    assert joules(backend) == pytest.approx([10 * watts for watts in expected(backend, 0.0)], rel=1e-6)


def test_the_clock_of_the_cores(tmp_path: Path) -> None:
    """Half of the base clock is half of the busy power, as in the sweeps of the fit."""
    machine = Machine(tmp_path)
    for thread in range(4):
        write(tmp_path / f"sys/devices/system/cpu/cpu{thread}/cpufreq/scaling_cur_freq", "1225000\n")
    backend = machine.backend()
    backend.open()
    machine.advance(10.0, 10, 10, 10, 10)
    assert joules(backend)[0] == pytest.approx(10 * package_watts(280, 1.0, 0.5), rel=1e-6)
    assert "base clock" not in " ".join(backend.notes)


def test_what_is_assumed_is_told(machine: Machine) -> None:
    """Notes say what was found and what was assumed."""
    backend = machine.backend()
    backend.open()
    (note,) = backend.notes
    assert note.startswith("cpu_estimate: found: AMD EPYC 7763 64-Core Processor is in the table; TDP 280 W.")
    assert "assumed: cores run at their base clock" in note


def test_a_virtual_machine(tmp_path: Path) -> None:
    """A guest has a share of its host, no memory of its own, a wide interval and a remedy."""
    machine = Machine(tmp_path, name="AMD EPYC", virtual=True)
    backend = machine.backend()
    package, whole = backend.open()
    assert [package.kind, whole.kind] == ["cpu", "machine"]
    assert package.max_power_watts == pytest.approx(package_watts(2 * 280, 1.0, 1.3) * 4 / 256)
    assert package.interval_low_ratio < 0.5
    assert package.interval_high_ratio > 2.0
    assert "share=" in backend.notes[-1]


def test_overrides(tmp_path: Path) -> None:
    """TDP and share of the user replace those that were found, and narrow the interval."""
    machine = Machine(tmp_path, name="AMD EPYC", virtual=True)
    (found, _) = machine.backend().open()
    backend = machine.backend(tdp_watts=200, share=0.5)
    (told, _) = backend.open()
    assert told.max_power_watts == pytest.approx(package_watts(2 * 200, 1.0, 1.3) * 0.5)
    assert told.interval_high_ratio < found.interval_high_ratio
    assert "as given" in backend.notes[0]


@pytest.mark.parametrize("watts", [0.0, -3.0, float("nan"), float("inf")])
def test_wrong_tdp(watts: float) -> None:
    """A thermal design power must be a positive finite number."""
    with pytest.raises(ArgumentError, match="tdp_watts: expected a positive number"):
        CpuEstimateBackend(tdp_watts=watts)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_wrong_share(share: float) -> None:
    """A share must be above 0 and at most 1."""
    with pytest.raises(ArgumentError, match="share: expected a number above 0"):
        CpuEstimateBackend(share=share)


def test_opening_again_starts_anew(machine: Machine) -> None:
    """A second open takes a new base."""
    backend = machine.backend()
    backend.open()
    machine.advance(10.0, 10, 0, 0, 0)
    assert joules(backend)[0] > 0
    backend.close()
    backend.open()
    assert joules(backend) == [0, 0, 0]


def test_a_closed_backend_gives_no_readings(machine: Machine) -> None:
    """Closing is harmless when repeated, and ends the readings."""
    backend = machine.backend()
    backend.open()
    backend.close()
    backend.close()
    assert backend.read() == ()


def test_times_of_a_reading_surround_the_read(machine: Machine, mocker: MockerFixture) -> None:
    """The stamps are taken just before and just after CPU times are read."""
    ticks = iter(range(0, 1000, 10))
    backend = CpuEstimateBackend(root=machine.root, now_ns=lambda: next(ticks))
    backend.open()
    read_at: list[int] = []

    def read(root: Path) -> dict[int, float]:
        read_at.append(next(ticks))
        return {0: 0.0}

    mocker.patch("mlmeter.backends.cpu_estimate.read_busy_seconds", read)
    for reading in backend.read():
        assert isinstance(reading, Reading)
        assert reading.begin_ns < read_at[-1] < reading.end_ns


steps = st.lists(
    st.tuples(
        st.floats(min_value=0.0, max_value=3600.0),
        st.lists(st.floats(min_value=-50.0, max_value=20_000.0), min_size=4, max_size=4),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(steps=steps)
def test_counters_never_fall_and_keep_to_their_maximum_power(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, list[float]]]
) -> None:
    """Whatever CPU times do, counters are monotone and bounded by maximum power x time."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    backend = machine.backend()
    domains = backend.open()
    opened_ns = machine.time_ns
    rows = [joules(backend)]
    for seconds, busy in steps:
        machine.advance(seconds, *busy)
        rows.append(joules(backend))
    elapsed_seconds = (machine.time_ns - opened_ns) * 1e-9
    for domain, column in zip(domains, zip(*rows, strict=True), strict=True):
        assert list(column) == sorted(column)
        assert domain.max_power_watts is not None
        assert column[-1] <= domain.max_power_watts * elapsed_seconds * (1 + 1e-9) + 1e-6


# --- systems without /proc ------------------------------------------------------------------------


def test_psutil_where_there_is_no_proc(tmp_path: Path, mocker: MockerFixture) -> None:
    """Elsewhere psutil tells the times of threads; fields that are missing count as nothing."""
    times = [SimpleNamespace(user=1.0, system=1.0, idle=1.0)] * 2
    mocker.patch("psutil.cpu_times", return_value=times)
    now = iter([0, 10_000_000_000, 10_000_000_000])
    backend = CpuEstimateBackend(root=tmp_path, now_ns=lambda: next(now))
    assert [domain.name for domain in backend.open()] == ["cpu-estimate", "machine-estimate"]
    mocker.patch("psutil.cpu_times", return_value=[SimpleNamespace(user=6.0, system=6.0, idle=1.0)] * 2)
    first, second = joules(backend)
    assert 0 < first < second


@pytest.mark.parametrize("error", [OSError("no /proc"), RuntimeError("bad line"), ValueError("not a number")])
def test_a_failed_read_is_transient(machine: Machine, mocker: MockerFixture, error: Exception) -> None:
    """A read that fails says why for every domain, and the next one counts the time between."""
    backend = machine.backend()
    backend.open()
    (machine.root / "proc/stat").unlink()
    mocker.patch("psutil.cpu_times", side_effect=error)
    reason = f"psutil cannot read CPU times ({type(error).__name__}: {error})"
    assert backend.read() == tuple(Failure(position, reason, False, machine.time_ns) for position in range(3))
    machine.advance(10.0)
    assert joules(backend) == pytest.approx([10 * watts for watts in expected(backend, 0.0)], rel=1e-6)


def test_cpu_times_that_cannot_be_read_at_open(tmp_path: Path, mocker: MockerFixture) -> None:
    """Without CPU times the backend is unavailable and says why."""
    mocker.patch("psutil.cpu_times", side_effect=PermissionError("denied"))
    with pytest.raises(BackendUnavailableError, match=r"cpu_estimate: psutil cannot read .*denied"):
        CpuEstimateBackend(root=tmp_path).open()


def test_unknown_number_of_threads(tmp_path: Path, mocker: MockerFixture) -> None:
    """Without threads the backend is unavailable, rather than 0 W."""
    mocker.patch("psutil.cpu_times", return_value=[])
    with pytest.raises(BackendUnavailableError, match="hardware threads is not known"):
        CpuEstimateBackend(root=tmp_path).open()


def test_missing_psutil(tmp_path: Path, mocker: MockerFixture) -> None:
    """Without /proc and psutil the backend is unavailable and tells how to install it."""
    mocker.patch.dict(sys.modules, {"psutil": None})
    with pytest.raises(BackendUnavailableError, match="cannot be imported") as caught:
        CpuEstimateBackend(root=tmp_path).open()
    assert "install" in caught.value.remedy


def test_tables_are_read_when_it_opens_only() -> None:
    """Importing and making the backend reads no table and loads neither pandas nor NumPy."""
    script = (
        "import sys\n"
        "from mlmeter.backends.cpu_estimate import CpuEstimateBackend\n"
        "from mlmeter.backends.cpu_power import tables\n"
        "backend = CpuEstimateBackend()\n"
        "assert tables.coefficients.cache_info().currsize == 0\n"
        "assert tables.processors.cache_info().currsize == 0\n"
        "backend.open(), backend.read(), backend.close()\n"
        "assert tables.coefficients.cache_info().currsize == 1\n"
        "assert not {'numpy', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_real_machine(mocker: MockerFixture) -> None:
    """On this machine the counters move, and by no more than their maximum power."""
    mocker.stopall()
    start_ns = time.perf_counter_ns()
    backend = CpuEstimateBackend()
    domains = backend.open()
    first = joules(backend)
    deadline_ns = time.perf_counter_ns() + 50_000_000
    while time.perf_counter_ns() < deadline_ns:
        sum(range(1000))
    second = joules(backend)
    elapsed_seconds = (time.perf_counter_ns() - start_ns) * 1e-9
    backend.close()
    for domain, before, after in zip(domains, first, second, strict=True):
        assert domain.max_power_watts is not None
        assert 0 <= before < after <= domain.max_power_watts * elapsed_seconds
