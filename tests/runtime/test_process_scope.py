"""``scope="process"`` on a fake clock: loads, GPUs and idle power whose truth is known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlmeter
from mlmeter import EnergyMeter
from mlmeter.energy.process_share import PARTS
from mlmeter.errors import ArgumentError
from mlmeter.measurement import GpuUse, Provenance
from mlmeter.recording import TABLES
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, check_backend, fake_domain, fake_meter
from tests.runtime.fake_processes import OWN_PID, FakeGpus, FakeTimes

WATTS = 100.0


@pytest.fixture
def times(clock: FakeClock) -> FakeTimes:
    return FakeTimes(clock, cpus=4)


def process_meter(clock: FakeClock, times: FakeTimes, *backends: Any, **arguments: Any) -> EnergyMeter:
    sources = backends or (FakeBackend.with_power(clock, watts=WATTS),)
    return fake_meter(*sources, clock=clock, process_times=times, scope="process", **arguments)


def shares(session: Session, domain: str = "fake-0", column: str = "energy_joules") -> dict[str, float]:
    frame = session.shares()
    return dict(frame[frame["domain"] == domain].set_index("part")[column])


def window(session: Session, name: str, domain: str = "fake-0") -> Any:
    frame = session.windows().query("scope == 'inclusive'").set_index(["name", "domain"])
    return frame.loc[(name, domain)]


def test_parts_follow_cpu_time(clock: FakeClock, times: FakeTimes) -> None:
    """100 W for 10 s on 4 CPUs, one ours, two others': 250, 500 and 250 J idle."""
    times.load(1, 2)
    with process_meter(clock, times) as meter:
        advance(meter, 10)
    found = shares(meter.session)
    assert found["process"] == pytest.approx(250, rel=1e-3)
    assert found["others"] == pytest.approx(500, rel=1e-3)
    assert found["idle"] == pytest.approx(250, rel=1e-3)
    assert found["unattributed"] == 0
    assert set(shares(meter.session, column="reason").values()) == {None}
    assert "NOT ATTRIBUTED" not in meter.session.summary()
    assert meter.session.total().energy_joules == pytest.approx(250, rel=1e-3)


def test_sleeping_process_gets_nothing(clock: FakeClock, times: FakeTimes) -> None:
    """Whatever others do, a process that sleeps has used nothing; the interval is a few ticks wide."""
    times.load(0, 3)
    with process_meter(clock, times) as meter:
        advance(meter, 10)
    total = meter.session.total()
    assert total.energy_joules == 0
    assert total.high_joules is not None
    # One tick that was not seen in the first of the intervals is possible.
    assert 0.25 < total.high_joules < 20
    assert not total.resolved


def test_process_alone_gets_all_that_is_active(clock: FakeClock, times: FakeTimes) -> None:
    """With an idle power of 40 W, a process alone on one CPU of four gets the other 60 W."""
    times.load(1, 0)
    meter = process_meter(clock, times, baseline={"fake-0": 40.0})
    with meter:
        advance(meter, 10)
    found = shares(meter.session)
    assert found["process"] == pytest.approx(600, rel=1e-3)
    assert found["idle"] == pytest.approx(400, rel=1e-3)
    assert found["others"] == pytest.approx(0, abs=1e-9)
    assert window(meter.session, "(session)").method == "counter_edges*cpu_time_of_active"


def test_all_cpus_busy_leave_nothing_idle(clock: FakeClock, times: FakeTimes) -> None:
    """Without a baseline a process that takes all capacity gets all energy."""
    times.load(4, 0)
    with process_meter(clock, times) as meter:
        advance(meter, 5)
    assert shares(meter.session)["process"] == pytest.approx(500, rel=1e-3)


def test_uncertain_idle_power_widens_the_interval(clock: FakeClock, times: FakeTimes) -> None:
    """40 ± 5 W over 10 s: at least 100 J to either side."""
    times.load(1, 0)
    meter = process_meter(clock, times, baseline={"fake-0": (40.0, 5.0)})
    with meter:
        advance(meter, 10)
    total = meter.session.total()
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= 500
    assert total.high_joules >= 700
    low, high = (shares(meter.session, column=name)["idle"] for name in ("low_joules", "high_joules"))
    assert low <= 300
    assert high >= 500


