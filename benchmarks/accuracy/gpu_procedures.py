"""The six experiments: what each asks of a GPU and what it makes of the answers.

Each yields the lines of its table and leaves its estimates in the session. All only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from gpu_device import Gpu, Sample, Span
from gpu_estimators import (
    EDGE_SECONDS,
    Changes,
    Response,
    Spans,
    Wave,
    best_edge_seconds,
    changes,
    counter_response,
    edge_z,
    judge_stamps,
    power_response,
    refresh_period,
    resolution,
    wave_ratio,
    wave_swing,
)
from progress import progress
from scenarios import Floats

from mlmeter.energy.gauge_timeline import GaugeTimeline
from mlmeter.energy.uncertainty import UNIFORM_SIGMA

# The slow one tells the powers without and with load.
WAVE_PERIODS_SECONDS = (0.02, 0.05, 0.09, 0.1, 0.103, 0.11, 0.15, 0.2, 1.0)
POLL_SECONDS, SLOW_POLL_SECONDS = 1e-3, 20e-3
# No experiment takes more than a minute.
BACK_TO_BACK_SECONDS, WAVE_SECONDS, STEPS_SECONDS = 20.0, 6.0, 25.0
IDLE_SECONDS, IDLE_POLL_SECONDS, RING_SECONDS, LEVEL_SECONDS = 13.5, 0.1, 10.0, 18.0
STEP_SECONDS, PAUSE_SECONDS = (0.3, 0.7), 0.5
FEWEST_REFRESHES, FEWEST_WAVES = 5, 4
# At first clocks and counters still follow the load before.
SETTLING_SECONDS = 3.0
LEVELS = (("idle", 0.0), ("half load", 0.5), ("full load", 1.0))


@dataclass
class Session:
    """A GPU and what has been found of it so far.

    Attributes:
        gpu: the device.
        ratio: of all durations to their usual ones.
        found: estimates by name, in SI units.
    """

    gpu: Gpu
    ratio: float = 1.0
    found: dict[str, float] = field(default_factory=dict)

    def poll(self, seconds: float, every_seconds: float) -> Polls:
        """Read for so long, as fast as it goes if `every_seconds` is 0."""
        samples = []
        start = self.gpu.now()
        upcoming = start
        while upcoming < start + seconds:
            samples.append(self.gpu.read())
            upcoming = max(upcoming + every_seconds, self.gpu.now())
            if every_seconds:
                self.gpu.sleep_until(upcoming)
        return Polls.of(samples)

    def loaded(self, spans: Sequence[Span], seconds: float, strength: float = 1.0) -> tuple[Polls, Spans]:
        """Read while the load runs in spans, given in seconds from now."""
        now = self.gpu.now()
        load = self.gpu.play([(now + start, now + end) for start, end in spans], strength)
        polls = self.poll(seconds, POLL_SECONDS)
        played = np.array(load.finish())
        return polls, Spans(played[:, 0], played[:, 1])


@dataclass(frozen=True)
class Polls:
    """Reads as columns, shape (reads,); times in seconds of the device's clock."""

    begin: Floats
    end: Floats
    wall: Floats
    joules: Floats
    watts: Floats
    stamp: Floats
    latency_seconds: Floats

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Polls:
        """Turn samples into columns; a missing power is NaN."""
        rows = np.array(
            [[np.nan if value is None else value for value in row] for row in samples], dtype=float
        )
        begin, end, wall, millijoules, milliwatts, stamp, latency = rows.T
        kept = np.isfinite(millijoules)
        columns = begin, end, wall, millijoules * 1e-3, milliwatts * 1e-3, stamp * 1e-6, latency * 1e-6
        return cls(*(column[kept] for column in columns))

    @property
    def counter(self) -> Changes:
        """Refreshes of the counter, in J."""
        return changes(self.begin, self.end, self.joules)

    @property
    def power(self) -> Changes:
        """Refreshes of the instant power, in W."""
        told = np.isfinite(self.watts)
        return changes(self.begin[told], self.end[told], self.watts[told])


