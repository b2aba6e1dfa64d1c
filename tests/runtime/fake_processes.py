"""CPU times and users of GPUs whose truth a test knows."""

from __future__ import annotations

from collections.abc import Sequence

from mlmeter.measurement import GpuUse
from mlmeter.sampling.process_tree import TreeTimes
from mlmeter.testing import FakeBackend, FakeClock

OWN_PID = 100
TICK_NS = 10_000_000


class FakeTimes:
    """CPU times of a process tree and of others that load a machine as the test says.

    Args:
        clock: the time; each advance is at the loads set before it.
        cpus: hardware threads.
    """

    def __init__(self, clock: FakeClock, cpus: int = 4) -> None:
        self._clock, self._cpus = clock, cpus
        self.own_cpus = self.other_cpus = 0.0
        self.error: Exception | None = None
        self.host_pids = True
        self.pids = frozenset({OWN_PID})
        self.reads = 0
        self._own_ns = self._other_ns = 0.0
        self._last_ns = clock.now_ns()
        self._start_ns = clock.now_ns()

    def load(self, own_cpus: float, other_cpus: float = 0.0) -> None:
        """Change what runs from now on."""
        self._settle()
        self.own_cpus, self.other_cpus = own_cpus, other_cpus

    def _settle(self) -> None:
        elapsed = self._clock.now_ns() - self._last_ns
        self._last_ns = self._clock.now_ns()
        self._own_ns += self.own_cpus * elapsed
        self._other_ns += self.other_cpus * elapsed

    def read(self) -> TreeTimes:
        self.reads += 1
        if self.error is not None:
            raise self.error
        self._settle()
        busy = self._own_ns + self._other_ns
        capacity = self._cpus * (self._clock.now_ns() - self._start_ns)
        times = (_whole_ticks(value) for value in (self._own_ns, busy, capacity - busy))
        return TreeTimes(*times, self.pids, self.host_pids)


def _whole_ticks(value_ns: float) -> int:
    return int(value_ns) // TICK_NS * TICK_NS


class FakeGpus(FakeBackend):
    """A backend that also tells who uses its domains."""

    uses: Sequence[Sequence[GpuUse] | str] | Exception = ()
    asked = 0

    def gpu_uses(self) -> dict[int, Sequence[GpuUse] | str]:
        self.asked += 1
        if isinstance(self.uses, Exception):
            raise self.uses
        return dict(enumerate(self.uses))
