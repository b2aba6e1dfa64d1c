"""The simulated month in its short form: an hour, with chapters of minutes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mlmeter.chapters import closing
from mlmeter.chapters.closing import Limits

MONTH = Path(__file__).parents[2] / "benchmarks" / "soak" / "month.py"


def test_an_hour_of_the_month_has_the_totals_of_the_simulation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Totals, phases, windows and work are right although most of it is forgotten."""
    spec = importlib.util.spec_from_file_location("month", MONTH)
    assert spec is not None
    assert spec.loader is not None
    month = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(month)
    monkeypatch.setattr(closing, "Limits", lambda: Limits(rows=1_500, windows=200, context_seconds=5.0))
    # What else this process has in memory is not the session's.
    monkeypatch.setattr(month, "LARGEST_MIB", float("inf"))
    session, counters = month.simulate(days=1 / 24, tick_seconds=5.0, windows=600, domains=2)
    (past,) = session.recording.chapters
    assert past.windows > 300
    assert len(session.recording.windows) < 200
    assert month.judge(session, counters, 600), capsys.readouterr().out
