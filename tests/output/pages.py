"""Sessions for tests of the report page."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np

from mlmeter.energy.counters import Rows
from mlmeter.session import Session
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter

# Each would do harm, or vanish, in a page that is put together carelessly.
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "\u2028line\u2029separators",
    '" onmouseover="window.hacked = 1',
    "' & &lt; &#x22; \\u003c ${7*7}",
    "right\u202eto left",
    "__proto__",
)


class Page(HTMLParser):
    """What a page is made of.

    Attributes:
        elements: names and attributes of all elements, in order.
        texts: texts of the elements, by name.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "rect", "line"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all_text(self) -> str:
        """Return what a reader sees."""
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))

    def scripts(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "script"]


def hostile_session() -> Session:
    """Names of the run, domains, models, windows, phases and events that want to be code."""
    clock = FakeClock()
    domains = [
        fake_domain(name=name, kind="gpu", id=f"gpu:{number}", model_name=name)
        for number, name in enumerate(HOSTILE)
    ]
    backend = FakeBackend(domains, [lambda now: now // 10] * len(domains), clock)
    backend.notes = HOSTILE  # type: ignore[attr-defined]
    meter = fake_meter(backend, clock=clock, name=" ".join(HOSTILE))
    with meter:
        for name in HOSTILE:
            with meter.window(name, phase=name, samples=3):
                advance(meter, 0.2)
    return meter.session


def long_session(domains: int = 4, readings: int = 3_600) -> Session:
    """Noisy counters that are read once a second, so that no two numbers are the same."""
    clock = FakeClock()
    names = [f"gpu-{number}" for number in range(domains)]
    noise = np.random.default_rng(1)
    energies = [np.cumsum(noise.uniform(50, 700, readings + 2) * 1e6).astype(int) for _ in names]

    def count(energy: Any) -> Any:
        return lambda now: int(energy[now // 1_000_000_000])

    described = [fake_domain(name=name, kind="gpu") for name in names]
    meter = fake_meter(FakeBackend(described, [count(energy) for energy in energies], clock), clock=clock)
    with meter:
        for _ in range(10):
            with meter.window("epoch", samples=1_000):
                advance(meter, readings * 0.07, 1.0)
            with meter.evaluation("validate", samples=100):
                advance(meter, readings * 0.03, 1.0)
    return meter.session


def readings_of(session: Session, domain: int = 0) -> Rows:
    """Return the raw rows of a domain."""
    return session.recording.domains[domain][1]
