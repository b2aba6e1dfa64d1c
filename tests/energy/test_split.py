"""Windows shorter than a GPU counter's refresh, through the whole chain, on a simulated counter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mlmeter.energy import session_fit
from mlmeter.session import Session
from mlmeter.testing import FakeClock, fake_meter
from tests.simulated_gpu import simulated_gpu

PHASES = {"training": 300.0, "inference": 150.0}
GAP_WATTS = 60.0
PERIOD = 0.1


@dataclass(frozen=True)
class Load:
    """Windows of two phases at random, with gaps: spans, phases and the power from edge to edge."""

    spans: list[tuple[float, float, str]]
    edges: list[float]
    watts: list[float]


def random_load(rng: np.random.Generator, length: float, seconds: float) -> Load:
    """Draw windows of about `length`, each with a power of its own, and gaps of about the same."""
    now, spans, edges, watts = 0.5, [], [0.0, 0.5], [GAP_WATTS]
    while now < seconds:
        phase = ("training", "inference")[rng.integers(2)]
        end = now + length * np.exp(rng.normal(0, 0.2))
        pause = rng.exponential(length) + 1e-4
        spans.append((now, end, phase))
        edges += [end, end + pause]
        watts += [PHASES[phase] * (1 + 0.1 * rng.normal()), GAP_WATTS * (1 + 0.05 * rng.normal())]
        now = end + pause
    return Load(spans, [*edges, now + 1.0], [*watts, GAP_WATTS])


def metered(
    load: Load,
    poll_seconds: float,
    *,
    base_phase: str = "training",
    names: list[str] | None = None,
    whole: bool = True,
    late_until: float = 0.0,
) -> tuple[Session, list[float]]:
    """Meter the load, polled at an interval; return the session and the true energy of each window.

    A window has the name of its phase, unless `names` has others. A session that is not the whole
    load begins and ends with its windows. The counter is read once per refresh up to `late_until`.
    """
    clock = FakeClock()
    backend = simulated_gpu(
        clock, load.edges, load.watts, jitter_seconds=0.001, joules_per_count=0.001, max_power_watts=450.0
    )
    meter = fake_meter(backend, clock=clock, phase=base_phase)
    sampler = meter.recorder._sampler
    late = np.arange(0.0, late_until, PERIOD)
    polls = iter([*late.tolist(), *np.arange(late_until, load.edges[-1] + 1.0, poll_seconds).tolist()])
    upcoming = next(polls)

    def wait_until(seconds: float) -> None:
        nonlocal upcoming
        while upcoming < seconds:
            clock.advance(upcoming - clock.now_ns() / 1e9)
            sampler.tick()
            upcoming = next(polls)
        clock.advance(seconds - clock.now_ns() / 1e9)

    if not whole:
        wait_until(load.spans[0][0])
    with meter:
        for number, (start, end, phase) in enumerate(load.spans):
            wait_until(start)
            with meter.window(phase if names is None else names[number], phase=phase):
                wait_until(end)
        if whole:
            wait_until(load.edges[-1] - 0.1)
    return meter.session, [backend.true_joules(start, end) for start, end, _ in load.spans]


@pytest.mark.parametrize(("length", "most_error"), [(0.01, 0.10), (0.03, 0.05), (0.1, 0.03), (1.0, 0.01)])
@pytest.mark.parametrize("seed", range(3))
def test_phases_are_right_and_their_intervals_hold(length: float, most_error: float, seed: int) -> None:
    """Interpolation smears 10 to 20 % of a phase into the next; the fit does not, and knows how well."""
    load = random_load(np.random.default_rng(seed), length, 30.0)
    session, truths = metered(load, 0.02)
    phases = session.phases().query("domain == 'gpu-0'").set_index("phase")
    for phase in PHASES:
        truth = sum(joules for joules, span in zip(truths, load.spans, strict=True) if span[2] == phase)
        if phase == "training":
            # The base phase has the gaps, too.
            truth = session.total().energy_joules - phases.loc["inference", "energy_joules"]
            assert phases.loc[phase, "energy_joules"] == pytest.approx(truth, rel=1e-9)
            continue
        row = phases.loc[phase]
        assert row["method"] == "phase_power"
        assert abs(row["energy_joules"] / truth - 1) <= most_error
        # A 95 % interval: one seed in twenty may miss by a little.
        width = row["high_joules"] - row["low_joules"]
        assert row["low_joules"] - 0.25 * width <= truth <= row["high_joules"] + 0.25 * width


def test_intervals_of_windows_hold_their_truths() -> None:
    """At least 90 % of single windows lie within their 95 % intervals, and these are no trivial ones."""
    load = random_load(np.random.default_rng(5), 0.1, 60.0)
    session, truths = metered(load, 0.02)
    frame = session.windows().query("domain == 'gpu-0' and scope == 'exclusive' and window > 0")
    inside = (frame["low_joules"] <= truths) & (truths <= frame["high_joules"])
    assert inside.mean() >= 0.9
    half_width = (frame["high_joules"] - frame["low_joules"]).median() / 2
    assert half_width <= 3 * np.sqrt(np.mean((frame["energy_joules"] - truths) ** 2))


def test_split_energies_add_up_to_the_session() -> None:
    """Exclusive windows and phases each fill the session; names have what their windows have."""
    load = random_load(np.random.default_rng(2), 0.02, 20.0)
    session, _ = metered(load, 0.025)
    total = session.total().energy_joules
    windows = session.windows().query("domain == 'gpu-0' and scope == 'exclusive'")
    assert set(windows["method"]) == {"phase_power"}
    assert windows["energy_joules"].sum() == pytest.approx(total, rel=1e-9)
    phases = session.phases().query("domain == 'gpu-0'")
    assert phases["energy_joules"].sum() == pytest.approx(total, rel=1e-9)
    names = session.window_names().query("domain == 'gpu-0'").set_index("name")
    of_phase = windows[windows["window"] > 0].groupby("name")["energy_joules"].sum()
    assert names["energy_joules"].to_dict() == pytest.approx(of_phase.to_dict())
    assert (windows["energy_joules"] >= 0).all()


def test_load_in_step_with_the_counter_is_unresolved() -> None:
    """Windows of one period each give every interval the same occupancy: the split cannot be known."""
    spans, edges, watts = [], [0.0], []
    for number in range(200):
        start = 0.5 + number * PERIOD
        spans.append((start, start + PERIOD / 2, "inference"))
        edges += [start, start + PERIOD / 2]
        watts += [GAP_WATTS, 300.0]
    load = Load(spans, [*edges, edges[-1] + 1.0], [*watts, GAP_WATTS])
    session, truths = metered(load, 0.02)
    row = session.phases().query("domain == 'gpu-0' and phase == 'inference'").iloc[0]
    assert not row["resolved"]
    assert row["low_joules"] <= sum(truths) <= row["high_joules"]


def test_many_names_are_told_by_phase() -> None:
    """Calls of 4 ms of 120 names: no name is known, but the phases are; idle is not taken for work."""
    rng = np.random.default_rng(0)
    starts = 0.5 + np.cumsum(rng.uniform(0.005, 0.03, 1500))
    phases = ["inference" if call % 3 == 0 else "training" for call in range(len(starts))]
    spans = [(start, start + 0.004, phase) for start, phase in zip(starts, phases, strict=True)]
    edges = [0.0, *np.stack([starts, starts + 0.004], axis=1).ravel().tolist(), starts[-1] + 2.0]
    watts = [GAP_WATTS]
    for phase in phases:
        watts += [PHASES[phase], GAP_WATTS]
    names = [f"call-{call % 120}" for call in range(len(spans))]
    session, truths = metered(Load(spans, edges, watts), 0.002, base_phase="other", names=names)
    frame = session.phases().query("domain == 'gpu-0'").set_index("phase")
    for phase in PHASES:
        row = frame.loc[phase]
        truth = sum(truth for truth, own in zip(truths, phases, strict=True) if own == phase)
        assert row["method"] == "phase_power"
        assert row["low_joules"] <= truth <= row["high_joules"]
        assert row["energy_joules"] == pytest.approx(truth, rel=0.1)


def test_first_and_last_window_do_not_take_from_the_time_outside() -> None:
    """Idle time in the interval in which the session begins or ends is not the window's."""
    outside = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        cuts = 0.5 + rng.uniform(0, PERIOD) + np.append(0.0, np.cumsum(rng.uniform(0.5, 1.5, 12)))
        phases = ["training" if number % 2 else "inference" for number in range(12)]
        spans = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), phases, strict=True))
        watts = [10.0, *(PHASES[phase] for phase in phases), 10.0]
        load = Load(spans, [0.0, *cuts.tolist(), cuts[-1] + 1.0], watts)
        session, truths = metered(load, 0.004, whole=False)
        rows = session.windows().query("domain == 'gpu-0' and scope == 'inclusive' and window > 0")
        for place in (0, -1):
            row = rows.iloc[place]
            assert row["energy_joules"] == pytest.approx(truths[place], abs=2.0)
            outside += not row["low_joules"] <= truths[place] <= row["high_joules"]
    assert outside <= 4


