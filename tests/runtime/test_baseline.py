"""Idle power: measured, kept, used where it holds, and told where it is not."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import mlmeter
from mlmeter.baseline import (
    OLDEST_DAYS,
    Baseline,
    Machine,
    StoredIdlePower,
    baseline_facts,
    baseline_path,
    read,
    store,
)
from mlmeter.energy.idle_power import IdlePower
from mlmeter.errors import ArgumentError, RunFileError
from mlmeter.idle import Load, busy_remarks, measure
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter

NOW = datetime(2026, 5, 1, tzinfo=UTC)
COLUMNS = ["idle_joules", "dynamic_joules", "dynamic_low_joules", "dynamic_high_joules"]


@contextmanager
def no_progress(items: Iterable[int], label: str) -> Iterator[Iterable[int]]:
    yield items


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files of a machine."""
    for name, text in {
        "etc/machine-id": "0123456789abcdef\n",
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\n",
        "proc/stat": "cpu 100 0 100 9800 0 0 0 0 0 0\n",
        "sys/module/nvidia/version": "550.54\n",
    }.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "root"


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def baseline_of(root: Path, **changes: object) -> Baseline:
    power = StoredIdlePower(
        name="fake-0", source="fake", provenance="measured", power=IdlePower(60.0, 0.5, 1.0, 5.0)
    )
    found = Baseline(
        machine=Machine.of_root(root),
        measured_at=NOW - timedelta(days=1),
        seconds=60.0,
        domains={"fake:fake-0": power},
    )
    return replace(found, **changes)


def metered(watts: float, seconds: float = 4.0, **arguments: object) -> Session:
    """A constant load with a window of half the time, and one nested in it."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=watts), clock=clock, **arguments)
    with meter:
        with meter.inference("outer"):
            advance(meter, seconds / 4)
            with meter.inference("inner"):
                advance(meter, seconds / 4)
        advance(meter, seconds / 2)
    return meter.session


def test_measured_idle_power_is_that_of_the_counter(root: Path) -> None:
    """A counter of 42 W gives 42 W, by the id of its domain."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=42), clock=clock, baseline=None)
    load = Load(root, run=lambda command: None)
    found = measure(
        meter,
        60.0,
        load=load,
        wait=lambda seconds: advance(meter, seconds),
        progress=no_progress,
        machine=Machine.of_root(root),
    )
    power = found.domains["fake:fake-0"].power
    assert power.watts == pytest.approx(42, rel=1e-3)
    assert power.scatter_watts < 0.1
    assert found.seconds == pytest.approx(60)
    assert found.remarks == ()


def test_a_busy_machine_is_noted(root: Path) -> None:
    """CPU time since the start and the GPUs' own word both count."""
    load = Load(root, run=lambda command: "0, 3\n1, 97\n2, [N/A]\n")
    before = load.cpu_times()
    (root / "proc/stat").write_text("cpu 150 0 150 9900 0 0 0 0 0 0\n")
    assert busy_remarks(load, before) == ["the CPUs were 50 % busy", "gpu-1 was 97 % busy"]


def test_a_system_that_tells_no_load_has_no_remarks(tmp_path: Path) -> None:
    """Without /proc and nvidia-smi nothing is claimed."""
    load = Load(tmp_path, run=lambda command: None)
    assert busy_remarks(load, load.cpu_times()) == []


def test_power_that_varies_is_noted(root: Path) -> None:
    """A machine that did something else in half of the time was not idle."""
    clock = FakeClock()
    backend = FakeBackend([fake_domain()], [lambda now: now // 20 + max(0, now - 30 * 10**9) // 5], clock)
    meter = fake_meter(backend, clock=clock, baseline=None)
    found = measure(
        meter,
        60.0,
        load=Load(root, run=lambda command: None),
        wait=lambda seconds: advance(meter, seconds),
        progress=no_progress,
        machine=Machine.of_root(root),
    )
    assert "fake-0 was not steady" in found.remarks[0]


def test_stored_and_read_again(root: Path, data_home: Path) -> None:
    """What is read is what was stored, in the user's data folder, under the machine's own name."""
    baseline = baseline_of(root, remarks=("the CPUs were 12 % busy",))
    path = baseline_path(baseline.machine)
    assert data_home in path.parents
    store(baseline, path)
    assert read(path) == baseline
    assert "0123456789abcdef" not in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "measured_at": "x"}']
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    """Whatever stands in it, the error names the file."""
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(RunFileError, match=r"baseline\.json"):
        read(path)


def test_negative_watts_in_a_file_are_refused(root: Path, tmp_path: Path) -> None:
    """A number that cannot be an idle power is damage."""
    document = baseline_of(root).to_json()
    document["domains"]["fake:fake-0"]["watts"] = -3.0
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(document))
    with pytest.raises(RunFileError, match="watts is -3"):
        read(path)