def counter_alone(session: Session) -> Iterator[str]:
    """(a) Counter and instant power, polled back to back."""
    polls = session.poll(BACK_TO_BACK_SECONDS * session.ratio, 0.0)
    refreshes, found = polls.counter, session.found
    if len(refreshes.values) < FEWEST_REFRESHES:
        raise RuntimeError(f"the counter changed {len(refreshes.values)} times only")
    period = refresh_period(refreshes.instants)
    calls = polls.end - polls.begin
    count_joules = resolution(np.round(polls.joules * 1e3)) * 1e-3
    stamps = judge_stamps(
        polls.stamp - polls.wall[0], (polls.begin - polls.begin[0]), _since(refreshes, polls)
    )
    found |= {"period_seconds": period.seconds, "period_sigma_seconds": period.sigma_seconds}
    found |= {"count_joules": count_joules, "call_seconds": float(np.median(calls))}
    steps = np.percentile(np.diff(refreshes.instants), [5, 95]) * 1e3
    yield f"reads {len(calls)}, of which {len(refreshes.values)} showed another energy"
    yield f"period T {1e3 * period.seconds:.2f} ms, of one {1e3 * period.sigma_seconds:.2f} ms (one sigma),"
    yield f"  5 to 95 % {steps[0]:.1f} to {steps[1]:.1f} ms; mean over {period.refreshes} refreshes"
    yield f"one count {count_joules:g} J (greatest common divisor of the steps)"
    median, most = 1e3 * np.quantile(calls, [0.5, 0.99])
    yield f"a call for both fields takes {median:.3f} ms, 99 % of them at most {most:.3f} ms"
    yield f"the driver's time stamp is nearest to the {stamps.kind}: {1e3 * stamps.offset_seconds:+.2f} ms,"
    latency = 1e3 * np.median(polls.latency_seconds)
    yield f"  sigma {1e3 * stamps.sigma_seconds:.2f} ms; latency that the driver tells {latency:.3f} ms"
    told = polls.power
    if len(told.values) > 2:
        found["power_period_seconds"] = refresh_period(told.instants).seconds
        yield f"instant power: period {1e3 * found['power_period_seconds']:.2f} ms"
    else:
        yield "instant power: not told, or it did not change"


def _since(refreshes: Changes, polls: Polls) -> Changes:
    start = polls.begin[0]
    return Changes(refreshes.after - start, refreshes.before - start, refreshes.values)


def square_waves(session: Session) -> Iterator[str]:
    """(b) Square waves of half duty, about the refresh period."""
    waves = {}
    for period in WAVE_PERIODS_SECONDS:
        seconds = max(WAVE_SECONDS * session.ratio, FEWEST_WAVES * period + 0.3)
        progress(f"wave of {1e3 * period:g} ms")
        starts = 0.05 + np.arange(int((seconds - 0.3) / period)) * period
        polls, spans = session.loaded([(start, start + period / 2) for start in starts], seconds)
        # Whole waves only: the refreshes inside.
        waves[period] = Wave(polls.counter.between(spans.starts[1], spans.ends[-1]), spans)
    progress("")
    yield from _judge_waves(session, waves)


def _judge_waves(session: Session, waves: dict[float, Wave]) -> Iterator[str]:
    response, ratio_lines = counter_response(list(waves.values())), []
    session.found |= {"wave_lag_seconds": response.lag_seconds, "wave_seen_ratio": response.window}
    full = response.window == 1
    errors = []
    for period, wave in waves.items():
        read, expected = wave_swing(wave, response, 1.0)
        part = wave_swing(wave, response, response.window)[1]
        ratio = wave_ratio(wave, response)
        ratio_lines.append(f"{1e3 * period:9.0f}{ratio:14.3f}{read:12.1f}{expected:16.1f}{part:14.1f}")
        if full:
            errors.append(edge_z(wave, response, (0.0, session.gpu.max_watts), session.found["count_joules"]))
    yield "period ms   energy/mix   swing W   if all is seen   as found"
    yield from ratio_lines
    yield from _response_lines("likeliest over all waves", response, session)
    if full:
        yield from _edge_lines(session, errors)
    else:
        yield "eps_t: not derived, because the counter does not see all of the time"


