"""The CPU estimate: its formula to the microjoule, a counter that never falls, psutil's faults."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from mlmeter.backends.base import Backend
from mlmeter.backends.cpu_estimate import CpuEstimateBackend
from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Failure, Provenance, Reading

NO_FILE = Path("/nonexistent/cpuinfo")
# Counts are whole microjoules.
ONE_COUNT = 1


class Machine:
    """A fake psutil with 4 hardware threads and a clock, both moved by hand."""

    def __init__(self, *, threads: int | None = 4) -> None:
        self.threads = threads
        self.time_ns = 5_000_000_000
        fields = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
        self.fields = dict.fromkeys(fields, 100.0)

    def now_ns(self) -> int:
        return self.time_ns

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(**self.fields)

    def cpu_count(self, logical: bool) -> int | None:
        assert logical
        return self.threads

    def advance(self, seconds: float, **busy_seconds: float) -> None:
        self.time_ns += round(seconds * 1e9)
        for field, amount in busy_seconds.items():
            self.fields[field] += amount


@pytest.fixture
def plug(mocker: MockerFixture) -> Callable[[Machine], CpuEstimateBackend]:
    """Return a function that puts a fake machine behind psutil and makes a backend for it."""

    def _plug(machine: Machine) -> CpuEstimateBackend:
        mocker.patch("psutil.cpu_times", machine.cpu_times)
        mocker.patch("psutil.cpu_count", machine.cpu_count)
        return CpuEstimateBackend(watts_per_thread=5.0, now_ns=machine.now_ns, cpuinfo_path=NO_FILE)

    return _plug


def _count(backend: CpuEstimateBackend) -> int:
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    return reading.value


Plug = Callable[[Machine], CpuEstimateBackend]


def test_it_is_a_backend() -> None:
    """The class has the shape that the sampler expects."""
    assert isinstance(CpuEstimateBackend(), Backend)


def test_domain_says_that_it_is_an_estimate(plug: Plug) -> None:
    """The one domain is an estimated CPU counter with an interval of a factor of 3."""
    (domain,) = plug(Machine()).open()
    assert domain.name == "cpu-estimate"
    assert domain.kind == "cpu"
    assert domain.source == "cpu_estimate"
    assert domain.provenance is Provenance.ESTIMATED
    assert domain.joules_per_count == 1e-6
    assert domain.modulus is None
    assert domain.cheap_read is False
    assert domain.update_period_seconds == 0.01
    assert (domain.interval_low_ratio, domain.interval_high_ratio) == (1 / 3, 3.0)


def test_counter_starts_at_zero(plug: Plug) -> None:
    """Nothing that happened before open is counted."""
    backend = plug(Machine())
    backend.open()
    assert _count(backend) == 0


@pytest.mark.parametrize(
    ("busy_seconds", "joules"),
    [
        # 4 threads at 5 W are 20 W of TDP; over 10 s, per the formula 0.12 + 0.76 u:
        (0.0, 24.0),
        (10.0, 62.0),
        (20.0, 100.0),
        (40.0, 176.0),
    ],
)
def test_formula(plug: Plug, busy_seconds: float, joules: float) -> None:
    """Energy is TDP share x (0.12 + 0.76 x busy share) x time."""
    machine = Machine()
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, user=busy_seconds)
    assert _count(backend) == pytest.approx(joules * 1e6, abs=ONE_COUNT)


@pytest.mark.parametrize("field", ["user", "nice", "system", "irq", "softirq"])
def test_busy_fields(plug: Plug, field: str) -> None:
    """Time in which a thread executes is busy time, whatever it executes."""
    machine = Machine()
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, **{field: 10.0})
    assert _count(backend) == pytest.approx(62e6, abs=ONE_COUNT)


@pytest.mark.parametrize("field", ["idle", "iowait", "steal"])
def test_idle_fields(plug: Plug, field: str) -> None:
    """Waiting, and time that the hypervisor gave to others, is idle time."""
    machine = Machine()
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, **{field: 10.0})
    assert _count(backend) == pytest.approx(24e6, abs=ONE_COUNT)


def test_guest_time_is_counted_once(plug: Plug) -> None:
    """Guest time is part of user time already (proc_stat(5)) and is not added again."""
    machine = Machine()
    machine.fields["guest"] = 0.0
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, user=10.0, guest=10.0)
    assert _count(backend) == pytest.approx(62e6, abs=ONE_COUNT)


def test_a_system_without_irq_fields(plug: Plug) -> None:
    """Fields that macOS and Windows do not tell count as nothing."""
    machine = Machine()
    machine.fields = {"user": 1.0, "system": 1.0, "idle": 1.0}
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, user=5.0, system=5.0)
    assert _count(backend) == pytest.approx(62e6, abs=ONE_COUNT)


def test_busy_time_is_never_more_than_elapsed_time(plug: Plug) -> None:
    """Late booked ticks cannot lift the estimate over its maximum power."""
    machine = Machine()
    backend = plug(machine)
    (domain,) = backend.open()
    machine.advance(1.0, user=4.04)
    assert domain.max_power_watts == pytest.approx(17.6)
    assert _count(backend) == pytest.approx(17.6e6, abs=ONE_COUNT)


def test_counter_waits_when_cpu_times_go_back(plug: Plug) -> None:
    """Taking a CPU offline can lower the CPU times; the counter stays where it is."""
    machine = Machine()
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, user=20.0)
    before = _count(backend)
    machine.advance(1.0, user=-15.0)
    assert _count(backend) == before


def test_opening_again_starts_anew(plug: Plug) -> None:
    """A second open takes a new base."""
    machine = Machine()
    backend = plug(machine)
    backend.open()
    machine.advance(10.0, user=20.0)
    assert _count(backend) > 0
    backend.close()
    backend.open()
    assert _count(backend) == 0


def test_a_closed_backend_gives_no_readings(plug: Plug) -> None:
    """Closing is harmless when repeated, and ends the readings."""
    backend = plug(Machine())
    backend.open()
    backend.close()
    backend.close()
    assert backend.read() == ()


def test_times_of_a_reading_surround_the_read(mocker: MockerFixture) -> None:
    """The stamps are taken just before and just after CPU times are read."""
    ticks = iter(range(0, 100, 10))
    read_at: list[int] = []

    def cpu_times() -> SimpleNamespace:
        read_at.append(next(ticks))
        return SimpleNamespace(user=0.0)

    mocker.patch("psutil.cpu_times", cpu_times)
    backend = CpuEstimateBackend(now_ns=lambda: next(ticks), cpuinfo_path=NO_FILE)
    backend.open()
    (reading,) = backend.read()
    assert isinstance(reading, Reading)
    assert reading.begin_ns < read_at[-1] < reading.end_ns


steps = st.lists(
    st.tuples(
        st.floats(min_value=0.0, max_value=3600.0),
        st.sampled_from(["user", "system", "idle", "steal"]),
        st.floats(min_value=-50.0, max_value=20_000.0),
    ),
    max_size=30,
)


@given(steps=steps)
def test_counter_never_falls_and_keeps_to_its_maximum_power(steps: list[tuple[float, str, float]]) -> None:
    """Whatever CPU times do, the counter is monotone and bounded by maximum power x time."""
    machine = Machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psutil.cpu_times", machine.cpu_times)
        patch.setattr("psutil.cpu_count", machine.cpu_count)
        backend = CpuEstimateBackend(now_ns=machine.now_ns, cpuinfo_path=NO_FILE)
        (domain,) = backend.open()
        opened_ns = machine.time_ns
        counts = []
        for seconds, field, amount in steps:
            machine.advance(seconds, **{field: amount})
            counts.append(_count(backend))
    assert counts == sorted(counts)
    assert domain.max_power_watts is not None
    elapsed_seconds = (machine.time_ns - opened_ns) * 1e-9
    assert all(0 <= count <= domain.max_power_watts * elapsed_seconds * 1e6 + ONE_COUNT for count in counts)


@pytest.mark.parametrize("error", [OSError("no /proc"), RuntimeError("bad line"), ValueError("not a number")])
def test_a_failed_read_is_transient(plug: Plug, mocker: MockerFixture, error: Exception) -> None:
    """A read that fails says why, and the next one goes on where the counter was."""
    machine = Machine()
    backend = plug(machine)
    backend.open()
    mocker.patch("psutil.cpu_times", side_effect=error)
    (failure,) = backend.read()
    reason = f"psutil cannot read CPU times ({type(error).__name__}: {error})"
    assert failure == Failure(0, reason, False, machine.time_ns)
    mocker.patch("psutil.cpu_times", machine.cpu_times)
    machine.advance(10.0)
    assert _count(backend) == pytest.approx(24e6, abs=ONE_COUNT)


def test_cpu_times_that_cannot_be_read_at_open(mocker: MockerFixture) -> None:
    """Without CPU times the backend is unavailable and says why."""
    mocker.patch("psutil.cpu_times", side_effect=PermissionError("denied"))
    with pytest.raises(BackendUnavailableError, match=r"cpu_estimate: psutil cannot read .*denied"):
        CpuEstimateBackend().open()


def test_unknown_number_of_threads(plug: Plug) -> None:
    """Without the number of threads the backend is unavailable, rather than 0 W."""
    with pytest.raises(BackendUnavailableError, match="hardware threads is not known"):
        plug(Machine(threads=None)).open()


def test_missing_psutil(mocker: MockerFixture) -> None:
    """Without psutil the backend is unavailable and tells how to install it."""
    mocker.patch.dict(sys.modules, {"psutil": None})
    with pytest.raises(BackendUnavailableError, match="cannot be imported") as caught:
        CpuEstimateBackend().open()
    assert "install" in caught.value.remedy


@pytest.mark.parametrize("watts", [0.0, -3.0, float("nan"), float("inf")])
def test_wrong_watts_per_thread(watts: float) -> None:
    """Watts per thread must be a positive finite number."""
    with pytest.raises(ArgumentError, match="watts_per_thread: expected a positive number"):
        CpuEstimateBackend(watts_per_thread=watts)


def test_model_name_from_cpuinfo(tmp_path: Path) -> None:
    """The processor's name is the first one in /proc/cpuinfo."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 7763\n\nmodel name\t: other\n")
    (domain,) = CpuEstimateBackend(cpuinfo_path=cpuinfo).open()
    assert domain.model_name == "AMD EPYC 7763"


def test_model_name_without_cpuinfo(mocker: MockerFixture) -> None:
    """ARM kernels and other systems give no name there; the platform's is taken."""
    mocker.patch("platform.processor", return_value="")
    mocker.patch("platform.machine", return_value="aarch64")
    (domain,) = CpuEstimateBackend(cpuinfo_path=NO_FILE).open()
    assert domain.model_name == "aarch64"


def test_real_machine() -> None:
    """On this machine the counter moves with work, and by no more than its maximum power."""
    start_ns = time.perf_counter_ns()
    backend = CpuEstimateBackend()
    (domain,) = backend.open()
    (first,) = backend.read()
    deadline_ns = time.perf_counter_ns() + 50_000_000
    while time.perf_counter_ns() < deadline_ns:
        sum(range(1000))
    (second,) = backend.read()
    backend.close()
    assert isinstance(first, Reading)
    assert isinstance(second, Reading)
    assert second.value > first.value >= 0
    assert second.end_ns > first.end_ns
    assert domain.max_power_watts is not None
    assert second.value <= domain.max_power_watts * (second.end_ns - start_ns) * 1e-3
