"""Threads, tasks, generators and several meters: every window is recorded once, in its place."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlmeter import window_log
from mlmeter.clock import MonotonicClock
from mlmeter.meter import EnergyMeter, _module
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
from mlmeter.window_log import WindowLog
from mlmeter.window_records import OPEN, WindowRecords
from mlmeter.windows import Window, current, current_window
from tests.runtime.processes import run_script

THREADS = 64


def live_meter(**arguments: object) -> EnergyMeter:
    """A meter with a sampler's thread of its own, of a 100 W counter on real time."""
    backend = FakeBackend.with_power(MonotonicClock(), 100)  # type: ignore[arg-type]  # any clock does
    return EnergyMeter("live", backends=[backend], sampler=Sampler(), **arguments)  # type: ignore[arg-type]


@pytest.fixture
def often() -> Iterator[None]:
    """Let threads interrupt each other as often as they can."""
    seconds = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(seconds)


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run `work` with 0, 1, 2, ... at the same time; what one raises is raised here."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(begin, range(count)))


def rows_of(records: WindowRecords) -> dict[int, tuple[str, str, int, int]]:
    """Name, phase, parent and thread of each window by its id, none of which is there twice."""
    assert len(set(records.ids)) == len(records)
    labels = (records.label_table[label] for label in records.labels)
    return {
        window: (label.name, label.phase, parent, thread)
        for window, label, parent, thread in zip(
            records.ids, labels, records.parent_ids, records.threads, strict=True
        )
    }


def phases_and_session_joules(meter: EnergyMeter) -> tuple[float, float]:
    rows = [row for row in meter.session.records("phases") if row["domain"] == "total"]
    energy = meter.session.total().energy_joules
    assert energy is not None
    return sum(row["energy_joules"] for row in rows), energy


@pytest.mark.usefixtures("often")
def test_64_threads_of_decorated_functions() -> None:
    """Each call of each thread is one window in its place, while others look at the running session."""
    rounds = 10
    meter = live_meter()

    @meter.inference("answer", requests=1)
    def answer(number: int) -> int:
        return sum(words(number))

    @meter.window("words", words=lambda result: result)
    def words(number: int) -> Iterator[int]:
        for _ in range(3):
            with meter.evaluation("word"):
                yield number
        return 3

    def work(number: int) -> None:
        for _ in range(rounds):
            with meter.phase(f"phase {number % 3}"):
                assert answer(number) == 3 * number
            if number == 0:
                seen = meter.session.recording.windows
                assert len(set(seen.ids)) == len(seen)

    with meter:
        in_threads(THREADS, work)
    records = meter.session.recording.windows
    rows = rows_of(records)
    assert Counter(name for name, *_ in rows.values()) == {
        "answer": THREADS * rounds,
        "words": THREADS * rounds,
        "word": 3 * THREADS * rounds,
        **{f"phase {n}": rounds * len(range(n, THREADS, 3)) for n in range(3)},
    }
    parents = {"answer": "phase", "words": "answer", "word": "words"}
    phases = {"answer": "inference", "words": "inference", "word": "evaluation"}
    for name, phase, parent, thread in rows.values():
        if name not in parents:
            assert (phase, parent) == (name, 0)
            continue
        assert phase == phases[name]
        assert rows[parent][0].startswith(parents[name])
        assert rows[parent][3] == thread
    assert not any(flags & OPEN for flags in records.flags)
    assert sum(records.units["requests"][1]) == THREADS * rounds
    assert sum(records.units["words"][1]) == 3 * THREADS * rounds
    parts, whole = phases_and_session_joules(meter)
    assert parts == pytest.approx(whole, rel=1e-9)


@pytest.mark.usefixtures("often")
@pytest.mark.filterwarnings("ignore:meter .* has been stopped")
def test_a_meter_that_is_stopped_while_threads_work() -> None:
    """Windows that ended before the call of `stop` are closed, those that were open are open, all once."""
    meter = live_meter()
    windows: list[Window] = []
    enough = threading.Event()

    def work(number: int) -> None:
        while meter.running:
            with meter.window(f"step {number % 5}") as window:
                pass
            windows.append(window)
            if len(windows) > 2_000:
                enough.set()

    meter.start()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    before_ns = meter.recorder.now_ns()
    meter.stop()
    for thread in threads:
        thread.join()
    records = meter.session.recording.windows
    rows = rows_of(records)
    ended = {window.id: window for window in windows if window.end_ns < before_ns}
    assert ended.keys() <= rows.keys()
    flags = dict(zip(records.ids, records.flags, strict=True))
    assert not any(flags[window] & OPEN for window in ended)
    assert rows.keys() - ended.keys() <= {window.id for window in windows if window.end_ns >= before_ns}


