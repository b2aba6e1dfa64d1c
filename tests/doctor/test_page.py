"""The page for people: short where nothing can be done, complete with --all, never wider than 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlmeter.backends import registry
from mlmeter.backends.base import Backend
from mlmeter.doctor.diagnosis import diagnose
from mlmeter.doctor.surroundings import surroundings_of
from mlmeter.doctor.text import report_text
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain
from mlmeter.testing import FakeBackend, FakeClock, fake_domain
from tests.doctor.machines import GUEST, INTEL, write

LOOK = 0.05
ESTIMATE = fake_domain(name="cpu-estimate", source="cpu_estimate", provenance="estimated")
MACHINE = fake_domain(name="machine-estimate", kind="machine", source="cpu_estimate", provenance="estimated")
PACKAGE = fake_domain(name="package-0", id="rapl:package-0", source="rapl", modulus=262143328911)
BY_NAME = ("pyrapl", "battery", "ipmi", "smart_plug", "accelerator_estimate")
SPECIAL = ("amdsmi", "hwmon", "jetson", "apple_silicon")


class Sources:
    """All backends of mlmeter, of which these work; the others tell a reason and a remedy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.clock = FakeClock()
        self.domains: dict[str, list[Domain]] = {"cpu_estimate": [ESTIMATE]}
        self.missing: dict[str, tuple[str, str]] = {}
        self.loaded: list[str] = []
        self.around = surroundings_of(root, environment={"USER": "ada"}, system="linux", is_root=False)
        monkeypatch.setattr(registry, "load_backend", self.load)

    def load(self, name: str) -> Backend:
        self.loaded.append(name)
        if name not in self.domains:
            raise BackendUnavailableError(name, *self.missing.get(name, ("nothing of this kind is here",)))
        counts = [lambda now: now // 100] * len(self.domains[name])
        return FakeBackend(self.domains[name], counts, self.clock)

    def diagnosis(self, *, everything: bool = False) -> dict[str, Any]:
        return diagnose(self.around, clock=self.clock, look_seconds=LOOK, everything=everything)

    def page(self, *, everything: bool = False) -> str:
        text = report_text(self.diagnosis(everything=everything), everything=everything)
        assert max(map(len, text.splitlines())) <= 80
        return text


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(monkeypatch, write(tmp_path, {"proc/cpuinfo": INTEL + GUEST}))


def test_what_is_not_on_this_machine_is_one_line(sources: Sources) -> None:
    """No reason, no remedy for hardware that is not there."""
    text = sources.page()
    assert f"\n  not on this machine: {', '.join(SPECIAL)}\n" in text
    assert not any(f"{name}: not found" in text for name in SPECIAL)


def test_what_is_opened_by_name_only_is_named_and_not_tried(sources: Sources) -> None:
    """IPMI starts a program, pyRAPL imports one: neither happens unasked."""
    text = sources.page()
    assert f"\n  only when named: {', '.join(BY_NAME)}\n" in text
    assert not set(sources.loaded) & set(BY_NAME)
    told = {facts["source"]: facts for facts in sources.diagnosis()["sources"]}
    assert {told[name]["status"] for name in BY_NAME} == {"not tried"}
    assert set(told) == set(registry.backend_names())


def test_all_tries_and_tells_everything(sources: Sources) -> None:
    """With --all each source has its lines."""
    sources.missing["pyrapl"] = ("pyRAPL cannot be imported", "pip install 'mlmeter[pyrapl]'")
    text = sources.page(everything=True)
    for name in registry.backend_names():
        assert f"\n  {name}: " in text
    assert "pip install 'mlmeter[pyrapl]'" in text
    assert set(sources.loaded) == set(registry.backend_names())


def test_a_worse_way_is_never_advised(sources: Sources) -> None:
    """PyRAPL reads what rapl reads; its package is no gain, wherever it is missing."""
    sources.missing["pyrapl"] = ("pyRAPL cannot be imported", "pip install 'mlmeter[pyrapl]'")
    sources.missing["amdsmi"] = ("the package amdsmi is missing", 'pip install "mlmeter[amdsmi]"')
    names = [item["name"] for item in sources.diagnosis(everything=True)["advice"]]
    assert names == ["virtual-machine", "package-amdsmi"]


def test_a_special_source_with_a_remedy_is_told_in_full(sources: Sources) -> None:
    """Hardware that is there but lacks a package is worth more than a word; the command is at the end."""
    sources.missing["amdsmi"] = ("the package amdsmi is missing", 'pip install "mlmeter[amdsmi]"')
    text = sources.page()
    assert "  amdsmi: not found\n    the package amdsmi is missing\n    -> see 2 at the end\n" in text
    assert '\npython -m pip install "mlmeter[amdsmi]"\n' in text
    assert "not on this machine: hwmon, jetson, apple_silicon" in text


def test_two_ways_to_rapl_that_are_missing_are_told_once(sources: Sources) -> None:
    """One reason, and the advice at the end in place of a general remedy."""
    sources.missing["rapl"] = ("there is no folder", "Load the driver")
    sources.missing["perf_rapl"] = ("there is no PMU", "Load another driver")
    text = sources.page()
    assert "  rapl, perf_rapl: not found\n    there is no folder\n    -> see 1 at the end\n" in text
    assert "PMU" not in text


def test_two_ways_to_rapl_that_differ_are_told_apart(sources: Sources) -> None:
    """A way that is closed has its own reason."""
    sources.missing["perf_rapl"] = ("cannot count energy-pkg: Permission denied", "Give CAP_PERFMON")
    text = sources.page()
    assert "\n  rapl: not found\n" in text
    assert "\n  perf_rapl: no permission\n" in text


def test_a_second_way_is_told_as_a_check(sources: Sources) -> None:
    """Where both work the page says what the second one is for, without a second row for each domain."""
    sources.domains["rapl"] = [PACKAGE]
    sources.domains["cpu_estimate"] = [ESTIMATE, MACHINE]
    sources.domains["perf_rapl"] = [fake_domain(name="package-0", id="rapl:package-0", source="perf_rapl")]
    text = sources.page()
    assert "\n  rapl: works, used\n  perf_rapl: works, checks rapl\n" in text
    assert "\nnot used: perf_rapl (only compared with rapl); cpu_estimate (rapl is used)\n" in text
    assert text.count("\npackage-0 ") == 2  # domains and expected errors
    rows = [line.split()[:2] for line in sources.page(everything=True).splitlines()]
    assert ["package-0", "perf_rapl"] in rows


def test_a_second_way_that_is_closed_is_not_needed(sources: Sources) -> None:
    """Nobody is told to lower the guard of a machine on which everything is measured."""
    sources.domains["rapl"] = [PACKAGE]
    sources.missing["perf_rapl"] = ("cannot count energy-pkg: Permission denied", "Give CAP_PERFMON")
    text = sources.page()
    assert "perf_rapl: no permission, and not needed: rapl works" in text
    assert "CAP_PERFMON" not in text


@pytest.mark.parametrize("length", [9, 16, 26, 40, 90])
def test_names_are_whole_as_long_as_they_fit(sources: Sources, length: int) -> None:
    """Columns give way to names; only one that leaves no room for anything else is cut."""
    name = ("package-" * 12)[:length]
    sources.domains["rapl"] = [fake_domain(name=name, source="rapl", modulus=262143328911)]
    table = sources.page().partition("\ndomain ")[2]
    assert ("…" in table.partition("\n\n")[0]) is (length == 90)
    assert "in total" in table
    assert ("wraps after" in table.splitlines()[0]) is (length <= 16)
