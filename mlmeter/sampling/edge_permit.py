"""Whether windows may read a source on the program's own threads: only while that is fast.

A read cannot be interrupted, so the one that shows that a source has become slow is waited for. From
then on windows leave the source alone; the sampler's thread, which may wait, goes on reading it and
finds out when it is fast again. Each time that this was a mistake it takes twice as long: a
source that is slow now and then costs the program fewer and fewer waits.
"""

from __future__ import annotations

from mlmeter.sampling.read_cost import SLOW_SECONDS

# What a read at the edge of a window may take. On a busy machine many take longer, for want of a processor;
# so many in a row do so because the source is dear, or fewer when that has been so before, unless a second
# read in a row takes less: then it was the processor's caches that were cold.
EDGE_LIMIT_NS = 50_000
MOST_DEAR = 32
MOST_DEAR_ON_TRIAL = 8
# One such read is enough.
SLOW_NS = round(SLOW_SECONDS * 1e9)
# A wait for the interpreter's lock or a processor is often this long: one in twenty is too many.
LONG_NS = 5_000_000
LONG_WEIGHT, MOST_DEBT = 20, 100
# On the sampler's thread a read of microseconds may take this long. A longer one says nothing there: it
# may have waited for the interpreter's lock, which the program may hold all the time.
FAST_NS = 1_000_000
FIRST_PROOF_NS = 1_000_000_000
LONGEST_PROOF_NS = 600 * FIRST_PROOF_NS


class EdgePermit:
    """Says whether windows may read a source; told of every read of it.

    Attributes:
        open: whether they may. Not before one of our own threads has seen a fast read.
        on_proof: whether the next read of such a thread shall be the second one in a row.
        fast: whether the newest read was fast.
    """

    __slots__ = (
        "_closed_ns",
        "_dear",
        "_debt",
        "_opened_ns",
        "_proof_ns",
        "fast",
        "on_proof",
        "open",
    )

    def __init__(self) -> None:
        self.open = self.fast = self.on_proof = False
        self._closed_ns = self._opened_ns = 0
        # How long it has to be closed; 0 as long as it never was.
        self._proof_ns = 0
        # Dear reads in a row, and what long ones have left behind.
        self._dear = self._debt = 0

    def took_at_edge(self, elapsed_ns: int, now_ns: int) -> str | None:
        """Note a read at the edge of a window; return a sentence if it was the last one for now.

        Args:
            elapsed_ns: how long it took.
            now_ns: when it had ended.
        """
        self.fast = elapsed_ns < FAST_NS
        if elapsed_ns <= EDGE_LIMIT_NS:
            self._dear, self._debt = 0, max(0, self._debt - 1)
            return None
        self._dear += 1
        if elapsed_ns >= LONG_NS:
            self._debt += LONG_WEIGHT
        if not self.open:
            return None
        if elapsed_ns >= SLOW_NS or self._debt >= MOST_DEBT:
            return self._closed(elapsed_ns, now_ns)
        if self._dear >= MOST_DEAR:
            self.open, self.on_proof = False, True
        return None

    @property
    def calm(self) -> bool:
        """Whether another read at an edge that is not dear would change nothing."""
        return self.fast and not self._dear and not self._debt

    @property
    def settled(self) -> bool:
        """Whether another fast read on a thread of our own would change nothing."""
        return self.open and self.fast

    def took_elsewhere(self, elapsed_ns: int, now_ns: int) -> str | None:
        """Note a read on a thread of our own; return a sentence if windows may read it again."""
        self.fast = elapsed_ns < FAST_NS
        if self.on_proof:
            self.open, self.on_proof = True, False
            if elapsed_ns > EDGE_LIMIT_NS:
                return self._closed(elapsed_ns, now_ns)
            self._dear = 0
        if self.open or not self.fast or now_ns - self._closed_ns < self._proof_ns:
            return None
        self.open, self._opened_ns = True, now_ns
        return "its reads are fast; windows read it at their edges again" if self._proof_ns else None

    def _closed(self, elapsed_ns: int, now_ns: int) -> str:
        """Close it and return the sentence about that."""
        self.close(now_ns)
        return (
            f"a read took {elapsed_ns / 1e6:.2g} ms; for {self._proof_ns / 1e9:g} s, and until its reads are "
            "fast, windows do not read it at their edges: short ones are less certain"
        )

    def close(self, now_ns: int) -> None:
        """Do not let windows read it until it has been left alone for a while and is fast."""
        lasted = self.open and now_ns - self._opened_ns >= LONGEST_PROOF_NS
        doubled_ns = 0 if lasted else 2 * self._proof_ns
        self._proof_ns = min(max(FIRST_PROOF_NS, doubled_ns), LONGEST_PROOF_NS)
        self._closed_ns = now_ns
        self.open = self.fast = self.on_proof = False
        self._dear, self._debt = MOST_DEAR - MOST_DEAR_ON_TRIAL, 0
