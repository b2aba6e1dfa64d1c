"""The laws of the pure part, on random counters, traces and windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlmeter.energy.attribution import Attribution
from mlmeter.energy.counters import CounterRows
from mlmeter.energy.labels import LabelledWindows
from mlmeter.energy.timeline import CounterTimeline, timeline_of
from mlmeter.energy.windows import Windows, add_to_ancestors, resolve_ownership, with_descendants
from mlmeter.measurement import Domain, Reading
from mlmeter.testing import fake_domain

settings.register_profile("laws", deadline=None, derandomize=True, max_examples=150)
settings.load_profile("laws")

SECOND = 1_000_000_000
LIMIT_WATTS = 500.0
END_SECONDS = 10.0


@st.composite
def window_sets(draw: st.DrawFn) -> Windows:
    """Windows of several threads: nested, overlapping, interrupted, empty, outliving their parents."""
    count = draw(st.integers(0, 12))
    parent, owner, start, end = [-1], [0], [0.0], [END_SECONDS]
    grid = st.integers(0, 100).map(lambda tick: tick / 10)
    for row in range(1, count + 1):
        parent.append(draw(st.integers(0, row - 1)))
        for _ in range(draw(st.integers(1, 2))):
            times = sorted((draw(grid), draw(grid)))
            owner.append(row)
            start.append(times[0])
            end.append(times[1])
    return _disjoint(parent, owner, start, end)


def _disjoint(parent: list[int], owner: list[int], start: list[float], end: list[float]) -> Windows:
    """Drop the second interval of a window where it overlaps the first: a window runs once at a time."""
    kept: list[int] = []
    for k, row in enumerate(owner):
        others = [j for j in kept if owner[j] == row]
        if all(end[k] <= start[j] or start[k] >= end[j] for j in others):
            kept.append(k)
    return Windows(
        parent=np.array(parent),
        owner=np.array([owner[k] for k in kept]),
        start=np.array([start[k] for k in kept]),
        end=np.array([end[k] for k in kept]),
        label=np.arange(len(parent)),
    )


def owners_at(windows: Windows, time: float) -> set[int]:
    """Who owns an instant, by the definition: open, and no window inside it open, however deep."""
    open_rows = {
        int(row)
        for row, start, end in zip(windows.owner, windows.start, windows.end, strict=True)
        if start <= time < end
    }
    return open_rows - {ancestor for row in open_rows for ancestor in ancestors(windows, row)}


def ancestors(windows: Windows, row: int) -> list[int]:
    """Rows round a window, innermost first."""
    found = []
    while (row := int(windows.parent[row])) >= 0:
        found.append(row)
    return found


def inclusive_truth(windows: Windows, edges: NDArray[np.float64], steps: NDArray[np.float64]) -> list[float]:
    """Energy of each window with what is inside it, while it is open, by the definition."""
    sums = [0.0] * len(windows)
    hulls = [windows.owner == row for row in range(len(windows))]
    starts, ends = [min(windows.start[own]) for own in hulls], [max(windows.end[own]) for own in hulls]
    for left, right, joules in zip(edges[:-1].tolist(), edges[1:].tolist(), steps.tolist(), strict=True):
        owners = owners_at(windows, (left + right) / 2)
        for owner in owners:
            for row in (owner, *ancestors(windows, owner)):
                if starts[row] - 1e-9 <= left and right <= ends[row] + 1e-9:
                    sums[row] += joules / len(owners)
    return sums


@given(window_sets())
def test_ownership_is_the_definition(windows: Windows) -> None:
    """At every instant the owners are the open windows in which no other is open."""
    ownership = resolve_ownership(windows)
    for left, right in pairwise(ownership.edges.tolist()):
        middle = (left + right) / 2
        found = {
            int(row)
            for row, start, end in zip(ownership.owner, ownership.start, ownership.end, strict=True)
            if start <= middle < end
        }
        assert found == owners_at(windows, middle)


@given(window_sets())
def test_shares_fill_the_session(windows: Windows) -> None:
    """The shares of all owners add up to the session's length, whatever overlaps."""
    ownership = resolve_ownership(windows)
    assert ownership.share_out(np.diff(ownership.edges)).sum() == pytest.approx(END_SECONDS, rel=1e-12)


@given(window_sets())
def test_ancestors_and_descendants_agree(windows: Windows) -> None:
    """What a window gets from below is what is inside it."""
    values = np.arange(1.0, len(windows) + 1.0)
    sums = add_to_ancestors(windows.parent, values[None, :])[0]
    for row in range(len(windows)):
        chosen = np.zeros(len(windows), dtype=np.bool_)
        chosen[row] = True
        assert sums[row] == values[with_descendants(windows.parent, chosen)].sum()


