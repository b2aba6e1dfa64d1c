"""Every way in which a program may end: its run is written where it had a chance, and the end is its own."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

import mlmeter
from mlmeter.session import Session
from mlmeter.window_records import FAILED, OPEN
from tests.runtime.processes import LIMIT_SECONDS, run_script, start_script

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

SCRIPT = """
import os, signal, sys, threading
import mlmeter
from mlmeter import EnergyMeter
from mlmeter.clock import MonotonicClock
from mlmeter.journal import live_journal
from mlmeter.testing import FakeBackend

live_journal.PERIOD_NS, live_journal.PATIENCE_NS = 1_000_000, 0
# A shell lets programs in the background ignore it, and the tests may be one.
signal.signal(signal.SIGINT, signal.default_int_handler)

def hooks():
    numbers = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    return [signal.getsignal(number) for number in numbers], sys.excepthook, threading.excepthook

def wait_for_journal():
    # An open window is in a journal if something was read after its start; and two writings later,
    # what is open or closed now is in one of them.
    live = running().recorder
    ticks = live._sampler.cost().ticks
    while live._sampler.cost().ticks < ticks + 2:
        threading.Event().wait(0.01)
    for _ in range(2):
        before = live._journal._written
        while live._journal._written is before:
            threading.Event().wait(0.01)

def running():
    return mlmeter.meter._running[-1]

def end():
    if WAIT:
        wait_for_journal()
    END

def meter():
    return EnergyMeter("run", backends=[FakeBackend.with_power(MonotonicClock(), 100)], output_dir="runs")

before = hooks()
"""


def setup(end: str = "pass", *, wait: bool = False) -> str:
    """Return the head of a script, whose function `end` ends it."""
    return SCRIPT.replace("END", end).replace("WAIT", str(wait))


SETUP = setup()

# How users hold a meter. Each ends inside a window, or outside.
HOLDERS = {
    "with": """
with meter() as meter:
    with meter.training("step"):
        pass
    assert hooks() == before
    with meter.inference("last") if INSIDE else mlmeter.window("between"):
        if INSIDE:
            end()
    end()
""",
    "start": """
meter = meter().start()
with meter.training("step"):
    pass
assert hooks() == before
with mlmeter.inference("last"):
    if INSIDE:
        end()
end()
""",
    "default": """
with mlmeter.training("step"):
    pass
assert hooks() == before

@mlmeter.inference("last")
def last():
    if INSIDE:
        end()

last()
end()
""",
}


class End(NamedTuple):
    """A way to end, and what must come of it; `failed` says whether a window that it leaves has failed."""

    statement: str
    code: int
    failed: bool = True
    written: bool = True


OPT_IN = "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number)); "
ENDS = {
    "normal end": End("pass", 0, failed=False),
    "exception": End("raise RuntimeError('bad luck')", 1),
    "sys.exit(0)": End("sys.exit()", 0, failed=False),
    "sys.exit(7)": End("sys.exit(7)", 7),
    "sys.exit with a text": End("sys.exit('bad luck')", 1),
    "SIGINT": End("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
    "SIGTERM, with a handler": End(OPT_IN + "signal.raise_signal(signal.SIGTERM)", 128 + signal.SIGTERM),
    "SIGTERM": End("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM, written=False),
    "SIGKILL": End("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, written=False),
    "os._exit": End("os._exit(4)", 4, written=False),
}


def session_of(folder: Path) -> Session:
    """The one run that was written, wholly."""
    (manifest,) = folder.glob("*/session.json")
    with (folder / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["session"] == manifest.parent.name
    assert {path.suffix for path in manifest.parent.iterdir()} == {".csv", ".json", ".sqlite"}
    session = mlmeter.load(manifest.parent)
    assert session.finished
    return session


def flags_of(session: Session) -> dict[str, int]:
    records = session.recording.windows
    names = (records.label_table[label].name for label in records.labels)
    return dict(zip(names, records.flags, strict=True))


# Leaving a window matters most where a block closes it.
CASES = [
    *((end, holder, True) for end in ENDS for holder in HOLDERS),
    *((end, "with", False) for end in ENDS),
]


@pytest.mark.parametrize(
    ("end", "holder", "inside"),
    CASES,
    ids=lambda value: value if isinstance(value, str) else f"inside={value}",
)
def test_ends(tmp_path: Path, end: str, holder: str, inside: bool) -> None:
    """Exit code, output and signal handlers are the program's; the run is complete if there was a chance."""
    statement, code, failed, written = ENDS[end]
    text = setup(statement, wait=not written) + HOLDERS[holder].replace("INSIDE", str(inside))
    variables = {"MLMETER_OUTPUT_DIR": "runs"} if holder == "default" else {}
    found, output, errors = run_script(tmp_path, text, **variables)
    assert (found, output) == (code, ""), errors
    # A traceback shows the frames of the program, and of the decorator between them.
    assert "Exception ignored" not in errors
    last_line = errors.rstrip().rpartition("\n")[2]
    expected = {"exception": "RuntimeError: bad luck", "sys.exit with a text": "bad luck"}
    assert last_line == expected.get(end, "KeyboardInterrupt" if end == "SIGINT" else ""), errors
    left = FAILED if failed else 0
    if not written:
        left = OPEN
        recover(tmp_path / "runs", holder)
    flags = flags_of(session_of(tmp_path / "runs"))
    assert flags["step"] == 0
    assert flags.get("last") == (left if inside else None)


