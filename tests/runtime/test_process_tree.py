"""CPU time of a process and its descendants: frozen /proc trees, and real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlmeter.sampling.process_tree import HOST_PID_NAMESPACE, ProcessTree

TICK_NS = 10_000_000
OWN = 50


class Proc:
    """A /proc that a test writes; times in ticks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self" / "ns").mkdir(parents=True)
        (root / "self" / "ns" / "pid").symlink_to(HOST_PID_NAMESPACE)
        self.machine(1000, 9000)
        self.process(1, parent=0, start=1)
        self.process(OWN, own=100)

    def machine(self, busy: int, idle: int) -> None:
        line = f"cpu  {busy} 0 0 {idle} 0 0 0 500 0 0\ncpu0 1 1 1\n"
        (self.root / "stat").write_text(line)

    def process(
        self,
        pid: int,
        own: int = 0,
        waited: int = 0,
        parent: int = 1,
        start: int = 1000,
        name: str = "python) R 1 (",
    ) -> None:
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        fields = ["0"] * 49
        fields[0], fields[1] = str(parent), "0"
        for place, value in ((10, own), (12, waited), (18, start)):
            fields[place] = str(value)
        (directory / "stat").write_text(f"{pid} ({name}) S {' '.join(fields)}\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def tree(proc: Proc) -> ProcessTree:
    return ProcessTree(proc.root, OWN)


def worked(tree: ProcessTree) -> Callable[[], int]:
    """Return a function that looks for new processes and tells the ticks since now."""

    def read() -> int:
        tree._look_ns = 0
        return tree.read().process_ns // TICK_NS

    before = read()
    return lambda: read() - before


def test_machine_without_stolen_time(proc: Proc, tree: ProcessTree) -> None:
    """Busy and idle ticks; what the hypervisor took is neither."""
    times = tree.read()
    assert (times.busy_ns, times.idle_ns) == (1000 * TICK_NS, 9000 * TICK_NS)
    assert times.host_pids


def test_living_child_counts(proc: Proc, tree: ProcessTree) -> None:
    """A child and a grandchild that live count with what they have worked."""
    since = worked(tree)
    proc.process(60, own=20, parent=OWN)
    proc.process(61, own=5, parent=60)
    proc.process(99, own=1000)
    assert since() == 25
    assert tree.read().pids == {OWN, 60, 61}


def test_finished_child_counts_once(proc: Proc, tree: ProcessTree) -> None:
    """Waited for, its time is the parent's: seen before its end or not."""
    since = worked(tree)
    proc.process(60, own=20, parent=OWN)
    assert since() == 20
    proc.end(60)
    # Another one came and went unseen: 7 ticks.
    proc.process(OWN, own=101, waited=22 + 7)
    assert since() == 30


def test_six_finished_children_count(proc: Proc, tree: ProcessTree) -> None:
    """Each seen at another moment of its life, or not at all."""
    since = worked(tree)
    waited = 0
    for number in range(6):
        if number % 2:
            proc.process(60 + number, own=number, parent=OWN)
            since()
            proc.end(60 + number)
        waited += 10
        proc.process(OWN, own=100, waited=waited)
        since()
    assert since() == 60


def test_finished_grandchild_counts_once(proc: Proc, tree: ProcessTree) -> None:
    """Its time goes to its parent, and with that to ours."""
    since = worked(tree)
    proc.process(60, own=10, parent=OWN)
    proc.process(61, own=30, parent=60)
    assert since() == 40
    proc.end(61)
    proc.process(60, own=10, waited=31, parent=OWN)
    assert since() == 41
    proc.end(60)
    proc.process(OWN, own=100, waited=41)
    assert since() == 41


def test_both_generations_end_between_two_readings(proc: Proc, tree: ProcessTree) -> None:
    """The time of both arrives at the grandparent at once."""
    since = worked(tree)
    proc.process(60, own=10, parent=OWN)
    proc.process(61, own=30, parent=60)
    since()
    proc.end(61)
    proc.end(60)
    proc.process(OWN, own=100, waited=45)
    assert since() == 45


def test_child_outlives_its_parent(proc: Proc, tree: ProcessTree) -> None:
    """Adopted by init it works on for us; when it ends, init gets its time, and we keep it."""
    since = worked(tree)
    proc.process(60, own=10, parent=OWN)
    proc.process(61, own=30, parent=60)
    since()
    proc.end(60)
    proc.process(OWN, own=100, waited=10)
    proc.process(61, own=50, parent=1)
    assert since() == 60
    proc.process(61, own=70, parent=1)
    assert since() == 80
    proc.end(61)
    assert since() == 80


def test_children_that_nobody_waits_for_count(proc: Proc, tree: ProcessTree) -> None:
    """Where SIGCHLD is ignored, the parent never gets their time: what was seen stays."""
    since = worked(tree)
    proc.process(60, own=50, parent=OWN)
    since()
    proc.end(60)
    assert since() == 50
    assert since() == 50


def test_number_that_is_used_again(proc: Proc, tree: ProcessTree) -> None:
    """Another process of a child's number is not the child."""
    since = worked(tree)
    proc.process(60, own=50, parent=OWN)
    since()
    proc.process(60, own=5000, parent=1, start=2000)
    proc.process(OWN, own=100, waited=50)
    assert since() == 50


def test_end_during_a_reading_is_not_counted_twice(proc: Proc, tree: ProcessTree) -> None:
    """The child ends after its parent was read: the parent is read again."""
    proc.process(60, own=20, parent=OWN)
    before = tree.read().process_ns
    # No look for new processes, which reads them all once more.
    tree._look_ns = 1 << 62
    read = tree._file

    def end_in_between(pid: int) -> object:
        if pid == 60 and (proc.root / "60").exists():
            proc.end(60)
            proc.process(OWN, own=100, waited=20)
        return read(pid)

    tree._file = end_in_between  # type: ignore[method-assign, assignment]
    assert tree.read().process_ns == before
    assert tree.read().process_ns == before


def test_unreadable_places_raise(proc: Proc, tree: ProcessTree) -> None:
    """What is not there, or counts nothing, is an OSError with the reason."""
    proc.machine(0, 0)
    with pytest.raises(OSError, match="counts nothing"):
        tree.read()
    proc.end(OWN)
    with pytest.raises(OSError, match="does not show this process"):
        ProcessTree(proc.root, OWN).read()
    with pytest.raises(OSError, match="No such file"):
        ProcessTree(proc.root / "nowhere", OWN).read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_hidden_processes_are_told(proc: Proc, tree: ProcessTree) -> None:
    """Processes of others that cannot be read may be descendants."""
    (proc.root / "1" / "stat").chmod(0)
    assert "1 processes cannot be read" in tree.read().notes[0]


def test_container_is_known_by_its_namespace(proc: Proc, tree: ProcessTree) -> None:
    """Only in the first namespace are our numbers those of drivers."""
    (proc.root / "self" / "ns" / "pid").unlink()
    (proc.root / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")
    assert not tree.read().host_pids


# -- real processes ------------------------------------------------------------------------------

WORK = "import time\nwhile time.process_time() < {seconds}: pass\n"


@pytest.fixture
def live() -> ProcessTree:
    tree = ProcessTree.of_this_process()
    tree.read()
    return tree


def seconds(tree: ProcessTree) -> float:
    tree._look_ns = 0
    return tree.read().process_ns * 1e-9


def test_six_real_children_are_counted(live: ProcessTree) -> None:
    """Six children one after the other, 0.2 s of CPU time each, with a reading while some run."""
    before, own = seconds(live), time.process_time()
    for number in range(6):
        child = subprocess.Popen([sys.executable, "-c", WORK.format(seconds=0.2)])
        if number % 2:
            seconds(live)
        assert child.wait(timeout=60) == 0
    children = seconds(live) - before - (time.process_time() - own)
    waited = os.times()
    assert children >= 6 * 0.2 - 0.02
    assert children <= waited.children_user + waited.children_system + 0.1


def test_real_grandchildren_are_counted(live: ProcessTree) -> None:
    """A child that waits for two children of its own, seen while they work and unseen."""
    code = (
        "import subprocess, sys\n"
        f"work = {WORK.format(seconds=0.2)!r}\n"
        "for _ in range(2): subprocess.run([sys.executable, '-c', work], check=True)\n"
    )
    before, own = seconds(live), time.process_time()
    child = subprocess.Popen([sys.executable, "-c", code])
    while child.poll() is None:
        seconds(live)
    assert seconds(live) - before - (time.process_time() - own) >= 0.4 - 0.04


def test_real_child_that_outlives_its_parent_is_counted(live: ProcessTree) -> None:
    """An orphan that was seen while its parent lived stays ours until it ends."""
    work = (
        "import os, time; os.read(0, 1); end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass"
    )
    code = (
        "import subprocess, sys\n"
        f"orphan = subprocess.Popen([sys.executable, '-c', {work!r}], stdin=int(sys.argv[1]),\n"
        "    stdout=subprocess.DEVNULL)\n"
        "print(orphan.pid, flush=True); sys.stdin.readline()\n"
    )
    orphans_input, ours = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(orphans_input)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(orphans_input,),
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    before, own = seconds(live), time.process_time()
    parent.communicate(b"end\n", timeout=60)
    os.write(ours, b"x")
    while orphan in live.read().pids and "Z" not in state_of(orphan):
        pass
    os.close(ours)
    os.close(orphans_input)
    assert seconds(live) - before - (time.process_time() - own) >= 0.3 - 0.05


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_is_counted(live: ProcessTree) -> None:
    """A plain fork without exec, as multiprocessing does."""
    before, own = seconds(live), time.process_time()
    child = os.fork()
    if not child:
        while time.process_time() < 0.2:
            pass
        os._exit(0)
    seconds(live)
    os.waitpid(child, 0)
    assert seconds(live) - before - (time.process_time() - own) >= 0.2 - 0.02


def test_sleeping_costs_nothing(live: ProcessTree) -> None:
    """A tree whose child sleeps works almost nothing."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    before, own = seconds(live), time.process_time()
    for _ in range(20):
        live.read()
    worked_seconds = seconds(live) - before - (time.process_time() - own)
    child.communicate(b"")
    assert worked_seconds <= 0.03
