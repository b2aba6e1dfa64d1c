"""Tables and frames: columns, sums, absent numbers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlmeter.errors import ArgumentError
from mlmeter.frame.build import build_table
from mlmeter.recording import TABLES
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
from mlmeter.work import RESERVED_NAMES, rate_names, singular

ENERGY = [
    "energy_joules",
    "low_joules",
    "high_joules",
    "sigma_statistical_joules",
    "sigma_systematic_joules",
    "provenance",
    "method",
    "resolved",
    "coverage_ratio",
]


def test_columns_of_phases(session: Session) -> None:
    """The contract's columns in the contract's order."""
    assert list(session.phases().columns) == [
        *["session", "phase", "domain", "kind", "duration_seconds", "windows"],
        *ENERGY,
        *["mean_power_watts", "share_ratio"],
        *["requests", "joules_per_request", "samples", "joules_per_sample"],
    ]


def test_columns_of_windows(session: Session) -> None:
    """The contract's columns in the contract's order."""
    assert list(session.windows().columns) == [
        *["session", "window", "parent", "name", "phase", "thread", "start_seconds", "duration_seconds"],
        *["domain", "kind", "scope"],
        *ENERGY,
        *["concurrent", "failed", "unfinished", "synchronised"],
        *["requests", "joules_per_request", "samples", "joules_per_sample"],
    ]


def test_columns_of_domains(session: Session) -> None:
    """The contract's columns first, ours behind."""
    assert list(session.domains().columns)[:15] == [
        *["session", "domain", "kind", "source", "uuid", "model_name", "host", "update_period_seconds"],
        *["resolution_joules", "provenance", "energy_joules", "coverage_ratio", "readings", "resets"],
        "gaps_seconds",
    ]


def test_core_is_shown_and_not_added(session: Session) -> None:
    """The total of a phase is package and DRAM; the core's energy is inside the package's."""
    frame = session.phases().set_index(["phase", "domain"])["energy_joules"]
    for phase in ("training", "evaluation", "inference"):
        assert frame[phase, "total"] == pytest.approx(
            frame[phase, "package-0"] + frame[phase, "dram-0"], rel=1e-12
        )
        assert frame[phase, "core-0"] > 0


def test_phases_add_up_to_the_domain(session: Session) -> None:
    """Per domain, phases and exclusive windows each add up to the session's energy."""
    total = session.domains().set_index("domain")["energy_joules"]
    windows = session.windows()
    for domain in ("package-0", "core-0", "dram-0"):
        phases = session.phases()
        assert phases[phases["domain"] == domain]["energy_joules"].sum() == pytest.approx(
            total[domain], rel=1e-12
        )
        rows = windows[(windows["domain"] == domain) & (windows["scope"] == "exclusive")]
        assert rows["energy_joules"].sum() == pytest.approx(total[domain], rel=1e-12)


def test_durations_of_phases_add_up_to_the_session(session: Session) -> None:
    """Time is split like energy."""
    frame = session.phases()
    seconds = frame[frame["domain"] == "total"]["duration_seconds"].sum()
    assert seconds == pytest.approx(session.duration_seconds, rel=1e-12)


def test_lost_gpu_is_absent_with_a_reason(session: Session) -> None:
    """A domain that was never read has no energy, not 0, and its row says why."""
    row = session.domains().set_index("domain").loc["gpu-0"]
    assert np.isnan(row["energy_joules"])
    assert row.isna()["provenance"]
    assert "GPU is lost" in row["reason"]
    assert "gpu-0" not in set(session.phases()["domain"])


def test_samples_of_nested_windows_are_counted_once_per_phase(session: Session) -> None:
    """Each phase has the counts of its own windows."""
    frame = session.phases()
    counts = frame[frame["domain"] == "total"].set_index("phase")["samples"]
    assert counts["training"] == 300
    assert counts["evaluation"] == 30
    assert np.isnan(counts["inference"])


def test_energy_of_a_window_name_includes_its_children(session: Session) -> None:
    """An epoch's pooled energy is that of its blocks, validation included."""
    frame = session.window_names()
    row = frame[(frame["name"] == "epoch") & (frame["domain"] == "package-0")].iloc[0]
    assert row["windows"] == 3
    assert row["energy_joules"] == pytest.approx(180, rel=0.01)
    assert row["joules_per_sample"] == pytest.approx(0.6, rel=0.01)


def test_failed_window_is_marked(session: Session) -> None:
    """Only the window that was left by an exception."""
    frame = session.windows()
    assert set(frame[frame["failed"]]["name"]) == {"broken"}


