"""Forked and started child processes: they wait for nothing of their parent's, and write nothing of it."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest

import mlmeter
from tests.runtime.processes import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

# A counter of 100 W on real time; a child that waits for ever is ended by its alarm.
SETUP = """
import os, signal, sys, threading, time
import mlmeter
from mlmeter import EnergyMeter
from mlmeter.clock import MonotonicClock
from mlmeter.sampling.sampler import Sampler
from mlmeter.testing import FakeBackend

def new_meter(name, **arguments):
    backend = FakeBackend.with_power(MonotonicClock(), 100)
    return EnergyMeter(name, backends=[backend], **arguments)

def forked(work, end=os._exit):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        work()
        end(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

# What a child may do with what it has inherited, and with a meter of its own.
CHILD = """
@mlmeter.inference("request")
def request():
    pass

def use_everything():
    request()
    with meter.window("a name that is new"), meter.training("inherited"):
        pass
    assert not meter.running
    assert meter.energy().energy_joules is None
    assert meter.session.records("windows") == [] or not len(meter.session.recording.windows)
    opened.__exit__(None, None, None)
    assert opened.result(timeout_seconds=0).energy_joules is None
    meter.stop()
    mlmeter.default_meter().stop()
    with meter, mlmeter.training("own session of an inherited meter"):
        pass
    assert len(meter.session.recording.windows) == 1, meter.session
    with new_meter("own") as own, own.window("own"):
        pass
    assert len(own.session.recording.windows) == 1
    assert own.session.total().energy_joules is not None
"""

HELD_LOCKS = """
import gc, types

LOCKS = (type(threading.Lock()), type(threading.RLock()))

def fields(thing):
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    known = dict(getattr(thing, "__dict__", {}))
    return known | {name: getattr(thing, name) for name in slots if hasattr(thing, name)}

def locks_of_mlmeter():
    found = {}
    for thing in gc.get_objects():
        module = isinstance(thing, types.ModuleType) and thing.__name__
        owner = module or f"{type(thing).__module__}.{type(thing).__name__}"
        if not str(owner).startswith("mlmeter"):
            continue
        for name, value in fields(thing).items():
            if name == "_unset":
                # The flag of a `Wake`: whoever waits for it waits until it is set, and is no child.
                continue
            if isinstance(value, threading.Event):
                value = value._cond._lock
            if isinstance(value, LOCKS):
                found[f"{owner}.{name} {id(value)}"] = value
    return found

def hold(locks, held, release):
    for lock in locks:
        lock.acquire()
    held.set()
    release.wait()
    for lock in locks:
        lock.release()

def fork_while_held(locks, end=os._exit):
    held, release = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold, args=(locks, held, release))
    holder.start()
    held.wait()
    try:
        return forked(use_everything, end)
    finally:
        release.set()
        holder.join()

meter = new_meter("parent", scope="process", on_window=lambda window: None)
other = new_meter("stopped")
with other:
    pass
with meter:
    opened = meter.window("open at the fork").__enter__()
    meter.session.total()
    locks = locks_of_mlmeter()
    bad = {name: code for name, lock in locks.items() if (code := fork_while_held([lock]))}
    assert not bad, bad
    # In the order in which the meter takes them, lest the holder and the meter wait for each other.
    assert fork_while_held([lock for name, lock in locks.items() if "_lock" in name], sys.exit) == 0
    opened.__exit__(None, None, None)
print(*(name.split()[0] for name in locks))
assert len(meter.session.recording.windows) == 1
"""


def test_a_child_waits_for_no_lock_that_was_held_at_the_fork(tmp_path: Path) -> None:
    """Each lock of mlmeter, found by looking for locks, is held by another thread while the program forks."""
    code, output, errors = run_script(tmp_path, SETUP + CHILD + HELD_LOCKS)
    assert (code, errors) == (0, ""), errors
    names = set(output.split())
    assert {
        "mlmeter.meter._default_lock",
        "mlmeter.meter.EnergyMeter._lock",
        "mlmeter.live.LiveSession._lock",
        "mlmeter.window_log.WindowLog._lock",
        "mlmeter.sampling.sampler.Sampler._lock",
        "mlmeter.sampling.sampler._shared_lock",
        "mlmeter.sampling.sources.SourcePool.lock",
        "mlmeter.sampling.sources.Source.gate",
    } <= names


def test_no_lock_is_shared_by_all_recordings() -> None:
    """Properties that are computed once have no lock of their class, as those of Python 3.11 have."""
    import functools
    import pkgutil
    import sys

    for module in pkgutil.walk_packages(mlmeter.__path__, "mlmeter."):
        if module.name.startswith(("mlmeter.energy", "mlmeter.recording")):
            __import__(module.name)
    kinds = [
        kind
        for name, module in sys.modules.items()
        if name.startswith("mlmeter")
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__.startswith("mlmeter")
    ]
    locked = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, value in vars(kind).items()
        if isinstance(value, functools.cached_property)
    ]
    assert kinds
    assert not locked


