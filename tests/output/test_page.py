"""The report page without a browser: one file, everything escaped, nothing lost."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from mlmeter.measurement import Failure, Unavailable
from mlmeter.report.page.document import page_html
from mlmeter.report.page.quantities import Scale, duration
from mlmeter.session import Session, load
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.output.pages import HOSTILE, Page, hostile_session, long_session

LARGEST_BYTES = 300_000
ASSETS = files("mlmeter.report.page")


def page_of(session: Session) -> Page:
    return Page(page_html(session.recording))


def words(page: Page) -> str:
    """Return what a reader sees, with single spaces."""
    return " ".join(page.all_text().split())


def steady(watts: float = 100.0, **domain: object) -> Session:
    """Ten seconds of constant power in one window."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=watts, **domain), clock=clock)
    with meter, meter.inference("predict", requests=50):
        advance(meter, 10.0)
    return meter.session


def test_page_is_one_file(session: Session, tmp_path: Path) -> None:
    """No element of the page asks for anything, and no attribute is code or style."""
    path = tmp_path / "run.html"
    session.to_html(path)
    page = Page(path.read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")}
        assert "style" not in attributes
        assert "src" not in attributes
        assert "action" not in attributes
        assert "href" not in attributes or (tag, attributes["href"]) == ("link", "data:,")
    tags = [tag for tag, _ in page.elements]
    assert not {"iframe", "object", "embed", "img", "form", "base", "a"} & set(tags)
    styles = " ".join(text for tag, text in page.texts if tag == "style")
    assert "url(" not in styles
    assert "@import" not in styles


def test_policy_names_exactly_the_page_s_own_style_and_script(session: Session) -> None:
    """The hashes are those of what stands in the page; the data block is no script that runs."""
    page = page_of(session)
    policy = next(
        attributes["content"] or ""
        for _, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (style,) = [text for tag, text in page.texts if tag == "style"]
    data, script = page.scripts()
    for text, rule in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert json.loads(data)["domains"][0]["name"] == "package-0"
    kinds = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert kinds == ["application/json", None]


def test_uplot_is_the_release_that_its_page_says() -> None:
    """The files are unchanged, and every page carries the licence."""
    readme = ASSETS.joinpath("uplot/README.md").read_text(encoding="utf-8")
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        digest = hashlib.sha256(ASSETS.joinpath("uplot", name).read_bytes()).hexdigest()
        assert f"| `{name}` | `{digest}` |" in readme
    script = page_of(steady()).scripts()[1]
    assert "Copyright (c) 2022 Leon Sorokin" in script
    assert "The above copyright notice and this permission notice shall be included" in script


def test_hostile_names_are_text() -> None:
    """Names that want to be code are shown as they are, in tables and in the data block."""
    session = hostile_session()
    text = page_html(session.recording)
    page = Page(text)
    shown = page.all_text()
    for name in HOSTILE:
        assert name in shown
    data, _ = page.scripts()
    assert [domain["name"] for domain in json.loads(data)["domains"]] == list(HOSTILE)
    assert not re.search("[<>&\u2028\u2029]", data)
    assert not [attributes for _, attributes in page.elements if "onmouseover" in attributes]


def test_characters_that_cannot_be_seen_are_marked(tmp_path: Path) -> None:
    """Control characters and halves of pairs, as in file names of other encodings, break nothing."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=10), clock=clock, name="a\x00b\x1b[31m\udcffc")
    with meter, meter.window("w\x07\ud800"):
        advance(meter, 1.0)
    path = tmp_path / "page.html"
    meter.session.to_html(path)
    page = Page(path.read_text(encoding="utf-8"))
    assert "a\ufffdb\ufffd[31m\ufffdc" in page.all_text()
    assert json.loads(page.scripts()[0])["lanes"][0]["name"] == "w\ufffd\ufffd"


def test_name_without_end_is_cut() -> None:
    """A megabyte of a name does not make a page of megabytes."""
    clock = FakeClock()
    with fake_meter(FakeBackend.with_power(clock, watts=10), clock=clock, name="n" * 10_000) as meter:
        with meter.window("w" * 10_000, phase="p" * 10_000):
            advance(meter, 1.0)
    text = page_html(meter.session.recording)
    assert "w" * 999 + "…" in text
    assert not re.search("(n|w|p){1001}", text)


@pytest.mark.parametrize(("domains", "readings"), [(4, 3_600), (4, 8_000), (12, 3_600)])
def test_page_stays_small(domains: int, readings: int) -> None:
    """However many readings and domains there are, a page can be sent by mail."""
    page = page_html(long_session(domains, readings).recording)
    assert len(page.encode()) <= LARGEST_BYTES


def test_3600_readings_of_four_domains_are_all_in_the_page() -> None:
    """Nothing is thinned that need not be."""
    data = json.loads(page_of(long_session()).scripts()[0])
    assert [len(domain["watts"]) for domain in data["domains"]] == [3_600] * 4
    assert not any("low" in domain for domain in data["domains"])


def test_data_of_the_picture_is_the_energy_of_the_session() -> None:
    """Powers times steps add up to what the tables say, thinned or not."""
    for readings in (500, 16_000):
        session = long_session(1, readings)
        data = json.loads(page_of(session).scripts()[0])
        (domain,) = data["domains"]
        seconds = np.diff(np.cumsum(domain["times"])) / data["ticks"] * data["seconds"]
        joules = float(np.dot(domain["watts"], seconds))
        assert joules == pytest.approx(session.total().energy_joules, rel=1e-3)


def test_phases_of_the_page_are_those_of_the_session(session: Session) -> None:
    """Rows, in order: every phase with time, and the whole."""
    page = page_of(session)
    names = [text for tag, text in page.texts if tag == "bdi"]
    wanted = [*session.phases()["phase"].unique(), "whole session"]
    found = [name for name in names if name in wanted]
    assert found[: len(wanted)] == wanted
    assert "GPU is lost" in page.all_text()


def test_numbers_have_units_intervals_and_provenance() -> None:
    """100 W for 10 s, 50 requests: a kilojoule and 20 J each, measured."""
    text = words(page_of(steady()))
    assert "1.000 kJ" in text
    assert "277.8 mWh" in text
    assert "20.00 J/request" in text
    assert "50 requests" in text
    assert "measured" in text
    assert "95 % interval" in text
    assert "a formula; nothing was measured" in text


def test_estimate_is_told_first() -> None:
    """Nobody can take an estimate for a measurement."""
    session = steady(provenance="estimated", interval_low_ratio=0.3, interval_high_ratio=3.0)
    page = page_of(session)
    assert "Estimated from load, not measured" in page.all_text()
    assert ("span", {"class": "worth worth-estimated"}) in page.elements
    low, high = session.total().low_joules, session.total().high_joules
    assert Scale("J", 1e3).interval(low, high) in words(page)


def test_absent_numbers_are_dashes_with_reasons() -> None:
    """A domain that could not be read has no 0, but its reason."""
    clock = FakeClock()
    backend = FakeBackend(
        [fake_domain(name="gpu-0", kind="gpu")], [Failure(0, "GPU is lost", True, 0)], clock
    )
    meter = fake_meter(backend, clock=clock)
    with meter:
        advance(meter, 1.0)
    page = page_of(meter.session)
    text = page.all_text()
    assert "No energy could be read: this page tells times only." in text
    assert "GPU is lost" in text
    assert "could read no energy" in text
    assert "nan" not in text.lower().replace("finance", "")
    assert len(page.scripts()) == 1


def test_page_of_a_session_with_metrics() -> None:
    """They are no work: energy per unit of work is told of counts only."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)
    with meter, meter.training("epoch", samples=50) as epoch:
        advance(meter, 2.0)
        epoch.metric(accuracy=0.5)
    text = words(page_of(meter.session))
    assert "50 samples" in text
    assert "accuracy" not in text


def test_page_of_a_machine_without_sources() -> None:
    """No domain at all still gives a page, with what was tried."""
    recording = steady().recording
    missing = Unavailable(source="rapl", kinds=("cpu", "dram"), reason="no folder", remedy="load the driver")
    text = Page(page_html(replace(recording, domains=(), unavailable=(missing,)))).all_text()
    assert "No energy could be read" in text
    assert "no folder. load the driver" in text


class FakeImpact:
    """What `Session.impact` returns, as far as the page asks."""

    def __init__(self, **whole: object) -> None:
        row = {
            "phase": "session",
            "quantity": "operational",
            "value": 0.11,
            "low": 0.1,
            "high": 0.12,
            "unit": "gCO2e",
            "energy_resolved": True,
            "energy_provenance": "measured",
            "factors": "grid intensity 381 gCO2e/kWh (Germany, 2024, Ember <2024>)",
        }
        self.notes = ("location-based & <annual>",)
        self._records = [{**row, "phase": "training", "value": 0.05}, {**row, **whole}]

    def records(self) -> list[dict[str, object]]:
        return self._records

    def equivalence_records(self) -> list[dict[str, object]]:
        return [{"name": "km <on foot>", "factor": "50 gCO2e (2020, a <walker>)", **self._records[1]}]


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        (
            {},
            "of electricity 0.1100 gCO2e , 95 % interval 0.100 to 0.120 grid intensity 381",
        ),
        ({"value": None}, "emissions of electricity 0.100 to 0.120 gCO2e grid"),
        ({"energy_resolved": False}, "electricity unresolved , 95 % interval 0.100 to 0.120 gCO2e grid"),
        ({"value": None, "low": None, "high": None}, "emissions of electricity – grid"),
        ({"quantity": "water", "unit": "l"}, "water 0.1100 l"),
    ],
)
def test_impact_is_shown_with_its_factors(whole: dict[str, object], shown: str) -> None:
    """The whole session's, with factors, provenance and notes; a range has no best value."""
    text = words(Page(page_html(steady().recording, FakeImpact(**whole))))
    assert shown in text
    assert "(Germany, 2024, Ember <2024>)" in text
    assert "location-based & <annual>" in text
    assert "Made from the session's energy (measured) and the factors." in text
    assert "0.05000" not in text


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ({}, "km <on foot> 0.1100 , 95 % interval 0.100 to 0.120 50 gCO2e (2020, a <walker>)"),
        ({"value": None}, "km <on foot> 0.100 to 0.120 50 gCO2e"),
        ({"energy_resolved": False}, "km <on foot> unresolved , 95 % interval 0.100 to 0.120 50 gCO2e"),
    ],
)
def test_equivalences_are_shown_with_their_sources(whole: dict[str, object], shown: str) -> None:
    """A range has no best value here, either."""
    assert shown in words(Page(page_html(steady().recording, FakeImpact(**whole))))


