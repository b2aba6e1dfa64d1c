"""A meter that stands still between its blocks: its clock, and counters that stand still with it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlmeter import EnergyMeter
from mlmeter.backends.rapl import RaplBackend
from mlmeter.clock import MonotonicClock
from mlmeter.journal.live_journal import PERIOD_NS, LiveJournal
from mlmeter.measurement import Failure, Reading
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, fake_domain
from tests.backends.powercap_tree import Zone, build_tree

ZONES = {"intel-rapl:0": ("package-0", 80), "intel-rapl:0:0": ("core", 60), "intel-rapl:0:1": ("dram", 6)}
ZONE_WATTS = tuple(watts for _, watts in ZONES.values())
CPU_PERIOD_NS = 1_000_000
GPU_WATTS, GPU_PERIOD_NS = 300, 100_000_000
NEVER_NS = 1 << 62


class PausableClock(MonotonicClock):
    """A clock for which there is no time but that between `go_on` and `pause`.

    What threads wait for comes as late as if the pauses were not. Only threads whose wait ends before the
    next pause are woken: else each block would begin with all threads that there are, and end in a pause.
    """

    def __init__(self) -> None:
        self._paused_ns = self._stop_ns = time.perf_counter_ns()
        self._away_ns = self._block_end_ns = 0
        self._wall_ahead_ns = time.time_ns() - self.now_ns()
        # Until when threads wait that are not to be woken before, and what wakes them.
        self._parked: dict[threading.Event, int] = {}
        self._called: set[threading.Event] = set()

    def now_ns(self) -> int:
        return min(time.perf_counter_ns(), self._stop_ns) - self._away_ns

    boot_ns = now_ns  # type: ignore[assignment]

    def wall_ns(self) -> int:
        return self.now_ns() + self._wall_ahead_ns

    def go_on(self, seconds: float | None = None) -> None:
        """Let time pass, and the threads work; say for how long, None for good."""
        self._away_ns += time.perf_counter_ns() - self._paused_ns
        self._stop_ns = NEVER_NS
        self._block_end_ns = NEVER_NS if seconds is None else self.now_ns() + round(seconds * 1e9)
        for wake, until_ns in list(self._parked.items()):
            if until_ns <= self._block_end_ns:
                self._called.add(wake)
                wake.set()

    def pause(self) -> None:
        """Let time, and the threads from their next wait on, stand still."""
        self._paused_ns = self._stop_ns = time.perf_counter_ns()

    def wait(self, wake: threading.Event, timeout_seconds: float) -> bool:
        """Wait until `wake` is set or so much of this clock's time has passed."""
        until_ns = self.now_ns() + max(0, round(timeout_seconds * 1e9))
        while True:
            going = self._stop_ns == NEVER_NS
            if going and until_ns <= self._block_end_ns:
                left_ns = until_ns - self.now_ns()
                if left_ns <= 0 or wake.wait(left_ns * 1e-9):
                    return wake.is_set()
                continue
            self._parked[wake] = until_ns
            wake.wait()
            self._parked.pop(wake, None)
            if wake not in self._called:
                return True
            self._called.discard(wake)
            wake.clear()


class RunningRapl(RaplBackend):
    """Reads files of a powercap tree, and shows what they would hold if powers were constant."""

    look_seconds = 0.0

    def __init__(self, folder: Path, clock: PausableClock) -> None:
        zones = [Zone(label, name, "0" * 12, limit_uw=200_000_000) for label, (name, _) in ZONES.items()]
        super().__init__(build_tree(folder, zones).class_root, now_ns=clock.now_ns)

    def read(self) -> list[Reading | Failure]:
        return [
            item._replace(value=item.begin_ns // CPU_PERIOD_NS * 1_000 * ZONE_WATTS[item.position])
            if isinstance(item, Reading)
            else item
            for item in super().read()
        ]


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
    sampler, write = Sampler(clock), LiveJournal.tick
    never = threading.Event()

    def write_in_turn(journal: LiveJournal) -> None:
        clock.wait(never, PERIOD_NS * 1e-9)
        write(journal)

    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        tempfile.TemporaryDirectory() as output,
    ):
        LiveJournal.tick = write_in_turn  # type: ignore[method-assign]
        backends = [RunningRapl(Path(folder), clock), gpu_counter(clock)]
        try:
            clock.go_on()
            with EnergyMeter("loop", backends=backends, output_dir=output, sampler=sampler) as meter:
                clock.pause()
                try:
                    yield meter, sampler, clock
                finally:
                    clock.go_on()
        finally:
            LiveJournal.tick = write  # type: ignore[method-assign]
