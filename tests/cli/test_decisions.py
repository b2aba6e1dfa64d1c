"""mlmeter compare, mlmeter bench, and the gate of mlmeter report."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from mlmeter import bench
from mlmeter.analysis.blocks import Plan, make_pairs
from mlmeter.analysis.run_figures import RunFigures, run_figures
from mlmeter.cli import main
from mlmeter.errors import ArgumentError
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
from tests.analysis.sessions import session_of
from tests.cli.test_commands import mlmeter_command

FAILED_GATE = 4


def saved(folder: Path, energies: Sequence[float], *, tokens: int = 10) -> Path:
    """Write one run per energy, at 100 W."""
    for number, joules in enumerate(energies):
        session = session_of([("inference", joules / 100, {"tokens": tokens})])
        session.save(folder / f"{number}")
    return folder


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Runs of about 100 J, and of 80 J."""
    return saved(tmp_path / "dear", [100, 101, 99, 100]), saved(tmp_path / "cheap", [80, 81, 79, 80])


def test_compare_folders_of_runs(folders: tuple[Path, Path]) -> None:
    result = invoke("compare", *folders)
    assert result.exit_code == 0, result.output
    assert "against dear:" in result.output
    assert "uses less" in result.output
    document = json.loads(invoke("compare", "--json", "--unit", "tokens", *folders).stdout)
    assert document["variants"] == ["dear", "cheap"]
    (row,) = document["differences"]
    assert (row["phase"], row["unit"], row["verdict"]) == ("inference", "tokens", "uses less")
    assert row["ratio"] == pytest.approx(0.8, rel=0.01)


