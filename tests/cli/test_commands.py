"""The command line, mostly as real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import mlmeter

ROOT = str(Path(mlmeter.__file__).parent.parent)


def mlmeter_command(
    *arguments: str, cwd: Path, stdin: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mlmeter", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ROOT, **(environment or {})},
    )


def metered(tmp_path: Path, text: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Meter a Python script of this text."""
    script = tmp_path / "script.py"
    script.write_text(text)
    return mlmeter_command("run", "--", sys.executable, str(script), *arguments, cwd=tmp_path, stdin=stdin)


def window_rows(tmp_path: Path) -> list[dict[str, str]]:
    """Rows of windows.csv of the one run, total and exclusive."""
    (path,) = tmp_path.glob("mlmeter-runs/*/windows.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["domain"] == "total" and row["scope"] == "exclusive"]


def test_script_sees_its_own_arguments_and_input(tmp_path: Path) -> None:
    """A metered script runs as it would alone: arguments, standard input, `__main__`, its folder."""
    (tmp_path / "neighbour.py").write_text("VALUE = 5\n")
    result = metered(
        tmp_path,
        "import sys, neighbour\nprint(sys.argv[1:], input(), __name__, neighbour.VALUE)\n",
        "--epochs",
        "3",
        stdin="hello\n",
    )
    assert (result.returncode, result.stdout) == (0, "['--epochs', '3'] hello __main__ 5\n")


def test_report_writes_the_page(tmp_path: Path) -> None:
    """One file, named on standard error; tables only where they are asked for, too."""
    metered(tmp_path, "")
    result = mlmeter_command("report", "mlmeter-runs", "--html", "run.html", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "wrote run.html" in result.stderr
    assert (tmp_path / "run.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    both = mlmeter_command("report", "mlmeter-runs", "--html", "run.html", "--json", cwd=tmp_path)
    assert json.loads(both.stdout)["name"] == "script"
    german = mlmeter_command("report", "mlmeter-runs", "--html", "de.html", "--grid", "DE", cwd=tmp_path)
    assert (german.returncode, "CO2e" in (tmp_path / "de.html").read_text(encoding="utf-8")) == (0, True)
    assert mlmeter_command("report", "mlmeter-runs", "--grid", "DE", cwd=tmp_path).returncode == 2
    nowhere = mlmeter_command("report", "mlmeter-runs", "--html", "no/run.html", cwd=tmp_path)
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert "Traceback" not in nowhere.stderr


def test_decorators_of_the_script_join_the_session(tmp_path: Path) -> None:
    """Windows of the script are in the run's own session, in its phases."""
    result = metered(
        tmp_path,
        "import mlmeter\n@mlmeter.inference(tokens=len)\ndef f():\n    return [1, 2]\n"
        "f()\nwith mlmeter.training('epoch'):\n    f()\n",
    )
    assert result.returncode == 0, result.stderr
    assert [(row["name"], row["phase"]) for row in window_rows(tmp_path)] == [
        ("(session)", "other"),
        ("f", "inference"),
        ("epoch", "training"),
        ("f", "inference"),
    ]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('bad luck')", 1, "bad luck"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("import mlmeter, sys\nwith mlmeter.training('x'):\n    sys.exit(9)", 9, ""),
    ],
)
def test_exit_code_is_the_scripts_and_files_are_written(
    tmp_path: Path, text: str, code: int, message: str
) -> None:
    """However a script ends, its exit code passes and its run directory is there."""
    result = metered(tmp_path, text)
    assert result.returncode == code
    assert message in result.stderr
    assert len(list(tmp_path.glob("mlmeter-runs/*/session.json"))) == 1


def test_traceback_starts_with_the_script(tmp_path: Path) -> None:
    """The traceback shows the user's frames and none of ours."""
    result = metered(tmp_path, "def f():\n    raise ValueError('mine')\nf()\n")
    assert "script.py" in result.stderr
    assert "runpy" not in result.stderr
    assert "program.py" not in result.stderr


def test_process_scope_counts_six_finished_children(tmp_path: Path) -> None:
    """The parts of every domain stand in shares.csv; the CPU time of finished children is ours."""
    work = "import time\nwhile time.process_time() < 0.2: pass"
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys\n"
        f"for _ in range(6): subprocess.run([sys.executable, '-c', {work!r}], check=True)\n"
    )
    result = mlmeter_command(
        "run", "--scope", "process", "--backends", "cpu_estimate", "--", "python", str(script), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "this process and its children" in result.stderr
    (directory,) = (path.parent for path in tmp_path.glob("mlmeter-runs/*/shares.csv"))
    with (directory / "shares.csv").open(newline="") as file:
        parts = {row["part"]: row for row in csv.DictReader(file) if row["domain"] == "total"}
    assert float(parts["process"]["energy_joules"]) > 0
    assert parts["process"]["method"] == "load_estimate*cpu_time_of_capacity"
    process = mlmeter.load(directory).recording.process
    assert process is not None
    assert (process.process_ns[-1] - process.process_ns[0]) * 1e-9 >= 6 * 0.2 - 0.05


def test_unknown_scope_is_a_wrong_usage(tmp_path: Path) -> None:
    """The message names both scopes."""
    result = mlmeter_command("run", "--scope", "host", "--", "true", cwd=tmp_path)
    assert result.returncode == 2
    assert "machine" in result.stderr
    assert "process" in result.stderr


def test_module_is_run(tmp_path: Path) -> None:
    """`python -m module` runs in the session too."""
    (tmp_path / "work.py").write_text(
        "import sys, mlmeter\nwith mlmeter.inference('w'):\n    print(sys.argv[1])\n"
    )
    result = mlmeter_command("run", "--", sys.executable, "-m", "work", "x", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "x\n")
    assert "w" in {row["name"] for row in window_rows(tmp_path)}


def test_script_knows_its_absolute_path(tmp_path: Path) -> None:
    """`__file__` is absolute, as `python` makes it, also for a script given by its name."""
    (tmp_path / "tool.py").write_text("print(__file__)\n")
    result = mlmeter_command("run", "--quiet", "--", "tool.py", cwd=tmp_path)
    assert result.stdout == f"{tmp_path / 'tool.py'}\n"


def test_excepthook_of_the_script_is_asked(tmp_path: Path) -> None:
    """A hook for uncaught exceptions, such as an error reporter's, sees them."""
    text = "import sys\nsys.excepthook = lambda *error: print('hook', error[0].__name__)\n1 / 0\n"
    result = metered(tmp_path, text)
    assert (result.returncode, result.stdout) == (1, "hook ZeroDivisionError\n")
    assert "Traceback" not in result.stderr


def test_forked_child_leaves_the_run_to_its_parent(tmp_path: Path) -> None:
    """A child that reaches the script's end exits like a script: one summary, one run."""
    text = (
        "import os, sys\nif os.fork() == 0:\n    sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    result = metered(tmp_path, text)
    assert (result.returncode, result.stdout) == (0, "3\n")
    assert result.stderr.count("run directory:") == 1
    assert len(list(tmp_path.glob("mlmeter-runs/*/session.json"))) == 1


@pytest.mark.parametrize("program", [[sys.executable, "sleep.py"], ["sh", "-c", "echo up; exec sleep 60"]])
def test_a_terminated_run_ends_its_program_and_is_written(tmp_path: Path, program: list[str]) -> None:
    """SIGTERM reaches the program; the run's files are there, the exit code is the signal's."""
    (tmp_path / "sleep.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    run = subprocess.Popen(
        [sys.executable, "-m", "mlmeter", "run", "--quiet", "--", *program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    run.terminate()
    # The pipe ends only when the program has ended, too.
    assert run.communicate(timeout=30)[0] == b""
    assert run.returncode == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob("mlmeter-runs/*/session.json"))) == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 5"], 5),
        (["sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL),
        (["no-such-program"], 127),
        ([sys.executable, "-c", "raise SystemExit(4)"], 4),
        ([sys.executable, "missing.py"], 2),
    ],
)
def test_exit_code_of_any_program_passes(tmp_path: Path, command: list[str], code: int) -> None:
    """Other programs are metered from outside; codes are those that a shell gives."""
    result = mlmeter_command("run", "--quiet", "--", *command, cwd=tmp_path)
    assert result.returncode == code


def test_file_that_is_not_executable(tmp_path: Path) -> None:
    """The shell's code 126, and the reason."""
    path = tmp_path / "plain"
    path.write_text("text")
    path.chmod(stat.S_IRUSR)
    result = mlmeter_command("run", "--quiet", "--", str(path), cwd=tmp_path)
    assert result.returncode == 126
    assert "Permission denied" in result.stderr


def test_summary_goes_to_standard_error(tmp_path: Path) -> None:
    """The program's output stays its own."""
    result = mlmeter_command("run", "--", "sh", "-c", "echo out", cwd=tmp_path)
    assert result.stdout == "out\n"
    assert "run directory: mlmeter-runs" in result.stderr


def test_wrong_usage_is_code_2(tmp_path: Path) -> None:
    """Unknown backends and missing programs are usage errors with the accepted values."""
    assert mlmeter_command("run", cwd=tmp_path).returncode == 2
    result = mlmeter_command("run", "--backends", "nvlm", "--", "true", cwd=tmp_path)
    assert result.returncode == 2
    assert "known are rapl" in result.stderr


def test_require_measured_is_code_3(tmp_path: Path) -> None:
    """An estimate does not pass where measured energy is required."""
    result = mlmeter_command(
        "run", "--quiet", "--require-measured", "--backends", "cpu_estimate", "--", "true", cwd=tmp_path
    )
    assert result.returncode == 3
    assert "doctor" in result.stderr


def test_doctor_explains_every_source(tmp_path: Path) -> None:
    """Each source is there with what it gives, or with the reason and what would help."""
    missing = {"MLMETER_POWERCAP_ROOT": str(tmp_path / "nothing")}
    text = mlmeter_command("doctor", cwd=tmp_path, environment=missing)
    facts = json.loads(mlmeter_command("doctor", "--json", cwd=tmp_path, environment=missing).stdout)
    assert text.returncode == 0
    assert max(map(len, text.stdout.splitlines())) <= 80
    assert "cpu-estimate" in {domain["domain"] for domain in facts["domains"]}
    (rapl,) = (item for item in facts["unavailable"] if item["source"] == "rapl")
    assert rapl["reason"]
    assert rapl["remedy"]


def test_report_shows_the_latest_run(tmp_path: Path) -> None:
    """A folder of runs stands for its latest one; tables come as text, CSV and JSON."""
    for _ in range(2):
        metered(tmp_path, "import mlmeter\nwith mlmeter.inference('predict'):\n    pass\n")
    runs = str(tmp_path / "mlmeter-runs")
    summary = mlmeter_command("report", runs, cwd=tmp_path)
    assert "predict" in summary.stdout or "inference" in summary.stdout
    assert "the latest of 2 runs" in summary.stderr
    assert "phase" in mlmeter_command("report", runs, "--table", "phases", cwd=tmp_path).stdout
    assert json.loads(mlmeter_command("report", runs, "--json", cwd=tmp_path).stdout)["phases"]
    mlmeter_command("report", runs, "--csv", "out.csv", "--table", "windows", cwd=tmp_path)
    assert (tmp_path / "out.csv").read_text().startswith("session,window,parent")
    for target in ("-", "/dev/stdout"):
        result = mlmeter_command("report", runs, "--csv", target, cwd=tmp_path)
        assert result.stdout.startswith("session,phase,")
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("arguments", [["nowhere"], ["."]])
def test_report_of_nothing_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    """What cannot be read is told in a line, not in a traceback."""
    result = mlmeter_command("report", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ")


def test_unknown_table_is_wrong_usage(tmp_path: Path) -> None:
    """The message names the tables."""
    result = mlmeter_command("report", ".", "--table", "phase", cwd=tmp_path)
    assert result.returncode == 2
    assert "window_names" in result.stderr


def test_demo_trains_serves_and_reports(tmp_path: Path) -> None:
    """The main job: every table fits 80 columns, says its provenance and leaves its files."""
    pytest.importorskip("sklearn", reason="the demo's own extra is not installed")
    result = mlmeter_command("demo", "--epochs", "3", "--rounds", "0.02", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    for words in ("right", "training", "inference", "predict in batches", "95 % interval", "mlmeter-runs"):
        assert words in result.stdout
    (directory,) = tmp_path.glob("mlmeter-runs/*/")
    assert {"phases.csv", "windows.csv", "session.json"} <= {path.name for path in directory.iterdir()}


def test_demo_without_scikit_learn_says_what_to_install(tmp_path: Path) -> None:
    """One line names the extra."""
    (tmp_path / "sklearn.py").write_text("raise ImportError('blocked')")
    result = mlmeter_command(
        "demo", cwd=tmp_path, environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    )
    assert result.returncode == 1
    assert 'pip install "mlmeter[demo]"' in result.stderr


def test_version_and_help(tmp_path: Path) -> None:
    """The version is the package's; help names the commands."""
    assert mlmeter.__version__ in mlmeter_command("--version", cwd=tmp_path).stdout
    text = mlmeter_command("--help", cwd=tmp_path).stdout
    assert all(name in text for name in ("demo", "run", "doctor", "report"))


def test_threads_of_the_script_are_metered_to_their_end(tmp_path: Path) -> None:
    """The run lasts as long as the program: until its last thread has ended."""
    text = (
        "import threading, time, mlmeter\n"
        "@mlmeter.inference('late')\ndef work():\n    time.sleep(0.3)\n"
        "threading.Thread(target=work).start()\n"
    )
    assert metered(tmp_path, text).returncode == 0
    late = next(row for row in window_rows(tmp_path) if row["name"] == "late")
    assert late["unfinished"] == "False"
    assert float(late["duration_seconds"]) >= 0.3


def test_exit_functions_find_the_script_as_main(tmp_path: Path) -> None:
    """What runs at exit can pickle the script's own classes."""
    text = (
        "import atexit, pickle\nclass Thing: pass\n"
        "atexit.register(lambda: print(len(pickle.dumps(Thing())) > 0))\n"
    )
    assert metered(tmp_path, text).stdout == "True\n"


def test_a_run_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    """The program's exit code passes; the reason is on standard error."""
    result = mlmeter_command("run", "--output-dir", "/proc/nowhere", "--", "true", cwd=tmp_path)
    assert result.returncode == 0
    assert "was not written: FileNotFoundError" in result.stderr


def test_mistyped_option_is_wrong_usage(tmp_path: Path) -> None:
    """An unknown option before the program is not taken for the program."""
    result = mlmeter_command("run", "--quite", "--", "true", cwd=tmp_path)
    assert result.returncode == 2
    assert "No such option" in result.stderr
