"""A meter of a GPU that works later than Python runs, and what it tells."""

from __future__ import annotations

from typing import Any

from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeBackend, advance, fake_domain, fake_meter
from tests.runtime.fake_cuda import FakeGpu

CPU_WATTS = 20.0


def meter_of(gpu: FakeGpu, *gpus: FakeGpu, **arguments: Any) -> EnergyMeter:
    """A meter of a CPU and of GPUs."""
    domains = [fake_domain(name="package-0")]
    counts: list[Any] = [lambda now: int(CPU_WATTS * now * 1e-3)]
    for number, one in enumerate((gpu, *gpus)):
        domains.append(fake_domain(name=f"gpu-{number}", kind="gpu", uuid=f"GPU-{number}"))
        counts.append(one.microjoules)
    return fake_meter(FakeBackend(domains, counts, gpu.clock), clock=gpu.clock, **arguments)


def row(meter: EnergyMeter, name: str, domain: str = "gpu-0", scope: str = "inclusive") -> Any:
    """The one row of `windows` that fits."""
    frame = meter.session.windows()
    frame = frame[(frame["name"] == name) & (frame["domain"] == domain) & (frame["scope"] == scope)]
    (found,) = frame.itertuples()
    return found


def messages(meter: EnergyMeter) -> str:
    return " | ".join(meter.session.events()["message"])


def run_queue(gpu: FakeGpu, meter: EnergyMeter) -> None:
    """Two windows of a millisecond that launch 0.4 s and 0.6 s of work, then a rest of 0.5 s."""
    with meter:
        for name, seconds in (("long", 0.4), ("longer", 0.6)):
            with meter.window(name):
                gpu.launch(seconds)
                gpu.clock.advance(0.001)
        with meter.window("rest"):
            advance(meter, 1.5)