def recover(folder: Path, holder: str) -> None:
    """Finish the files of a run of which there is a journal only."""
    (journal,) = folder.glob("*/journal.sqlite")
    assert not (folder / "runs.csv").exists()
    assert {path.name for path in journal.parent.iterdir()} <= {journal.name, f"{journal.name}-wal"}
    killed = mlmeter.load(journal)
    assert not killed.finished
    assert [event["kind"] for event in killed.records("events")][-1] == "killed"
    if holder != "default":
        # The default meter has this machine's own sources.
        joules, seconds = killed.total().energy_joules, killed.duration_seconds
        assert joules == pytest.approx(100 * seconds, rel=0.02)
    assert mlmeter.recover(journal.parent).finished


def test_a_dead_sampler_thread(tmp_path: Path) -> None:
    """The energy of the session is whole without the thread, from reads at the edges and at the end."""
    text = (
        SETUP
        + """
from mlmeter.sampling.sampler import Sampler, shared_sampler

def die(self, deadline_ns):
    raise SystemExit

Sampler._next_deadline_ns = die
with meter() as meter:
    shared_sampler()._thread.current.join()
    with meter.training("step"):
        start_ns = MonotonicClock().now_ns()
        while MonotonicClock().now_ns() < start_ns + 200_000_000:
            pass
print(meter.session.total().energy_joules / meter.session.duration_seconds)
"""
    )
    code, output, errors = run_script(tmp_path, text)
    assert (code, errors) == (0, "")
    assert float(output) == pytest.approx(100, rel=0.02)
    assert flags_of(session_of(tmp_path / "runs")) == {"step": 0}


def test_a_dead_sampler_thread_is_replaced(tmp_path: Path) -> None:
    """The thread that watches the sampler's starts another one."""
    text = (
        SETUP
        + """
from mlmeter.sampling.sampler import Sampler

sampler = Sampler(read_limit_seconds=0.02)
backend = FakeBackend.with_power(MonotonicClock(), 100)
survive = Sampler._next_deadline_ns

def die(self, deadline_ns):
    Sampler._next_deadline_ns = survive
    raise SystemExit

Sampler._next_deadline_ns = die
with EnergyMeter(backends=[backend], sampler=sampler) as meter:
    first = sampler._thread.current
    first.join()
    while sampler._thread.current is first:
        threading.Event().wait(0.01)
    reads = backend.reads
    while backend.reads < reads + 3:
        threading.Event().wait(0.01)
print("goes on")
"""
    )
    assert run_script(tmp_path, text) == (0, "goes on\n", "")


def test_the_parent_of_the_program_is_killed(tmp_path: Path) -> None:
    """A program that has lost its parent, such as a launcher, goes on and writes its run."""
    (tmp_path / "worker.py").write_text(
        SETUP
        + """
with meter() as meter, meter.training("step"):
    while os.getppid() == int(sys.argv[1]):
        threading.Event().wait(0.01)
print("orphan")
"""
    )
    text = """
import os, signal, subprocess, sys
subprocess.Popen([sys.executable, "worker.py", str(os.getpid())])
os.kill(os.getpid(), signal.SIGKILL)
"""
    # The pipe is open until the worker has ended, too.
    assert run_script(tmp_path, text) == (-signal.SIGKILL, "orphan\n", "")
    assert flags_of(session_of(tmp_path / "runs")) == {"step": 0}


@pytest.mark.parametrize("call", ["sys.exit(0)", "meter.stop(); os._exit(0)"])
@pytest.mark.parametrize(
    "lock", ["meter._lock", "meter.recorder._lock", "meter._sampler._lock", "meter.recorder.log._lock"]
)
def test_a_handler_that_ends_the_meter_in_the_midst_of_it(tmp_path: Path, call: str, lock: str) -> None:
    """SIGTERM comes while the main thread is at work in the meter: its handler waits for nothing."""
    text = (
        SETUP
        + f"""
from mlmeter.sampling.sampler import shared_sampler
signal.alarm(60)

def handler(number, frame):
    {call}

signal.signal(signal.SIGTERM, handler)
meter = meter()
meter._sampler = shared_sampler()
with meter:
    with {lock}:
        signal.raise_signal(signal.SIGTERM)
"""
    )
    code, _, errors = run_script(tmp_path, text)
    assert (code, errors) == (0, "")
    session_of(tmp_path / "runs")


