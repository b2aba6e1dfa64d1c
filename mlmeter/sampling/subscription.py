"""A meter's hold on the sampler, and what the sampler has cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlmeter.sampling.pace import LONGEST_SECONDS

if TYPE_CHECKING:
    from mlmeter.sampling.sources import Source

# Whatever a backend says that its counters need: the thread does nothing but read else.
SHORTEST_PERIOD_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Cost:
    """What the sampler itself has used.

    Attributes:
        ticks: regular rounds, in which every source is read.
        reads: reads of a source, whatever for.
        cpu_seconds: CPU time.
        period_seconds: time between regular rounds at present; see `Pace`.
        polls: reads to catch a refresh of one slow counter, by mode (discover, lock, coarse).
    """

    ticks: int
    reads: int
    cpu_seconds: float
    period_seconds: float
    polls: Mapping[str, int]


class Subscription:
    """A meter's hold on the sampler; made by `Sampler.subscribe`.

    Attributes:
        needs_ns: what was read before it is not needed by this meter.
        period_seconds, longest_seconds: time between reads where they are cheap, and where they are dear.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        period_seconds: float,
        on_tick: Callable[[], object] | None,
        on_booking: Callable[[], object] | None,
        needs_ns: int,
        *,
        paced: bool = False,
    ) -> None:
        self.sources = tuple(sources)
        self.needs_ns = needs_ns
        safe_seconds = min((source.longest_safe_period_seconds() for source in sources), default=math.inf)
        self.period_seconds = max(min(period_seconds, safe_seconds), SHORTEST_PERIOD_SECONDS)
        # Power between two reads is not known; energy is.
        counted = all(domain.watts_per_count is None for source in sources for domain in source.domains)
        longest_seconds = min(LONGEST_SECONDS, safe_seconds) if paced and counted else 0.0
        self.longest_seconds = max(self.period_seconds, longest_seconds)
        self.on_tick, self.on_booking = on_tick, on_booking