def test_windows_have_the_load_of_their_time(clock: FakeClock, times: FakeTimes) -> None:
    """Two seconds on all CPUs, then two asleep, are told apart; the truth lies in both intervals."""
    with process_meter(clock, times) as meter:
        times.load(4)
        with meter.inference("busy"):
            advance(meter, 2)
        times.load(0, 4)
        with meter.window("asleep"):
            advance(meter, 2)
    session = meter.session
    assert window(session, "busy").energy_joules == pytest.approx(200, abs=10)
    assert window(session, "asleep").energy_joules == pytest.approx(0, abs=10)
    for name, truth in (("busy", 200), ("asleep", 0)):
        assert window(session, name).low_joules <= truth <= window(session, name).high_joules


def test_phases_and_exclusive_windows_add_up(clock: FakeClock, times: FakeTimes) -> None:
    """Parts of phases and of windows are parts of the same whole."""
    with process_meter(clock, times) as meter:
        for load in (1, 3, 0.5):
            times.load(load, 1)
            with meter.window("epoch"):
                advance(meter, 0.33)
                with meter.inference("predict"):
                    advance(meter, 0.21)
    session = meter.session
    total = session.total().energy_joules
    phases = session.phases().query("domain == 'fake-0'")["energy_joules"]
    exclusive = session.windows().query("domain == 'fake-0' and scope == 'exclusive'")["energy_joules"]
    assert phases.sum() == pytest.approx(total, rel=1e-9)
    assert exclusive.sum() == pytest.approx(total, rel=1e-9)
    assert sum(shares(session)[part] for part in PARTS) == pytest.approx(
        session.domains()["energy_joules"][0], rel=1e-12
    )


def test_bursts_are_the_process_s(clock: FakeClock, times: FakeTimes) -> None:
    """A tight loop on one CPU of four costs a quarter of what the machine used in it."""
    times.load(1, 1)
    with process_meter(clock, times) as meter:
        for _ in range(100):
            with meter.window("call"):
                advance(meter, 0.02)
    row = meter.session.bursts().set_index("domain").loc["fake-0"]
    assert row["joules_per_window"] == pytest.approx(0.5, rel=0.05)
    assert row["provenance"] == "derived"


def test_short_window_has_the_share_around_it(clock: FakeClock, times: FakeTimes) -> None:
    """A window of 10 ms gets the ratio of its 100 ms, says so, and its interval holds all or nothing."""
    times.load(2)
    with process_meter(clock, times) as meter:
        advance(meter, 1, 0.1)
        times.load(0)
        clock.advance(0.045)
        times.load(4)
        with meter.window("short"):
            clock.advance(0.01)
        times.load(0)
        clock.advance(0.045)
        advance(meter, 1, 0.1)
    row = window(meter.session, "short")
    assert row.method.endswith("*cpu_time_of_capacity_nearby")
    assert row.low_joules == 0
    assert row.low_joules < row.energy_joules < 0.2
    # In truth it had all four CPUs: 1 J.
    assert row.high_joules >= 1.0
    assert not row.resolved


def test_provenance_is_derived_at_best(clock: FakeClock, times: FakeTimes) -> None:
    """A share of measured energy is derived, of an estimate estimated; the whole stays what it is."""
    times.load(4)
    estimate = FakeBackend.with_power(
        clock, 50, name="guess", kind="dram", provenance=Provenance.ESTIMATED, interval_low_ratio=0.5
    )
    with process_meter(clock, times, FakeBackend.with_power(clock, WATTS), estimate) as meter:
        advance(meter, 1)
    frame = meter.session.phases().set_index("domain")
    assert frame["provenance"]["fake-0"] == "derived"
    assert frame["provenance"]["guess"] == "estimated"
    assert frame["provenance"]["total"] == "estimated"
    assert set(meter.session.domains()["provenance"]) == {"measured", "estimated"}


def test_whole_machine_sensor_is_not_attributed(clock: FakeClock, times: FakeTimes) -> None:
    """CPU time does not tell who used a machine's power supply: no number, and the reason."""
    times.load(4)
    wall = FakeBackend.with_power(clock, 300, name="wall", kind="machine")
    with process_meter(clock, times, FakeBackend.with_power(clock, WATTS), wall) as meter:
        advance(meter, 1)
    found = shares(meter.session, "wall")
    assert found["unattributed"] == pytest.approx(300, rel=1e-3)
    assert all(np.isnan(found[part]) for part in ("process", "others", "idle"))
    assert "whole machine" in str(shares(meter.session, "wall", "reason")["unattributed"])
    assert meter.session.total().energy_joules == pytest.approx(100, rel=1e-2)


# -- GPUs ----------------------------------------------------------------------------------------


