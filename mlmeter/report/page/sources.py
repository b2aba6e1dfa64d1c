"""Tables of devices and events, facts about the run, notices, and how to cite it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlmeter
from mlmeter.chapters.tables import build_table
from mlmeter.chapters.whole import results
from mlmeter.frame.sources import unread_reason
from mlmeter.measurement import COUNTED_KINDS, Domain, Provenance
from mlmeter.recording import TOTAL, Recording
from mlmeter.report.page.cells import Cell, Name, PageTable, Plain, Value, Worth
from mlmeter.report.page.phases import MOST_ROWS, headline_domain, session_records
from mlmeter.report.page.quantities import ABSENT, about, duration, energy
from mlmeter.report.power_series import PowerSeries
from mlmeter.report.text import number, percent
from mlmeter.units import SECONDS_PER_NANOSECOND

# Told in their own sections: what gave nothing, and that an estimate is one.
TOLD_ELSEWHERE = ("unavailable", "estimate")
# Something was lost, or two sensors disagree: the numbers must not be read without these.
SERIOUS = ("gap", "reset", "lost", "stuck", "cross-check")
# Rows of the table that stands for the picture of power.
POWER_ROWS = 24


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and a text."""

    name: str
    text: str


def devices_table(recording: Recording) -> PageTable | None:
    """Return what was metered, from where and how well; None if nothing could be opened."""
    energies = results(recording).wholes()
    records = {record["domain"]: record for record in build_table(recording, "domains").records()}
    rows: list[list[Cell]] = []
    for domain, _ in recording.domains:
        record, found = records[domain.name], energies.get(domain.name)
        whole = {name: column[0] for name, column in found.items()} if found else None
        read = whole is not None and whole["provenance"] is not None
        period = record["measured_period_seconds"] or domain.update_period_seconds
        rows.append(
            [
                Name(domain.name, domain.model_name or domain.kind),
                Plain(domain.source),
                Value(energy(whole)) if read and whole else Plain(ABSENT, number=True),
                Worth(str(domain.provenance) if read else "not read"),
                Plain(f"every {about(period)}", number=True),
                Plain(percent(record["coverage_ratio"]), number=True),
                Plain(_place(domain) if read else unread_reason(recording, domain.name)),
            ]
        )
    if not rows:
        return None
    return PageTable(
        caption="Energy of each device over the session, whoever used it.",
        header=("domain", "source", "energy", "worth", "refreshed", "metered time", "in the total"),
        rows=rows,
    )


def _place(domain: Domain) -> str:
    if domain.parent is not None:
        return f"no: part of {domain.parent}"
    if domain.kind not in COUNTED_KINDS:
        return "no: may contain the others"
    return "yes, shared with others (MIG)" if domain.shared else "yes"


def missing_table(recording: Recording) -> PageTable | None:
    """Return what could not be metered, and why; None if there is nothing."""
    rows: list[list[Cell]] = [
        [
            Name(item.source, ", ".join(item.kinds)),
            Plain(f"{item.reason}. {item.remedy}" if item.remedy else item.reason),
        ]
        for item in recording.unavailable
    ]
    if not rows:
        return None
    return PageTable(
        caption="What was not metered, and why. Its energy is in no number of this page.",
        header=("source", "reason"),
        rows=rows,
    )


def events_table(recording: Recording) -> PageTable | None:
    """Return what a reader of the numbers must know; None if nothing happened."""
    records = [
        record
        for record in build_table(recording, "events").records()
        if record["kind"] not in TOLD_ELSEWHERE
    ]
    rows: list[list[Cell]] = [
        [
            Name(record["kind"]),
            Plain(f"{record['time_seconds']:,.3f} s", number=True),
            Plain(record["message"]),
        ]
        for record in records[:MOST_ROWS]
    ]
    if not rows:
        return None
    return PageTable(
        caption="Events in order of time, from the start of the session.",
        header=("event", "time", "what happened"),
        rows=rows,
        left_out=len(records) - len(rows),
    )


def power_tables(recording: Recording, found: Sequence[PowerSeries]) -> list[PageTable]:
    """Return power in numbers: what the picture shows, and means of equal spans of time."""
    rows: list[list[Cell]] = [
        [
            Name(series.domain.name, series.domain.kind),
            *(
                Plain(f"{number(value)} W" if value == value else ABSENT, number=True)
                for value in (series.mean_watts, _least(series.low), -_least(-series.high))
            ),
            Plain(f"{series.readings:,}", number=True),
        ]
        for series in found
    ]
    over_time = PageTable(
        caption="Mean, lowest and highest power of each domain, from reading to reading.",
        header=("domain", "mean", "lowest", "highest", "readings"),
        rows=rows,
    )
    seconds = recording.run.duration_seconds
    places = [(seconds * k / POWER_ROWS, seconds * (k + 1) / POWER_ROWS) for k in range(POWER_ROWS)]
    return [over_time, _means_table(found, places)]


def _least(values: Any) -> float:
    known = values[values == values]
    return float(known.min()) if len(known) else float("nan")


