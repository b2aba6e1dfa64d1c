"""A meter that stands still between its blocks: its clock, and counters that stand still with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mlmeter import EnergyMeter
from mlmeter.backends.rapl import RaplBackend
from mlmeter.clock import Flag as WaitedFor
from mlmeter.clock import MonotonicClock
from mlmeter.measurement import Failure, Reading
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, fake_domain
from tests.backends.powercap_tree import Zone, build_tree

ZONES = {"intel-rapl:0": ("package-0", 80), "intel-rapl:0:0": ("core", 60), "intel-rapl:0:1": ("dram", 6)}
ZONE_WATTS = tuple(watts for _, watts in ZONES.values())
CPU_PERIOD_NS = 1_000_000
GPU_WATTS, GPU_PERIOD_NS = 300, 100_000_000
NEVER_NS = 1 << 62
# Shorter waits are those between two looks at a counter.
SHORT_SECONDS = 0.005


class Flag(WaitedFor, Protocol):
    """What threads wait for, and can be woken by."""

    def set(self) -> None: ...
    def clear(self) -> None: ...


class PausableClock(MonotonicClock):
    """A clock for which there is no time but that between `go_on` and `pause`.

    Threads that wait long are woken by `pulse`, which the program calls between the parts of its work: a
    pause costs them nothing. Short waits are waited out, and no pause begins meanwhile, nor while a thread
    is at work: what is metered has all the work of the meter in it, and what is not has none.
    """

    def __init__(self) -> None:
        self._paused_ns = self._stop_ns = time.perf_counter_ns()
        self._away_ns = 0
        self._wall_ahead_ns = time.time_ns() - self.now_ns()
        # Until when threads wait, by what wakes them, and the first of these times.
        self._parked: dict[Flag, int] = {}
        self._due_ns = NEVER_NS
        # All that threads have ever waited for so, and what they have been woken by.
        self._known: set[Flag] = set()
        self._called: set[Flag] = set()
        # Whether threads wait by themselves: before the first pause and after the last one.
        self._free = True

    def now_ns(self) -> int:
        return min(time.perf_counter_ns(), self._stop_ns) - self._away_ns

    boot_ns = now_ns  # type: ignore[assignment]

    def wall_ns(self) -> int:
        return self.now_ns() + self._wall_ahead_ns

    def go_on(self, *, for_good: bool = False) -> None:
        """Let time pass."""
        self._free = for_good
        self._away_ns += time.perf_counter_ns() - self._paused_ns
        self._stop_ns = NEVER_NS
        for wake in list(self._parked) if for_good else ():
            self._call(wake)

    def pause(self) -> None:
        """Let time stand still; when none of the threads is `busy`."""
        self._free = False
        self._paused_ns = self._stop_ns = time.perf_counter_ns()

    @property
    def busy(self) -> bool:
        """Whether a thread is at work, or will be in a moment."""
        parked = list(self._parked)
        return len(parked) < len(self._known) or any(wake.is_set() for wake in parked)

    def pulse(self) -> None:
        """Wake the threads that have waited long enough."""
        if self.now_ns() >= self._due_ns:
            for wake, until_ns in list(self._parked.items()):
                if until_ns <= self.now_ns():
                    self._call(wake)
            self._look_ahead()

    def _call(self, wake: Flag) -> None:
        # From here on its thread is busy, although it may take a while until it runs.
        self._parked.pop(wake, None)
        self._called.add(wake)
        wake.set()

    def _look_ahead(self) -> None:
        self._due_ns = min(list(self._parked.values()), default=NEVER_NS)

    def wait(self, wake: Flag, timeout_seconds: float) -> bool:
        """Wait until `wake` is set or so much of this clock's time has passed."""
        if self._free or timeout_seconds < SHORT_SECONDS:
            return wake.wait(max(0.0, timeout_seconds))
        self._parked[wake] = self.now_ns() + round(timeout_seconds * 1e9)
        self._known.add(wake)
        self._look_ahead()
        wake.wait()
        self._parked.pop(wake, None)
        if wake not in self._called:
            return True
        self._called.discard(wake)
        wake.clear()
        return False


class RunningRapl(RaplBackend):
    """Reads files of a powercap tree, and shows what they would hold if powers were constant."""

    look_seconds = 0.0

    def __init__(self, folder: Path, clock: PausableClock) -> None:
        zones = [Zone(label, name, "0" * 12, limit_uw=200_000_000) for label, (name, _) in ZONES.items()]
        super().__init__(build_tree(folder, zones).class_root, now_ns=clock.now_ns)

    def read(self) -> list[Reading | Failure]:
        counts: list[Reading | Failure] = []
        # At the least cost, which the meter would not have: it counts as its own here.
        for item in super().read():
            if isinstance(item, Reading):
                position, _, begin_ns, end_ns, _, _ = item
                value = begin_ns // CPU_PERIOD_NS * 1_000 * ZONE_WATTS[position]
                counts.append(Reading(position, value, begin_ns, end_ns))
            else:
                counts.append(item)
        return counts


def gpu_counter(clock: PausableClock) -> FakeBackend:
    """Return a counter of millijoules that is refreshed every 100 ms, as those of GPUs are."""
    domain = fake_domain(
        name="gpu-0",
        kind="gpu",
        update_period_seconds=GPU_PERIOD_NS * 1e-9,
        joules_per_count=1e-3,
        cheap_read=False,
    )
    return FakeBackend(
        [domain], [lambda now: now // GPU_PERIOD_NS * GPU_PERIOD_NS * GPU_WATTS // 1_000_000], clock
    )


@contextmanager
def pausable_meter() -> Iterator[tuple[EnergyMeter, Sampler, PausableClock]]:
    """Meter counters on a memory file system where there is one, paused; what is written goes away."""
    memory, clock = Path("/dev/shm"), PausableClock()
    sampler = Sampler(clock)
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        tempfile.TemporaryDirectory() as output,
    ):
        backends = [RunningRapl(Path(folder), clock), gpu_counter(clock)]
        clock.go_on(for_good=True)
        with EnergyMeter("loop", backends=backends, output_dir=output, sampler=sampler) as meter:
            clock.pause()
            try:
                yield meter, sampler, clock
            finally:
                clock.go_on(for_good=True)
