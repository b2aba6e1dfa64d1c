"""Windows of asynchronous work on a real NVIDIA GPU, through a real PyTorch.

Written before one was at hand: a failure may be the test's.
"""

from __future__ import annotations

import threading
import time
import warnings
from typing import Any

import pytest

from mlmeter.device_time.cuda import cuda_runs, device_uuid
from mlmeter.meter import EnergyMeter

pytestmark = pytest.mark.hardware


@pytest.fixture
def torch() -> Any:
    """A PyTorch that has used its GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available() or torch.version.hip:
            pytest.skip("there is no NVIDIA GPU")
        torch.zeros(1, device="cuda")
        torch.cuda.synchronize()
    return torch


def launch(torch: Any, seconds: float) -> None:
    """Put work of about that length on the current stream."""
    torch.cuda._sleep(int(seconds * 1.5e9))


def rows(meter: EnergyMeter, torch: Any) -> Any:
    """Windows on the current GPU, by name."""
    domains = meter.session.domains().set_index("uuid")["domain"]
    frame = meter.session.windows().query("scope == 'inclusive'")
    return frame[frame["domain"] == domains[device_uuid(torch.cuda.current_device())]].set_index("name")


def test_windows_have_the_times_of_the_work(torch: Any) -> None:
    """Durations are those that PyTorch's own events tell, although the host is done at once."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with EnergyMeter(backends=["nvml"]) as meter:
        with meter.window("first") as first:
            begin.record()
            launch(torch, 0.3)
            end.record()
        with meter.window("second"):
            launch(torch, 0.1)
        torch.cuda.synchronize()
    found, seconds = rows(meter, torch), begin.elapsed_time(end) * 1e-3
    assert first.duration_seconds < 0.1 < seconds
    assert found.loc["first", "duration_seconds"] == pytest.approx(seconds, abs=1e-3)
    assert found.loc["second", "start_seconds"] >= found.loc["first", "start_seconds"] + seconds - 1e-3
    assert found["synchronised"].all()


def test_host_and_device_agree_on_an_idle_gpu(torch: Any) -> None:
    """Without work in the queue an edge is reached when it is marked."""
    with EnergyMeter(backends=["nvml"]) as meter:
        for _ in range(20):
            with meter.window("idle"):
                time.sleep(0.1)
    total = meter.session.windows().query("domain == 'total' and scope == 'inclusive'").set_index("name")
    found = rows(meter, torch)
    for column in ("start_seconds", "duration_seconds"):
        assert abs(found.loc["idle", column].to_numpy() - total.loc["idle", column].to_numpy()).max() < 1e-3


def test_a_capture_survives_a_running_meter(torch: Any) -> None:
    """The sampler's thread asks for events while the program captures; CUDA must not mind."""
    static = torch.ones(1024, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        static.mul_(1.0)
    torch.cuda.synchronize()
    with EnergyMeter(backends=["nvml"], period_seconds=0.001) as meter:
        with meter.window("before"):
            launch(torch, 0.5)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            with meter.window("captured"):
                for _ in range(50):
                    static.mul_(1.0)
                    time.sleep(0.002)
        with meter.window("replayed"):
            graph.replay()
        torch.cuda.synchronize()
    found = rows(meter, torch)
    assert found.loc["before", "synchronised"]
    assert not found.loc["captured", "synchronised"]
    assert found.loc["replayed", "synchronised"]
    assert static.sum().item() == 1024


def test_identity_is_that_of_nvml(torch: Any) -> None:
    """The driver tells the identity by which NVML's domain is found."""
    with EnergyMeter(backends=["nvml"]) as meter:
        pass
    assert cuda_runs()
    assert device_uuid(torch.cuda.current_device()) in set(meter.session.domains()["uuid"])


def test_no_device_gets_a_context_by_being_metered(torch: Any) -> None:
    """Reading the events of the last GPU from a fresh thread does not initialise the first."""
    last = torch.cuda.device_count() - 1
    if last < 1 or torch._C._cuda_hasPrimaryContext(0):
        pytest.skip("needs a second GPU, and a first one that was not used")
    torch.cuda.set_device(last)
    with EnergyMeter(backends=["nvml"]) as meter:
        with meter.window("a"):
            torch.zeros(1, device="cuda").item()
        thread = threading.Thread(target=meter.session.total)
        thread.start()
        thread.join()
    assert not torch._C._cuda_hasPrimaryContext(0)
