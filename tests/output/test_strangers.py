"""Names and files of strangers: nothing is run, followed or believed; errors name the file."""

from __future__ import annotations

import csv
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmeter import baseline as baselines
from mlmeter.errors import MLMeterError, NotWrittenWarning, RunFileError
from mlmeter.foreign_files import read_object, visible
from mlmeter.frame.table import Table
from mlmeter.meter import EnergyMeter
from mlmeter.report.csv_tables import cell, write_table
from mlmeter.report.idle_table import baseline_text
from mlmeter.report.text import record_lines, table
from mlmeter.testing import FakeBackend, FakeClock, fake_meter
from tests.documents import places, replaced

# Clears the screen; sets the title of the window; writes from right to left; a line of its own.
STEERING = "\x1b[2J\x1b]0;title\x07\u202egnp.exe\u2028x\r\ny\x9b31m\ud800"
SMALL = 1 << 20


# -- spreadsheets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", " ", "\t", "\r", "\n", "\r\n", "\u00a0", "\u200b", "\ufeff", "\x00 "])
@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "﹦"])
def test_formula_is_text(start: str, sign: str) -> None:
    """Also behind blanks and invisible letters, which spreadsheets drop, and in full width."""
    text = f"{start}{sign}HYPERLINK(1)"
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a=b", "epoch 3", "(session)", "x@y", "1-2", "é", "", " x", "…", "日本"])
def test_other_texts_are_as_they_were(text: str) -> None:
    """Nobody wants apostrophes in names."""
    assert cell(text) == text


def test_formula_in_a_header_is_text(tmp_path: Path) -> None:
    """Columns are called after units, which are the metered program's."""
    path = tmp_path / "x.csv"
    write_table(Table("x", {"=1+1": [1.0], "fine": ["=2"]}), path)
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["'=1+1", "fine"], ["1.0", "'=2"]]


# -- terminals and notebooks ---------------------------------------------------------------------------


