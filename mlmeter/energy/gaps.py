"""Spans of a session in which energy may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Cumulative length of the spans in which energy may be missing."""

    times: Seconds
    lengths: Seconds

    @property
    def starts(self) -> Seconds:
        """Beginning of each gap."""
        return self.times[: len(self.times) // 2 * 2 : 2]

    @property
    def ends(self) -> Seconds:
        """End of each gap."""
        return self.times[1::2]

    @classmethod
    def of(cls, spans: list[tuple[float, float]]) -> Gaps:
        """Build from disjoint spans in seconds."""
        spans = sorted(spans)
        times = np.array([edge for span in spans for edge in span] or [0.0])
        lengths = np.concatenate(([0.0], np.cumsum([end - start for start, end in spans])))
        return cls(times=times, lengths=np.repeat(lengths, 2)[1:-1] if spans else np.zeros(1))

    def metered(self, times: Seconds) -> Seconds:
        """Return the metered time up to each instant: a clock that stands still in gaps."""
        if not len(self.starts):
            return times
        return np.asarray(times - np.interp(times, self.times, self.lengths), dtype=np.float64)

    def between(self, starts: Seconds, ends: Seconds) -> Seconds:
        """Return the seconds of gap in each span."""
        if not len(self.starts):
            return np.zeros(len(starts))
        upto = np.interp(ends, self.times, self.lengths) - np.interp(starts, self.times, self.lengths)
        return np.asarray(upto, dtype=np.float64)
