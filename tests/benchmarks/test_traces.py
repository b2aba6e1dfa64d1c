"""Counters made from metered power are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import trace_table
import traces
from traces import BOARDS, COUNT_JOULES, ON, Board, Counter, Trace, rows_of, trace_of


@pytest.fixture(params=BOARDS, ids=lambda board: board.name)
def trace(request: pytest.FixtureRequest) -> Trace:
    board: Board = request.param
    if not (traces.TRACES / f"{board.file}-edges.csv").exists():
        pytest.skip("a source distribution leaves the traces out")
    return trace_of(board)


def test_set_up_is_that_of_the_measurement(trace: Trace) -> None:
    """Windows, energy and powers of the load are the known ones."""
    line, right = trace_table._set_up_line(trace)
    assert right, line


def test_counter_counts_the_energy(trace: Trace) -> None:
    """From refresh to refresh the counter shows the true energy, up to one count."""
    rows = rows_of(trace, Counter(0.05, 0.4), seed=0)
    truth = trace.energy_at(rows.refreshes) - trace.energy_at(rows.refreshes[:1])
    assert np.abs(rows.joules - truth).max() <= COUNT_JOULES
    assert (rows.after < rows.refreshes + 1e-12).all()
    assert (rows.refreshes <= rows.before).all()


def test_lagging_counter_shows_the_past(trace: Trace) -> None:
    """A refresh shows what had been used a lag before."""
    rows = rows_of(trace, Counter(0.05, 0.4, lag_seconds=0.02), seed=0)
    past = trace.energy_at(rows.refreshes - 0.02)
    assert np.abs(np.diff(rows.joules) - np.diff(past)).max() <= 2 * COUNT_JOULES


def test_part_time_counter_takes_what_it_sees_for_all(trace: Trace) -> None:
    """A step is the energy of the last quarter of a period, times 4."""
    rows = rows_of(trace, Counter(0.1, 0.4, seen_ratio=0.25), seed=0)
    seen = trace.energy_at(rows.refreshes) - trace.energy_at(rows.refreshes - 0.025)
    assert np.abs(np.diff(rows.joules) - 4 * seen[1:]).max() <= 2 * COUNT_JOULES


def test_simpler_methods_are_right_about_long_windows(trace: Trace) -> None:
    """Over the whole load two readings and interpolation are right to a few periods' energy."""
    rows = rows_of(trace, Counter(0.02, 0.4), seed=0)
    starts, ends = trace.spans_of(ON)
    truth = trace.true_joules(starts[:1], ends[-1:])[0]
    for joules in trace_table.simpler(rows, starts[:1], ends[-1:]):
        assert joules[0] == pytest.approx(truth, rel=0.005)


def test_tables_go_on_without_the_traces(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Where the data is missing the table says so and nothing fails."""
    monkeypatch.setattr(traces, "TRACES", tmp_path)
    trace_of.cache_clear()
    (line,) = trace_table.trace_lines()
    assert "the data is not here" in line
    trace_of.cache_clear()
