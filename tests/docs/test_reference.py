"""The reference pages name exactly what the package has."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import click
import pytest

import mlmeter
from mlmeter import cli, errors
from mlmeter.backends.registry import BUILTINS
from mlmeter.doctor.advice import RULE, Advice
from mlmeter.doctor.diagnosis import diagnose
from mlmeter.energy.columns import ENERGY_COLUMNS
from mlmeter.journal import JOURNAL, streams
from mlmeter.recording import TABLES
from mlmeter.report.runs_file import run_row
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, fake_meter

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture
def session() -> Session:
    """One window with one unit of work."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=10), clock=clock)
    with meter, meter.inference("predict", samples=2):
        clock.advance(1.0)
    return meter.session


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of any level."""
    below = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    return re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """Return the first cells of all tables of a section, without their headers."""
    rows = [line.strip("|").split("|")[0].strip().strip("`") for line in text.splitlines() if line[:1] == "|"]
    return [
        row for row in rows if row not in ("column", "key", "entry", "numbers") and not row.startswith("---")
    ]


def documented_columns(heading: str) -> list[str]:
    """Return the columns that csv-schema.md lists, with the unit called ``samples``."""
    names: list[str] = []
    for name in first_cells(section(page("csv-schema.md"), heading)):
        if name == "energy columns":
            names.extend(ENERGY_COLUMNS)
        else:
            names.append({"<unit>": "samples", "joules_per_<unit>": "joules_per_sample"}.get(name, name))
    return names


def test_public_names_are_on_the_api_page() -> None:
    """A reader finds every public name."""
    directives = set(
        re.findall(
            r"^\.\. (?:auto)?(?:class|function):: mlmeter\.(\w+)(?!\.|\w)", page("api.md"), re.MULTILINE
        )
    )
    assert directives == set(mlmeter.__all__)


def test_public_members_of_a_meter_are_on_the_api_page() -> None:
    """Every method and property that users call has an entry; what windows call has none."""
    listed = set(re.findall(r"^   \.\. (?:auto)?(?:method|property):: (\w+)", page("api.md"), re.MULTILINE))
    public = {name for name in dir(mlmeter.EnergyMeter) if not name.startswith("_")}
    assert public - listed == {"recorder"}


@pytest.mark.parametrize("table", TABLES)
def test_columns_of_tables(session: Session, tmp_path: Path, table: str) -> None:
    """The documented columns are those written, in the same order."""
    session.to_csv(tmp_path / "table.csv", table=table)
    header = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[0]
    assert documented_columns(table) == header.split(",")


def test_energy_columns() -> None:
    """The section on energy columns lists the nine."""
    assert documented_columns("Energy columns") == list(ENERGY_COLUMNS)


def test_columns_of_runs(session: Session) -> None:
    """The documented columns are those written, in the same order."""
    assert documented_columns("runs.csv") == list(run_row(session.recording))


def test_keys_of_the_manifest(session: Session, tmp_path: Path) -> None:
    """The documented keys of session.json are those written."""
    manifest = json.loads((session.save(tmp_path) / "session.json").read_text(encoding="utf-8"))
    documented = first_cells(section(page("csv-schema.md"), "session.json"))
    assert documented == [*manifest, *manifest["run"]]


def test_facts_of_the_manifest(session: Session) -> None:
    """Every fact about host and software is named on the page."""
    text = section(page("csv-schema.md"), "session.json")
    for fact in session.recording.run.facts:
        assert f"`{fact}`" in text


def test_streams_of_the_journal(session: Session, tmp_path: Path) -> None:
    """The documented streams are those that are written, with their codes."""
    text = section(page("csv-schema.md"), "journal.sqlite")
    documented = dict(re.findall(r"^\| `([\w.]+)` \| `(\w+)` \|", text, re.MULTILINE))
    assert documented == {
        "rows.N": streams.ROWS,
        "readings": streams.READINGS,
        "windows": streams.WINDOWS,
        "pieces": streams.PIECES,
        "units.N": streams.UNITS,
        "spans": streams.SPANS,
        "references.N": streams.REFERENCES,
        "process": streams.PROCESS,
        "process.N": streams.GPU_USES,
        "clock": streams.CLOCK,
    }
    with closing(sqlite3.connect(session.save(tmp_path) / JOURNAL)) as connection:
        entries = connection.execute("SELECT kind, json FROM entries").fetchall()
    assert {kind for kind, _ in entries} <= set(first_cells(text))
    written = {json.loads(value)[0] for kind, value in entries if kind == "stream"}
    assert {re.sub(r"\d+", "N", name) for name in written} <= set(documented)


def test_files_of_the_run_directory(session: Session, tmp_path: Path) -> None:
    """The page names every file."""
    text = section(page("csv-schema.md"), "The run directory")
    for file in session.save(tmp_path).iterdir():
        assert f"`{file.name}`" in text


def test_backends_are_on_the_backends_page() -> None:
    """Every backend has a row, and those to be named are marked."""
    text = page("backends.md")
    for builtin in BUILTINS:
        assert f"\n| `{builtin.name}` {'' if builtin.default else '* '}|" in text


def test_errors_are_on_the_errors_page() -> None:
    """Each error and warning has a row and a place in the tree."""
    text = page("errors.md")
    classes = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert len(classes) >= 9
    for name in classes:
        assert f"| `{name}` |" in text
        assert re.search(rf"^[├│└─ ]*{name}\b", text, re.MULTILINE)


def test_commands_and_options_are_on_the_cli_page() -> None:
    """Each command has a section, each of its options a row, and nothing else is there."""
    text = page("cli.md")
    assert set(re.findall(r"^## mlmeter (\w+)$", text, re.MULTILINE)) == set(cli.main.commands)
    for name, command in cli.main.commands.items():
        options = {
            option
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
        described = section(text, f"mlmeter {name}")
        assert set(re.findall(r"--[a-z][a-z-]*", described)) - {"--learning-rate", "--vs"} == options


def test_kinds_of_events_are_on_the_errors_page() -> None:
    """Every kind that the package gives is explained, and no other."""
    package = Path(mlmeter.__file__).parent
    given: set[str] = set()
    for file in package.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        noters = r"(?:self\._?remark|self\._log\.warn|recorder\.remark|events\.(?:remark|warn))"
        noted = noters + r"\(\s*\"([\w-]+)\""
        given |= set(re.findall(noted, text))
        given |= set(re.findall(r"Event\(time_seconds=[^,]+, kind=\"([\w-]+)\"", text))
        given |= set(re.findall(r"Remark\([^()]*, \"(\w+)\"", text))
        given |= set(re.findall(r"yield \"([\w-]+)\", (?:f?\"|text)", text))
        given |= set(re.findall(r"self\._lose\(last, reading, \"(\w+)\"", text))
        given |= set(re.findall(r"yield \"([\w-]+)\", f?(?:text|\")", text))
        given |= {
            word for pair in re.findall(r"kind = \"(\w+)\" if .* else \"(\w+)\"", text) for word in pair
        }
    assert set(first_cells(section(page("errors.md"), "Events"))) - {"kind"} == given


def test_every_table_has_a_section() -> None:
    """The sections with one-word headings are the tables of a session."""
    headings = set(re.findall(r"^## (\w+)$", page("csv-schema.md"), re.MULTILINE))
    assert set(TABLES) == headings
    assert all(callable(getattr(Session, name)) for name in TABLES)


def test_keys_of_doctor_are_on_the_cli_page() -> None:
    """Every key of the JSON is named, the first level in a table."""
    diagnosis = diagnose(look_seconds=0.01)
    text = section(page("cli.md"), "The JSON of doctor")
    assert first_cells(text) == list(diagnosis)
    for part in (diagnosis["machine"], diagnosis["verdict"], *diagnosis["sources"], *diagnosis["domains"]):
        for key in part:
            assert f"`{key}`" in text
    for key in (*Advice.__dataclass_fields__, "window_seconds", "single", "phase"):
        assert f"`{key}`" in text


def test_the_rule_of_doctor_is_that_of_the_page() -> None:
    """What doctor writes is what the how-to explains, word for word."""
    text = (REFERENCE.parent / "how-to" / "read-rapl-without-root.md").read_text(encoding="utf-8")
    assert "".join(f"   {line}\n" for line in RULE.splitlines()) in text