def test_a_window_that_closes_while_a_snapshot_is_made(clock: FakeClock) -> None:
    """Neither the snapshot nor the next one misses it or has it twice."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)
    closing: list[Window] = []

    class Log(WindowLog):
        def compact(self) -> None:
            super().compact()
            for window in closing:
                window.__exit__(None, None, None)

    with meter:
        meter.recorder.log = Log()
        closing.append(meter.window("step", items=2).__enter__())
        clock.advance(1)
        records = meter.recorder.log.snapshot(clock.now_ns())
        assert (list(records.flags), list(records.units["items"][1])) == ([0], [2])
        closing[0].add(items=3)
        closing.clear()
        records = meter.recorder.log.snapshot(clock.now_ns())
        assert (list(records.flags), sum(records.units["items"][1])) == ([0], 5)
        assert not meter.recorder.log.open


@pytest.mark.parametrize("step", ["_extend", "_add_units", "_thread_number"])
def test_ctrl_c_while_closed_windows_are_put_away(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No window is lost or twice, and the columns fit each other."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)
    owner = window_log if step == "_add_units" else WindowLog

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with meter:
        for _ in range(3):
            with meter.window("step", items=1):
                clock.advance(1)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, step, interrupted)
            meter.recorder.log.compact()
        with meter.window("step"):
            clock.advance(1)
    records = meter.session.recording.windows
    assert list(records.ids) == [1, 2, 3, 4]
    assert not any(records.flags)


def test_a_window_that_two_threads_close_is_recorded_once(clock: FakeClock) -> None:
    """The second of two threads that close a window at a time finds it closing."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)
    with meter:
        window = meter.window("step").__enter__()
        now_ns, meter.recorder.now_ns = meter.recorder.now_ns, lambda: close_too(window)

        def close_too(window: Window) -> int:
            meter.recorder.now_ns = now_ns
            closer = threading.Thread(target=window.__exit__, args=(None, None, None))
            closer.start()
            closer.join()
            return now_ns()

        window.__exit__(None, None, None)
    assert len(meter.session.recording.windows) == 1


@pytest.mark.usefixtures("often")
def test_labels_that_threads_use_first_at_the_same_time() -> None:
    """A label has one number, whoever uses it first, and the table has its name at that place."""
    for _ in range(20):
        log = WindowLog()
        numbers: list[tuple[str, int]] = []

        def name_all(number: int, log: WindowLog = log, numbers: list[tuple[str, int]] = numbers) -> None:
            for step in range(30):
                name = f"step {(step + number) % 30}"
                numbers.append((name, log.label_number(name, "training")))

        in_threads(8, name_all)
        table = log.snapshot(0).label_table
        assert len(set(numbers)) == 30
        assert all(table[number].name == name for name, number in numbers)


def test_a_signals_handler_opens_a_window_whatever_it_interrupts() -> None:
    """A new label waits for no lock that the interrupted thread holds."""
    log = WindowLog()
    with log._lock:
        caller = threading.Thread(target=log.label_number, args=("step", "training"), daemon=True)
        caller.start()
        caller.join(timeout=30)
        assert not caller.is_alive()


def test_a_window_opened_while_the_default_meter_starts(tmp_path: Path) -> None:
    """A logging handler that is decorated itself is called by the start of the meter that it uses."""
    text = """
import logging, signal, mlmeter
signal.alarm(60)

class Handler(logging.Handler):
    @mlmeter.inference("emit")
    def emit(self, record):
        seen.append(record)

seen = []
logging.getLogger("mlmeter").addHandler(Handler())
logging.getLogger("mlmeter").setLevel("DEBUG")
with mlmeter.training("step"):
    pass
assert seen
print(mlmeter.default_meter().running)
"""
    assert run_script(tmp_path, text) == (0, "True\n", "")


def test_decorated_functions_while_meters_come_and_go() -> None:
    """A function that uses whichever meter runs finds one, while the last one is being stopped."""
    with live_meter() as outer:
        done = threading.Event()

        def use(_: int) -> None:
            while not done.is_set():
                assert _module.recorder is not None

        def come_and_go(_: int) -> None:
            try:
                for _ in range(20):
                    clock = FakeClock()
                    with fake_meter(FakeBackend.with_power(clock, 100), clock=clock):
                        pass
            finally:
                done.set()

        in_threads(4, lambda number: (use if number else come_and_go)(number))
    assert not outer.running


