"""The GPU experiments find what a simulated GPU was made to be, and say what it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gpu_experiments
import numpy as np
import pytest
from gpu_device import NoGpuError, NvidiaGpu
from gpu_estimators import Changes, Spans, changes, judge_stamps, refresh_period, resolution
from gpu_experiments import QUICK_RATIO, examine, main, wrong
from gpu_simulation import SimulatedGpu, Truth


@pytest.mark.parametrize(
    "truth",
    [
        Truth(),
        Truth(lag_seconds=0.05, seen_ratio=0.25),
        Truth(period_seconds=0.02, jitter_seconds=0.5e-3, lag_seconds=0.0, power_window_seconds=0.01),
    ],
)
def test_experiments_find_period_lag_and_window(truth: Truth) -> None:
    """Whatever the counter's period, lag and seen share are, they are found from outside."""
    result = examine(SimulatedGpu(truth, seed=3), "abc", QUICK_RATIO, lambda _: None)
    assert wrong(result["found"], truth) == []
    assert result["found"]["power_window_seconds"] == pytest.approx(truth.power_window_seconds, abs=6e-3)


def test_wrong_estimates_are_named() -> None:
    """An estimate beyond its tolerance, and one that is missing, fail."""
    found = {"period_seconds": 0.102, "lag_seconds": 0.03, "seen_ratio": 1.0, "wave_seen_ratio": 1.0}
    failures = wrong(found, Truth())
    assert [failure.split(":")[0] for failure in failures] == ["FAIL period_seconds", "FAIL wave_lag_seconds"]


def test_simulated_results_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line, every experiment and the JSON say that nothing was measured."""
    assert main(["--simulate", "--quick", "--output", str(tmp_path / "found")]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "found.txt").read_text() == printed
    lines = printed.splitlines()
    assert lines[0].startswith("SIMULATED GPU")
    titles = [line for line in lines if line.startswith("(") and line[2] == ")"]
    assert len(titles) == 12
    assert all("[SIMULATED]" in title for title in titles)
    assert not any("failed" in line or "skipped" in line for line in lines)
    written = json.loads((tmp_path / "found.json").read_text())
    assert all(
        experiment["simulated"]
        for device in written["devices"]
        for experiment in device["experiments"].values()
    )


def test_experiments_without_load_are_skipped_with_a_reason() -> None:
    """Where torch is missing, what needs a load says so and the rest goes on."""
    gpu = SimulatedGpu(Truth())
    gpu.no_load_reason = "torch sees no CUDA"
    result = examine(gpu, "abcdef", 0.1, lambda _: None)
    assert result["experiments"]["b"]["lines"] == ["skipped: torch sees no CUDA"]
    assert "lag_seconds" not in result["found"]
    assert "period_seconds" in result["found"]
    assert "counter_ratio_idle" in result["found"]
    assert "counter_ratio_full_load" not in result["found"]


def test_a_driver_that_refuses_a_call_fails_one_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that the driver refuses is told, and the others are still made."""

    def refuse(_: SimulatedGpu) -> None:
        raise OSError("Not Supported")

    monkeypatch.setattr(SimulatedGpu, "power_ring", refuse)
    result = examine(SimulatedGpu(Truth()), "aef", 0.1, lambda _: None)
    assert result["experiments"]["e"]["lines"] == ["failed: OSError: Not Supported"]
    assert "counter_ratio_idle" in result["found"]


def test_period_counts_refreshes_that_were_missed() -> None:
    """Steps of two periods do not lengthen the period."""
    instants = np.delete(np.arange(50) * 0.1, [7, 20, 21])
    assert refresh_period(instants).seconds == pytest.approx(0.1)


def test_resolution_is_the_common_divisor_of_the_steps() -> None:
    """A counter in steps of 15 mJ shows sums of them."""
    assert resolution(np.array([1000.0, 1030.0, 1030.0, 1075.0])) == 15


def test_changes_bracket_the_refresh() -> None:
    """A refresh is between the begin of the last poll with the old value and the end of the next."""
    begin = np.array([0.0, 1.0, 2.0])
    found = changes(begin, begin + 0.5, np.array([5.0, 5.0, 6.0]))
    assert [column.tolist() for column in found] == [[1.0], [2.5], [6.0]]


@pytest.mark.parametrize("kind", ["call time", "sensor time"])
def test_kind_of_time_stamps_is_told(kind: str) -> None:
    """Stamps go with the calls or with the refreshes, and the offset is found."""
    calls = np.arange(0.0, 10.0, 1e-3)
    refreshes = np.arange(0.05, 10.0, 0.1)
    stamped = calls if kind == "call time" else refreshes[np.searchsorted(refreshes, calls, side="right") - 1]
    rows = Changes(refreshes - 0.5e-3, refreshes + 0.5e-3, refreshes)
    assert judge_stamps(stamped + 0.007, calls, rows)[0] == kind
    assert judge_stamps(stamped + 0.007, calls, rows)[1] == pytest.approx(0.007, abs=1e-3)


def test_seconds_of_load_in_spans() -> None:
    """Pauses count nothing."""
    spans = Spans(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert spans.seconds_in(np.array([0.0, 1.5]), np.array([5.0, 3.25])).tolist() == [2.0, 0.75]


def fake_nvml(**changed: object) -> ModuleType:
    """Stand in for the bindings, with one GPU."""

    def field(number: int) -> SimpleNamespace:
        members = SimpleNamespace(ullVal=123_456, uiVal=65_000)
        kind = 3 if number == 83 else 1
        return SimpleNamespace(
            nvmlReturn=0, valueType=kind, value=members, timestamp=1_700_000_000_000_000, latencyUsec=40
        )

    def unknown(_: object) -> None:
        raise RuntimeError("Not Supported")

    module = ModuleType("pynvml")
    names: dict[str, object] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetFieldValues": lambda _, numbers: [field(number) for number in numbers],
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 300_000,
        "nvmlDeviceGetName": lambda _: "Made-up GPU",
        "nvmlDeviceGetPersistenceMode": lambda _: 1,
        "nvmlDeviceGetMigMode": unknown,
        "nvmlDeviceGetSamples": lambda *_: (
            1,
            [SimpleNamespace(timeStamp=1_700_000_000_000_000, sampleValue=SimpleNamespace(uiVal=64_000))],
        ),
    }
    for name, value in (names | changed).items():
        setattr(module, name, value)
    return module


def test_nvidia_gpu_is_read_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counter, power, stamp, ring and facts are what the driver says; what it does not know is unknown."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    monkeypatch.setitem(sys.modules, "torch", None)
    gpu = NvidiaGpu(0)
    sample = gpu.read()
    assert (sample.millijoules, sample.milliwatts, sample.latency_microseconds) == (123_456, 65_000, 40)
    assert gpu.power_ring() == [(1.7e9, 64.0)]
    assert gpu.max_watts == 450.0
    assert gpu.facts["device"] == "Made-up GPU"
    assert gpu.facts["persistence mode"] == "on"
    assert gpu.facts["MIG mode"] == "unknown"
    assert gpu.no_load_reason.startswith("torch cannot be imported")


def test_without_driver_the_gpus_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is in the first words of the output."""

    def missing() -> None:
        raise OSError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(nvmlInit=missing))
    with pytest.raises(NoGpuError, match="no driver"):
        NvidiaGpu(0)
    gpus, because = gpu_experiments.devices(0, simulate=False)
    assert all(gpu.simulated for gpu in gpus)
    assert because == "no NVIDIA GPU: OSError: no driver"
