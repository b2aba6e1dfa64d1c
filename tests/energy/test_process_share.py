"""Laws of the shares of a process: they add up, they book in time, and the truth is in the interval."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.energy.process_rows import ALONE, SHARED, TICK_NS, UNKNOWN, UNUSED, GpuRows, ProcessRows
from mlmeter.energy.process_share import booked_in_time, cpu_shares, gpu_shares, unexplained_ns
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter
from tests.runtime.fake_processes import FakeTimes

SECOND = 1_000_000_000
CPUS = 4


def rows(process: list[int], busy: list[int], idle: list[int]) -> ProcessRows:
    """Return readings once a second; times in ticks."""
    columns = [[SECOND * number for number in range(len(busy))]]
    columns += [[value * TICK_NS for value in column] for column in (process, busy, idle)]
    columns.append([1] * len(busy))
    return ProcessRows(*(array("q", column) for column in columns))


def gpu_rows(states: list[int], own: list[float], everyone: list[float]) -> GpuRows:
    at = array("q", [SECOND * number for number in range(len(states))])
    return GpuRows(at, array("q", states), array("d", own), array("d", everyone))


steps = st.lists(st.tuples(*[st.integers(0, 400)] * 3), min_size=1, max_size=20)


@given(steps)
def test_parts_add_up_to_the_whole(changes: list[tuple[int, int, int]]) -> None:
    """Whatever the readings say, no part is negative and all together are 1, with a baseline or without."""
    process, busy, idle = (np.cumsum([0, *column]).tolist() for column in zip(*changes, strict=True))
    shares = cpu_shares(rows(process, busy, idle), 0)
    assert shares is not None
    joules = np.linspace(0, 50, len(changes))
    for idle_watts in (None, 0.0, 20.0, 1000.0):
        parts = shares.parts(joules, np.ones(len(changes)), idle_watts)
        assert parts.min() >= -1e-12
        assert np.allclose(parts.sum(axis=0), 1.0)
        assert (shares.half(parts, idle_watts) >= 0).all()


@given(steps)
def test_no_interval_has_more_than_the_cpus_worked(changes: list[tuple[int, int, int]]) -> None:
    """Late bookings go back, the end stays, and what fits stays where it is."""
    process, busy, _ = (np.cumsum([0, *column]) for column in zip(*changes, strict=True))
    moved = booked_in_time(process, busy)
    assert moved[-1] == process[-1]
    assert (np.diff(moved) >= 0).all()
    assert (np.diff(moved) <= np.diff(busy)).all()
    assert (moved >= process).all()
    if (np.diff(process) <= np.diff(busy)).all():
        assert (moved == process).all()


def test_child_that_is_booked_at_its_end_counts_where_it_worked() -> None:
    """300 ticks that show up in the last second were worked in the three before: one CPU, all busy."""
    shares = cpu_shares(rows([0, 0, 0, 300], [0, 100, 200, 300], [0, 100, 200, 300]), 0)
    assert shares is not None
    assert shares.work.tolist() == [1, 1, 1]
    assert shares.usage.tolist() == [0.5, 0.5, 0.5]


def test_time_that_no_cpu_has_worked_is_found() -> None:
    """500 ticks of the process while all CPUs worked 300."""
    assert unexplained_ns(rows([0, 500], [0, 300], [0, 0])) == 200 * TICK_NS
    assert unexplained_ns(rows([0, 300], [0, 300], [0, 0])) == 0
    assert unexplained_ns(rows([0], [0], [0])) == 0


def test_cpu_that_is_taken_offline_changes_nothing() -> None:
    """Its times disappear from the machine's and come back; no share leaves 0 to 1."""
    shares = cpu_shares(rows([0, 10, 20, 30], [100, 50, 60, 200], [100, 20, 30, 200]), 0)
    assert shares is not None
    assert ((shares.work >= 0) & (shares.work <= 1)).all()