def gpu(clock: FakeClock, watts: float = 200.0, **fields: Any) -> FakeGpus:
    return FakeGpus.with_power(clock, watts, name="gpu-0", kind="gpu", uuid="GPU-1", **fields)  # type: ignore[return-value]


def gpu_session(clock: FakeClock, times: FakeTimes, uses: Any, **fields: Any) -> Session:
    backend = gpu(clock, **fields)
    backend.uses = uses
    times.load(2)
    with process_meter(clock, times, FakeBackend.with_power(clock, WATTS), backend) as meter:
        advance(meter, 5, 0.1)
    # The start, the end, and once a second in between.
    assert backend.asked <= 7
    return meter.session


def test_gpu_alone_is_ours(clock: FakeClock, times: FakeTimes) -> None:
    """A GPU that only processes of the tree use counts as a whole."""
    times.pids = frozenset({OWN_PID, 101})
    session = gpu_session(clock, times, [[GpuUse(OWN_PID), GpuUse(101)]])
    row = window(session, "(session)", "gpu-0")
    assert row.energy_joules == pytest.approx(1000, rel=1e-3)
    assert (row.method, row.provenance) == ("counter_edges*gpu_exclusive", "derived")
    assert session.total().energy_joules == pytest.approx(1250, rel=1e-2)


def test_gpu_without_a_process_is_idle(clock: FakeClock, times: FakeTimes) -> None:
    """Nobody is on it: its energy is nobody's."""
    found = shares(gpu_session(clock, times, [[]]), "gpu-0")
    assert found["idle"] == pytest.approx(1000, rel=1e-3)
    assert found["process"] == 0


def test_gpu_of_two_is_split_by_the_time_of_kernels(clock: FakeClock, times: FakeTimes) -> None:
    """Kernels of ours run half of the time, others' a quarter: 500, 250 and 250 J idle."""
    session = gpu_session(clock, times, [[GpuUse(OWN_PID, 0.5), GpuUse(7, 0.25)]])
    found = shares(session, "gpu-0")
    assert found["process"] == pytest.approx(500, rel=1e-3)
    assert found["others"] == pytest.approx(250, rel=1e-3)
    assert found["idle"] == pytest.approx(250, rel=1e-3)
    assert window(session, "(session)", "gpu-0").method == "counter_edges*sm_time_of_capacity"


def test_gpu_of_others_is_not_ours(clock: FakeClock, times: FakeTimes) -> None:
    """Nothing of ours is on it, so nothing of it is ours, whether its driver tells shares or not."""
    assert shares(gpu_session(clock, times, [[GpuUse(7)]]), "gpu-0")["process"] == 0


@pytest.mark.parametrize(
    ("uses", "words"),
    [
        ([[GpuUse(OWN_PID), GpuUse(7)]], "does not tell how much"),
        (["no permission"], "no permission"),
        (RuntimeError("driver"), "driver"),
    ],
)
def test_gpu_of_unknown_users_is_not_attributed(
    clock: FakeClock, times: FakeTimes, uses: Any, words: str
) -> None:
    """Its energy is a part of its own with the reason; the total says that something is missing."""
    session = gpu_session(clock, times, uses)
    found = shares(session, "gpu-0")
    assert found["unattributed"] == pytest.approx(1000, rel=1e-3)
    assert np.isnan(found["process"])
    assert words in str(shares(session, "gpu-0", "reason")["unattributed"])
    total = session.total()
    assert total.energy_joules == pytest.approx(250, rel=1e-2)
    assert total.high_joules is not None
    assert total.high_joules >= 1250 * 0.99
    assert not total.resolved
    assert words in session.summary().replace("\n  ", " ")
    assert (session.events()["kind"] == "process").any()


def test_gpu_of_a_backend_that_tells_no_users(clock: FakeClock, times: FakeTimes) -> None:
    """A backend without the method is no error."""
    backend = FakeBackend.with_power(clock, 200, name="gpu-0", kind="gpu")
    with process_meter(clock, times, backend) as meter:
        advance(meter, 2, 0.1)
    assert shares(meter.session, "gpu-0")["unattributed"] == pytest.approx(400, rel=1e-3)
    assert "fake does not tell" in str(shares(meter.session, "gpu-0", "reason")["unattributed"])


def test_conformance_of_what_a_backend_tells(clock: FakeClock) -> None:
    """The kit accepts what the protocol says, and names what is wrong."""
    backend = gpu(clock)
    backend.uses = [[GpuUse(1, 0.5), GpuUse(2)]]
    check_backend(backend)
    backend.uses = [[GpuUse(1, 50.0)]]
    with pytest.raises(AssertionError, match="from 0 to 1"):
        check_backend(backend)


