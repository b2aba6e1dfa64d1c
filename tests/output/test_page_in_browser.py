"""The report page in a real Chromium: drawn, silent, safe, usable by keyboard, on a phone and on paper."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from tests.browser import CHROMIUM, Browser, chromium
from tests.output.pages import HOSTILE, hostile_session, long_session

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)

PHONE_PIXELS = 390
# Colours at places of the picture, to tell whether something was drawn.
COLOURS_DRAWN = """(() => {
  const canvas = document.querySelector("#chart canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const found = new Set();
  for (let k = 0; k < pixels.length; k += 4) if (pixels[k + 3] === 255)
    found.add("#" + [0, 1, 2].map((c) => pixels[k + c].toString(16).padStart(2, "0")).join(""));
  return [...found];
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page of 4 domains with 3,600 readings each."""
    path = tmp_path_factory.mktemp("page") / "long.html"
    long_session().to_html(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def level_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a page whose three lines do not cross."""
    clock = FakeClock()
    domains = [fake_domain(name=f"gpu-{number}", kind="gpu") for number in range(3)]
    counts = [partial(lambda watts, now: watts * now // 1000, watts) for watts in (100, 200, 300)]
    meter = fake_meter(FakeBackend(domains, counts, clock), clock=clock)
    with meter, meter.window("epoch"):
        advance(meter, 10.0)
    path = tmp_path_factory.mktemp("page") / "level.html"
    meter.session.to_html(path)
    return path.as_uri()


@pytest.fixture(autouse=True)
def plain_window(browser: Browser) -> None:
    """Every test begins with the same window."""
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    browser.media(scheme="light")
    # Two pixels for one, so that lines have their own colours and not only blends.
    browser.size(1200, scale=2)


def colour(browser: Browser, name: str) -> str:
    """Return a colour of the page by its name in the style."""
    style = "getComputedStyle(document.documentElement)"
    value = browser.evaluate(f"{style}.getPropertyValue('--{name}').trim()")
    assert isinstance(value, str)
    return value


def colours_drawn(browser: Browser) -> set[str]:
    """Return the colours of the picture after the next frame."""
    browser.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return set(browser.evaluate(COLOURS_DRAWN))


def test_page_is_drawn_in_silence(browser: Browser, long_page: str) -> None:
    """A picture, no message on the console, no request but for the page itself."""
    browser.open(long_page)
    assert browser.complaints == []
    assert browser.requests == [long_page]
    assert len(colours_drawn(browser)) > 10
    assert browser.evaluate("performance.getEntriesByName('mlmeter-draw').length") == 1


@pytest.fixture
def server(session: Session, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server with a page, and what it was asked for."""
    session.to_html(tmp_path / "run.html")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_nothing_can_be_loaded_or_sent(browser: Browser, server: tuple[str, list[str]]) -> None:
    """Whatever got into the page: the browser itself stops requests, scripts and handlers."""
    address, asked = server
    browser.open(f"{address}/run.html")
    assert browser.complaints == []
    stopped = browser.evaluate(f"""(async () => {{
      const stopped = [];
      addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
      const add = (name, properties) => {{
        document.body.append(Object.assign(document.createElement(name), properties));
      }};
      await fetch("{address}/fetched").catch(() => 0);
      add("img", {{src: "{address}/picture"}});
      add("script", {{src: "{address}/script"}});
      add("script", {{textContent: "window.hacked = 1"}});
      add("iframe", {{src: "{address}/frame"}});
      add("link", {{rel: "stylesheet", href: "{address}/style"}});
      const link = document.createElement("p");
      link.setAttribute("onclick", "window.hacked = 1");
      document.body.append(link);
      link.click();
      for (let waits = 0; waits < 500 && new Set(stopped).size < 6; waits++)
        await new Promise((done) => setTimeout(done, 10));
      return stopped;
    }})()""")
    directives = {"connect-src", "img-src", "script-src-elem", "frame-src", "style-src-elem"}
    assert set(stopped) == {*directives, "script-src-attr"}
    assert browser.evaluate("window.hacked === undefined")
    assert asked == ["/run.html"]


def test_hostile_names_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    """As text in the tables, in the legend and in the picture's data; nothing runs."""
    path = tmp_path / "hostile.html"
    hostile_session().to_html(path)
    browser.open(path.as_uri())
    assert browser.complaints == []
    assert browser.requests == [path.as_uri()]
    assert browser.evaluate("window.hacked === undefined && document.images.length === 0")
    legend = browser.evaluate("[...document.querySelectorAll('.legend bdi')].map((name) => name.textContent)")
    assert legend == list(HOSTILE)
    names = "[...document.querySelectorAll('#phases ~ .table bdi')].map((name) => name.textContent)"
    assert set(HOSTILE) <= set(browser.evaluate(names))
    assert browser.evaluate("document.title") == f"{' '.join(HOSTILE)}: energy report".replace(
        "\u2028", "\u2028"
    )


def test_keys_move_the_cursor_and_zoom(browser: Browser, long_page: str) -> None:
    """The picture is reached with Tab, and what the cursor is at is said."""
    browser.open(long_page)
    for _ in range(20):
        browser.key("Tab")
        if browser.evaluate("document.activeElement.className") == "plot":
            break
    assert browser.evaluate("document.activeElement.className") == "plot"
    browser.key("ArrowRight")
    said = "document.querySelector('#chart [aria-live]').textContent"
    first = browser.evaluate(said)
    assert "gpu-0" in first
    assert " W" in first
    browser.key("ArrowRight")
    assert browser.evaluate(said) != first
    can_show_all = "!document.querySelector('.zoom button:last-child').disabled"
    assert not browser.evaluate(can_show_all)
    browser.key("+")
    assert browser.evaluate(f"new Promise((done) => setTimeout(() => done({can_show_all})))")
    browser.key("0")
    assert not browser.evaluate(f"new Promise((done) => setTimeout(() => done({can_show_all})))")
    assert browser.complaints == []


def test_every_domain_is_drawn_and_can_be_hidden(browser: Browser, level_page: str) -> None:
    """A line goes with its check mark."""
    browser.open(level_page)
    lines = {colour(browser, f"line-{number}") for number in range(3)}
    assert lines <= colours_drawn(browser)
    browser.evaluate("document.querySelector('.legend input').click()")
    hidden = colour(browser, "line-0")
    assert colours_drawn(browser) & lines == lines - {hidden}


@pytest.mark.parametrize("which", ["long", "hostile", "impact"])
def test_page_fits_a_phone(browser: Browser, long_page: str, tmp_path: Path, which: str) -> None:
    """Nothing but tables and code scrolls sideways, and tables are still tables to a screen reader."""
    path = tmp_path / "page.html"
    session = hostile_session()
    everything = session.impact("US-CA", pue="world", price="US-CA", embodied={"gpu_a100": 1}, water="us")
    session.to_html(path, impact=everything if which == "impact" else None)
    browser.size(PHONE_PIXELS, 844, 2, phone=True)
    browser.open(long_page if which == "long" else path.as_uri())
    browser.evaluate("document.querySelectorAll('details').forEach((folded) => { folded.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE_PIXELS
    # Cards do not scroll: what is wider than they are would be cut off.
    cards = "[...document.querySelectorAll('.scroll:not(.matrix)')]"
    assert browser.evaluate(f"{cards}.length") > 0
    assert browser.evaluate(f"{cards}.filter((card) => card.scrollWidth > card.clientWidth).length") == 0
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    assert {"table", "rowheader", "columnheader", "cell", "heading", "main", "banner"} <= set(roles)
    tables = [node for node in nodes if not node["ignored"] and node["role"]["value"] == "table"]
    assert all(node["name"]["value"] for node in tables)


def test_dark_scheme_is_followed_while_the_page_is_open(browser: Browser, level_page: str) -> None:
    """Paper and lines change."""
    browser.open(level_page)
    light = {name: colour(browser, name) for name in ("paper", "line-0")}
    browser.media(scheme="dark")
    drawn = colours_drawn(browser)
    dark = {name: colour(browser, name) for name in ("paper", "line-0")}
    assert dark["paper"] != light["paper"]
    assert dark["line-0"] in drawn
    assert light["line-0"] not in drawn


def test_paper_has_everything_and_the_screen_is_as_before(
    browser: Browser, long_page: str, tmp_path: Path
) -> None:
    """Folded tables are printed, and folded again."""
    browser.media(scheme="dark")
    browser.open(long_page)
    browser.evaluate("""addEventListener("beforeprint", () => {
      window.printed = [
        document.querySelectorAll("details:not([open])").length,
        getComputedStyle(document.documentElement).getPropertyValue("--paper").trim(),
      ];
    })""")
    width = browser.evaluate("document.querySelector('#chart canvas').width")
    browser.paper(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert browser.evaluate("window.printed") == [0, "#fdfdfc"]
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert browser.evaluate("document.querySelector('#chart canvas').width") == width
    assert colour(browser, "paper") == "#14171a"


def test_tables_need_no_script(browser: Browser, long_page: str) -> None:
    """Without JavaScript the numbers are there, and a line that says what is missing."""
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.events.clear()
    browser.ask("Page.navigate", url=long_page)
    while not any(method == "Page.loadEventFired" for method, _ in browser.events):
        browser.ask("Page.getLayoutMetrics")
    document = browser.ask("DOM.getDocument")["root"]["nodeId"]
    found = browser.ask("DOM.querySelector", nodeId=document, selector="noscript p")
    assert found["nodeId"] != 0
    rows = browser.ask("DOM.querySelectorAll", nodeId=document, selector="tbody tr")
    assert len(rows["nodeIds"]) > 30