def test_overlapping_meters_that_end_in_the_order_of_their_start(clock: FakeClock) -> None:
    """A window is that of the meter started last that still runs; each meter has its whole energy."""
    sampler = Sampler(clock, threaded=False)
    backend = FakeBackend.with_power(clock, 100)
    first, second = (EnergyMeter(name, backends=[backend], sampler=sampler) for name in ("first", "second"))

    def step(name: str) -> None:
        with _module.window(name):
            clock.advance(1)

    first.start()
    step("one")
    second.start()
    step("both")
    first.stop()
    step("two")
    second.stop()
    names = [
        {records.label_table[label].name for label in records.labels}
        for records in (first.session.recording.windows, second.session.recording.windows)
    ]
    assert names == [{"one"}, {"both", "two"}]
    assert first.session.total().energy_joules == pytest.approx(200, rel=1e-3)
    assert second.session.total().energy_joules == pytest.approx(200, rel=1e-3)


def test_tasks_and_the_threads_that_they_use(clock: FakeClock) -> None:
    """A task's windows stand under those in which it was started; so do those of `asyncio.to_thread`."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)

    @meter.inference
    async def answer(number: int) -> None:
        with meter.window(f"before {number}"):
            await asyncio.sleep(0)
        async for _ in parts(number):
            await asyncio.to_thread(blocking, number)

    @meter.window("parts")
    async def parts(number: int) -> AsyncIterator[int]:
        for part in range(2):
            with meter.window(f"part {number}"):
                await asyncio.sleep(0)
            yield part

    def blocking(number: int) -> None:
        with meter.window(f"blocking {number}"):
            clock.advance(0.01)

    async def serve() -> None:
        with meter.window("serve"):
            await asyncio.gather(*(answer(number) for number in range(10)))

    with meter:
        asyncio.run(serve())
    rows = rows_of(meter.session.recording.windows)
    assert len(rows) == 1 + 10 * (1 + 1 + 1 + 2 + 2)
    expected = {"serve": 0, "answer": "serve", "before": "answer", "parts": "answer", "part": "parts"}
    for name, _, parent, _ in rows.values():
        kind = name.rpartition(".")[2].partition(" ")[0]
        above = rows[parent][0].rpartition(".")[2].partition(" ")[0] if parent else 0
        assert above == expected.get(kind, "answer"), name
    parts_joules, whole = phases_and_session_joules(meter)
    assert parts_joules == pytest.approx(whole, rel=1e-9)


def test_generators_abandoned_half_way(clock: FakeClock) -> None:
    """Their windows end when they are thrown away, wherever that is, and are nobody's parent then."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)

    @meter.inference("stream")
    def stream() -> Iterator[int]:
        for number in range(100):
            clock.advance(1)
            yield number

    with meter:
        for _ in range(5):
            next(stream())
        kept = stream()
        next(kept)
        clock.advance(1)
        # The last reference is dropped on another thread.
        holder = [kept]
        del kept
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        assert current_window() is None
        with meter.window("after"):
            clock.advance(1)
        unended = stream()
        next(unended)
    records = meter.session.recording.windows
    rows = rows_of(records)
    assert Counter((name, parent) for name, _, parent, _ in rows.values()) == {
        ("stream", 0): 7,
        ("after", 0): 1,
    }
    assert [flags & OPEN for flags in records.flags] == [0] * 7 + [OPEN]
    phases = {
        row["phase"]: row["energy_joules"]
        for row in meter.session.records("phases")
        if row["domain"] == "total"
    }
    assert phases["inference"] == pytest.approx(700, rel=1e-3)
    unended.close()
    assert len(meter.session.recording.windows) == 8


def test_a_generator_that_goes_on_in_a_context_copied_inside_it(clock: FakeClock) -> None:
    """It does not become its own enclosing window: later windows of that context find their parent."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)

    @meter.inference("stream")
    def stream() -> Iterator[contextvars.Context]:
        while True:
            yield contextvars.copy_context()

    def step() -> None:
        with meter.window("step"):
            pass

    def chain_ends() -> bool:
        seen, window = set(), current.get()
        while window is not None and id(window) not in seen:
            seen.add(id(window))
            window = window._enclosing
        return window is None

    with meter:
        first, second = stream(), stream()
        inside = next(first)
        inside.run(next, first)
        also_inside = inside.run(next, second)
        also_inside.run(next, first)
        also_inside.run(first.close)
        assert inside.run(chain_ends)
        assert also_inside.run(chain_ends)
        also_inside.run(step)
        second.close()
        inside.run(step)
    rows = rows_of(meter.session.recording.windows)
    assert [name for name, *_ in rows.values()] == ["stream", "stream", "step", "step"]