def test_the_machines_own_baseline_is_used(root: Path, data_home: Path) -> None:
    """The manifest gets the idle powers and when they were measured."""
    baseline = baseline_of(root)
    store(baseline, baseline_path(baseline.machine))
    facts, notes = baseline_facts("auto", [fake_domain()], NOW, root)
    assert facts is not None
    assert facts["domains"]["fake-0"]["watts"] == 60.0
    assert facts["measured_at"] == "2026-04-30T00:00:00+00:00"
    assert notes == []


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("etc/machine-id", "fedcba", "another machine"),
        ("proc/cpuinfo", "model name : Other CPU", "cpu Some CPU, here Other CPU"),
        ("sys/module/nvidia/version", "560.10", "drivers nvidia 550.54, here nvidia 560.10"),
    ],
)
def test_a_baseline_that_does_not_fit_is_not_used_and_told(
    root: Path, tmp_path: Path, file: str, text: str, reason: str
) -> None:
    """Another machine, processor or driver: no idle power, and a note with the difference."""
    path = tmp_path / "baseline.json"
    store(baseline_of(root), path)
    (root / file).write_text(text)
    facts, (note,) = baseline_facts(path, [fake_domain()], NOW, root)
    assert facts is None
    assert reason in note
    assert "mlmeter baseline" in note


def test_another_kernel_is_told(root: Path, tmp_path: Path) -> None:
    """A baseline of another release of the kernel is not used."""
    baseline = baseline_of(root)
    path = tmp_path / "baseline.json"
    store(replace(baseline, machine=replace(baseline.machine, kernel="Linux 3.2")), path)
    facts, (note,) = baseline_facts(path, [fake_domain()], NOW, root)
    assert (facts, "kernel Linux 3.2" in note) == (None, True)


def test_an_estimate_of_another_version_is_not_used(root: Path, tmp_path: Path) -> None:
    """Another version can have another formula; what was measured stays."""
    baseline = baseline_of(root, version="0.0.1")
    (estimate,) = (replace(item, provenance="estimated") for item in baseline.domains.values())
    path = tmp_path / "baseline.json"
    store(replace(baseline, domains={**baseline.domains, "cpu:estimate": estimate}), path)
    domains = [fake_domain(), fake_domain(name="cpu-estimate", id="cpu:estimate")]
    facts, (note,) = baseline_facts(path, domains, NOW, root)
    assert facts is not None
    assert set(facts["domains"]) == {"fake-0"}
    assert "cpu-estimate" in note


@pytest.mark.parametrize(("days", "used"), [(OLDEST_DAYS - 1, True), (OLDEST_DAYS + 1, False), (-2, False)])
def test_age(root: Path, tmp_path: Path, days: float, used: bool) -> None:
    """Old ones and those of the future are not used."""
    path = tmp_path / "baseline.json"
    store(baseline_of(root, measured_at=NOW - timedelta(days=days)), path)
    facts, notes = baseline_facts(path, [fake_domain()], NOW, root)
    assert (facts is not None, bool(notes)) == (used, not used)


def test_without_a_baseline_nothing_is_said(root: Path, data_home: Path) -> None:
    """No stored baseline: no note, no column."""
    assert baseline_facts("auto", [fake_domain()], NOW, root) == (None, [])
    assert "dynamic_joules" not in metered(100.0).phases()


def test_a_given_path_that_is_not_there_is_an_event_not_an_exception(tmp_path: Path) -> None:
    """The metered program runs; the session says what is missing."""
    session = metered(100.0, baseline=tmp_path / "none.json")
    assert "no baseline is used" in session.events()["message"].iloc[0]
    assert session.total().resolved


def test_dynamic_energy_of_phases_windows_and_total() -> None:
    """100 W over 60 W idle: 40 W above idle, in every row by its own time."""
    session = metered(100.0, baseline={"fake-0": (60.0, 1.0)})
    phases = session.phases().set_index(["phase", "domain"])
    assert phases.loc[("training", "fake-0"), "dynamic_joules"] == pytest.approx(80, rel=1e-3)
    assert phases.loc[("inference", "total"), "dynamic_joules"] == pytest.approx(80, rel=1e-3)
    windows = session.windows().query("domain == 'fake-0'").set_index(["scope", "window"])
    for (_, _), row in windows.iterrows():
        assert row["dynamic_joules"] == pytest.approx(0.4 * row["energy_joules"], rel=1e-3)
        assert row["dynamic_low_joules"] < row["dynamic_joules"] < row["dynamic_high_joules"]
    assert windows.loc[("exclusive", 1), "idle_joules"] == pytest.approx(60, rel=1e-3)
    assert windows.loc[("inclusive", 1), "idle_joules"] == pytest.approx(120, rel=1e-3)


def test_exclusive_dynamic_energies_add_up_to_the_session() -> None:
    """As energies do."""
    session = metered(100.0, baseline={"fake-0": 60.0})
    windows = session.windows().query("domain == 'total'")
    whole = windows.query("scope == 'inclusive' and window == 0")["dynamic_joules"].iloc[0]
    assert windows.query("scope == 'exclusive'")["dynamic_joules"].sum() == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(("watts", "told"), [(61.0, False), (59.0, False), (50.0, False), (70.0, True)])