def test_readings_pass_while_a_driver_hangs(clock: FakeClock, times: FakeTimes) -> None:
    """Ticks of other threads go on while one waits for the driver; what was read stays whole."""
    backend = gpu(clock)
    meter = process_meter(clock, times, backend)
    with meter:
        advance(meter, 1)
        reader = meter.recorder.collected.processes
        assert reader is not None
        with reader._lock:
            reads = times.reads
            advance(meter, 1)
            assert times.reads == reads
    assert meter.session.shares()["energy_joules"].sum() > 0


def test_mig_and_containers_are_not_attributed(clock: FakeClock, times: FakeTimes) -> None:
    """A shared board, and pids of another namespace, cannot be matched with ours."""
    session = gpu_session(clock, times, [[GpuUse(OWN_PID)]], shared=True)
    assert "MIG" in str(shares(session, "gpu-0", "reason")["unattributed"])
    times.host_pids = False
    session = gpu_session(clock, times, [[GpuUse(OWN_PID)]])
    assert "--pid=host" in str(shares(session, "gpu-0", "reason")["unattributed"])


def test_another_user_coming_makes_one_interval_uncertain(clock: FakeClock, times: FakeTimes) -> None:
    """Alone for 4 s, then half of it: the truth of both halves lies in the interval."""
    backend = gpu(clock)
    backend.uses = [[GpuUse(OWN_PID, 1.0)]]
    with process_meter(clock, times, backend) as meter:
        advance(meter, 4, 0.1)
        backend.uses = [[GpuUse(OWN_PID, 0.5), GpuUse(7, 0.5)]]
        advance(meter, 4, 0.1)
    row = window(meter.session, "(session)", "gpu-0")
    assert row.low_joules <= 800 + 400 <= row.high_joules
    assert row.high_joules - row.low_joules < 300


# -- what goes wrong -----------------------------------------------------------------------------


def test_unreadable_cpu_times_are_told(clock: FakeClock, times: FakeTimes) -> None:
    """Without /proc the energy is there and not attributed; the program runs on."""
    times.error = PermissionError(13, "hidden")
    with process_meter(clock, times) as meter:
        advance(meter, 1)
    found = shares(meter.session)
    assert found["unattributed"] == pytest.approx(100, rel=1e-3)
    assert np.isnan(found["process"])
    assert "hidden" in str(shares(meter.session, column="reason")["unattributed"])
    assert meter.session.total().energy_joules is None
    assert meter.session.events()["message"].str.contains("hidden").any()


def test_readings_that_fail_in_between_are_bridged(clock: FakeClock, times: FakeTimes) -> None:
    """CPU times are counters: what was not read is in the next reading."""
    times.load(2)
    with process_meter(clock, times) as meter:
        advance(meter, 1)
        times.error = OSError("busy")
        advance(meter, 1)
        times.error = None
        advance(meter, 1)
    assert shares(meter.session)["process"] == pytest.approx(150, rel=1e-2)


def test_machine_that_is_not_shown_is_told(clock: FakeClock, times: FakeTimes) -> None:
    """More CPU time of the process than of all CPUs: the system shows somebody else's CPUs."""
    times.load(4)
    times.other_cpus = -3.0
    with process_meter(clock, times) as meter:
        advance(meter, 2)
    assert meter.session.events()["message"].str.contains("more CPU time").any()


def test_session_of_no_length(clock: FakeClock, times: FakeTimes) -> None:
    """Nothing happened, and nothing breaks."""
    with process_meter(clock, times) as meter, meter.window("w"):
        pass
    assert set(meter.session.shares()["part"]) == set(PARTS)


def test_live_values_are_the_process_s(clock: FakeClock, times: FakeTimes) -> None:
    """A running meter and a closed window tell the process' part as well."""
    times.load(1)
    with process_meter(clock, times) as meter:
        with meter.window("w") as w:
            advance(meter, 2)
        assert w.energy().energy_joules == pytest.approx(50, rel=0.02)
        advance(meter, 1)
        assert w.result().energy_joules == pytest.approx(50, rel=0.02)
        assert meter.energy().energy_joules == pytest.approx(75, rel=0.02)


def test_reading_keeps_to_the_period(clock: FakeClock, times: FakeTimes) -> None:
    """Ticks of 20 ms cause one reading in 0.1 s, and one at each end."""
    with process_meter(clock, times) as meter:
        advance(meter, 10, 0.02)
    assert times.reads <= 10 / 0.1 + 3


