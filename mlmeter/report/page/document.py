"""One HTML file: the template filled in, with everything that it needs inside."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import mlmeter
from mlmeter.recording import Recording
from mlmeter.report.page import phases, sources
from mlmeter.report.page.chart import chart_data, series_of
from mlmeter.report.page.impact_section import ImpactOfSession, equivalences_table, impact_table
from mlmeter.report.page.quantities import UNRESOLVED, Quantity, duration, energy, power, watt_hours
from mlmeter.report.text import shorten

STYLES = ("uplot/uPlot.min.css", "page.css")
SCRIPTS = ("uplot/uPlot.iife.min.js", "page.js")
UPLOT_LICENCE = "uplot/LICENSE.txt"
TEMPLATE = "page.html.jinja"
# No name is longer on a page.
MOST_CHARACTERS = 1_000
# Tab and line feed are seen as space; everything else below space, DEL, the C1 controls and what
# is half of a pair would be invisible or break the file.
INVISIBLE = {
    **dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], 0xFFFD),
    0x09: 0x09,
    0x0A: 0x0A,
}


def page_html(recording: Recording, impact: ImpactOfSession | None = None) -> str:
    """Return the page of a session: self-contained, with a policy that lets nothing else in.

    Args:
        recording: the session.
        impact: of `Session.impact`; without one there is no such section.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    style, script = _joined_assets()
    series = series_of(recording)
    return environment.from_string(_asset(TEMPLATE)).render(
        # Written by us, or escaped for a script element.
        style=Markup(style),
        script=Markup(script),
        data=Markup(chart_data(recording, series, visible)),
        policy=_policy(style, script),
        version=mlmeter.__version__,
        run=recording.run,
        started=sources.started(recording),
        whose="the whole machine" if recording.process is None else "this process and its children",
        headline=_headline(recording),
        notices=sources.notices(recording),
        power_drawn=bool(series),
        thinned=any(item.thinned for item in series),
        tables=_tables(recording, impact),
        impact_notes=impact.notes if impact is not None else (),
        power_tables=sources.power_tables(recording, series) if series else [],
        facts=sources.facts(recording),
        sentence=sources.sentence(recording),
        bibtex=sources.bibtex(),
    )


def visible(text: str) -> str:
    """Return the text with a mark in place of every character that cannot be seen, cut if it is long."""
    return shorten(text, MOST_CHARACTERS).translate(INVISIBLE)


def _headline(recording: Recording) -> dict[str, Any]:
    """Return the first numbers of the page: those of the session."""
    name = phases.headline_domain(recording)
    record = phases.session_records(recording).get(name or "")
    seconds = recording.run.duration_seconds
    nothing = Quantity("–", "", "")
    found = energy(record) if record else nothing
    resolved = found.value != UNRESOLVED
    return {
        # What is known of an energy that is not resolved is its interval.
        "energy": found if resolved else Quantity(found.interval, "", found.unit, found.provenance),
        "resolved": resolved,
        "power": power(record, seconds) if record else nothing,
        "watt_hours": watt_hours(record) if record else "",
        "duration": duration(seconds),
        "of": [domain.name for domain, _ in recording.domains if domain.counted or domain.name == name],
    }


def _tables(recording: Recording, impact: ImpactOfSession | None) -> dict[str, Any]:
    return {
        "phases": phases.phase_tables(recording),
        "work": phases.work_table(recording),
        "windows": phases.windows_table(recording),
        "above_idle": phases.above_idle_table(recording),
        "shares": phases.shares_table(recording),
        "devices": sources.devices_table(recording),
        "missing": sources.missing_table(recording),
        "impact": impact_table(impact),
        "equivalences": equivalences_table(impact),
        "events": sources.events_table(recording),
    }


@cache
def _joined_assets() -> tuple[str, str]:
    """Return the page's style and its script; the script begins with the licence of what is not ours."""
    licence = "\n".join(f" * {line}".rstrip() for line in _asset(UPLOT_LICENCE).splitlines())
    style = "\n".join(map(_asset, STYLES))
    script = "\n".join([f"/*! uPlot\n{licence}\n */", *map(_asset, SCRIPTS)])
    return style, script


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return a policy under which only these two run, and nothing is loaded or sent."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            # The empty icon, without which a browser asks the server for one.
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
