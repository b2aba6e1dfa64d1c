"""Suspends of the machine and steps of the wall clock: in no duration and in no energy, but an event."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from mlmeter import EnergyMeter, load
from mlmeter.clock import MonotonicClock
from mlmeter.sampling.clock_changes import MOST_CHANGES, ClockChanges
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter

DAY = 86_400.0
HOUR = 3_600.0


def messages(meter: EnergyMeter, kind: str) -> list[str]:
    events = meter.session.events()
    return list(events.loc[events["kind"] == kind, "message"])


def clock_facts(meter: EnergyMeter) -> dict[str, object]:
    facts = meter.session.recording.run.facts["clock"]
    assert isinstance(facts, dict)
    return facts


class Sleepy(FakeBackend):
    """A counter of 100 W of which a test decides what a suspend does to it."""

    def __init__(self, clock: FakeClock, **domain: object) -> None:
        self.extra = 0
        super().__init__([fake_domain(**domain)], [lambda now: now // 10 + self.extra], clock)


# -- suspend -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "cheap", "extra"),
    [
        (0.001, True, 0),
        (0.001, True, 5_000_000),
        (0.001, True, 36_000_000_000),
        (0.001, True, -1_400_000_000),
        (0.1, False, 5_000_000),
        (0.1, False, -1_400_000_000),
    ],
    ids=["stood", "5 J", "36 kJ", "fell", "slow, 5 J", "slow, fell"],
)
def test_suspend_is_in_no_duration_and_no_energy(
    clock: FakeClock, period: float, cheap: bool, extra: int
) -> None:
    """Whatever the counter did meanwhile: 20 s awake at 100 W, with a gap where it happened."""
    clock.advance(10)
    backend = Sleepy(clock, update_period_seconds=period, cheap_read=cheap)
    meter = fake_meter(backend, clock=clock)
    with meter:
        advance(meter, 5)
        with meter.window("asleep") as window:
            advance(meter, 5)
            clock.suspend(8 * HOUR)
            backend.extra = extra
            advance(meter, 5)
        advance(meter, 5)
    assert window.duration_seconds == pytest.approx(10, abs=1e-4)
    total = meter.session.total()
    assert total.energy_joules is not None
    assert total.low_joules is not None
    assert total.high_joules is not None
    gap_joules = 100 * (0.02 + period)
    assert 2000 - 2 * gap_joules <= total.energy_joules <= 2000 + 0.02 * 2000
    assert total.low_joules <= 2000 <= total.high_joules
    assert total.coverage_ratio == pytest.approx(1 - gap_joules / 2000, abs=0.01)
    energy = window.energy()
    assert energy.low_joules is not None
    assert energy.high_joules is not None
    assert 0 <= energy.low_joules <= 1000 <= energy.high_joules
    own, of_counter = messages(meter, "suspend")
    assert "the machine was suspended for 28800.0 s" in own
    assert "counted on while the machine was suspended" in of_counter
    assert messages(meter, "reset") == []


def test_other_windows_do_not_notice_a_suspend(clock: FakeClock) -> None:
    """Windows before and after have their energies, as narrow as ever."""
    backend = Sleepy(clock)
    meter = fake_meter(backend, clock=clock)
    windows = []
    with meter:
        advance(meter, 2)
        for _ in range(2):
            with meter.window("awake") as window:
                advance(meter, 5)
            windows.append(window)
            advance(meter, 1)
            clock.suspend(HOUR)
            backend.extra += 9_000_000
            advance(meter, 1)
    for window in windows:
        energy = window.energy()
        assert energy.resolved
        assert energy.energy_joules == pytest.approx(500, rel=0.01)


def test_what_was_read_just_before_a_suspend_is_not_lost(clock: FakeClock) -> None:
    """Readings that are put into the rows once a second keep their place on the hither side of it."""
    backend = Sleepy(clock)
    meter = fake_meter(backend, clock=clock)
    with meter:
        sampler = meter.recorder._sampler
        assert isinstance(sampler, Sampler)
        for _ in range(2):
            for _ in range(9):
                clock.advance(0.1)
                sampler.tick(booking=False)
            clock.suspend(HOUR)
            backend.extra += 9_000_000
        clock.advance(0.1)
        sampler.tick()
    total = meter.session.total()
    # All of 1.9 s but the two steps over a suspend.
    assert total.energy_joules == pytest.approx(170, abs=0.1)


def test_power_is_integrated_over_the_time_awake(clock: FakeClock) -> None:
    """A gauge has counted nothing: it needs no gap."""
    domain = fake_domain(
        name="gpu-0",
        kind="gpu",
        joules_per_count=None,
        watts_per_count=1.0,
        cheap_read=False,
        update_period_seconds=0.1,
    )
    meter = fake_meter(FakeBackend([domain], [100], clock), clock=clock)
    with meter:
        advance(meter, 5)
        clock.suspend(8 * HOUR)
        advance(meter, 5)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(1000, rel=0.01)
    assert total.coverage_ratio == pytest.approx(1.0, abs=0.03)
    assert len(messages(meter, "suspend")) == 1


def test_times_of_day_are_those_of_a_clock_on_the_wall(clock: FakeClock, tmp_path: Path) -> None:
    """Start, duration and suspend add up to the end, in the manifest and after loading."""
    meter = fake_meter(Sleepy(clock), clock=clock, output_dir=tmp_path)
    with meter:
        start_wall_ns = clock.wall_ns()
        advance(meter, 5)
        clock.suspend(HOUR)
        advance(meter, 5)
        end_wall_ns = clock.wall_ns()
    facts = clock_facts(meter)
    assert facts["suspended_seconds"] == HOUR
    assert facts["wall_clock_step_seconds"] == 0
    end = datetime.fromisoformat(str(facts["end_time_utc"])).timestamp()
    assert end == pytest.approx(end_wall_ns * 1e-9, abs=0.01)
    run = meter.session.recording.run
    assert end - run.start_wall_ns * 1e-9 == pytest.approx(run.duration_seconds + HOUR, abs=0.01)
    assert run.start_wall_ns == pytest.approx(start_wall_ns, abs=1e6)
    assert meter.run_directory is not None
    assert load(meter.run_directory).recording.run.facts["clock"] == facts


def test_a_step_just_before_the_end_is_in_the_manifest(clock: FakeClock) -> None:
    """The session ends before any round has seen that the wall clock was set."""
    meter = fake_meter(Sleepy(clock), clock=clock)
    with meter:
        clock.advance(0.3)
        clock.set_wall(HOUR)
    assert clock_facts(meter)["wall_clock_step_seconds"] == HOUR
    assert len(messages(meter, "clock")) == 1


def test_suspend_before_a_session_is_none_of_its_own(clock: FakeClock) -> None:
    """Between two meters nobody looks: what happened then belongs to neither."""
    meter = fake_meter(Sleepy(clock), clock=clock)
    with meter:
        advance(meter, 1)
    clock.suspend(HOUR)
    clock.set_wall(-DAY)
    again = EnergyMeter(backends=[Sleepy(clock)], sampler=meter._sampler)
    with again:
        advance(again, 1)
    for session in (meter, again):
        assert messages(session, "suspend") == messages(session, "clock") == []
        assert clock_facts(session)["suspended_seconds"] == 0


# -- the wall clock ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-DAY, "set back by 1 d 0.0 s"),
        (-HOUR, "set back by 3600.0 s"),
        (2.5, "set forward by 2.5 s"),
        (40 * 365 * DAY, "set forward by 14600 d 0.0 s"),
    ],
)
def test_step_of_the_wall_clock_is_one_event(
    clock: FakeClock, tmp_path: Path, seconds: float, words: str
) -> None:
    """NTP, or somebody who sets the date: durations and energies know nothing of it."""
    meter = fake_meter(Sleepy(clock), clock=clock, output_dir=tmp_path)
    with meter:
        start_wall_ns = clock.wall_ns()
        with meter.window("step") as window:
            advance(meter, 5)
            clock.set_wall(seconds)
            advance(meter, 5)
    assert window.duration_seconds == pytest.approx(10, abs=1e-4)
    total = meter.session.total()
    assert (total.energy_joules, total.coverage_ratio) == (pytest.approx(1000, rel=0.01), 1.0)
    (text,) = messages(meter, "clock")
    assert words in text
    assert messages(meter, "suspend") == []
    facts = clock_facts(meter)
    assert facts["wall_clock_step_seconds"] == seconds
    run = meter.session.recording.run
    assert run.id.startswith(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(start_wall_ns / 1e9)))
    (row,) = (tmp_path / "runs.csv").read_text().splitlines()[1:]
    assert row.split(",")[2].startswith("2023-11-14T22:13:20")
    assert datetime.fromisoformat(str(facts["end_time_utc"])).timestamp() * 1e9 == pytest.approx(
        start_wall_ns + 10e9, abs=1e7
    )


def test_slewed_clock_is_no_event(clock: FakeClock) -> None:
    """500 ppm for an hour are 1.8 s in all, and never a step."""
    meter = fake_meter(Sleepy(clock), clock=clock)
    with meter:
        for _ in range(3600):
            advance(meter, 1.0, 1.0)
            clock.set_wall(-0.0005)
    assert messages(meter, "clock") == []


def test_suspend_and_step_at_once_are_told_apart(clock: FakeClock) -> None:
    """A laptop that wakes up and gets the time from the network."""
    meter = fake_meter(Sleepy(clock), clock=clock)
    with meter:
        advance(meter, 1)
        clock.suspend(HOUR)
        clock.set_wall(-7.0)
        advance(meter, 1)
    assert "suspended for 3600.0 s" in messages(meter, "suspend")[0]
    assert ["set back by 7.0 s" in text for text in messages(meter, "clock")] == [True]


def test_two_runs_of_one_second_have_two_names(clock: FakeClock) -> None:
    """Also where the clock was set back between them."""
    names = []
    for _ in range(2):
        with fake_meter(Sleepy(clock), clock=clock) as meter:
            clock.advance(1)
        clock.set_wall(-1)
        names.append(meter.session.id)
    assert names[0] != names[1]
    assert names[0].split("-")[0] == names[1].split("-")[0]


# -- the looks by themselves ---------------------------------------------------------------------


class HeldUp(FakeClock):
    """A clock whose reader loses the processor for a while just after one of its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.held_seconds = 0.0

    def boot_ns(self) -> int:
        now = super().boot_ns()
        self.advance(self.held_seconds)
        return now