@pytest.mark.parametrize(
    "step", ["Collected.recording", "JournalFile.write", "JournalFile.close", "run_directory.write_table"]
)
def test_a_handler_that_stops_a_meter_that_is_being_stopped(tmp_path: Path, step: str) -> None:
    """The handler waits for nothing; the run is written once, when it has come back."""
    text = (
        SETUP
        + f"""
from mlmeter.collected import Collected
from mlmeter.journal.file import JournalFile
from mlmeter.report import run_directory
live_journal.LONGEST_WAIT_SECONDS = 1e9
signal.alarm(60)
whole = {step}

def interrupted(*arguments, **more):
    if threading.current_thread() is threading.main_thread():
        {step} = whole
        signal.raise_signal(signal.SIGTERM)
    return whole(*arguments, **more)

meter = meter().start()
signal.signal(signal.SIGTERM, lambda number, frame: meter.stop())
with meter.training("step"):
    pass
wait_for_journal()
{step} = interrupted
meter.stop()
assert not meter.running and meter.run_directory is not None, meter.write_error
"""
    )
    assert run_script(tmp_path, text) == (0, "", "")
    assert flags_of(session_of(tmp_path / "runs")) == {"step": 0}


def test_ctrl_c_while_the_run_is_written(tmp_path: Path) -> None:
    """The program ends by the second Ctrl-C at once; the run is written at its exit."""
    text = (
        SETUP
        + """
from mlmeter.report import run_directory
write = run_directory.write_run_directory

def interrupted(*arguments, **more):
    run_directory.write_run_directory = write
    signal.raise_signal(signal.SIGINT)

run_directory.write_run_directory = interrupted
with meter() as meter, meter.training("step"):
    pass
"""
    )
    code, _, errors = run_script(tmp_path, text)
    assert code == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")
    assert flags_of(session_of(tmp_path / "runs")) == {"step": 0}


@pytest.mark.parametrize(
    "step",
    ["LiveSession._end", "LiveSession._report_finished", "Collected.note_states", "Collected.recording"],
    ids=lambda step: step.partition(".")[2].strip("_"),
)
def test_ctrl_c_while_the_session_ends(tmp_path: Path, step: str) -> None:
    """What Ctrl-C interrupts in `stop` is done at exit: nothing is lost, nothing twice."""
    text = (
        SETUP
        + f"""
from mlmeter.collected import Collected
from mlmeter.live import LiveSession
whole = {step}

def interrupted(self, *arguments, **more):
    {step} = whole
    signal.raise_signal(signal.SIGINT)

meter = meter().start()
with meter.training("step"):
    pass
{step} = interrupted
meter.stop()
"""
    )
    code, _, errors = run_script(tmp_path, text)
    assert (code, errors.endswith("KeyboardInterrupt\n")) == (-signal.SIGINT, True)
    assert flags_of(session_of(tmp_path / "runs")) == {"step": 0}


def test_meters_that_nobody_stops_are_each_written_once(tmp_path: Path) -> None:
    """Nested ones too, and one that another exit function stops first."""
    text = (
        SETUP
        + """
import atexit
outer, inner, stopped = meter().start(), meter().start(), meter().start()
atexit.register(stopped.stop)

@atexit.register
@mlmeter.training("at exit")
def last():
    pass
"""
    )
    assert run_script(tmp_path, text) == (0, "", "")
    with (tmp_path / "runs" / "runs.csv").open(newline="") as file:
        assert len({row["session"] for row in csv.DictReader(file)}) == 3
    assert len(list(tmp_path.glob("runs/*/session.json"))) == 3


def test_a_meter_held_by_a_thread_that_hangs_does_not_keep_the_program(tmp_path: Path) -> None:
    """At exit a lock that is never released is waited for, but not for ever."""
    text = (
        SETUP
        + """
mlmeter.meter.LONGEST_WAIT_AT_EXIT_SECONDS = 0.01
meter = meter().start()
held = threading.Event()

def hang():
    with meter._lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hang, daemon=True).start()
held.wait()
"""
    )
    assert run_script(tmp_path, text) == (0, "", "")


def test_an_open_window_at_exit_is_marked(tmp_path: Path) -> None:
    """A window that is still open when the program ends has the time up to there."""
    text = SETUP + 'meter = meter().start()\nwindow = meter.training("open").__enter__()\n'
    assert run_script(tmp_path, text) == (0, "", "")
    assert flags_of(session_of(tmp_path / "runs")) == {"open": OPEN}


def test_a_signal_from_outside_in_the_midst_of_work(tmp_path: Path) -> None:
    """Ctrl-C from a terminal: the program ends by it, with its run."""
    text = (
        SETUP
        + """
with meter() as meter, meter.training("step"):
    print("up", flush=True)
    threading.Event().wait()
"""
    )
    with start_script(tmp_path, text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == -signal.SIGINT
    assert flags_of(session_of(tmp_path / "runs")) == {"step": FAILED}
