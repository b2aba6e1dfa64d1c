"""Sessions of known energy whose counter misbehaves, or is read badly; all on virtual time.

Slow counters are read by the sampler's own lock (`tests.runtime.refresh_simulation`), so a fault
also meets what the lock makes of it; fast ones at the edges of windows and ten times a second.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlmeter.energy.counters import CounterRows
from mlmeter.measurement import Domain, Event, Reading
from mlmeter.recording import Recording, Run
from mlmeter.sampling.edge_reads import MEASURE_NS, MEASURE_STEP_SECONDS, _Changes
from mlmeter.session import Session
from mlmeter.testing import fake_domain
from mlmeter.window_records import Label, WindowRecords
from tests.runtime.refresh_simulation import Simulation, exponential

Floats = NDArray[np.float64]

GAP, A, B = 0, 1, 2
PHASES = ("gap", "A", "B")
LABEL_WATTS = np.array([80.0, 300.0, 180.0])
LABEL_SCATTER = np.array([0.05, 0.15, 0.15])
LIMIT_WATTS = 700.0
COUNT_JOULES = 1e-3
# The counter runs and is read before the session begins and after it has ended.
MARGIN_SECONDS = 1.0
NANOSECONDS = 1e9


@dataclass(frozen=True)
class Counter:
    """A counter and what is wrong with it; by default nothing.

    Attributes:
        period_seconds, jitter_seconds: time between refreshes and deviation of each.
        count_joules: one count.
        seconds, window_seconds: length of the session and typical length of a window.
        lag_seconds: how old the shown energy is in the first half of the session, and in the second.
        missed_ratio: share of refreshes that are left out.
        irregular: whether spacings are uniform in 0.3 to 1.7 periods.
        displaced_seconds: by how much the times of readings may be wrong, either way.
        starved: begin and end of a time without reads, since the start of the session.
        reset_seconds: when the counter falls to 0; never if None.
    """

    period_seconds: float
    seconds: float
    window_seconds: float
    jitter_seconds: float = 0.0
    count_joules: float = COUNT_JOULES
    lag_seconds: tuple[float, float] = (0.0, 0.0)
    missed_ratio: float = 0.0
    irregular: bool = False
    displaced_seconds: float = 0.0
    starved: tuple[float, float] | None = None
    reset_seconds: float | None = None

    @property
    def fast(self) -> bool:
        """Whether it is read at the edges of windows."""
        return self.period_seconds <= 0.002


@dataclass(frozen=True)
class Load:
    """The truth: constant power from edge to edge, seconds since the start of the session."""

    edges: Floats
    label: NDArray[np.int64]
    watts: Floats

    def energy_at(self, times: Floats) -> Floats:
        """Return cumulative joules since long before the session."""
        edges = np.concatenate(([-10.0], self.edges, [self.edges[-1] + 10.0]))
        watts = np.concatenate(([LABEL_WATTS[GAP]], self.watts, [LABEL_WATTS[GAP]]))
        return np.interp(times, edges, np.concatenate(([0.0], np.cumsum(watts * np.diff(edges)))))

    @property
    def joules(self) -> Floats:
        """Return the energy of each segment."""
        return self.watts * np.diff(self.edges)

    def of_phase(self) -> Floats:
        """Return the energy of each of `PHASES`."""
        return np.bincount(self.label, self.joules, minlength=len(PHASES)).astype(np.float64)


@dataclass
class Metered:
    """A session and the truth about it."""

    load: Load
    session: Session
    domain: Domain
    rows: CounterRows
    shown_joules: float = field(default=0.0)


def metered(counter: Counter, seed: int) -> Metered:
    """Draw a load, let the counter watch it and meter that."""
    rng = np.random.default_rng(seed)
    load = drawn_load(counter, rng)
    readings = drawn_readings(counter, load, rng)
    domain = fake_domain(
        name="counter-0",
        kind="cpu" if counter.fast else "gpu",
        update_period_seconds=counter.period_seconds,
        joules_per_count=counter.count_joules,
        cheap_read=counter.fast,
        max_power_watts=LIMIT_WATTS,
    )
    rows = CounterRows(domain)
    for item in readings:
        rows.add(item) if isinstance(item, Reading) else rows.fail(item)
    total = readings[-1].value - readings[0].value
    period_seconds = measured_period(readings) if counter.fast else None
    session = session_of(load, domain, rows, period_seconds)
    return Metered(load, session, domain, rows, total * counter.count_joules)


def measured_period(readings: list[Reading]) -> float | None:
    """Return what the sampler finds in its first 20 ms."""
    changes = _Changes()
    for reading in readings:
        if reading.end_ns <= readings[0].begin_ns + MEASURE_NS:
            changes.add(reading)
    return changes.period_seconds()


def drawn_load(counter: Counter, rng: np.random.Generator) -> Load:
    """Draw gaps and windows of A and B in turn until the session is over."""
    typical, pairs = counter.window_seconds, int(2 * counter.seconds / counter.window_seconds) + 10
    lengths = np.empty(2 * pairs)
    lengths[::2] = rng.exponential(0.8 * typical, pairs) + 1e-4
    lengths[1::2] = typical * np.exp(rng.normal(0, 0.2, pairs))
    label = np.zeros(2 * pairs, dtype=np.int64)
    label[1::2] = np.where(rng.random(pairs) < 0.6, A, B)
    edges = np.concatenate(([0.0], np.cumsum(lengths)))
    kept = int(np.searchsorted(edges, counter.seconds))
    edges, label = np.append(edges[:kept], counter.seconds), label[:kept]
    watts = LABEL_WATTS[label] * (1 + LABEL_SCATTER[label] * rng.standard_normal(kept))
    return Load(edges, label, np.clip(watts, 40.0, 450.0))


def drawn_readings(counter: Counter, load: Load, rng: np.random.Generator) -> list[Reading]:
    """Let the counter refresh, and the sampler read it."""
    refreshes = _refreshes(counter, rng)
    late = counter.seconds / 2
    shown = np.where(refreshes < late, refreshes - counter.lag_seconds[0], refreshes - counter.lag_seconds[1])
    counts = np.floor(np.maximum.accumulate(load.energy_at(shown)) / counter.count_joules).astype(np.int64)
    if counter.reset_seconds is not None:
        after = refreshes >= counter.reset_seconds
        counts[after] -= counts[np.argmax(after)]
    times = read_times(counter, load, refreshes, rng)
    values = np.searchsorted(refreshes, times, side="right") - 1
    times = times[values >= 0] + MARGIN_SECONDS + 1.0
    values = counts[values[values >= 0]]
    if counter.displaced_seconds:
        times = times + rng.uniform(-counter.displaced_seconds, counter.displaced_seconds, len(times))
    at = np.rint(times * NANOSECONDS).astype(np.int64)
    return [Reading(0, int(value), int(ns) - 2_000, int(ns)) for ns, value in zip(at, values, strict=True)]


def _refreshes(counter: Counter, rng: np.random.Generator) -> Floats:
    period, span = counter.period_seconds, counter.seconds + 2 * MARGIN_SECONDS
    count = int(span / period) + 2
    if counter.irregular:
        spacings = period * rng.uniform(0.3, 1.7, 2 * count)
        times = np.cumsum(spacings)
    else:
        times = (rng.random() + np.arange(count)) * period + rng.normal(0, counter.jitter_seconds, count)
    times = np.sort(times)[np.sort(times) < span] - MARGIN_SECONDS
    return times[rng.random(len(times)) >= counter.missed_ratio]


def read_times(counter: Counter, load: Load, refreshes: Floats, rng: np.random.Generator) -> Floats:
    """Return when the counter is read, seconds since the start of the session, ascending."""
    end = counter.seconds + MARGIN_SECONDS
    if counter.fast:
        regular = np.arange(-MARGIN_SECONDS, end, 0.1) + 1e-7
        # As the sampler begins: it measures the update period.
        measuring = -MARGIN_SECONDS + np.arange(0, MEASURE_NS * 1e-9, MEASURE_STEP_SECONDS)
        times = np.unique(np.concatenate([load.edges, regular, measuring]))
        if counter.starved is not None:
            # A thread that holds the interpreter's lock opens no windows either.
            times = times[(times < counter.starved[0]) | (times >= counter.starved[1])]
        return times
    shifted = ((refreshes + MARGIN_SECONDS) * 1e3).tolist()
    simulation = RecordedReads(shifted, 1e3 * counter.period_seconds, seed=int(rng.integers(1 << 30)))
    if counter.starved is not None:
        simulation.run(counter.starved[0] + MARGIN_SECONDS)
        simulation.now_ns = round((counter.starved[1] + MARGIN_SECONDS) * NANOSECONDS)
    simulation.run(end + MARGIN_SECONDS)
    times = np.array(simulation.times_ns) / NANOSECONDS - MARGIN_SECONDS
    return times[times <= end]


class RecordedReads(Simulation):
    """The lock on virtual time; keeps the instants of its reads."""

    def __init__(self, refreshes: list[float], guess_ms: float, *, seed: int) -> None:
        self.times_ns: list[int] = []
        super().__init__(refreshes, guess_ms, exponential(0.1), seed=seed)

    def read(self) -> Reading:
        """Read and note when."""
        reading = super().read()
        # The simulated counter is looked at before the read's time passes.
        self.times_ns.append(reading.begin_ns)
        return reading


def session_of(load: Load, domain: Domain, rows: CounterRows, period_seconds: float | None = None) -> Session:
    """Return the session that windows of `load` and the rows make."""
    origin_ns = round((MARGIN_SECONDS + 1.0) * NANOSECONDS)
    windows = np.flatnonzero(load.label != GAP)
    edges_ns = origin_ns + np.rint(load.edges * NANOSECONDS).astype(np.int64)
    count = len(windows)
    records = WindowRecords(
        ids=_integers(np.arange(1, count + 1)),
        parent_ids=_integers(np.zeros(count)),
        labels=_integers(load.label[windows] - 1),
        threads=_integers(np.zeros(count)),
        starts_ns=_integers(edges_ns[windows]),
        ends_ns=_integers(edges_ns[windows + 1]),
        flags=_integers(np.zeros(count)),
        pieces=(),
        units={},
        label_table=tuple(Label(name, name) for name in PHASES[1:]),
        thread_names=("main",),
    )
    run = Run("faults", "faults", PHASES[GAP], origin_ns, int(edges_ns[-1]), 0, True, {})
    rows.close(int(edges_ns[-1]))
    events = tuple(
        Event(
            time_seconds=(remark.at_ns - origin_ns) * 1e-9,
            kind=remark.kind,
            domain=domain.name,
            message=remark.message,
        )
        for remark in rows.remarks
    )
    collected = rows.snapshot()._replace(period_seconds=period_seconds)
    return Session(Recording(run, ((domain, collected),), records, (), events))


def _integers(values: Iterable[float]) -> array[int]:
    return array("q", np.asarray(values).astype(np.int64).tobytes())
