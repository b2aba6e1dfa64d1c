"""Apple silicon through a fake of the package zeus-apple-silicon 1.1."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from mlmeter.backends.apple_silicon import AppleSiliconBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Failure, Reading
from mlmeter.testing import check_backend

FIELDS = {"cpu_total_mj": 1_000, "dram_mj": 200, "gpu_mj": 3_000, "gpu_sram_mj": 10, "ane_mj": 0}


class FakeMonitor:
    """AppleEnergyMonitor: a field that the chip lacks is None."""

    fields: dict[str, Any] = FIELDS
    error: Exception | None = None

    def get_cumulative_energy(self) -> types.SimpleNamespace:
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(**self.fields)


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> type[FakeMonitor]:
    """Install the fake package."""

    class Monitor(FakeMonitor):
        pass

    module = types.ModuleType("zeus_apple_silicon")
    module.AppleEnergyMonitor = Monitor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    return Monitor


def test_counters_in_millijoules(monitor: type[FakeMonitor]) -> None:
    """Processor, memory, GPU and Neural Engine are added, the cache of the GPU is not."""
    backend = AppleSiliconBackend(platform="darwin")
    domains = backend.open()
    assert [domain.name for domain in domains if domain.counted] == ["cpu", "dram", "gpu", "ane"]
    assert {domain.joules_per_count for domain in domains} == {1e-3}
    assert [item.value for item in backend.read() if isinstance(item, Reading)] == [*FIELDS.values()]
    assert "not published" in backend.notes[0]
    check_backend(backend)


def test_chip_without_some_counters(monitor: type[FakeMonitor]) -> None:
    """What is None is left out, not 0."""
    monitor.fields = {**FIELDS, "gpu_sram_mj": None, "dram_mj": None}
    backend = AppleSiliconBackend(platform="darwin")
    assert [domain.name for domain in backend.open()] == ["cpu", "gpu", "ane"]


def test_counter_that_fails_later(monitor: type[FakeMonitor]) -> None:
    """One field that is gone, or a call that fails, is told and does not raise."""
    backend = AppleSiliconBackend(platform="darwin")
    backend.open()
    monitor.fields = {**FIELDS, "gpu_mj": None}
    assert [type(item) for item in backend.read()] == [Reading, Reading, Failure, Reading, Reading]
    monitor.error = RuntimeError("IOReport")
    assert {type(item) for item in backend.read()} == {Failure}


def test_machines_without_it(monkeypatch: pytest.MonkeyPatch, monitor: type[FakeMonitor]) -> None:
    """Linux, a Mac without the package, and an Intel Mac each have a reason of their own."""
    with pytest.raises(BackendUnavailableError, match="no Mac"):
        AppleSiliconBackend(platform="linux").open()
    monitor.fields = {}
    with pytest.raises(BackendUnavailableError, match="no energy counter"):
        AppleSiliconBackend(platform="darwin").open()
    monitor.error = RuntimeError("Failed to create IOReport subscription.")
    with pytest.raises(BackendUnavailableError, match="IOReport"):
        AppleSiliconBackend(platform="darwin").open()
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    with pytest.raises(BackendUnavailableError) as caught:
        AppleSiliconBackend(platform="darwin").open()
    assert "mlmeter[apple]" in caught.value.remedy