def runs_of(folder: Path) -> dict[str, set[str]]:
    """Names of the windows of each run of `runs.csv`, which agrees with the run directories."""
    with (folder / "runs.csv").open(newline="") as file:
        rows = [row["session"] for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows))
    assert set(rows) == {path.parent.name for path in folder.glob("*/session.json")}
    windows = (mlmeter.load(folder / run).recording.windows for run in rows)
    return {
        run: {records.label_table[label].name for label in records.labels}
        for run, records in zip(rows, windows, strict=True)
    }


STARTED_CHILDREN = """
import concurrent.futures, multiprocessing, subprocess

def work(number):
    with mlmeter.inference(f"work {number}"):
        pass
    return mlmeter.default_meter().recorder.log.edges[0] > 0

def by_pool(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        done = pool.map(work, range(4))
        # Leaving the block would terminate the workers: they have no chance then.
        pool.close()
        pool.join()
    return done

def by_executor(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(work, range(4)))

def by_subprocess(method):
    code = "import script; assert script.work(0)"
    return [subprocess.run([sys.executable, "-c", code]).returncode == 0]

if __name__ == "__main__":
    with new_meter("parent", output_dir="runs") as meter, meter.training("of the parent"):
        assert all(START("METHOD"))
    assert [len(meter.session.recording.windows)] == [1]
"""


@pytest.mark.parametrize("recorded", [False, True], ids=["children write nothing", "children write runs"])
@pytest.mark.parametrize(
    ("start", "method"),
    [
        ("by_pool", "fork"),
        ("by_executor", "fork"),
        ("by_pool", "forkserver"),
        ("by_pool", "spawn"),
        ("by_subprocess", ""),
    ],
)
def test_a_worker_writes_no_file_of_its_parent(
    tmp_path: Path, start: str, method: str, *, recorded: bool
) -> None:
    """The parent's run has the parent's windows and one row; workers have runs of their own, if any."""
    text = STARTED_CHILDREN.replace("START", start).replace("METHOD", method)
    variables = {"MLMETER_OUTPUT_DIR": "runs"} if recorded else {}
    code, _, errors = run_script(tmp_path, SETUP + text, **variables)
    assert (code, errors) == (0, ""), errors
    runs = runs_of(tmp_path / "runs")
    parents = [run for run, names in runs.items() if "of the parent" in names]
    assert len(parents) == 1
    assert runs.pop(parents[0]) == {"of the parent"}
    assert bool(runs) == recorded
    done = 1 if "subprocess" in start else 4
    expected = {f"work {number}" for number in range(done)} if recorded else set()
    assert set().union(*runs.values()) == expected


ENDS = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "end of the script": "pass",
    "exception": "raise SystemExit(0)",
    "stops the meter": "meter.stop()",
    "a session of its own": "meter.stop(); meter.start(); meter.training('own').__enter__()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_child_that_leaves_its_parents_blocks(tmp_path: Path, end: str) -> None:
    """A child forked inside a window unwinds the blocks of its parent: the parent's run is written once."""
    text = f"""
with new_meter("parent", output_dir="runs") as meter, meter.window("step"):
    child = os.fork()
    if child == 0:
        {ENDS[end]}
    else:
        assert os.waitpid(child, 0)[1] == 0
        with meter.window("after the child"):
            pass
if child:
    print(meter.run_directory.name)
"""
    code, output, errors = run_script(tmp_path, SETUP + text)
    assert (code, errors) == (0, ""), errors
    runs = runs_of(tmp_path / "runs")
    assert runs.pop(output.strip()) == {"step", "after the child"}
    own = [{"own"}] if end == "a session of its own" else []
    assert list(runs.values()) == own


