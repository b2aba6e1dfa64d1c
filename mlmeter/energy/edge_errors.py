"""What errors of time and power that is not constant do at the edges of windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlmeter.energy.counters import LONGEST_PERIOD_RATIO
from mlmeter.energy.guards import FAST_EDGE_SECONDS, SLOW_EDGE_SECONDS
from mlmeter.energy.occupancy import CounterRecord, Occupancy
from mlmeter.energy.phase_power import PhasePowerFit
from mlmeter.energy.timeline import CounterTimeline
from mlmeter.energy.uncertainty import UNIFORM_SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Two edges, each with up to a whole interval on the wrong side.
EDGES_SIGMA = 2**0.5
# The white noise of one label may be so much stronger than that of all without being structure.
NOISE_EXCESS_RATIO = 3.0


def slow_edge_seconds(record: CounterRecord) -> float:
    """Return by how much times may be wrong in step with the load.

    Power trails the edges of windows; and the middles of wide brackets miss the refreshes by
    amounts that are alike for a while where polls, counter and load have nearly one period.
    """
    width = float(np.median(record.before - record.after))
    return max(SLOW_EDGE_SECONDS, width * UNIFORM_SIGMA)


def fast_edge_seconds(timeline: CounterTimeline) -> float:
    """Return the same of a counter that is read at the edges.

    One that has left more time between refreshes than a regular one does shows energy of an age
    that is only known within the longest such time.
    """
    longest = float((timeline.before - timeline.after).max()) / LONGEST_PERIOD_RATIO
    return max(FAST_EDGE_SECONDS, (longest - timeline.period_seconds) * UNIFORM_SIGMA)


def edge_joules(fit: PhasePowerFit) -> Floats:
    """Return what the structure inside segments can do at their edges, shape (segments,).

    The fit takes the power of a segment to be constant. How much it varies shows in long ones:
    from interval to interval, beyond what errors of time explain.
    """
    parts, segments = fit.occupancy, fit.occupancy.segments
    # Pieces are in order of time: the first and the last one of each interval.
    begins = np.flatnonzero(np.diff(parts.piece_interval, prepend=-1))
    ends = np.append(begins[1:], len(parts.piece_part))[: len(begins)] - 1
    first, last = (parts.part_segment[parts.piece_part[pieces]] for pieces in (begins, ends))
    pure = (first == last) & (first >= 0) & parts.usable
    watts, expected = _interval_watts(parts, fit.scatter.noise_density)
    segment, watts, expected = first[pure], watts[pure], expected[pure]
    count = np.bincount(segment, minlength=len(segments.label))
    mean = np.bincount(segment, watts, minlength=len(count)) / np.maximum(count, 1)
    several = count[segment] > 1
    label, freedom = segments.label[segment[several]], 1 - 1 / count[segment[several]]
    # The last sums are those of all labels: what one label shows, another may have too.
    found, explained, freedoms = (
        np.append(sums := np.bincount(label, values, minlength=segments.labels), sums.sum())
        for values in (
            (watts - mean[segment])[several] ** 2,
            expected[several] * freedom,
            freedom,
        )
    )
    excess = np.where(found > NOISE_EXCESS_RATIO * explained, found - explained, 0.0)
    variance = np.divide(excess, freedoms, out=np.zeros(len(excess)), where=freedoms > 0)
    sigma_watts = np.sqrt(np.maximum(variance[:-1], variance[-1]))[segments.label]
    long = segments.seconds >= parts.period_seconds
    joules = sigma_watts * parts.period_seconds * EDGES_SIGMA
    return np.asarray(np.where(long, joules, 0.0), dtype=np.float64)


def _interval_watts(parts: Occupancy, noise_density: float) -> tuple[Floats, Floats]:
    """Return the power of each interval and its variance by errors of time and white noise."""
    seconds = parts.seconds
    errors = (parts.instant_watts * parts.instant_sigma_seconds) ** 2
    variance = (errors[:-1] + errors[1:]) / seconds**2 + noise_density / seconds
    return parts.joules / seconds, variance