def is_harmless(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


@given(st.text())
def test_visible_text_is_one_printable_line(text: str) -> None:
    """Nothing is left that steers; what was harmless is as it was."""
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert shown == text or not text.isprintable()


def test_tables_show_what_steers_terminals() -> None:
    """In every cell and header."""
    assert is_harmless(table((STEERING,), [(STEERING,)]))
    assert is_harmless(record_lines([{STEERING: STEERING}]))
    assert len(table(("a",), [("x\ny: 0 J",)]).splitlines()) == 3


def hostile_meter(clock: FakeClock, text: str, **options: Any) -> EnergyMeter:
    """A run in which all names are one hostile text, also those that hardware gives."""
    backend = FakeBackend.with_power(clock, watts=5, name=text, model_name=text, uuid=text)
    meter = fake_meter(backend, clock=clock, name=text, phase=text, **options)
    with meter, meter.window(text, phase=text, samples=1):
        clock.advance(1)
        meter.recorder.remark("note", text)
    return meter


def test_summary_does_not_steer_the_terminal() -> None:
    """Names of runs, phases, windows, domains and messages are shown as they are."""
    session = hostile_meter(FakeClock(), STEERING).session
    assert is_harmless(session.summary())
    assert "\\x1b" in session.summary()
    for name in ("phases", "domains", "events"):
        assert is_harmless(record_lines(session.records(name)))


def test_html_holds_no_markup_of_names() -> None:
    """Notebooks show text."""
    session = hostile_meter(FakeClock(), "<script>alert(1)</script>\"' onload=x").session
    page = session._repr_html_()
    assert "<script" not in page
    assert '"' not in page
    assert "&lt;script&gt;" in page


# -- names of runs and folders ---------------------------------------------------------------------------

NAMES = [
    "../../escaped",
    "/etc/passwd",
    "..",
    ".",
    "a/b\\c",
    "nul\0inside",
    "\n",
    "CON",
    "x" * 5_000,
    "日本語" * 500,
    "\ud800",
    "~root",
    "$(touch x)",
    "-rf",
    STEERING,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_run_of_any_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    """A run directory, directly below `output_dir`, whatever the run is called."""
    output_dir = tmp_path / "runs"
    meter = hostile_meter(FakeClock(), name, output_dir=output_dir)
    assert meter.write_error is None
    assert meter.run_directory is not None
    assert meter.run_directory.parent == output_dir
    assert [item.name for item in tmp_path.iterdir()] == ["runs"]
    assert {item.name for item in output_dir.iterdir()} == {
        meter.run_directory.name,
        "runs.csv",
        "runs.csv.lock",
    }


@given(st.text(min_size=1))
def test_id_of_a_run_is_a_plain_file_name(name: str) -> None:
    """Of letters, digits and hyphens, and short enough for every file system."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=5), clock=clock, name=name)
    with meter:
        clock.advance(1)
    assert meter.session.id.replace("-", "").isalnum()
    assert len(os.fsencode(meter.session.id)) < 255


@pytest.mark.parametrize("value", ["x" * 5_000, "/dev/null/deep", "mem/x", "\udcff", "a" * 300])
def test_odd_folder_is_told_when_files_are_made(value: str) -> None:
    """Not by an exception of the system in the program that makes a meter."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=5), clock=clock, output_dir=f"/proc/self/{value}")
    with pytest.warns(NotWrittenWarning):
        with meter:
            clock.advance(1)
    assert meter.session.total().energy_joules == pytest.approx(5)


# -- JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "line 1 column 2"),
        (b'{\n "a": 1,\n "b" 2}', "line 3 column"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "digits"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": {"\x1b[2J": 1, "\x1b[2J": 2}}', "control character"),
        (b"[1]", "is no JSON object"),
        (b"\xff\xfe", "utf-8"),
        (b"", "line 1 column 1"),
        (b" " * (SMALL + 1), "larger than"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_bad_json_is_told_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    """As one line that names the file."""
    path = tmp_path / "session.json"
    path.write_bytes(content)
    with pytest.raises(RunFileError, match=words) as raised:
        read_object(path, SMALL)
    assert raised.value.path == str(path)
    assert str(raised.value).isprintable()
    assert len(raised.value.reason) < 500


def test_json_file_that_is_none_is_not_waited_for(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes into, a device without end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero"), tmp_path / "missing", tmp_path / "nul\0"):
        with pytest.raises(RunFileError):
            read_object(path, SMALL)


def test_sparse_file_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    """No more than the limit is read."""
    path = tmp_path / "session.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RunFileError, match="larger than"):
        read_object(path, SMALL)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


HERE = baselines.Machine.of_root()
BASELINE = {
    "schema_version": 1,
    "mlmeter": "0.1.0",
    "machine": {"machine": "0123", "cpu": "x", "kernel": "Linux 6", "drivers": {"nvidia": "550"}},
    "measured_at": "2026-01-01T00:00:00+00:00",
    "seconds": 60.0,
    "remarks": ["one"],
    "domains": {
        "a": {
            "name": "package-0",
            "source": "rapl",
            "provenance": "measured",
            "watts": 40.0,
            "scatter_watts": 1.0,
            "systematic_watts": 1.0,
            "piece_seconds": 5.0,
        }
    },
}


@given(data=st.data())
def test_changed_baseline_is_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever stands at one place of it: its table can be printed, or an error names the file."""
    path = tmp_path_factory.getbasetemp() / "baseline.json"
    place = data.draw(st.sampled_from(places(BASELINE)))
    path.write_text(json.dumps(replaced(BASELINE, place, data.draw(VALUES))))
    try:
        found = baselines.read(path)
    except MLMeterError as error:
        shown = str(error)
    else:
        shown = baseline_text(found, found.objections(HERE, datetime.now(UTC)))
    assert is_harmless(shown)
    assert shown.startswith((str(path), "Idle power"))
