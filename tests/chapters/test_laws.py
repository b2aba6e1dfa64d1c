"""What is forgotten changes no number: E(a, c) = E(a, b) + E(b, c)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmeter.chapters.closing import Limits
from mlmeter.energy.chapter import Chapter
from mlmeter.meter import EnergyMeter
from mlmeter.session import Session
from mlmeter.testing import advance
from tests.chapters.sessions import LARGE, SMALL, Machine, both, metered, steps

# Sums of some hundred numbers in another order.
ROUNDING = 1e-9
ADDED = ("energy_joules", "duration_seconds", "windows", "coverage_ratio", "mean_power_watts", "share_ratio")


def labelled(meter: EnergyMeter, number: int) -> Any:
    """A window with a phase, a name and work that depend on its number."""
    if number % 7 == 3:
        return meter.inference("predict", tokens=number)
    return meter.window("step", samples=64) if number % 5 else meter.window("load", phase="data")


def keyed(session: Session, table: str, *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in session.records(table)}


def assert_same_sums(short: Session, whole: Session, table: str, *keys: str, rel: float = ROUNDING) -> None:
    """Rows are the same, and so are all numbers that add up."""
    one, other = keyed(short, table, *keys), keyed(whole, table, *keys)
    assert one.keys() == other.keys()
    for key, row in one.items():
        for column in row:
            if column in ADDED or column in ("samples", "tokens") or column.startswith("joules_per_"):
                known = other[key][column]
                expected = known if known is None else pytest.approx(known, rel=rel, abs=1e-9)
                assert row[column] == expected, (key, column)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), st.integers(200, 260))
def test_a_session_in_chapters_has_the_sums_of_one_without(seed: int, count: int) -> None:
    """Totals, phases, names and work of fast counters are the same within rounding."""
    short, whole = both(steps(seed, count, labelled))
    total, known = short.total(), whole.total()
    assert total.energy_joules == pytest.approx(known.energy_joules, rel=ROUNDING)
    assert_same_sums(short, whole, "phases", "phase", "domain")
    assert_same_sums(short, whole, "window_names", "name", "phase", "domain")
    assert_same_sums(short, whole, "domains", "domain")


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32))
def test_windows_that_are_still_told_have_the_same_energy(seed: int) -> None:
    """Also those that began chapters ago, and the session itself."""
    short, whole = both(steps(seed, 220, labelled))
    keys = ("window", "domain", "scope")
    one, other = keyed(short, "windows", *keys), keyed(whole, "windows", *keys)
    assert one.keys() < other.keys()
    assert (0, "total", "exclusive") in one
    for key, row in one.items():
        for column in ("energy_joules", "start_seconds", "duration_seconds"):
            assert row[column] == pytest.approx(other[key][column], rel=1e-6, abs=1e-6), (key, column)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32))
def test_the_interval_of_a_sum_holds_what_the_simulation_has_used(seed: int) -> None:
    """The bounds of chapters add up to bounds."""
    truth: list[float] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        start_ns = machine.clock.now_ns()
        steps(seed, 200, labelled)(meter, machine)
        truth.append((machine.nanojoules(machine.clock.now_ns()) - machine.nanojoules(start_ns)) * 1e-9)

    total = metered(program, SMALL, domains=1).session.total()
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= truth[0] <= total.high_joules
    assert total.resolved


def test_fitted_slow_counters_agree_within_their_uncertainty() -> None:
    """A counter that is refreshed every 100 ms: other windows are fitted together, the energy is the same."""
    program = steps(3, 500, labelled)
    short, whole = both(program, period_seconds=0.1)
    one, other = keyed(short, "phases", "phase", "domain"), keyed(whole, "phases", "phase", "domain")
    assert short.total().energy_joules == pytest.approx(whole.total().energy_joules, rel=2e-3)
    for key, row in one.items():
        if row["resolved"] and other[key]["resolved"]:
            sigma = math.hypot(
                *(row[f"sigma_{kind}_joules"] or 0.0 for kind in ("statistical", "systematic"))
            )
            assert abs(row["energy_joules"] - other[key]["energy_joules"]) <= 4 * sigma, key


def test_a_chapter_never_changes() -> None:
    """What was told of the past stays, whatever is metered afterwards."""
    seen: list[Chapter] = []
    later: list[Chapter] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        chapters = meter.recorder.collected.chapters
        assert chapters is not None
        chapters.on_chapter = seen.append
        steps(1, 160, labelled)(meter, machine)
        assert chapters.past is not None
        before = json.dumps(chapters.past.to_json())
        past = chapters.past
        steps(2, 160, labelled)(meter, machine)
        assert json.dumps(past.to_json()) == before
        later.append(chapters.past)

    metered(program, SMALL)
    assert len(seen) > 3
    # The chapters one by one are what the session has kept of them.
    sums = seen[0]
    for chapter in seen[1:]:
        sums = sums.plus(chapter)
    assert sums.to_json() == later[0].to_json()


def test_adding_chapters_is_associative() -> None:
    """In whatever order three neighbours are added."""
    seen: list[Chapter] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        chapters = meter.recorder.collected.chapters
        assert chapters is not None
        chapters.on_chapter = seen.append
        steps(5, 230, labelled)(meter, machine)

    metered(program, SMALL)
    first, second, third = seen[:3]
    one, other = first.plus(second).plus(third), first.plus(second.plus(third))
    for pool in ("session", "phases", "names", "bursts"):
        mine, theirs = getattr(one, pool), getattr(other, pool)
        assert mine.keys == theirs.keys
        for domain, energies in mine.energies.items():
            assert energies.joules.tolist() == pytest.approx(theirs.energies[domain].joules.tolist())
            assert energies.sigma.tolist() == pytest.approx(theirs.energies[domain].sigma.tolist())
    with pytest.raises(ValueError, match="follow each other"):
        first.plus(third)


def test_a_chapter_survives_json() -> None:
    """To text and back gives the same chapter, and plain JSON without NaN."""
    short = metered(steps(7, 200, labelled), SMALL).session
    (chapter,) = short.recording.chapters
    text = json.dumps(chapter.to_json(), allow_nan=False)
    again = Chapter.from_json(json.loads(text))
    assert again.to_json() == chapter.to_json()


@pytest.mark.parametrize("broken", ["keys", "columns", "energies"])
def test_a_damaged_chapter_is_no_chapter(broken: str) -> None:
    """A part that is missing, or of another length."""
    (chapter,) = metered(steps(7, 200, labelled), SMALL).session.recording.chapters
    document = chapter.to_json()
    document["phases"][broken] = document["phases"][broken] and [1.0]
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Chapter.from_json(document)


def test_work_is_counted_once_where_an_epoch_counts_it_at_its_end() -> None:
    """Steps of earlier chapters do not count beside the epoch that they were in."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        with meter.training("epoch") as epoch:
            steps(4, 200, lambda meter, _: meter.training("step", samples=10))(meter, machine)
            epoch.add(samples=2_000)

    short, whole = both(program)
    assert_same_sums(short, whole, "phases", "phase", "domain")
    assert_same_sums(short, whole, "window_names", "name", "phase", "domain")
    training = keyed(short, "phases", "phase", "domain")["training", "total"]
    assert training["samples"] == 2_000


