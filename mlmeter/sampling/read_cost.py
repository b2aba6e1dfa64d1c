"""How long reads of a source take, and how often it is read because of that.

A call into a driver can hold a lock that the metered program needs as well (MangoHud issue
2104): a source whose calls are slow is read less often than was asked for.
"""

from __future__ import annotations

from collections import deque

# Share of the time that calls may take.
CALL_RATIO = 0.01
# Reads are also timed while the session runs. There, a read includes the wait for the
# interpreter's lock, 5 ms for each thread that wants it: only what is slower says something, and
# the fastest of several.
SLOW_SECONDS = 0.02
RECENT_READS = 8
# However slow the calls are.
LONGEST_REST_SECONDS = 5.0


class ReadCost:
    """What one call of a source costs, as measured when it was opened and since.

    Args:
        start_seconds: cost of one call when the backend was opened; 0 if that was not measured.
        domains: how many calls make one read.
        safe_seconds: time between reads at which nothing is lost; rests are never longer.
    """

    def __init__(self, start_seconds: float, domains: int, safe_seconds: float) -> None:
        self._start_seconds = start_seconds
        self._domains = max(1, domains)
        self._longest_rest_seconds = min(LONGEST_REST_SECONDS, safe_seconds)
        # Of the last reads in a row that were slow.
        self._slow: deque[float] = deque(maxlen=RECENT_READS)

    @property
    def doubtful(self) -> bool:
        """Whether the last read was slow."""
        return bool(self._slow)

    @property
    def call_seconds(self) -> float:
        """What a call costs: as at the start, unless all recent ones were slow."""
        return min(self._slow) if len(self._slow) == RECENT_READS else self._start_seconds

    def took(self, elapsed_ns: int) -> None:
        """Note how long a read took; need not be told of quick ones but after a slow one."""
        call_seconds = elapsed_ns * 1e-9 / self._domains
        if call_seconds < SLOW_SECONDS:
            self._slow.clear()
        else:
            self._slow.append(call_seconds)

    def rest_ns(self, period_ns: int) -> int:
        """Return the time between reads that the cost asks for; 0 if calls are cheap for this period."""
        seconds = self.call_seconds
        if seconds <= CALL_RATIO * period_ns * 1e-9:
            return 0
        rest_ns = round(min(seconds / CALL_RATIO, self._longest_rest_seconds) * 1e9)
        return rest_ns if rest_ns > period_ns else 0

    def remark(self, name: str, period_ns: int) -> str | None:
        """Return a sentence about a source that is read less often than asked for; None for others."""
        rest_ns = self.rest_ns(period_ns)
        if not rest_ns:
            return None
        cost = f"one call takes {1e3 * self.call_seconds:.1f} ms"
        return f"{name}: {cost}, so it is read every {rest_ns / 1e9:.2g} s, not every {period_ns / 1e9:.2g} s"