def _means_table(found: Sequence[PowerSeries], places: Sequence[tuple[float, float]]) -> PageTable:
    import numpy as np

    starts, ends = (np.array(times) for times in zip(*places, strict=True))
    columns = [series.mean_between(starts, ends) for series in found]
    rows: list[list[Cell]] = [
        [
            Name(f"{duration(start)} to {duration(end)}" if start else f"0 to {duration(end)}"),
            *(Plain(f"{number(value)} W" if value == value else ABSENT, number=True) for value in values),
        ]
        for (start, end), *values in zip(places, *columns, strict=True)
    ]
    return PageTable(
        caption="Mean power in equal spans of the session.",
        header=("time", *(series.domain.name for series in found)),
        rows=rows,
        matrix=True,
    )


def notices(recording: Recording) -> list[str]:
    """Return what must be known before any number is read."""
    told = []
    if not recording.run.finished:
        told.append("The session was still running when this page was made.")
    headline = headline_domain(recording)
    session = session_records(recording).get(headline or "")
    if session is None or session["provenance"] is None:
        told.append("No energy could be read: this page tells times only.")
    elif session["provenance"] == Provenance.ESTIMATED:
        told.append(_estimate_notice(recording))
    if headline is not None and headline != TOTAL:
        told.append(f"No domain adds up to a total here: the figures are those of {headline}.")
    counts: dict[str, int] = {}
    for event in (*recording.events, *results(recording).events):
        if event.kind in SERIOUS:
            counts[event.kind] = counts.get(event.kind, 0) + 1
    if counts:
        what = ", ".join(f"{kind} ({count})" for kind, count in counts.items())
        told.append(f"Something happened to the sensors: {what}. See Events.")
    return told


def _estimate_notice(recording: Recording) -> str:
    """Say whether all of the total is estimated, or what part of it."""
    counted = [domain for domain, _ in recording.domains if domain.counted]
    estimated = [domain.name for domain in counted if domain.provenance is Provenance.ESTIMATED]
    what = "Estimated" if len(estimated) == len(counted) else f"In part ({', '.join(estimated)}) estimated"
    return f"{what} from load, not measured: the truth may lie anywhere in the intervals."


def started(recording: Recording) -> str:
    """Return when the session started, by the clock on the wall."""
    try:
        moment = datetime.fromtimestamp(recording.run.start_wall_ns * SECONDS_PER_NANOSECOND, UTC)
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def facts(recording: Recording) -> list[Fact]:
    """Return the host, the software and what the numbers were made with.

    The program's arguments are left out: they may hold secrets, and pages are shown to others.
    """
    run = recording.run
    known = run.facts
    found = [
        ("run", run.id),
        ("started", started(recording)),
        ("host", known.get("host")),
        ("system", known.get("system")),
        ("processor", known.get("cpu")),
        ("logical CPUs", known.get("logical_cpus")),
        ("Python", known.get("python")),
        ("packages", _pairs(known.get("packages"))),
        ("job", _pairs(known.get("job"))),
        ("idle power", _baseline(recording)),
        ("metered with", f"mlmeter {known['mlmeter']}" if "mlmeter" in known else None),
        ("computed with", f"mlmeter {mlmeter.__version__}"),
    ]
    return [Fact(name, str(text)) for name, text in found if text]


def _pairs(table: object) -> str:
    if not isinstance(table, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in table.items())


def _baseline(recording: Recording) -> str:
    baseline = recording.run.facts.get("baseline")
    if not isinstance(baseline, dict):
        return ""
    when = f"measured {baseline['measured_at']}" if "measured_at" in baseline else "as given"
    watts = ", ".join(
        f"{name} {number(power.watts, 3)} W" for name, power in recording.run.idle_powers.items()
    )
    return f"{watts} ({when})"


def sentence(recording: Recording) -> str:
    """Return a sentence for the methods section of a paper."""
    headline = headline_domain(recording)
    session = session_records(recording).get(headline or "")
    whose = "the whole machine" if recording.process is None else "the process and its children"
    tool = f"mlmeter {mlmeter.__version__}"
    if session is None or session["provenance"] is None:
        return f"The run took {duration(recording.run.duration_seconds)}; {tool} could read no energy."
    found = energy(session)
    counted = [d for d, _ in recording.domains if d.counted] or [d for d, _ in recording.domains][:1]
    what = _listed(domain.name for domain in counted)
    sources = _listed(dict.fromkeys(domain.source for domain in counted))
    interval = f"{found.interval} {found.unit}" if found.interval else "unknown"
    value = f"{found.value} {found.unit} (95 % interval {interval}; {found.provenance})"
    if not session["resolved"]:
        value = f"an energy that is not resolved (95 % interval {interval}; {found.provenance})"
    time = duration(recording.run.duration_seconds)
    return (
        f"The run used {value} in {time}: "
        f"the energy of {what} of {whose}, metered with {tool} (source: {sources})."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def bibtex() -> str:
    """Return the software's entry for a bibliography."""
    return (
        "@software{mlmeter,\n"
        "  author  = {{The mlmeter authors}},\n"
        "  title   = {{mlmeter}: energy of machine learning code, per phase},\n"
        f"  version = {{{mlmeter.__version__}}},\n"
        "}"
    )
