"""A program to be metered: a Python script in this process, anything else as a child."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

# What shells answer in these cases.
NOT_FOUND = 127
NOT_EXECUTABLE = 126
INTERRUPTED = 128 + signal.SIGINT
SIGNALLED = 128
# These, and folders, have their own `__main__` inside.
ARCHIVES = (".zip", ".pyz")
# Signals to `mlmeter run` are meant for the program that it runs.
FORWARDED = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


@dataclass(frozen=True, slots=True)
class Program:
    """A command line, and how it is run.

    Attributes:
        command: program and arguments.
        script: Python file to run in this process, or None.
        module: Python module to run in this process, or None.
        arguments: what the script or module gets as its own arguments.
    """

    command: tuple[str, ...]
    script: str | None = None
    module: str | None = None
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, command: tuple[str, ...]) -> Program:
        """Find out whether `command` is a script for the Python that runs now."""
        first, *rest = command
        if first.endswith(".py") and Path(first).is_file():
            return cls(command, script=first, arguments=tuple(rest))
        if not _is_this_python(first) or not rest:
            return cls(command)
        if rest[0] == "-m" and len(rest) > 1:
            return cls(command, module=rest[1], arguments=tuple(rest[2:]))
        if rest[0].startswith("-"):
            # Flags of the interpreter need an interpreter of their own.
            return cls(command)
        return cls(command, script=rest[0], arguments=tuple(rest[1:]))

    @property
    def other_python(self) -> bool:
        """Whether a script is run by an interpreter that is not this one."""
        here = self.script is not None or self.module is not None
        first, *rest = self.command
        return (
            not here and Path(first).name.startswith("python") and not _is_this_python(first) and bool(rest)
        )

    @property
    def name(self) -> str:
        """Name of the run."""
        return Path(self.script).stem if self.script else self.module or Path(self.command[0]).name

    def cannot_run(self) -> tuple[str, int] | None:
        """Return why the program cannot be started and the shell's code for it; None if it can."""
        name = self.command[0]
        if self.script is not None and not Path(self.script).exists():
            return f"can't open file {self.script!r}: no such file", 2
        if self.script is not None or self.module is not None or shutil.which(name) is not None:
            return None
        if Path(name).exists():
            return f"{name}: Permission denied", NOT_EXECUTABLE
        return f"{name}: command not found", NOT_FOUND

    def run(self) -> int:
        """Run the program to its end and return its exit code."""
        if self.script is not None or self.module is not None:
            return self._run_here()
        return self._run_child()

    def _run_here(self) -> int:
        """Run as ``__main__``, the way `python` does, with this process' meter around it."""
        sys.argv = [self.script or self.module or "", *self.arguments]
        _end_in_order_when_terminated()
        try:
            if self.module is not None:
                sys.path[0] = str(Path.cwd())
                runpy.run_module(self.module, run_name="__main__", alter_sys=True)
            elif self.script is not None:
                sys.path[0] = str(Path(self.script).resolve().parent)
                _run_script(Path(self.script).absolute())
            _wait_for_threads()
        except SystemExit as stop:
            code = _exit_code(stop.code)
            if code < SIGNALLED:
                _wait_for_threads()
            return code
        except KeyboardInterrupt:
            _show_exception()
            return INTERRUPTED
        except BaseException:
            _show_exception()
            _wait_for_threads()
            return 1
        return 0

    def _run_child(self) -> int:
        started: list[subprocess.Popen[bytes]] = []
        early: list[int] = []

        def forward(number: int, _frame: object) -> None:
            early.append(number)
            if started:
                started[0].send_signal(number)

        # Before the program begins: it can be told to end as soon as it has.
        for number in FORWARDED:
            signal.signal(number, forward)
        try:
            child = subprocess.Popen(self.command)
        except OSError as error:
            print(f"mlmeter run: {self.command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201  # as a shell
            return NOT_EXECUTABLE
        started.append(child)
        for number in early:
            child.send_signal(number)
        while True:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                # The terminal has sent the signal to the child too: its answer counts.
                continue
            return code if code >= 0 else SIGNALLED - code


def _is_this_python(name: str) -> bool:
    """Whether a command is the interpreter that runs now, under whatever name."""
    found = shutil.which(name)
    if found is None or not Path(name).name.startswith("python"):
        return False
    # Links lead from a virtual environment to the common interpreter: compare folders, too.
    ours = Path(sys.executable)
    return Path(found).resolve() == ours.resolve() and Path(found).parent == ours.parent


def _exit_code(code: object) -> int:
    """Return what `python` answers for this argument of SystemExit."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201  # what python itself does
    return 1


def _run_script(path: Path) -> None:
    """Run a file in a module that stays ``__main__`` to the end of the process.

    Functions for the exit of the process and pickles of the script's own classes need it.
    """
    if path.is_dir() or path.suffix in ARCHIVES:
        runpy.run_path(str(path), run_name="__main__")
        return
    with io.open_code(str(path)) as file:
        code = compile(file.read(), str(path), "exec")
    module = ModuleType("__main__")
    module.__dict__.update(__file__=str(path), __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


def _wait_for_threads() -> None:
    """Wait, as the interpreter does at its end, for what the program still does in threads."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()


def _end_in_order_when_terminated() -> None:
    """Let SIGTERM unwind the program, so that its run is written; it may set a handler of its own."""

    def terminate(number: int, _frame: object) -> None:
        raise SystemExit(SIGNALLED + number)

    signal.signal(signal.SIGTERM, terminate)
    # Workers that the program forks die of the signal as they would without the meter.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _restore(terminate))


def _restore(handler: object) -> None:
    if signal.getsignal(signal.SIGTERM) is handler:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _show_exception() -> None:
    """Hand the exception to the program's hook, as `python` would: from the program's first frame on."""
    kind, error, trace = sys.exc_info()
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    if kind is not None and error is not None:
        sys.excepthook(kind, error.with_traceback(trace), trace)


def _is_ours(filename: str) -> bool:
    return filename == __file__ or "runpy" in filename