def test_samples_rise_to_the_total(session: Session) -> None:
    """The time series starts at 0 J and ends at the session's energy."""
    frame = session.samples()
    rows = frame[frame["domain"] == "package-0"]
    assert rows["energy_joules"].iloc[0] == 0
    assert rows["energy_joules"].iloc[-1] == pytest.approx(session.total("cpu").energy_joules, rel=1e-12)
    assert rows["energy_joules"].is_monotonic_increasing


@pytest.mark.parametrize("name", TABLES)
def test_csv_has_the_rows_of_the_frame(session: Session, tmp_path: Path, name: str) -> None:
    """Every table can be written; absent numbers are empty cells, floats keep their digits."""
    path = tmp_path / f"{name}.csv"
    session.to_csv(path, table=name)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    table = build_table(session.recording, name)
    assert len(rows) == len(table)
    assert list(reader.fieldnames or ()) == list(table.columns)
    assert not any(value.lower() in ("nan", "none") for row in rows for value in row.values())
    if "energy_joules" in table.columns:
        for row, value in zip(rows, table.columns["energy_joules"], strict=True):
            assert row["energy_joules"] == ("" if value is None or np.isnan(value) else repr(float(value)))


def test_csv_cells_are_not_executed(session: Session, tmp_path: Path) -> None:
    """A window called like a formula stays text in a spreadsheet."""
    from mlmeter.report.csv_tables import cell

    assert cell("=1+1") == "'=1+1"
    assert cell("@x") == "'@x"
    assert cell(-1.5) == "-1.5"
    assert cell("fine") == "fine"


def test_csv_needs_no_pandas(tmp_path: Path) -> None:
    """Metering and writing CSV files work without pandas."""
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "from mlmeter.testing import *\n"
        "clock = FakeClock()\n"
        "meter = fake_meter(FakeBackend.with_power(clock, watts=5), clock=clock, output_dir=sys.argv[1])\n"
        "with meter:\n    clock.advance(1)\n"
        "meter.session.to_csv(sys.argv[1] + '/phases.csv'); print(meter.session.summary())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs.csv").exists()


def test_unknown_table_is_refused(session: Session, tmp_path: Path) -> None:
    """The message lists the tables."""
    with pytest.raises(ArgumentError, match="window_names"):
        session.to_csv(tmp_path / "x.csv", table="phase")


def test_failed_write_leaves_the_old_file(session: Session, tmp_path: Path, mocker: object) -> None:
    """A file is replaced only when the new one is complete."""
    path = tmp_path / "phases.csv"
    path.write_text("old")
    mocker.patch("mlmeter.report.csv_tables._texts", side_effect=OSError(28, "No space left"))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space"):
        session.to_csv(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["phases.csv"]


def test_json_has_no_nan(session: Session, tmp_path: Path) -> None:
    """The JSON is strict: absent numbers are null."""
    text = session.to_json(tmp_path / "run.json")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert document["phases"][0]["energy_joules"] > 0
    assert json.loads((tmp_path / "run.json").read_text()) == document


def test_summary_fits_80_columns_and_tells_provenance(session: Session) -> None:
    """The text names the source of each number and what is missing."""
    text = session.summary()
    assert max(map(len, text.splitlines())) <= 80
    assert "package-0: measured" in text
    assert "not added" in text
    assert "GPU is lost" in text


def test_notebook_table_is_escaped(session: Session) -> None:
    """A name cannot inject markup."""
    run = session.recording.run
    assert "<script" not in session._repr_html_()
    assert run.name.replace("|", "|") in session._repr_html_()


def test_repr_of_a_session_tells_its_energy(session: Session) -> None:
    """A prompt shows what matters."""
    assert "J" in repr(session)


@pytest.mark.parametrize(
    ("unit", "one"),
    [
        ("samples", "sample"),
        ("batches", "batch"),
        ("boxes", "box"),
        ("flops", "flop"),
        ("queries", "query"),
        ("entries", "entry"),
        ("loss", "loss"),
        ("status", "status"),
        ("gas", "gas"),
        ("s", "s"),
    ],
)
def test_singular(unit: str, one: str) -> None:
    """Column names read like English."""
    assert singular(unit) == one


def test_units_of_one_singular_have_columns_of_their_own() -> None:
    """``sample`` and ``samples`` in one session do not overwrite each other."""
    assert rate_names(["sample", "samples", "tokens"]) == {
        "sample": "joules_per_sample",
        "samples": "joules_per_samples",
        "tokens": "joules_per_token",
    }


@pytest.mark.parametrize("table", ["phases", "windows", "window_names"])
def test_every_column_is_reserved(table: str) -> None:
    """A unit cannot have the name of a column that is there without units."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock)
    with meter, meter.window("w"):
        clock.advance(1)
    assert set(build_table(meter.session.recording, table).columns) <= RESERVED_NAMES