def _edge_lines(session: Session, errors: Sequence[tuple[bool, Floats]]) -> Iterator[str]:
    """Yield which error of time at the edges explains the errors of the waves that are resolved."""
    z = np.array([values for resolved, values in errors if resolved])
    if not len(z):
        yield "eps_t: not derived, because no wave is resolved"
        return
    yield "eps_t ms     " + "".join(f"{1e3 * tried:7g}" for tried in EDGE_SECONDS)
    yield "RMS of z     " + "".join(f"{spread:7.2f}" for spread in np.sqrt(np.mean(np.square(z), axis=0)))
    edge, at_end = best_edge_seconds(z)
    session.found["edge_seconds"] = edge
    beyond = ", the end of what was tried" if at_end else ""
    yield f"  RMS nearest 1 at {1e3 * edge:g} ms{beyond}; {len(z)} waves of {len(errors)} are resolved;"
    yield "  truth: the power under load, fitted over all waves, times how long it was on"


def steps(session: Session) -> Iterator[str]:
    """(c) Load steps: lag and window of counter and power."""
    random = np.random.default_rng(0)
    seconds = STEPS_SECONDS * session.ratio
    lengths = random.uniform(*STEP_SECONDS, (int((seconds - 1) / sum(STEP_SECONDS)), 2))
    edges = PAUSE_SECONDS + np.cumsum(lengths.ravel())
    polls, spans = session.loaded(list(zip(edges[::2], edges[1::2], strict=False)), seconds)
    response = counter_response([Wave(polls.counter, spans)])
    session.found |= {"lag_seconds": response.lag_seconds, "seen_ratio": response.window}
    yield from _response_lines("counter", response, session)
    power = polls.power
    if len(power.values) < len(spans.starts):
        yield "instant power: not told"
        return
    told = power_response(power, spans)
    session.found |= {"power_lag_seconds": told.lag_seconds, "power_window_seconds": told.window}
    lags, windows = 1e3 * np.array(told.lag_range_seconds), 1e3 * np.array(told.window_range)
    yield f"instant power: lag {1e3 * told.lag_seconds:.2f} ms ({lags[0]:.2f} to {lags[1]:.2f}),"
    yield f"  mean over {1e3 * told.window:.0f} ms ({windows[0]:.0f} to {windows[1]:.0f} as likely)"


def _response_lines(name: str, response: Response, session: Session) -> Iterator[str]:
    lags, low, high = 1e3 * np.array(response.lag_range_seconds), *response.window_range
    period = 1e3 * session.found["period_seconds"]
    yield f"{name}: lag {1e3 * response.lag_seconds:.2f} ms ({lags[0]:.2f} to {lags[1]:.2f} as likely),"
    yield (
        f"  sees {response.window:.0%} of each period, w {response.window * period:.0f} ms"
        f" ({low:.0%} to {high:.0%} as likely);"
    )
    yield (
        f"  {response.off_watts:.1f} W off, {response.on_watts:.1f} W on,"
        f" {response.residual_watts:.1f} W RMS unexplained"
    )


