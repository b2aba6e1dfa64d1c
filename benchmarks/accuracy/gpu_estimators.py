"""What a GPU's counter and power say about themselves: period, lag, window and errors of time.

Pure arithmetic on polls and on the edges of a load; nothing here knows a device. Times are float64
seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np
from scenarios import Floats, Indices

from mlmeter.energy.groups import group_energies
from mlmeter.energy.guards import SLOW_EDGE_SECONDS, systematic_sigmas
from mlmeter.energy.membership import Membership
from mlmeter.energy.occupancy import CounterRecord, Segments
from mlmeter.energy.phase_power import fit_phase_power
from mlmeter.energy.uncertainty import RESOLVED_RATIO

EDGE_SECONDS = (0.1e-3, 0.2e-3, 0.5e-3, 1e-3, 2e-3, 5e-3, 10e-3)
LAGS_SECONDS = np.arange(-10e-3, 150e-3, 2e-3)
FINE_LAGS_SECONDS = np.arange(-2e-3, 2.01e-3, 0.25e-3)
# Shares of the period that a counter may see; 1 is all of it.
SEEN_RATIOS = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0])
WINDOWS_SECONDS = np.array([5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000]) * 1e-3
# Parameters that lower the log-likelihood by less are as good, at two standard deviations.
ALIKE_LOG_LIKELIHOOD = 2.0
GAP, ON = 0, 1


class Changes(NamedTuple):
    """Refreshes as polls show them: each is in (after, before], then the value was this."""

    after: Floats
    before: Floats
    values: Floats

    @property
    def instants(self) -> Floats:
        """Middles of the brackets."""
        return (self.after + self.before) / 2

    def between(self, start: float, end: float) -> Changes:
        """Return the refreshes in a span."""
        kept = (self.after >= start) & (self.before <= end)
        return Changes(*(column[kept] for column in self))


def changes(begin: Floats, end: Floats, values: Floats) -> Changes:
    """Find the refreshes: polls that show another value than the one before."""
    changed = np.flatnonzero(np.diff(values)) + 1
    return Changes(begin[changed - 1], end[changed], values[changed])


class Period(NamedTuple):
    """Time between refreshes: the mean, the standard deviation of one, and how many there were."""

    seconds: float
    sigma_seconds: float
    refreshes: int


def refresh_period(instants: Floats) -> Period:
    """Estimate the period: steps over the median, rounded, count the periods in the whole span.

    A refresh that brought the same value is not seen, and its step has two periods.
    """
    steps = np.diff(instants)
    # Steps of half a median are two refreshes seen late and early.
    count = np.maximum(np.round(steps / np.median(steps)), 1)
    seconds = float((instants[-1] - instants[0]) / count.sum())
    return Period(seconds, float((steps[count == 1]).std()), int(count.sum()))


def resolution(values: Floats) -> int:
    """Return the largest step of which all changes are multiples."""
    return gcd(*(abs(int(step)) for step in np.diff(values) if step)) if len(values) > 1 else 0


class Stamps(NamedTuple):
    """What the driver's time stamps mean: kind, and offset to our clock with its deviation."""

    kind: str
    offset_seconds: float
    sigma_seconds: float


def judge_stamps(stamps: Floats, calls: Floats, refreshes: Changes) -> Stamps:
    """Tell whether time stamps are those of calls or of refreshes of the sensor.

    Args:
        stamps, calls: the driver's stamp and our time of each poll, on one scale.
        refreshes: when the value changed.
    """
    of_calls = stamps - calls
    at = np.clip(np.searchsorted(calls, refreshes.before), 0, len(stamps) - 1)
    of_refreshes = stamps[at] - refreshes.instants
    kind, offsets = min(
        (("call time", of_calls), ("sensor time", of_refreshes)), key=lambda pair: float(pair[1].std())
    )
    return Stamps(kind, float(np.median(offsets)), float(offsets.std()))


class Spans(NamedTuple):
    """When the load was on."""

    starts: Floats
    ends: Floats

    def seconds_in(self, start: Floats, end: Floats) -> Floats:
        """Return how long the load was on in each span."""
        times = np.stack([self.starts, self.ends], axis=1).ravel()
        upto = np.concatenate([[0.0], np.cumsum(np.diff(times) * (np.arange(len(times) - 1) % 2 == 0))])
        return np.interp(end, times, upto) - np.interp(start, times, upto)


@dataclass(frozen=True)
class Response:
    """How a reading follows the load.

    Attributes:
        lag_seconds: a refresh shows what was used so long before.
        lag_range_seconds: lags that are as likely, at two standard deviations.
        window: what it averages, in the unit of the windows that were tried.
        window_range: windows that are as likely.
        off_watts, on_watts: power without and with load.
        residual_watts: what the response leaves unexplained, RMS.
    """

    lag_seconds: float
    lag_range_seconds: tuple[float, float]
    window: float
    window_range: tuple[float, float]
    off_watts: float
    on_watts: float
    residual_watts: float


class Wave(NamedTuple):
    """A counter under load: its refreshes (values in J) and when the load was on."""

    refreshes: Changes
    spans: Spans


def counter_response(waves: Sequence[Wave]) -> Response:
    """Find lag and seen share of a counter by likelihood, one for all waves."""
    ends = np.concatenate([wave.refreshes.instants[1:] for wave in waves])
    seconds = np.concatenate([np.diff(wave.refreshes.instants) for wave in waves])
    watts = np.concatenate([np.diff(wave.refreshes.values) for wave in waves]) / seconds
    spans = Spans(*(np.concatenate(column) for column in zip(*(wave.spans for wave in waves), strict=True)))

    def share_on(lag: float, seen: float) -> Floats:
        return spans.seconds_in(ends - lag - seen * seconds, ends - lag) / (seen * seconds)

    return _likeliest(watts, ends, share_on, SEEN_RATIOS)


