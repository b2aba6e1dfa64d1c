"""Grace Hopper: CPU and GPU on one module whose power NVML tells beside the GPU's."""

from __future__ import annotations

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.measurement import Failure, Provenance
from tests.backends.fake_gpu import FIELD_POWER_INSTANT
from tests.backends.fake_nvml import FIELDS_CALL, FakeGpu, gpu_uuid
from tests.backends.nvml.machine import Machine, ManualClock, failure, only_domain, opened, reading

MODULE_FIELD = f"field:{FIELD_POWER_INSTANT}:1"


def grace_hopper(**changed: object) -> FakeGpu:
    """Return a GPU of 300 W on a module of 480 W."""
    described = {"name": "NVIDIA GH200 480GB", "power_watts": 300.0, "module_power_watts": 480.0}
    return FakeGpu(**{**described, **changed})  # type: ignore[arg-type]


def test_module_is_a_domain_that_is_never_added(machine: Machine) -> None:
    """It contains the GPU: kind psys, not counted, derived from power; a note says so."""
    machine(grace_hopper())
    backend, (gpu, module) = opened(NvmlBackend())
    assert (gpu.name, gpu.kind, gpu.counted) == ("gpu-0", "gpu", True)
    assert (module.name, module.kind, module.counted) == ("module-0", "psys", False)
    assert (module.id, module.provenance) == (f"{gpu_uuid(0)}:module", Provenance.DERIVED)
    assert "never added" in backend.notes[0]


def test_module_and_gpu_are_read_apart(machine: Machine) -> None:
    """Each has its own power: 300 W and 480 W."""
    machine(grace_hopper(counter_millijoules=7))
    backend, _ = opened(NvmlBackend())
    gpu, module = (reading(item) for item in backend.read())
    assert (gpu.position, gpu.value, gpu.power_counts) == (0, 7, 300_000)
    assert (module.position, module.value, module.power_counts) == (1, 480_000, None)


def test_module_with_a_counter_is_measured(machine: Machine) -> None:
    """Where the driver counts the module's energy, that is read."""
    machine(grace_hopper(module_counter_millijoules=123))
    backend, (_, module) = opened(NvmlBackend())
    assert (module.provenance, module.joules_per_count) == (Provenance.MEASURED, 1e-3)
    assert reading(backend.read()[1]).value == 123


@pytest.mark.parametrize(
    "gpu",
    [FakeGpu(), FakeGpu(module_power_watts=0.0), FakeGpu(ignores_scope=True), FakeGpu(fields=frozenset())],
    ids=["no-module", "zero", "scope-ignored", "old-driver"],
)
def test_other_gpus_have_no_module(machine: Machine, gpu: FakeGpu) -> None:
    """Nor one whose driver ignores the scope and answers for the GPU."""
    machine(gpu)
    assert only_domain().kind == "gpu"


def test_module_that_fails_leaves_the_gpu_alone(machine: Machine, clock: ManualClock) -> None:
    """The GPU is read on; the module comes back by itself."""
    nvml = machine(grace_hopper(counter_millijoules=7))
    backend, _ = opened(NvmlBackend(now_ns=clock))
    nvml.fail(MODULE_FIELD, pynvml.NVML_ERROR_UNKNOWN, times=1)
    gpu, module = backend.read()
    assert (reading(gpu).value, "power of the module" in failure(module).reason) == (7, True)
    clock.advance(0.1)
    assert not any(isinstance(item, Failure) for item in backend.read())


def test_read_makes_one_call_for_gpu_and_module_each(machine: Machine) -> None:
    """Nothing else is asked."""
    nvml = machine(grace_hopper())
    backend, _ = opened(NvmlBackend())
    nvml.calls.clear()
    backend.read()
    assert nvml.calls == {FIELDS_CALL: 2}