def test_readings_that_are_close_are_one() -> None:
    """A reading 3 ms after another tells nothing; the last one counts for both."""
    at = [0, 100, 103, 200, 203]
    cumulative = ([0, 5, 6, 10, 11], [0, 10, 11, 20, 21], [0, 10, 10, 20, 20])
    columns = [[value * TICK_NS for value in column] for column in cumulative]
    times = [value * 1_000_000 for value in at]
    found = ProcessRows(*(array("q", column) for column in (times, *columns, [1] * 5)))
    shares = cpu_shares(found, 0)
    assert shares is not None
    assert shares.times == pytest.approx([0, 0.1, 0.203])
    assert shares.work == pytest.approx([5 / 10, 6 / 11])
    assert not shares.unknown


def test_single_reading_tells_nothing() -> None:
    """One reading makes no interval."""
    assert cpu_shares(rows([0], [0], [0]), 0) is None
    assert gpu_shares(gpu_rows([ALONE], [0], [0]), 0) is None


@pytest.mark.parametrize(
    ("states", "own", "everyone", "parts"),
    [
        ([ALONE, ALONE], [0, 0], [0, 0], [1, 0, 0, 0]),
        ([UNUSED, UNUSED], [0, 0], [0, 0], [0, 0, 1, 0]),
        ([SHARED, SHARED], [0, 0.3], [0, 0.6], [0.3, 0.3, 0.4, 0]),
        # More than all time: three that were told 60 % each.
        ([SHARED, SHARED], [0, 0.6], [0, 1.8], [1 / 3, 2 / 3, 0, 0]),
        # Others have left since the reading before, which tells how busy they were.
        ([SHARED, ALONE], [0.5, 0], [1.0, 0], [0.5, 0.5, 0, 0]),
        ([UNUSED, ALONE], [0, 0], [0, 0], [1, 0, 0, 0]),
        ([ALONE, UNKNOWN], [0, 0], [0, 0], [0, 0, 0, 1]),
        ([UNKNOWN, ALONE], [0, 0], [0, 0], [0, 0, 0, 1]),
    ],
)
def test_parts_of_a_gpu(
    states: list[int], own: list[float], everyone: list[float], parts: list[float]
) -> None:
    """One interval between two readings of who uses a GPU."""
    shares = gpu_shares(gpu_rows(states, own, everyone), 0)
    assert shares is not None
    assert shares.parts(np.array([10.0]), np.ones(1), None)[:, 0] == pytest.approx(parts)


loads = st.lists(
    st.tuples(st.integers(1, 9), st.floats(0, CPUS), st.floats(0, 1), st.booleans()), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(loads, st.floats(5, 200))
def test_truth_lies_in_every_interval(stretches: list[tuple[int, float, float, bool]], watts: float) -> None:
    """Random loads, with windows or without: 100 W on 4 CPUs cost a process 25 J per CPU second."""
    clock = FakeClock()
    times = FakeTimes(clock, CPUS)
    backend = FakeBackend.with_power(clock, watts)
    meter = fake_meter(backend, clock=clock, process_times=times, scope="process")
    truths = []
    with meter:
        for tenths, own, others, opens in stretches:
            times.load(own, others * (CPUS - own))
            truth = watts * own / CPUS * tenths * 0.07
            if opens:
                truths.append(truth)
                with meter.window("w"):
                    advance(meter, tenths * 0.07)
            else:
                advance(meter, tenths * 0.07)
    total = sum(watts * own / CPUS * tenths * 0.07 for tenths, own, _, _ in stretches)
    session = meter.session
    frame = session.windows().query("scope == 'inclusive' and domain == 'fake-0'")
    # Counts of microjoules, and times of nanoseconds.
    tolerance = 1e-5 * watts + 1e-5
    for row, truth in zip(frame.itertuples(), [total, *truths], strict=True):
        assert row.low_joules - tolerance <= truth <= row.high_joules + tolerance
    parts = session.shares().query("domain == 'fake-0'")["energy_joules"]
    assert parts.sum() == pytest.approx(session.domains()["energy_joules"][0], rel=1e-9)
