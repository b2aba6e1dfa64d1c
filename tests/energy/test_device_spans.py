"""Windows by the times of a device: consistent nesting, whatever the device did, and clocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmeter.energy.device_spans import References, on_device
from mlmeter.energy.windows import Windows, hulls, resolve_ownership
from tests.energy.test_laws import window_sets

NAN = float("nan")


def references(*rows: tuple[int, int, int]) -> References:
    return References(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


@st.composite
def marked_windows(draw: st.DrawFn) -> tuple[Windows, np.ndarray, np.ndarray]:
    """Windows of several threads, some of whose edges a device reached, at any time."""
    windows = draw(window_sets())
    edge = st.one_of(st.just(NAN), st.just(float("inf")), st.floats(-1, 12))
    size = len(windows.owner)
    start = np.array([NAN, *(draw(edge) for _ in range(size - 1))])
    end = np.array([NAN, *(draw(edge) for _ in range(size - 1))])
    return windows, start, end


@given(marked_windows())
def test_device_windows_are_windows(marked: tuple[Windows, np.ndarray, np.ndarray]) -> None:
    """No negative length, nothing outside the session, and every instant has an owner."""
    windows, start, end = marked
    found = on_device(windows, start, end, 1e-6)
    assert (found.end >= found.start).all()
    assert found.start.min() >= 0
    assert found.end.max() <= windows.end[0]
    assert (found.start[0], found.end[0]) == (windows.start[0], windows.end[0])
    ownership = resolve_ownership(found)
    assert (ownership.owners > 0).all()
    assert ownership.share_out(np.diff(ownership.edges)).sum() == pytest.approx(10.0)


@given(marked_windows())
def test_nesting_is_kept(marked: tuple[Windows, np.ndarray, np.ndarray]) -> None:
    """A window that was inside another one on the host is inside it on the device."""
    windows, start, end = marked
    before, after = hulls(windows), hulls(on_device(windows, start, end, 0.0))
    for row in range(1, len(windows)):
        parent = windows.parent[row]
        if before[0][parent] <= before[0][row] and before[1][row] <= before[1][parent]:
            assert after[0][parent] <= after[0][row]
            assert after[1][row] <= after[1][parent]


@given(marked_windows())
def test_known_edges_without_children_stay(marked: tuple[Windows, np.ndarray, np.ndarray]) -> None:
    """What the device told of an innermost window is not changed."""
    windows, start, end = marked
    found = on_device(windows, start, end, 0.0)
    childless = ~np.isin(windows.owner, windows.parent)
    for row in np.flatnonzero(childless & ~np.isnan(start) & ~np.isnan(end)):
        assert found.start[row] == min(max(start[row], 0.0), 10.0)
        assert found.end[row] == min(max(end[row], found.start[row]), 10.0)


@given(window_sets())
def test_without_marks_nested_windows_do_not_change(windows: Windows) -> None:
    """Host times inside host times stay what they are."""
    nothing = np.full(len(windows.owner), NAN)
    found = on_device(windows, nothing, nothing, 0.0)
    assert found.start.tolist() == windows.start.tolist()
    assert found.end.tolist() == windows.end.tolist()


def test_times_between_references_are_linear_and_beyond_them_drift_on() -> None:
    """0.1 % drift: the host's clock is the slower one."""
    drifting = references((0, 500, 10), (1_000_000, 999_500 + 0, 10), (3_000_000, 2_997_500, 10))
    asked = np.array([0, 500_000, 1_000_000, 2_000_000, 3_000_000, 4_000_000])
    expected = [500, 500_000, 999_500, 1_998_500, 2_997_500, 2_997_500 + 999_000]
    assert drifting.host_times(asked).tolist() == expected


def test_one_reference_is_an_offset() -> None:
    """No drift is known then."""
    assert references((0, 77, 10)).host_times(np.array([0, 10**9])).tolist() == [77, 77 + 10**9]


def test_nanoseconds_survive_years() -> None:
    """Large offsets and long times do not cost precision."""
    far, long = 2**61, 10**17
    found = references((0, far, 1), (long, far + long + 7, 1)).host_times(np.array([long - 1, long]))
    assert found.tolist() == [far + long + 6, far + long + 7]


def test_sigma_is_that_of_a_rectangle() -> None:
    """The instant lies anywhere between the host's two stamps."""
    assert references((0, 0, 3_000), (1, 1, 3_000)).sigma_seconds == pytest.approx(3e-6 / 3**0.5)
