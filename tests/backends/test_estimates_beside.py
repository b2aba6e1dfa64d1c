"""Where an estimate stands in for a counter, and where it only stands beside one."""

from __future__ import annotations

import pytest

from mlmeter.backends import registry
from mlmeter.backends.registry import Probe
from mlmeter.measurement import Domain
from mlmeter.testing import FakeBackend, FakeClock, fake_domain

ESTIMATES = (
    fake_domain(name="cpu-estimate", source="cpu_estimate", provenance="estimated"),
    fake_domain(name="dram-estimate", kind="dram", source="cpu_estimate", provenance="estimated"),
    fake_domain(name="machine-estimate", kind="machine", source="cpu_estimate", provenance="estimated"),
)


def backend_of(*domains: Domain) -> FakeBackend:
    return FakeBackend(list(domains), [0] * len(domains), FakeClock())


def probe_with(monkeypatch: pytest.MonkeyPatch, *measured: Domain) -> Probe:
    """Probe a machine on which `rapl` has these domains, and formulas have all of `ESTIMATES`."""
    found = {"rapl": backend_of(*measured), "cpu_estimate": backend_of(*ESTIMATES)}
    chosen = tuple(entry for entry in registry.BUILTINS if entry.name in found)
    monkeypatch.setattr(registry, "BUILTINS", chosen)
    monkeypatch.setattr(registry, "load_backend", found.__getitem__)
    return registry.probe()


def added(found: Probe) -> list[str]:
    """Return the names of the domains that make up the total."""
    return [domain.name for opened in found.opened for domain in opened.domains if domain.counted]


PACKAGE = fake_domain(name="package-0", source="rapl")
DRAM = fake_domain(name="dram-0", kind="dram", source="rapl")


@pytest.mark.parametrize(
    ("measured", "total"),
    [
        ((PACKAGE, DRAM), ["package-0", "dram-0"]),
        ((PACKAGE,), ["package-0"]),
        ((DRAM,), ["dram-0", "cpu-estimate"]),
        ((fake_domain(name="psys", kind="psys"),), ["cpu-estimate", "dram-estimate"]),
        ((fake_domain(name="core-0", parent="package-0"),), ["cpu-estimate", "dram-estimate"]),
    ],
    ids=["both", "cpu only", "dram only", "platform only", "a part only"],
)
def test_the_estimate_is_for_kinds_that_nothing_measures(
    monkeypatch: pytest.MonkeyPatch, measured: tuple[Domain, ...], total: list[str]
) -> None:
    """Never an estimate beside a measured energy of its kind, and never a machine without its CPU."""
    assert added(probe_with(monkeypatch, *measured)) == total


def test_the_estimate_beside_is_shown_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is measured, its estimate stands inside that, and a note says so."""
    found = probe_with(monkeypatch, DRAM)
    (beside,) = (d for opened in found.opened for d in opened.domains if d.name == "dram-estimate")
    assert beside.parent == "dram-0"
    assert found.notes == ("cpu_estimate: dram-estimate is not added, because dram-0 measures dram",)


@pytest.mark.parametrize("first", ["estimate", "counter"])
def test_backends_given_as_objects_are_not_mixed_either(first: str) -> None:
    """The order in which they are given does not matter."""
    both = [backend_of(*ESTIMATES), backend_of(PACKAGE)]
    found = registry.probe(both if first == "estimate" else both[::-1])
    assert sorted(added(found)) == ["dram-estimate", "package-0"]


def test_an_estimated_accelerator_is_another_device_than_a_measured_one() -> None:
    """One of several accelerators can be estimated while the others are measured."""
    gpu = fake_domain(name="gpu-0", kind="gpu")
    tpu = fake_domain(name="tpu-0", kind="gpu", provenance="estimated")
    assert added(registry.probe([backend_of(gpu), backend_of(tpu)])) == ["gpu-0", "tpu-0"]