def test_what_is_not_known_is_as_much_as_nothing() -> None:
    """No energy was read: there is no table of dashes."""
    impact = FakeImpact(value=None, low=None, high=None)
    assert "As much as" not in words(Page(page_html(steady().recording, impact)))


def test_page_without_an_impact_has_no_such_section() -> None:
    """Nothing is guessed."""
    assert "Impact" not in words(page_of(steady()))


def test_a_loaded_run_has_the_same_page(session: Session, tmp_path: Path) -> None:
    """The page is made from the readings, so it can be made later."""
    again = load(session.save(tmp_path / "run"))
    assert page_html(again.recording) == page_html(session.recording)


def test_arguments_of_the_program_are_not_in_the_page() -> None:
    """They may hold secrets, and a page is made to be shown."""
    recording = steady().recording
    facts = {**recording.run.facts, "arguments": ["train.py", "--token=s3cret"]}
    page = page_html(replace(recording, run=replace(recording.run, facts=facts)))
    assert "s3cret" not in page


def test_energy_above_idle_is_shown_with_a_baseline() -> None:
    """100 W less 60 W for 10 s."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, watts=100.0)
    with fake_meter(backend, clock=clock, baseline={"fake-0": (60.0, 0.5)}) as meter:
        advance(meter, 10.0)
    text = words(page_of(meter.session))
    assert "Above idle" in text
    assert "400.0 J" in text


def linear(colour: str) -> list[float]:
    """Return red, green and blue as amounts of light."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def luminance(colour: str) -> float:
    return float(np.dot(linear(colour), (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def schemes() -> tuple[dict[str, str], dict[str, str]]:
    """Return the colours of the light and of the dark scheme."""
    style = ASSETS.joinpath("page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root[^{]*\{([^}]*--paper[^}]*)\}", style)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks)
    return light, dark


def test_colours_have_contrast_in_both_schemes() -> None:
    """WCAG 2.2: text 4.5 to 1, lines and bars 3 to 1, on the page and on its shaded parts."""
    for colours in schemes():
        for text in ("ink", "muted", "measured", "derived", "estimated"):
            assert contrast(colours[text], colours["paper"]) >= 4.5, text
        assert contrast(colours["ink"], colours["wash"]) >= 4.5
        assert contrast(colours["ink"], colours["lane"]) >= 4.5
        for mark in ("bar", "focus", *(f"line-{k}" for k in range(6))):
            assert contrast(colours[mark], colours["paper"]) >= 3.0, mark


# What eyes without one of the three kinds of cones see of red, green and blue light: Machado, Oliveira
# and Fernandes, A physiologically-based model for simulation of color vision deficiency, 2009.
CONES_MISSING = {
    "red": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "green": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "blue": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE = (0.95047, 1.0, 1.08883)


def lab(light: np.ndarray) -> np.ndarray:
    """Return a colour in CIELAB, in which 2.3 is just seen as a difference."""
    parts = np.array(TO_XYZ) @ np.clip(light, 0, 1) / WHITE
    x, y, z = np.where(parts > 0.008856, np.cbrt(parts), 7.787 * parts + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("missing", CONES_MISSING)
def test_lines_are_told_apart_without_colour_vision(missing: str) -> None:
    """Any two of the six differ by several times what is just seen."""
    for colours in schemes():
        seen = [
            lab(np.array(CONES_MISSING[missing]) @ linear(colours[f"line-{number}"])) for number in range(6)
        ]
        distances = [np.linalg.norm(one - other) for one, other in combinations(seen, 2)]
        assert min(distances) > 11


@pytest.mark.parametrize(
    ("joules", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (999.9, "999.9"),
        (1234.5, "1.234"),
        (2.5e6, "2.500"),
        (3e-6, "3.000"),
        (5e12, "5,000"),
    ],
)
def test_scale_gives_few_digits(joules: float | None, text: str) -> None:
    """One to four digits before the point, whatever the size, and none for what is absent."""
    assert Scale.of(joules, "J").number(joules) == text


def test_scale_keeps_intervals_outward() -> None:
    """An interval in kilojoules holds what it held in joules."""
    assert Scale("kJ", 1e3).interval(1234.5, 1234.6) == "1.23 to 1.24"
    assert Scale("kJ", 1e3).interval(float("nan"), 1.0) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250.0 ms"),
        (59.5, "59.50 s"),
        (125.0, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7261.0, "2 h 01 min"),
    ],
)
def test_durations_are_told_as_people_do(seconds: float, text: str) -> None:
    """Seconds, then minutes, then hours."""
    assert duration(seconds) == text