@pytest.mark.parametrize("scope", ["host", "", None, 3])
def test_unknown_scope_is_refused(scope: Any) -> None:
    """The message names both."""
    with pytest.raises(ArgumentError, match='"machine" or "process"'):
        EnergyMeter(scope=scope)


# -- real processes ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::mlmeter.errors.EstimateWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_real_session_counts_forked_and_finished_children() -> None:
    """A session on real time: six finished children and a forked one are in the parent's session."""
    work = "import time\nwhile time.process_time() < 0.1: pass"
    with EnergyMeter(scope="process", backends=["cpu_estimate"], phase="other") as meter:
        with meter.window("children"):
            for _ in range(6):
                subprocess.run([sys.executable, "-c", work], check=True)
            child = os.fork()
            if not child:
                while time.process_time() < 0.1:
                    pass
                os._exit(0)
            os.waitpid(child, 0)
    process = meter.session.recording.process
    assert process is not None
    assert (process.process_ns[-1] - process.process_ns[0]) * 1e-9 >= 7 * 0.1 - 0.05
    found = shares(meter.session, "cpu-estimate")
    assert found["process"] > 0
    assert sum(found.values()) == pytest.approx(meter.session.domains()["energy_joules"][0], rel=1e-9)


@pytest.mark.filterwarnings("ignore::mlmeter.errors.EstimateWarning")
def test_real_session_that_sleeps_has_nearly_nothing() -> None:
    """What the meter itself works is all that is left: a few hundredths of the capacity."""
    with EnergyMeter(scope="process", backends=["cpu_estimate"], phase="other") as meter:
        threading.Event().wait(1.0)
    assert shares(meter.session, "cpu-estimate", "share_ratio")["process"] < 0.05


# -- files ---------------------------------------------------------------------------------------


def test_loading_gives_the_same_tables(clock: FakeClock, times: FakeTimes, tmp_path: Path) -> None:
    """All tables of a process are computed again from what was saved."""
    session = gpu_session(clock, times, [[GpuUse(OWN_PID, 0.5), GpuUse(7, 0.25)]])
    loaded = mlmeter.load(session.save(tmp_path / "run"))
    for name in TABLES:
        assert session._frame(name).equals(loaded._frame(name)), name
    assert loaded.summary() == session.summary()


def test_journal_written_while_it_ran_is_the_session(
    clock: FakeClock, times: FakeTimes, tmp_path: Path
) -> None:
    """CPU times and users of GPUs come to it piece by piece."""
    times.load(2, 1)
    backend = gpu(clock)
    backend.uses = [[GpuUse(OWN_PID, 0.5), GpuUse(7, 0.25)]]
    cpu = FakeBackend.with_power(clock, WATTS)
    with process_meter(clock, times, cpu, backend, output_dir=tmp_path) as meter:
        for _ in range(5):
            with meter.inference("step"):
                advance(meter, 1)
    assert meter.run_directory is not None
    loaded = mlmeter.load(meter.run_directory)
    assert len(loaded.recording.process.at_ns) > 20  # type: ignore[union-attr]
    for name in TABLES:
        assert meter.session._frame(name).equals(loaded._frame(name)), name


def test_shares_csv_reads_back(clock: FakeClock, times: FakeTimes, tmp_path: Path) -> None:
    """Four rows per domain and four of the total; absent numbers are empty cells."""
    session = gpu_session(clock, times, ["no permission"])
    session.to_csv(tmp_path / "shares.csv", table="shares")
    frame = pd.read_csv(tmp_path / "shares.csv")
    assert list(frame["part"]) == list(PARTS) * 3
    parts = frame.set_index(["domain", "part"])["energy_joules"]
    assert np.isnan(parts["gpu-0", "process"])
    assert parts["total"].sum() == pytest.approx(1500, rel=1e-3)


def test_summary_tells_the_parts(clock: FakeClock, times: FakeTimes) -> None:
    """The text says whose energy it is, within 80 columns."""
    text = gpu_session(clock, times, [[GpuUse(OWN_PID, 0.5), GpuUse(7, 0.25)]]).summary()
    assert "this process and its children" in text
    assert max(map(len, text.splitlines())) <= 80


def test_machine_scope_has_no_shares(clock: FakeClock) -> None:
    """The whole machine has nobody to share with."""
    meter = fake_meter(FakeBackend([fake_domain()], [lambda now: now], clock), clock=clock)
    with meter:
        clock.advance(1)
    assert len(meter.session.shares()) == 0
    assert meter.session.recording.process is None
