"""How many edges of windows are read: those that take next to nothing, and of the others a few."""

from __future__ import annotations

import random

# How much longer the time is of which a read at an edge is the share that windows may spend on these: a
# quarter of a percent. What is over is saved, so that the edges of some windows in a row are read, and none
# of the next ones: single edges tell little.
TIMES_PER_EDGE = 400
SAVED_NS = 1_000_000_000
SHORTEST_REST_NS = 250_000_000
# What takes longer has waited for a processor, or the source is dear, which `EdgePermit` sees to. So fifty
# edges a second are read as far as this limit goes: windows that are too long to be fitted have no more.
MOST_SPENT_NS = 50_000
# Where more than two hundred edges a second could be read, on average no more than one of two hundred may
# take longer than this, even if that makes fewer than fifty: with what a window costs beside its reads, 99 of
# 100 are entered and left within 50 us. Long windows, many at a time, are less sharp where reads are so dear.
LATE_NS = 35_000
EDGES_PER_LATE = 200
DENSE_GAP_NS = 5_000_000
# The first reads after a rest find the processor's caches cold, and are late.
MOST_LATE = 8


class EdgeAllowance:
    """Told of each edge that is read, it says for how long none shall be.

    Args:
        rng: of the length of rests, so that they keep no time with the program.
    """

    __slots__ = ("_edges", "_late", "_paid_ns", "_random", "_since_ns")

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        # Edges read since the last rest, which of them were late, and when the first began.
        self._edges = self._late = self._since_ns = 0
        # Up to when the time spent on reads at edges is made up for.
        self._paid_ns = -SAVED_NS

    def rest_ns(self, begin_ns: int, end_ns: int) -> int:
        """Note an edge that was read; return for how long none shall be read, 0 if the next one may.

        Args:
            begin_ns: before its reads.
            end_ns: after them.
        """
        spent_ns = end_ns - begin_ns
        if not self._edges:
            self._since_ns = begin_ns
        self._edges += 1
        if spent_ns > LATE_NS:
            self._late += 1
            if spent_ns > MOST_SPENT_NS:
                spent_ns = MOST_SPENT_NS
        oldest_ns = begin_ns - SAVED_NS
        if self._paid_ns < oldest_ns:
            self._paid_ns = oldest_ns
        self._paid_ns += TIMES_PER_EDGE * spent_ns
        if self._paid_ns <= begin_ns and self._late < MOST_LATE:
            return 0
        return self._rest_ns(begin_ns)

    def _rest_ns(self, now_ns: int) -> int:
        """Return how long the rest is that is due, and begin to count anew."""
        edges, unread = self._edges, EDGES_PER_LATE * self._late - self._edges
        # Another thread may have begun to count anew.
        gap_ns = (now_ns - self._since_ns) // max(1, edges - 1)
        self._edges = self._late = 0
        rest_ns = 0
        if self._paid_ns > now_ns:
            rest_ns = self._paid_ns - now_ns + round(self._random.uniform(1, 3) * SHORTEST_REST_NS)
        if unread > 0 and gap_ns < DENSE_GAP_NS:
            rest_ns = max(rest_ns, round(self._random.uniform(0.5, 1.5) * unread * gap_ns))
        return rest_ns
