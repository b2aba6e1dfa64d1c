"""Carbon intensity over time, supplied by the user or by a provider."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from mlmeter.errors import ArgumentError
from mlmeter.impact.factors import checked_intensity, is_source

# Seconds since 1970 are exact to less than a microsecond; a gap is longer.
ROUNDING_SECONDS = 1e-3
AVERAGE, MARGINAL = KINDS = ("average", "marginal")


class Step(NamedTuple):
    """A time in which the intensity is constant.

    Attributes:
        start, end: seconds since 1970.
        grams_per_kwh: best value.
        low, high: range; equal to the value where none is known.
    """

    start: float
    end: float
    grams_per_kwh: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """Carbon intensity in steps, in grams of CO2e per kWh.

    Make one with `IntensitySeries.of`.

    Attributes:
        steps: in order of time, without overlap; there may be gaps.
        source: who says so.
        place: what it is true of.
        kind: ``"average"`` of all generation, or ``"marginal"``: of the plant that answers to one more
            kWh. The two are never mixed.
        basis: how the source counts, in words, such as ``"life cycle"`` or ``"direct"``.
        estimated: whether the source says that values are forecast or estimated.
    """

    steps: tuple[Step, ...]
    source: str
    place: str = ""
    kind: str = AVERAGE
    basis: str = ""
    estimated: bool = False

    @classmethod
    def of(
        cls,
        points: Iterable[Sequence[object]],
        *,
        source: str,
        place: str = "",
        kind: str = AVERAGE,
        basis: str = "",
        estimated: bool = False,
        step_seconds: float | None = None,
    ) -> IntensitySeries:
        """Make a series of points ``(time, grams_per_kwh)``, or ``(time, grams_per_kwh, low, high)``.

        A value holds from its time to the next point, but no longer than a step: what is missing stays
        a gap.

        Args:
            points: times are `datetime` with a time zone; in any order.
            source, place, kind, basis, estimated: the attributes.
            step_seconds: longest time that a value holds; None for the median distance of points.

        Raises:
            ArgumentError: there is no source, there are no points, two at the same time, a time without a
                time zone, an intensity that is not possible, or one point and no `step_seconds`.
        """
        if not is_source(source):
            raise ArgumentError(f"source={source!r}: say who says so")
        if kind not in KINDS:
            raise ArgumentError(f'kind={kind!r}: expected "average" or "marginal"')
        found = sorted(_point(point) for point in points)
        if not found:
            raise ArgumentError("an intensity series needs at least one point")
        times = [point[0] for point in found]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        if any(gap <= 0 for gap in gaps):
            raise ArgumentError("an intensity series has two values at the same time")
        if step_seconds is None:
            if not gaps:
                raise ArgumentError("an intensity series of one point needs step_seconds: how long it holds")
            step_seconds = median(gaps)
        if not step_seconds > 0:
            raise ArgumentError(f"step_seconds={step_seconds!r}: expected a positive number")
        ends = [min(time + step_seconds, later) for time, later in pairwise(times)]
        ends.append(times[-1] + step_seconds)
        steps = tuple(
            Step(time, end, value, low, high)
            for (time, value, low, high), end in zip(found, ends, strict=True)
        )
        return cls(steps, source, place, kind, basis, estimated)

    @property
    def start(self) -> datetime:
        """Start of the first step."""
        return datetime.fromtimestamp(self.steps[0].start, UTC)

    @property
    def end(self) -> datetime:
        """End of the last step."""
        return datetime.fromtimestamp(self.steps[-1].end, UTC)

    @property
    def span_text(self) -> str:
        """First and last time in words."""
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"

    def between(self, start: float, end: float) -> tuple[Step, ...]:
        """Return the steps that touch a time, cut to it.

        Args:
            start, end: seconds since 1970.
        """
        first = bisect_right(self.steps, start, key=lambda step: step.end)
        last = bisect_left(self.steps, end, key=lambda step: step.start)
        return tuple(
            step._replace(start=max(step.start, start), end=min(step.end, end))
            for step in self.steps[first:last]
        )

    def covers(self, start: float, end: float) -> bool:
        """Whether there is a value for all of a time, in seconds since 1970."""
        steps = self.between(start, end)
        if not steps or steps[0].start > start + ROUNDING_SECONDS or steps[-1].end < end - ROUNDING_SECONDS:
            return False
        return all(earlier.end + ROUNDING_SECONDS >= later.start for earlier, later in pairwise(steps))


def _point(point: Sequence[object]) -> tuple[float, float, float, float]:
    """Return seconds since 1970, value, low and high."""
    if not isinstance(point, (tuple, list)) or len(point) not in (2, 4):
        raise ArgumentError(f"{point!r}: expected (time, grams_per_kwh) or (time, grams_per_kwh, low, high)")
    time, *numbers = point
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise ArgumentError(
            f"{time!r}: expected a datetime with a time zone, such as datetime.now(timezone.utc)"
        )
    values = [checked_intensity("intensity", number) for number in numbers]
    value, low, high = values if len(values) == 3 else values * 3
    if not low <= value <= high:
        raise ArgumentError(f"{value:g} is not within {low:g} .. {high:g}")
    return time.timestamp(), value, low, high