def test_a_task_that_outlives_its_window_by_chapters_is_told_the_same() -> None:
    """The window that it was opened in has ended long ago."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        with meter.training("round"):
            outer = meter.training("outer")
            outer.__enter__()
            task = meter.inference("task")
            task.__enter__()
            outer.__exit__(None, None, None)
            steps(6, 200, labelled)(meter, machine)
        advance(meter, 1.0)
        task.__exit__(None, None, None)

    short, whole = both(program)
    assert_same_sums(short, whole, "phases", "phase", "domain")
    assert_same_sums(short, whole, "window_names", "name", "phase", "domain")


def test_a_domain_that_fails_at_a_boundary_has_a_gap_there() -> None:
    """What was not read is told as missing; the interval holds it."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        steps(8, 150, labelled)(meter, machine)
        machine.failing = {1}
        steps(9, 250, labelled)(meter, machine)
        machine.failing = set()
        steps(10, 150, labelled)(meter, machine)

    limits = Limits(rows=300, windows=150, context_seconds=1.0)
    short, whole = metered(program, limits).session, metered(program, LARGE).session
    one, other = keyed(short, "domains", "domain"), keyed(whole, "domains", "domain")
    assert one["fake-0",]["energy_joules"] == pytest.approx(other["fake-0",]["energy_joules"], rel=ROUNDING)
    assert one["fake-1",]["coverage_ratio"] < 1
    energy = short.total()
    assert energy.high_joules is not None
    assert whole.total().energy_joules is not None
    assert energy.low_joules <= whole.total().energy_joules <= energy.high_joules  # type: ignore[operator]