OBSERVER_FORKS = """
parent = os.getpid()
children, told = [], []

def fork(window):
    told.append(os.getpid())
    children.append(os.fork())

with new_meter("parent", output_dir="runs", on_window=fork, sampler=SAMPLER) as meter:
    for _ in range(3):
        with meter.window("step"):
            pass
    while IN_BLOCK and len(told) < 3:
        MonotonicClock().wait(threading.Event(), 0.01)
if os.getpid() == parent:
    assert len(told) == 3 and set(told) == {parent}, told
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(codes)
"""


@pytest.mark.parametrize("where", ["in the block", "at its end"])
def test_an_observer_that_forks(tmp_path: Path, where: str) -> None:
    """Its children get no windows of the parent and write nothing, on the sampler's thread and in `stop`."""
    # A meter without a thread tells the observer of its windows when it ends.
    sampler = "None" if where == "in the block" else "Sampler(threaded=False)"
    text = OBSERVER_FORKS.replace("IN_BLOCK", str(where == "in the block")).replace("SAMPLER", sampler)
    code, output, errors = run_script(tmp_path, SETUP + text)
    assert (code, errors) == (0, ""), errors
    assert output.splitlines()[-1] == "[0, 0, 0]"
    assert list(runs_of(tmp_path / "runs").values()) == [{"step"}]


JOURNALLED = """
import gc
from mlmeter.journal import live_journal

live_journal.PERIOD_NS, live_journal.PATIENCE_NS = 1_000_000, 0

def acknowledged(count):
    while meter.recorder._journal.windows < count:
        threading.Event().wait(0.01)

def use_and_leave():
    with meter.window("in the child"):
        pass
    gc.collect()
    with new_meter("own", output_dir="own") as own, own.training("own"):
        pass

meter = new_meter("parent", output_dir="runs").start()
with meter.window("before"):
    pass
acknowledged(1)
(journal,) = meter._output_dir.glob("*/journal.sqlite")
inode = journal.stat().st_ino
for number, end in enumerate((sys.exit, os._exit, lambda code: os.kill(os.getpid(), signal.SIGTERM))):
    assert forked(use_and_leave, end) == (-signal.SIGTERM if number == 2 else 0)
    # SQLite removes the log when the last connection is closed.
    assert journal.with_name("journal.sqlite-wal").stat().st_size > 0
    assert journal.stat().st_ino == inode
    with meter.window(f"after {number}"):
        pass
    acknowledged(2 + number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_leaves_the_journal_of_its_parent_alone(tmp_path: Path) -> None:
    """Children end with and without finalisation while the parent writes; then the parent is killed."""
    code, _, errors = run_script(tmp_path, SETUP + JOURNALLED)
    assert (code, errors) == (-signal.SIGKILL, ""), errors
    (journal,) = (tmp_path / "runs").glob("*/journal.sqlite")
    recovered = mlmeter.recover(journal)
    assert recovered.total().energy_joules == pytest.approx(100 * recovered.duration_seconds, rel=0.02)
    assert list(runs_of(tmp_path / "runs").values()) == [{"before", "after 0", "after 1", "after 2"}]
    assert list(runs_of(tmp_path / "own").values()) == [{"own"}] * 3


IN_SQLITE = """
from mlmeter.journal import live_journal

live_journal.PERIOD_NS, live_journal.PATIENCE_NS = 1_000_000, 0
live_journal.LONGEST_WAIT_AT_FORK_SECONDS = 60
write = live_journal.JournalFile.write
inside = threading.Event()

def slow_write(self, *arguments, **more):
    inside.set()
    threading.Event().wait(0.05)
    write(self, *arguments, **more)
    inside.clear()

live_journal.JournalFile.write = slow_write

def use_sqlite():
    assert not inside.is_set()
    with new_meter("own", output_dir="own") as own, own.training("own"):
        pass

with new_meter("parent", output_dir="runs") as meter:
    for _ in range(3):
        inside.wait()
        assert forked(use_sqlite) == 0
        with meter.training("step"):
            pass
"""


def test_a_fork_waits_until_no_thread_is_inside_sqlite(tmp_path: Path) -> None:
    """SQLite's own locks are free in the child, which writes a journal of its own."""
    code, _, errors = run_script(tmp_path, SETUP + IN_SQLITE)
    assert (code, errors) == (0, ""), errors
    assert list(runs_of(tmp_path / "runs").values()) == [{"step"}]
    assert list(runs_of(tmp_path / "own").values()) == [{"own"}] * 3