def reading_wakes(session: Session) -> Iterator[str]:
    """(d) Idle, polled at 10 Hz and not polled, in turn."""
    seconds, gpu = IDLE_SECONDS * session.ratio, session.gpu
    watts: dict[bool, list[float]] = {False: [], True: []}
    gpu.sleep_until(gpu.now() + SETTLING_SECONDS)
    yield f"{'':14}mean W  state before; after"
    # Drift is alike for both in this order.
    for polled in (False, True, True, False):
        first, before = gpu.read(), gpu.state()
        if polled:
            session.poll(seconds, IDLE_POLL_SECONDS)
        else:
            gpu.sleep_until(gpu.now() + seconds)
        last = gpu.read()
        if first.millijoules is None or last.millijoules is None:
            raise RuntimeError("the counter could not be read")
        watts[polled].append((last.millijoules - first.millijoules) * 1e-3 / (last.begin - first.begin))
        yield f"{'polled' if polled else 'not polled':14}{watts[polled][-1]:6.2f}  {before}; {gpu.state()}"
    added = float(np.mean(watts[True]) - np.mean(watts[False]))
    session.found["polling_watts"] = added
    # Each of the four ends a part of a period after the last refresh.
    period = session.found.get("period_seconds", 0.1)
    unknown = float(np.mean(watts[False])) * period * UNIFORM_SIGMA * 2**0.5 / seconds
    yield f"polling adds {added:+.2f} W; standard uncertainty by the refreshes {unknown:.2f} W"
    if not gpu.simulated and not gpu.no_load_reason:
        yield "torch keeps a CUDA context open meanwhile: without one the GPU may idle deeper"


def power_ring(session: Session) -> Iterator[str]:
    """(e) The driver's own ring of power samples."""
    session.gpu.power_ring()
    polls = session.poll(RING_SECONDS * session.ratio, POLL_SECONDS)
    ring = np.array(session.gpu.power_ring())
    if len(ring) < 2:
        yield f"{len(ring)} samples: nothing to compare"
        return
    ring = ring[np.argsort(ring[:, 0])]
    spacing = np.diff(ring[:, 0])
    session.found |= {"ring_samples": len(ring), "ring_spacing_seconds": float(np.median(spacing))}
    whole, apart_ms = np.ptp(ring[:, 0]), 1e3 * np.median(spacing)
    yield f"{len(ring)} samples over {whole:.2f} s, {apart_ms:.1f} ms apart (median)"
    inside = (ring[:, 0] > polls.wall[0]) & (ring[:, 0] < polls.wall[-1])
    at = np.minimum(np.searchsorted(polls.wall, ring[inside, 0]), len(polls.wall) - 1)
    apart = ring[inside, 1] - polls.watts[at]
    apart = apart[np.isfinite(apart)]
    if len(apart):
        error = np.sqrt(np.mean(apart**2))
        yield f"less the instant power polled next: mean {apart.mean():+.2f} W, RMS {error:.2f} W"
    else:
        yield "none of them lies in the time that was polled"


def counter_and_power(session: Session) -> Iterator[str]:
    """(f) Energy of the counter against the integral of instant power."""
    seconds, gpu = LEVEL_SECONDS * session.ratio, session.gpu
    yield f"{'':12}counter J   integral J   counter / integral"
    for name, strength in LEVELS:
        if strength and gpu.no_load_reason:
            yield f"{name:12}skipped: {gpu.no_load_reason}"
            continue
        now = gpu.now()
        load = gpu.play([(now + 0.05, now + seconds + 0.5)], strength) if strength else None
        gpu.sleep_until(now + 0.5)
        polls = session.poll(seconds - 0.5, SLOW_POLL_SECONDS)
        if load is not None:
            load.finish()
        told = np.isfinite(polls.watts)
        if told.sum() < 2:
            yield f"{name:12}instant power is not told"
            continue
        window = session.found.get("power_window_seconds", 0.0)
        gauge = GaugeTimeline(
            polls.end[told],
            polls.watts[told],
            update_period_seconds=session.found.get("period_seconds", SLOW_POLL_SECONDS),
            averaging_window_seconds=window,
        )
        rows = polls.counter
        integral = float(np.diff(gauge.energy_at(rows.instants[[0, -1]]))[0])
        counted = float(rows.values[-1] - rows.values[0])
        session.found[f"counter_ratio_{name.replace(' ', '_')}"] = counted / integral
        yield f"{name:12}{counted:9.1f}{integral:13.1f}{counted / integral:21.4f}"