@st.composite
def traces(draw: st.DrawFn, least_watts: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and cumulative joules of a piecewise constant power within the limit."""
    steps = draw(
        st.lists(st.tuples(st.floats(0.01, 2), st.floats(least_watts, LIMIT_WATTS)), min_size=2, max_size=12)
    )
    seconds = np.cumsum([0.0, *(length for length, _ in steps)])
    seconds *= END_SECONDS / seconds[-1]
    watts = np.array([power for _, power in steps])
    return seconds, np.concatenate(([0.0], np.cumsum(watts * np.diff(seconds))))


def metered_rows(
    trace: tuple[NDArray[np.float64], NDArray[np.float64]],
    domain: Domain,
    polls: list[float],
    refresh_phase: float,
) -> CounterRows:
    """Feed the counter of a trace to the rows, polled at the given times."""
    rows = CounterRows(domain)
    period, modulus = domain.update_period_seconds, domain.modulus
    # Two polls in one nanosecond must not see different refreshes.
    for at_ns in sorted({round(poll * SECOND) for poll in polls}):
        shown_at = (np.floor(at_ns / SECOND / period - refresh_phase) + refresh_phase) * period
        value = int(np.interp(max(shown_at, 0.0), *trace) / (domain.joules_per_count or 1.0))
        rows.add(Reading(0, value % modulus if modulus else value, at_ns, at_ns))
    return rows


domains = st.sampled_from(
    [
        fake_domain(update_period_seconds=0.001, max_power_watts=LIMIT_WATTS),
        fake_domain(update_period_seconds=0.001, max_power_watts=LIMIT_WATTS, modulus=700_000_000),
        fake_domain(update_period_seconds=0.1, max_power_watts=LIMIT_WATTS, joules_per_count=0.001),
    ]
)
# Often enough that no counter wraps unseen.
poll_times = st.lists(st.floats(0, END_SECONDS), max_size=40).map(
    lambda extra: [*np.arange(0, END_SECONDS + 0.15, 0.25).tolist(), END_SECONDS + 0.2, *extra]
)
phases_of_refresh = st.floats(0, 0.99)


@given(traces(), domains, poll_times, phases_of_refresh, window_sets())
def test_truth_lies_within_every_interval(trace, domain, polls, refresh_phase, windows):  # type: ignore[no-untyped-def]
    """True energies of session, windows and phases lie within their bounds, through wraps and overlaps."""
    timeline = timeline_of(domain, metered_rows(trace, domain, polls, refresh_phase).snapshot(), 0)
    ownership = resolve_ownership(windows)
    phase_of_window = np.arange(len(windows)) % 3
    result = Attribution(domain, timeline, LabelledWindows(windows, ownership, phase_of_window))
    steps = np.diff(np.interp(ownership.edges, *trace))
    truth = np.bincount(ownership.owner, weights=ownership.share_out(steps), minlength=len(windows))
    slack = 1e-6 + 2 * (domain.joules_per_count or 0.0)
    for energies, true in (
        (result.exclusive, truth),
        (result.inclusive, np.array(inclusive_truth(windows, ownership.edges, steps))),
        (result.phases, np.bincount(phase_of_window, weights=truth, minlength=result.phases.low.size)),
        (result.total, truth.sum()),
    ):
        assert (energies.low <= true + slack).all()
        assert (energies.high >= true - slack).all()


@given(traces(), domains, poll_times, phases_of_refresh, window_sets())
def test_everything_adds_up(trace, domain, polls, refresh_phase, windows):  # type: ignore[no-untyped-def]
    """Exclusive energies of a tree, and phases, add up to the session; none is negative."""
    timeline = timeline_of(domain, metered_rows(trace, domain, polls, refresh_phase).snapshot(), 0)
    phase_of_window = np.arange(len(windows)) % 3
    result = Attribution(
        domain, timeline, LabelledWindows(windows, resolve_ownership(windows), phase_of_window)
    )
    total = result.total.joules[0]
    assert result.exclusive.joules.sum() == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert result.phases.joules.sum() == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert result.inclusive.joules[0] == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert (result.exclusive.joules >= 0).all()


@given(
    traces(),
    domains,
    poll_times,
    phases_of_refresh,
    st.lists(st.floats(0, END_SECONDS), min_size=3, max_size=9),
)
def test_the_curve_rises_and_is_additive(trace, domain, polls, refresh_phase, times):  # type: ignore[no-untyped-def]
    """E(a, c) = E(a, b) + E(b, c), and no span has a negative energy."""
    timeline = timeline_of(domain, metered_rows(trace, domain, polls, refresh_phase).snapshot(), 0)
    energies = timeline.energy_at(np.sort(np.array(times)))
    assert (np.diff(energies) >= -1e-9).all()


@given(st.lists(st.integers(0, 600), min_size=2, max_size=60), st.integers(0, 999))
def test_unwrap_undoes_the_modulus(steps: list[int], first: int) -> None:
    """unwrap(x mod m) = x while the power leaves no doubt how often the counter has wrapped."""
    # 1,000 J a wrap and 1 ms between readings: the limit allows just less than one wrap.
    domain = fake_domain(modulus=1_000, joules_per_count=1.0, max_power_watts=900_000.0)
    rows, total = CounterRows(domain), first
    for number, step in enumerate([0, *steps]):
        total += step
        at_ns = (number + 1) * SECOND // 1_000
        rows.add(Reading(0, total % 1_000, at_ns, at_ns))
    found = rows.snapshot().counts
    assert (found[-1], rows.resets) == (sum(steps), 0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.data())
def test_old_and_repeated_readings_change_nothing(steps: list[int], data: st.DataObject) -> None:
    """A reading that is older than the last, or the same again, is dropped."""
    plain, noisy = CounterRows(fake_domain()), CounterRows(fake_domain())
    seen: list[Reading] = []
    total = 0
    for number, step in enumerate(steps):
        total += step
        at_ns = (number + 1) * SECOND // 100
        seen.append(Reading(0, total, at_ns, at_ns + 1_000))
        plain.add(seen[-1])
        noisy.add(seen[-1])
        noisy.add(data.draw(st.sampled_from(seen)))
    assert plain.snapshot() == noisy.snapshot()


# A row farther away can bound an instant better than the nearest one.
@example(
    trace=(np.array([0.0, 5.0, 10.0]), np.array([0.0, 1565.0, 1570.0])),
    polls=[*np.arange(0, END_SECONDS + 0.15, 0.25).tolist(), END_SECONDS + 0.2, 0.9375],
    refresh_phase=0.0,
    one=0.0,
    other=0.875,
)
@given(
    trace=traces(least_watts=1.0),
    polls=poll_times,
    refresh_phase=phases_of_refresh,
    one=st.floats(0, END_SECONDS),
    other=st.floats(0, END_SECONDS),
)
def test_more_readings_never_widen_the_bounds(trace, polls, refresh_phase, one, other):  # type: ignore[no-untyped-def]
    """A reading can only add knowledge; of a counter that stands still, it adds a doubt."""
    domain = fake_domain(update_period_seconds=0.1, max_power_watts=LIMIT_WATTS)
    start, end = np.array([min(one, other)]), np.array([max(one, other)])
    few = polls[: len(np.arange(0, END_SECONDS + 0.15, 0.25)) + 1]
    low, high = _bounds(trace, domain, few, refresh_phase, start, end)
    more_low, more_high = _bounds(trace, domain, polls, refresh_phase, start, end)
    assert more_low >= low - 1e-6
    assert more_high <= high + 1e-6


def _bounds(trace, domain, polls, refresh_phase, start, end):  # type: ignore[no-untyped-def]
    timeline = timeline_of(domain, metered_rows(trace, domain, polls, refresh_phase).snapshot(), 0)
    assert isinstance(timeline, CounterTimeline)
    # The limit widens with what was seen; here it must be the same for both.
    timeline.max_power_watts = LIMIT_WATTS
    low, high = timeline.bounds(start, end)
    return low[0], high[0]


@given(traces(), domains, poll_times, phases_of_refresh, st.floats(0.1, 10))
def test_power_scales_energy(trace, domain, polls, refresh_phase, factor):  # type: ignore[no-untyped-def]
    """A count that is worth k times as much gives k times the energy."""
    rows = metered_rows(trace, domain, polls, refresh_phase).snapshot()
    from dataclasses import replace

    scaled = replace(domain, joules_per_count=(domain.joules_per_count or 0.0) * factor, max_power_watts=1e9)
    times = np.linspace(0, END_SECONDS, 11)
    plain = timeline_of(replace(domain, max_power_watts=1e9), rows, 0).energy_at(times)
    assert timeline_of(scaled, rows, 0).energy_at(times) == pytest.approx(plain * factor, rel=1e-6, abs=1e-6)


@given(traces(), domains, poll_times, phases_of_refresh, st.integers(0, 10**15))
def test_a_shift_in_time_changes_nothing(trace, domain, polls, refresh_phase, shift_ns):  # type: ignore[no-untyped-def]
    """Energies depend on spans, not on when the clock was started."""
    plain, moved = CounterRows(domain), CounterRows(domain)
    for poll in sorted(polls):
        value = int(np.interp(poll, *trace) * 1000)
        at_ns = round(poll * SECOND)
        plain.add(Reading(0, value, at_ns, at_ns))
        moved.add(Reading(0, value, at_ns + shift_ns, at_ns + shift_ns))
    times = np.linspace(0, END_SECONDS, 11)
    first = timeline_of(domain, plain.snapshot(), 0).energy_at(times)
    assert timeline_of(domain, moved.snapshot(), shift_ns).energy_at(times) == pytest.approx(first, abs=1e-9)