def test_compare_says_what_is_wrong(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert invoke("compare", folders[0]).exit_code == 2
    assert "They count dear" in invoke("compare", "--unit", "images", *folders).output
    (tmp_path / "empty").mkdir()
    result = invoke("compare", folders[0], tmp_path / "empty")
    assert (result.exit_code, "journal.sqlite" in result.output) == (1, True)


def test_a_limit_of_joules(folders: tuple[Path, Path]) -> None:
    """The mean of all runs of a folder is judged: 100 J a run, 10 J a token."""
    dear, _ = folders
    result = invoke("report", dear, "--max-joules", 110)
    assert (result.exit_code, "passed: energy, mean of 4 runs: 100" in result.stderr) == (0, True)
    result = invoke("report", dear, "--max-joules", 90)
    assert (result.exit_code, "FAILED" in result.stderr) == (FAILED_GATE, True)
    assert invoke("report", dear, "--max-joules", 9, "--unit", "tokens").exit_code == FAILED_GATE
    assert (
        invoke("report", dear, "--max-joules", 11, "--unit", "tokens", "--phase", "inference").exit_code == 0
    )
    for wrong in (("--unit", "images"), ("--phase", "training")):
        assert invoke("report", dear, "--max-joules", 9, *wrong).exit_code == 2
    assert invoke("report", dear, "--max-joules", "nan").exit_code == 2
    assert invoke("report", dear, "--unit", "tokens").exit_code == 2


def test_a_baseline(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """More than before by more than the tolerance fails; less, or a little more, passes."""
    dear, cheap = folders
    baseline = tmp_path / "baseline.json"
    assert invoke("report", cheap, "--save-baseline", baseline).exit_code == 0
    result = invoke("report", dear, "--against", baseline)
    assert result.exit_code == FAILED_GATE
    assert "+25.0 % against the baseline (tolerance 5 %)" in result.stderr
    assert invoke("report", dear, "--against", baseline, "--tolerance", 0.3).exit_code == 0
    assert invoke("report", cheap, "--against", dear).exit_code == 0
    assert "against baseline.json:" in invoke("compare", baseline, dear).output
    one = saved(tmp_path / "one", [90])
    result = invoke("report", one, "--against", baseline)
    assert (result.exit_code, "may be noise: keep 3 or more" in result.stderr) == (FAILED_GATE, True)
    for text in ("{}", "[]", "no JSON", '{"baseline_version": 1}', '{"baseline_version": 1, "runs": [1]}'):
        baseline.write_text(text)
        result = invoke("report", dear, "--against", baseline)
        assert (result.exit_code, "is no baseline" in result.stderr) == (1, True)


def test_scatter_is_not_a_regression(tmp_path: Path) -> None:
    """12 % more on the mean of runs that scatter by 20 % passes, and says that it may be noise."""
    before, after = saved(tmp_path / "before", [80, 100, 120]), saved(tmp_path / "after", [92, 112, 132])
    result = invoke("report", after, "--against", before)
    assert result.exit_code == 0
    assert "which may be noise" in result.stderr


def test_what_was_not_read_is_not_passed(tmp_path: Path) -> None:
    clock = FakeClock()
    meter = fake_meter(FakeBackend([], [], clock), clock=clock)
    with meter:
        clock.advance(1.0)
    meter.session.save(tmp_path / "run")
    result = invoke("report", tmp_path / "run", "--max-joules", 10)
    assert (result.exit_code, "NOT JUDGED" in result.stderr) == (1, True)


def test_a_variant_is_not_compared_with_itself(folders: tuple[Path, Path]) -> None:
    dear, _ = folders
    result = invoke("compare", dear, dear / ".." / dear.name)
    assert (result.exit_code, "given twice" in result.stderr) == (2, True)


def test_a_gate_says_what_is_not_there(folders: tuple[Path, Path]) -> None:
    result = invoke("report", folders[0], "--max-joules", 1, "--unit", "images")
    assert result.exit_code == 2
    assert "unit='images': not in all runs; there are run in inference" in result.stderr


def test_bench_runs_both_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command is run by `mlmeter run`; the runs are kept, warm-up apart, and compared in pairs."""
    made: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        made.append(command)
        folder = Path(command[command.index("--output-dir") + 1])
        joules = float(command[-1]) * (1 + 0.002 * (len(made) % 3))
        session_of([("inference", joules / 100, {"tokens": 5})]).save(folder / f"{len(made)}")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(bench.subprocess, "run", run)
    options = ["--seed", 1, "--json", "--output-dir", tmp_path, "--scope", "process", "--backends", "rapl"]
    result = invoke("bench", *options, "--", "work", "100", "--vs", "work", "80")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["pairs"], document["seed"], document["early"]) == (6, 1, False)
    ratios = {row["unit"]: row["ratio"] for row in document["differences"]}
    assert ratios["run"] == pytest.approx(0.8, rel=0.01)
    assert ratios["tokens"] == pytest.approx(ratios["run"])
    counts = [len(list(tmp_path.glob(f"*/{name}/*/session.json"))) for name in ("a", "b", "warm-up")]
    assert counts == [6, 6, 2]
    expected = ["--scope", "process", "--backends", "rapl", "--", "work"]
    assert all(command[1:5] == ["-m", "mlmeter", "run", "--quiet"] for command in made)
    assert all(command[-7:-1] == expected for command in made)
    text = invoke(
        "bench", "--output-dir", tmp_path / "more", "--", "work", "100", "--vs", "work", "80"
    ).stdout
    assert "a: work 100" in text
    assert "6 pairs, as many as the pilot of 6 asked for" in text


@pytest.mark.parametrize(
    ("minutes", "words"),
    [
        (5, "2 pairs, the LIMIT of time, before the pilot of 3 was done: 1 or more are missing."),
        (9, "4 pairs, the LIMIT of time; the pilot of 3 asked for 16,081: 16,077 are missing."),
    ],
)
def test_bench_stops_when_the_time_is_over(
    minutes: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run takes a minute; it says how many pairs are missing, and the comparison is there all the same."""
    clock, seconds = FakeClock(), itertools.cycle([1.0, 1.5, 0.8, 1.2])

    def metered(*_: object) -> RunFigures:
        clock.advance(60.0)
        return run_figures(session_of([("inference", next(seconds), {})]).recording)

    monkeypatch.setattr(bench, "metered", metered)
    monkeypatch.setattr(bench, "make_pairs", partial(make_pairs, now=lambda: clock.now_ns() * 1e-9))
    options = ["--output-dir", tmp_path, "--seed", 1, "--warm-up", 0, "--pilot", 3]
    result = invoke("bench", *options, "--max-seconds", 60 * minutes, "--", "a", "--vs", "b")
    assert result.exit_code == 0, result.output
    assert words in result.stdout
    assert "session" in result.stdout


def test_bench_stops_at_a_command_that_fails(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("raise SystemExit(7)")
    result = mlmeter_command("bench", "--", "work.py", "--vs", "work.py", cwd=tmp_path)
    assert (result.returncode, "work.py: ended with code 7" in result.stderr) == (1, True)


@pytest.mark.parametrize("commands", [["a"], ["a", "--vs"], ["--vs", "b"], ["a", "--vs", "b", "--vs", "c"]])
def test_bench_wants_two_commands(commands: list[str]) -> None:
    assert invoke("bench", "--", *commands).exit_code == 2
    assert invoke("bench", "--pilot", 10, "--limit", 5, "--", "a", "--vs", "b").exit_code == 2


def test_bench_needs_known_energies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a reading, the unit or the metric ends a benchmark: nothing would settle it."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend([], [], clock), clock=clock)
    with meter:
        clock.advance(1.0)
    figures, made = run_figures(meter.session.recording), []

    def metered(*_: object) -> RunFigures:
        made.append(1)
        return figures

    monkeypatch.setattr(bench, "metered", metered)
    with pytest.raises(bench.BenchError, match="not known well enough: no energy could be read"):
        bench.bench((["a"], ["b"]), Plan(), tmp_path)
    with pytest.raises(ArgumentError, match="unit='tokens'"):
        bench.bench((["a"], ["b"]), Plan(), tmp_path, unit="tokens")
    figures = run_figures(session_of([("inference", 1.0, {})]).recording)
    with pytest.raises(ArgumentError, match=r"quality='accuracy': not a metric of run .*; these are: none"):
        bench.bench((["a"], ["b"]), Plan(), tmp_path, quality="accuracy")
    # Each is told by the first run.
    assert len(made) == 3