def test_thread_that_is_held_up_between_two_clocks_sees_nothing() -> None:
    """That is neither a suspend nor a step, then or at the next look; what really happened is seen there."""
    clock = HeldUp()
    changes = ClockChanges(clock)
    clock.held_seconds = 3.0
    assert changes.look() is None
    clock.held_seconds = 0.0
    assert changes.look() is None
    clock.held_seconds = 3.0
    clock.suspend(60)
    assert changes.look() is None
    clock.held_seconds = 0.0
    change = changes.look()
    assert change is not None
    assert (change.suspended_ns, change.step_ns) == (60_000_000_000, 0)


def test_clock_that_is_set_to_and_fro_fills_no_memory(clock: FakeClock) -> None:
    """Two programs that disagree on the time."""
    changes = ClockChanges(clock)
    for number in range(2 * MOST_CHANGES):
        clock.set_wall(5 if number % 2 else -5)
        assert changes.look() is not None
    assert len(changes.changes) == MOST_CHANGES


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock that goes on in suspend")
def test_clocks_of_this_machine_agree_while_nothing_happens() -> None:
    """CLOCK_BOOTTIME is ahead of the monotonic clock by what was ever suspended, and that stands still."""
    clock = MonotonicClock()
    changes = ClockChanges(clock)
    assert abs(clock.boot_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 1_000_000_000
    for _ in range(100):
        os.sched_yield()
        assert changes.look() is None