def test_short_session_is_interpolated() -> None:
    """With a handful of refreshes there is nothing to fit."""
    load = Load([(0.1, 0.3, "training")], [0.0, 0.1, 0.3, 0.7], [GAP_WATTS, 300.0, GAP_WATTS])
    session, _ = metered(load, 0.02)
    assert "phase_power" not in set(session.windows()["method"])


def test_power_that_ignores_the_windows_widens_the_intervals() -> None:
    """The model is wrong about such a load: at most one phase in ten leaves its 95 % interval."""
    outside = phases = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        load = random_load(rng, rng.choice([0.05, 0.3, 1.0]), 15.0)
        steps = np.sort(rng.uniform(0, load.edges[-1], 30)).tolist()
        load = Load(load.spans, [0.0, *steps, load.edges[-1]], rng.choice([20.0, 60.0, 300.0], 31).tolist())
        session, truths = metered(load, 0.02)
        frame = session.phases().query("domain == 'gpu-0'").set_index("phase")
        truth = sum(joules for joules, span in zip(truths, load.spans, strict=True) if span[2] == "inference")
        row = frame.loc["inference"]
        assert row["method"] == "phase_power"
        outside += not row["low_joules"] <= truth <= row["high_joules"]
        phases += 1
    assert outside <= phases / 10


def test_fit_that_contradicts_the_counter_is_refused_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies that would have to be scaled by much are interpolated instead, and an event says so."""
    monkeypatch.setattr(session_fit, "LARGEST_CLOSURE_ERROR", -1.0)
    session, _ = metered(random_load(np.random.default_rng(1), 0.02, 20.0), 0.01)
    events = session.events()
    (told,) = events[events["kind"] == "closure"]["message"]
    assert "interpolated instead" in told
    assert set(session.windows()["method"]) == {"interpolated"}


def test_windows_before_the_first_sharp_refresh_have_the_energy_of_their_time() -> None:
    """Where refreshes are hardly placed at first, windows of 80 ms are told by the rows that are there."""
    load = random_load(np.random.default_rng(3), 0.08, 20.0)
    session, truths = metered(load, 0.002, late_until=2.0)
    windows = session.windows().query("scope == 'inclusive' and domain == 'gpu-0' and window > 0")
    early = (windows["start_seconds"] < 1.8).to_numpy()
    assert early.sum() >= 5
    found, truth = windows["energy_joules"].to_numpy()[early], np.array(truths)[early]
    assert found.sum() == pytest.approx(truth.sum(), rel=0.12)
    assert (windows["method"] == "phase_power").all()