def power_response(refreshes: Changes, spans: Spans) -> Response:
    """Find lag and averaging window of a power reading (its values in W) by likelihood."""
    instants = refreshes.instants

    def share_on(lag: float, window: float) -> Floats:
        ends = instants - lag
        return spans.seconds_in(ends - window, ends) / window

    return _likeliest(refreshes.values, instants, share_on, WINDOWS_SECONDS)


def _likeliest(
    watts: Floats, times: Floats, share_on: Callable[[float, float], Floats], windows: Floats
) -> Response:
    """Search lag and window; the powers, which may drift, follow by least squares."""
    drift = (times - times.mean()) / max(np.ptp(times), 1e-9)

    def fitted(lag: float, window: float) -> tuple[float, Floats]:
        share = share_on(lag, window)
        design = np.stack([np.ones(len(watts)), share, drift, drift * share], axis=1)
        powers = np.linalg.lstsq(design, watts, rcond=None)[0]
        return float(np.square(watts - design @ powers).sum()), powers

    def sums(lags: Floats) -> Floats:
        return np.array([[fitted(lag, window)[0] for window in windows] for lag in lags])

    coarse = sums(LAGS_SECONDS)
    lags = LAGS_SECONDS[np.unravel_index(coarse.argmin(), coarse.shape)[0]] + FINE_LAGS_SECONDS
    fine = sums(lags)
    best = np.unravel_index(fine.argmin(), fine.shape)
    fall = np.log(fine / max(fine.min(), np.finfo(float).tiny)) * len(watts) / 2
    alike = fall <= ALIKE_LOG_LIKELIHOOD
    powers = fitted(lags[best[0]], windows[best[1]])[1]
    alike_lags, alike_windows = lags[alike.any(axis=1)], windows[alike.any(axis=0)]
    return Response(
        lag_seconds=float(lags[best[0]]),
        lag_range_seconds=(float(alike_lags[0]), float(alike_lags[-1])),
        window=float(windows[best[1]]),
        window_range=(float(alike_windows[0]), float(alike_windows[-1])),
        off_watts=float(powers[0]),
        on_watts=float(powers[0] + powers[1]),
        residual_watts=float(np.sqrt(fine.min() / len(watts))),
    )


def wave_ratio(wave: Wave, response: Response) -> float:
    """Return the counter's energy / that of the powers without and with load, from refresh to refresh."""
    instants = wave.refreshes.instants[[0, -1]] - response.lag_seconds
    on = wave.spans.seconds_in(instants[:1], instants[1:])[0]
    whole = instants[1] - instants[0]
    expected = response.on_watts * on + response.off_watts * (whole - on)
    return float(np.diff(wave.refreshes.values[[0, -1]])[0] / expected)


def wave_swing(wave: Wave, response: Response, seen_ratio: float) -> tuple[float, float]:
    """Return the standard deviation of the power of intervals: as read, and as such a counter would."""
    instants = wave.refreshes.instants
    seconds = np.diff(instants)
    read = np.diff(wave.refreshes.values) / seconds
    ends = instants[1:] - response.lag_seconds
    share = wave.spans.seconds_in(ends - seen_ratio * seconds, ends) / (seen_ratio * seconds)
    return float(read.std()), float(share.std() * abs(response.on_watts - response.off_watts))


def edge_z(
    wave: Wave, response: Response, limits: tuple[float, float], count_joules: float
) -> tuple[bool, Floats]:
    """Return whether the split of a wave is resolved, and its error in standard uncertainties.

    There is one error for each of EDGE_SECONDS; resolved it is by the library's own.

    The truth is taken to be the power under load of all waves times how long the load was on.

    Args:
        wave: the counter under load.
        response: of this counter, found on all waves.
        limits: of the power in W.
        count_joules: one count.
    """
    spans = wave.spans
    edges = np.stack([spans.starts, spans.ends], axis=1).ravel()
    label: Indices = np.where(np.arange(len(edges) - 1) % 2 == 0, ON, GAP)
    rows = wave.refreshes
    record = CounterRecord(rows.after, rows.before, rows.values, count_joules, *limits, response.lag_seconds)
    segments = Segments(edges, label, 2)
    fit = fit_phase_power(record, segments)
    found = group_energies(fit, np.zeros(2), Membership.of_labels(label, 2))
    truth = response.on_watts * segments.seconds[label == ON].sum()

    def sigma_joules(edge_seconds: float) -> float:
        systematic = systematic_sigmas(fit, edge_seconds, refit=True)[ON]
        return float(np.hypot(found.sigma_statistical_joules[ON], systematic))

    resolved = sigma_joules(SLOW_EDGE_SECONDS) < RESOLVED_RATIO * float(found.joules[ON])
    error = float(found.joules[ON]) - truth
    return resolved, np.array([error / sigma_joules(edge_seconds) for edge_seconds in EDGE_SECONDS])


def best_edge_seconds(z: Floats) -> tuple[float, bool]:
    """Return the edge error whose z have an RMS nearest 1, and whether it is the first or last one tried.

    Args:
        z: from `edge_z`, shape (waves, edges).
    """
    spread = np.sqrt(np.mean(np.square(z), axis=0))
    best = int(np.argmin(np.abs(np.log(np.maximum(spread, 1e-9)))))
    return EDGE_SECONDS[best], best in (0, len(EDGE_SECONDS) - 1)
