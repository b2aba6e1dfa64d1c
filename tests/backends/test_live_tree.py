"""The live tree itself: its counters follow the energy that it calls true."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from mlmeter.backends.rapl import RaplBackend
from mlmeter.measurement import Reading
from tests.backends.live_powercap_process import Schedule
from tests.backends.powercap_tree import LivePowercapTree, SquareWave


def _readings(backend: RaplBackend, count: int, spacing_seconds: float) -> list[list[Reading]]:
    rows = []
    for _ in range(count):
        row = [item for item in backend.read() if isinstance(item, Reading)]
        rows.append(row)
        time.sleep(spacing_seconds)
    return rows


def _unwrapped(values: list[int], modulus: int) -> list[int]:
    totals = [0]
    for before, after in itertools.pairwise(values):
        totals.append(totals[-1] + (after - before) % modulus)
    return totals


def test_counters_follow_the_true_energy_through_wraps(tmp_path: Path) -> None:
    """A counter is behind the truth by at most what is used in one gap between updates, wraps or not."""
    modulus = 2_000_000
    power = {"package-0": SquareWave(10, 210, 0.02), "dram-0": 5.0}
    with LivePowercapTree(tmp_path, power, modulus_microjoules=modulus) as tree:
        backend = RaplBackend(tree.root, cpuinfo=tree.tree.cpuinfo)
        names = [domain.name for domain in backend.open()]
        rows = _readings(backend, 120, 0.002)
        backend.close()
        gap_seconds = tree.largest_update_gap_seconds
    for position, name in enumerate(names):
        first = rows[0][position]
        totals = _unwrapped([row[position].value for row in rows], modulus)
        bound = {"package-0": 210, "dram-0": 5}[name] * (gap_seconds + 0.0005) + 1e-6
        for row, total in zip(rows, totals, strict=True):
            error = total * 1e-6 - tree.true_joules(first.end_ns, row[position].end_ns, name)
            assert abs(error) <= bound, f"{name}: {error} J, largest gap {gap_seconds} s"
    assert _unwrapped([row[0].value for row in rows], modulus)[-1] > 10 * modulus


def test_counters_are_refreshed_about_every_millisecond(tmp_path: Path) -> None:
    """In 0.3 s a running counter takes at least 100 different values, and none is lower than the last."""
    with LivePowercapTree(tmp_path, {"package-0": 50.0}) as tree:
        backend = RaplBackend(tree.root, cpuinfo=tree.tree.cpuinfo)
        backend.open()
        values = [row[0].value for row in _readings(backend, 600, 0.0003)]
        backend.close()
    assert values == sorted(values)
    assert len(set(values)) >= 100


def test_power_set_by_the_test_enters_the_truth_from_the_time_told(tmp_path: Path) -> None:
    """After `set_watts` counter and truth go on together, at the new power."""
    with LivePowercapTree(tmp_path, {"package-0": 20.0}) as tree:
        backend = RaplBackend(tree.root, cpuinfo=tree.tree.cpuinfo)
        backend.open()
        (before,) = _readings(backend, 1, 0)[0]
        changed_ns = tree.set_watts("package-0", 120.0)
        time.sleep(0.1)
        (after,) = _readings(backend, 1, 0)[0]
        backend.close()
        gap_seconds = tree.largest_update_gap_seconds
    assert before.end_ns < changed_ns < after.begin_ns
    true_joules = tree.true_joules(before.end_ns, after.end_ns, "package-0")
    expected = 20 * (changed_ns - before.end_ns) / 1e9 + 120 * (after.end_ns - changed_ns) / 1e9
    assert true_joules == pytest.approx(expected, rel=1e-9)
    assert abs((after.value - before.value) * 1e-6 - true_joules) <= 120 * (gap_seconds + 0.0005)


def test_a_change_can_be_set_for_a_later_time(tmp_path: Path) -> None:
    """A change asked for in the future holds from exactly then."""
    with LivePowercapTree(tmp_path, {"psys": 20.0}) as tree:
        at_ns = time.perf_counter_ns() + 50_000_000
        assert tree.set_watts("psys", 0.0, at_ns=at_ns) == at_ns
        assert tree.true_joules(at_ns - 1_000_000, at_ns + 10**9, "psys") == 0.02


def test_the_process_ends_with_the_tree(tmp_path: Path) -> None:
    """Leaving the context ends the writing process: counters stand still afterwards."""
    with LivePowercapTree(tmp_path, {"package-0": 50.0}) as tree:
        process = tree._process
    assert process is not None
    assert process.returncode == 0


def test_energy_of_a_square_wave_is_exact() -> None:
    """10 W and 210 W for 0.1 s each: 22 J in a period, 1 J in its first half, wherever it is cut."""
    schedule = Schedule([(1_000, 10_000_000, 210_000_000, 100_000_000)])
    assert schedule.femtojoules(1_000, 200_001_000) == 22 * 10**15
    assert schedule.femtojoules(0, 100_001_000) == 1 * 10**15
    parts = [0, 5, 99_999_999, 100_001_000, 150_000_000, 987_654_321]
    pieces = sum(schedule.femtojoules(a, b) for a, b in itertools.pairwise(parts))
    assert pieces == schedule.femtojoules(0, 987_654_321)