def test_idle_is_told_as_such(watts: float, told: bool) -> None:
    """A difference within the uncertainty is no fact, above or below 0, and the summary says so."""
    session = metered(watts, baseline={"fake-0": (60.0, 2.0)})
    assert set(session.phases()["above_idle"]) == {told}
    assert ("not distinguishable from idle" in session.summary()) is not told
    assert max(map(len, session.summary().splitlines())) <= 80


def test_a_total_needs_the_idle_power_of_all_its_parts() -> None:
    """A GPU without baseline leaves the total's energy above idle absent, and an event says why."""
    clock = FakeClock()
    domains = [fake_domain(), fake_domain(name="gpu-0", kind="gpu")]
    backend = FakeBackend(domains, [lambda now: now // 10, lambda now: now // 20], clock)
    meter = fake_meter(backend, clock=clock, baseline={"fake-0": 60.0})
    with meter:
        advance(meter, 1.0)
    phases = meter.session.phases().set_index("domain")
    assert phases.loc["fake-0", "dynamic_joules"] == pytest.approx(40, rel=1e-2)
    assert phases.loc[["gpu-0", "total"], COLUMNS].isna().all(axis=None)
    assert phases.loc["total", "above_idle"] is None
    assert "does not have gpu-0" in meter.session.events()["message"].iloc[0]
    assert "fake-0" in meter.session.summary()


def test_a_saved_run_keeps_its_baseline(tmp_path: Path) -> None:
    """Loaded again, the tables are the same, and the manifest has the watts."""
    session = metered(100.0, baseline={"fake-0": (60.0, 1.0)})
    again = mlmeter.load(session.save(tmp_path / "run"))
    assert again.records("windows") == session.records("windows")
    manifest = json.loads((tmp_path / "run/session.json").read_text())
    assert manifest["run"]["facts"]["baseline"]["domains"]["fake-0"]["watts"] == 60.0


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        "",
        True,
        {"gpu-0": -1},
        {"gpu-0": "many"},
        {"gpu-0": (1, 2, 3)},
        {"gpu-0": (60, -1)},
        {"gpu-0": float("nan")},
        {"gpu-0": float("inf")},
        {"gpu-0": True},
        {"gpu-0": None},
        {"gpu-0": 10**400},
    ],
    ids=str,
)
def test_a_wrong_argument_says_what_is_accepted(wrong: object) -> None:
    """At construction, not when the session starts."""
    with pytest.raises(ArgumentError, match="baseline="):
        mlmeter.EnergyMeter(baseline=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("watts", [60, np.float32(60), [60, 2], (60.0, np.int64(2))], ids=repr)
def test_numbers_of_any_kind_are_watts(watts: object, tmp_path: Path) -> None:
    """From a file or an array; the manifest has plain numbers."""
    session = metered(100.0, baseline={"fake-0": watts})
    assert session.phases()["idle_joules"].iloc[0] == pytest.approx(120, rel=1e-3)
    again = mlmeter.load(session.save(tmp_path / "run"))
    assert again.records("phases") == session.records("phases")


def test_a_mistyped_domain_is_told() -> None:
    """With the names that there are, also if the other domains have their idle power."""
    session = metered(100.0, baseline={"fake-0": 60.0, "fake-O": 5.0})
    text = "the baseline names fake-O, but the domains of this session are fake-0"
    assert text in list(session.events()["message"])
    assert session.phases()["dynamic_joules"].iloc[0] == pytest.approx(80, rel=1e-3)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"domains": None},
        {"domains": []},
        {"domains": {"fake-0": 60}},
        {"domains": {"fake-0": {"watts": "60"}}},
        {"domains": {"fake-0": {"watts": 60, "colour": 1}}},
        {"domains": {"fake-0": {"watts": 60, "piece_seconds": -1}}},
    ],
    ids=str,
)
def test_a_damaged_baseline_in_a_manifest_is_told_when_it_is_loaded(
    tmp_path: Path, broken: dict[str, object]
) -> None:
    """Not by an odd exception of the first table."""
    metered(100.0, baseline={"fake-0": 60.0}).save(tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run/journal.sqlite", isolation_level=None)) as connection:
        (text,) = connection.execute("SELECT json FROM entries WHERE kind='run'").fetchone()
        run = json.loads(text)
        run["facts"]["baseline"] = broken
        connection.execute("UPDATE entries SET json=? WHERE kind='run'", (json.dumps(run),))
    with pytest.raises(RunFileError, match="damaged"):
        mlmeter.load(tmp_path / "run")


def test_a_meter_without_baseline_loads_no_numpy() -> None:
    """Looking for a baseline costs no heavy import."""
    text = "import sys, mlmeter; mlmeter.EnergyMeter(); assert not {'numpy', 'pandas'} & set(sys.modules)"
    root = str(Path(mlmeter.__file__).parents[1])
    subprocess.run([sys.executable, "-c", text], cwd=root, check=True, timeout=60)
