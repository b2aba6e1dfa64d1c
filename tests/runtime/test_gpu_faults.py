"""Sessions on GPUs that fail and come back, and on Grace Hopper modules: above a fake library."""

from __future__ import annotations

import pynvml
import pytest

from mlmeter.backends.nvml import NvmlBackend
from mlmeter.meter import EnergyMeter
from mlmeter.testing import FakeClock, advance, fake_meter
from tests.backends.fake_nvml import FIELDS_CALL, FakeGpu, FakeNvml


def gpu_meter(clock: FakeClock) -> EnergyMeter:
    return fake_meter(NvmlBackend(visible_devices=None, now_ns=clock.now_ns), clock=clock)


def event_kinds(meter: EnergyMeter) -> list[str]:
    return list(meter.session.events()["kind"])


LOST, UNKNOWN, TIMEOUT = pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_TIMEOUT


@pytest.mark.parametrize(("code", "kind"), [(LOST, "lost"), (UNKNOWN, "gap"), (TIMEOUT, "gap")])
def test_gpu_that_comes_back_with_a_plausible_counter_is_complete(
    clock: FakeClock, code: int, kind: str
) -> None:
    """The counter counted on for the 10 s without an answer: 17 s at 100 W, and two events."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 2, 0.1)
            nvml.fail(FIELDS_CALL, code)
            advance(meter, 10, 0.1)
            nvml.clear_faults()
            advance(meter, 5, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(1700, rel=0.01)
    assert total.coverage_ratio == 1.0
    assert event_kinds(meter) == [kind, "gap"]


@pytest.mark.parametrize("start_joules", [-1_000.0, 9e6], ids=["fell", "jumped"])
def test_gpu_that_comes_back_with_another_counter_has_a_gap(clock: FakeClock, start_joules: float) -> None:
    """A driver that was reloaded: what was read is kept, the time without is a gap, nothing is negative."""
    with FakeNvml([FakeGpu(power_watts=100.0, energy_start_joules=5_000.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 4, 0.1)
            nvml.fail(FIELDS_CALL, LOST)
            advance(meter, 10, 0.1)
            nvml.clear_faults()
            nvml.gpus[0].energy_start_joules = start_joules
            advance(meter, 6, 0.1)
        joules = meter.session.samples()["energy_joules"]
    domain = meter.session.domains().iloc[0]
    gap = domain["gaps_seconds"]
    # It is asked every 3.2 to 5 s by then.
    assert 10.0 <= gap <= 13.5
    assert domain["resets"] == 1
    assert domain["energy_joules"] == pytest.approx(100 * (20 - gap), rel=0.03)
    total = meter.session.total("gpu")
    assert total.high_joules is not None
    assert total.high_joules >= 2_000.0
    assert joules.is_monotonic_increasing
    assert event_kinds(meter) == ["lost", "gap", "reset"]


def test_windows_of_a_gpu_that_is_lost_and_comes_back(clock: FakeClock) -> None:
    """Before and after: measured. Without an answer: absent, in a session whose interval holds it."""
    with FakeNvml([FakeGpu(power_watts=100.0, energy_start_joules=5_000.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 1, 0.1)
            for name in ("before", "lost", "back"):
                if name == "lost":
                    nvml.fail(FIELDS_CALL, LOST)
                with meter.window(name):
                    advance(meter, 6, 0.1)
                if name == "lost":
                    nvml.clear_faults()
                    nvml.gpus[0].energy_start_joules = -1_800.0
                    advance(meter, 6, 0.1)
    frame = meter.session.windows()
    windows = frame[(frame["scope"] == "inclusive") & (frame["domain"] == "gpu-0")].set_index("name")
    for name in ("before", "back"):
        row = windows.loc[name]
        assert row["energy_joules"] == pytest.approx(600, rel=0.03)
        assert row["low_joules"] <= 600 <= row["high_joules"]
    lost = windows.loc["lost"]
    assert lost["coverage_ratio"] < 0.05
    assert not lost["resolved"]
    assert lost[["energy_joules", "low_joules", "high_joules"]].isna().all()
    total = meter.session.total()
    assert total.low_joules is not None
    assert total.high_joules is not None
    assert total.low_joules <= 100 * meter.session.duration_seconds <= total.high_joules
    numbers = frame[["energy_joules", "low_joules", "high_joules"]].dropna()
    assert (numbers >= 0).all().all()
    assert {"lost", "gap", "reset"} <= set(event_kinds(meter))


def test_counter_that_falls_between_two_reads_is_a_reset(clock: FakeClock) -> None:
    """Never a negative or wrapped step, although no read failed."""
    with FakeNvml([FakeGpu(power_watts=100.0, energy_start_joules=5_000.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 3, 0.1)
            nvml.gpus[0].energy_start_joules = -250.0
            advance(meter, 3, 0.1)
        joules = meter.session.samples()["energy_joules"]
    assert joules.is_monotonic_increasing
    assert meter.session.total("gpu").energy_joules == pytest.approx(590, rel=0.02)
    assert event_kinds(meter) == ["reset"]


def test_counter_that_shows_0_for_a_moment_costs_nothing(clock: FakeClock) -> None:
    """No reset: the next value covers that time too."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 2, 0.1)
            nvml.gpus[0].counter_millijoules = 0
            advance(meter, 0.1, 0.1)
            nvml.gpus[0].counter_millijoules = None
            advance(meter, 2, 0.1)
    assert meter.session.domains()["resets"].iloc[0] == 0
    assert meter.session.total("gpu").energy_joules == pytest.approx(410, rel=0.02)


def freeze(nvml: FakeNvml, clock: FakeClock) -> None:
    """Let the counter stand still from now on."""
    gpu = nvml.gpus[0]
    gpu.counter_millijoules = gpu.counter_now_millijoules(clock.now_ns() * 1e-9)


def test_counter_that_stands_still_while_power_is_drawn_is_told(clock: FakeClock) -> None:
    """Without power beside it: an event, a gap, an upper end that allows for it; never counted as 0 J."""
    with FakeNvml([FakeGpu(power_watts=100.0, fields=frozenset())], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 4, 0.1)
            freeze(nvml, clock)
            advance(meter, 6, 0.1)
    total = meter.session.total("gpu")
    assert "stuck" in event_kinds(meter)
    assert total.coverage_ratio < 0.5
    assert total.high_joules is not None
    assert total.high_joules >= 1_000.0


def test_power_takes_the_place_of_a_counter_that_stands_still(clock: FakeClock) -> None:
    """4 s at 100 W counted, 16 s at 200 W integrated: 3600 J, derived, with one event, also after loading."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 4, 0.1)
            freeze(nvml, clock)
            nvml.gpus[0].power_watts = 200.0
            advance(meter, 16, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(3_600, rel=0.02)
    assert (str(total.provenance), total.coverage_ratio) == ("derived", 1.0)
    assert meter.session.domains()["provenance"].iloc[0] == "derived"
    stuck = [text for text in meter.session.events()["message"] if "stood still" in text]
    assert len(stuck) == 1
    assert stuck[0].endswith("its power is integrated instead")


def test_counter_that_never_moves_is_replaced_by_its_power(clock: FakeClock) -> None:
    """A dead counter that shows some number: the joules come from power from the first reading on."""
    with FakeNvml([FakeGpu(power_watts=100.0, counter_millijoules=77)], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 10, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(1_000, rel=0.02)
    assert str(total.provenance) == "derived"


def test_counter_that_has_counted_while_it_stood_still_is_believed(clock: FakeClock) -> None:
    """It catches up with one step: measured again, although the power had shown twice as much by then."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 4, 0.1)
            freeze(nvml, clock)
            advance(meter, 6, 0.1)
            assert str(meter.session.total("gpu").provenance) == "derived"
            nvml.gpus[0].counter_millijoules = None
            advance(meter, 4, 0.1)
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(1_400, rel=0.01)
    assert (str(total.provenance), total.coverage_ratio) == ("measured", 1.0)
    ((_, rows),) = meter.session.recording.domains
    assert rows.driver_ns is not None
    assert len(rows.driver_ns) == len(rows.counts) == len(rows.after_ns)


def test_counter_that_goes_on_from_where_it_stood_has_missed_the_time(clock: FakeClock) -> None:
    """The power of that time is kept, and the sum stays derived; nothing is counted twice."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 4, 0.1)
            freeze(nvml, clock)
            advance(meter, 6, 0.1)
            nvml.gpus[0].counter_millijoules = None
            nvml.gpus[0].energy_start_joules -= 600.0
            advance(meter, 4, 0.1)
        joules = meter.session.samples()["energy_joules"]
    total = meter.session.total("gpu")
    assert total.energy_joules == pytest.approx(1_400, rel=0.02)
    assert str(total.provenance) == "derived"
    assert joules.is_monotonic_increasing


def test_session_after_the_trouble_is_measured(clock: FakeClock) -> None:
    """Two meters share a source: what happened before the second one began is not its provenance."""
    with FakeNvml([FakeGpu(power_watts=100.0)], now_ns=clock.now_ns) as nvml:
        backend = NvmlBackend(now_ns=clock.now_ns)
        first = fake_meter(backend, clock=clock)
        second = EnergyMeter(backends=[backend], sampler=first._sampler)
        with first:
            freeze(nvml, clock)
            advance(first, 4, 0.1)
            nvml.gpus[0].counter_millijoules = None
            nvml.gpus[0].energy_start_joules -= 400.0
            advance(first, 2, 0.1)
            with second:
                advance(second, 4, 0.1)
    assert str(first.session.total("gpu").provenance) == "derived"
    assert str(second.session.total("gpu").provenance) == "measured"


def test_sleeping_gpu_is_not_integrated(clock: FakeClock) -> None:
    """Less than 1 W: a counter that stands still then is told as before, and is no error of it."""
    gpu = FakeGpu(power_watts=0.5, counter_millijoules=77)
    with FakeNvml([gpu], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 10, 0.1)
    assert not any("integrated" in text for text in meter.session.events()["message"])


def test_module_and_gpu_are_never_added(clock: FakeClock) -> None:
    """A GPU of 300 W on a module of 480 W: the total is the GPU's, the module stands beside it."""
    gpu = FakeGpu(name="NVIDIA GH200 480GB", power_watts=300.0, module_power_watts=480.0)
    with FakeNvml([gpu], now_ns=clock.now_ns):
        meter = gpu_meter(clock)
        with meter:
            advance(meter, 10, 0.1)
    session = meter.session
    assert session.total().energy_joules == pytest.approx(3_000, rel=0.01)
    assert session.total("gpu").energy_joules == pytest.approx(3_000, rel=0.01)
    domains = session.domains().set_index("domain")
    assert domains.loc["module-0", "energy_joules"] == pytest.approx(4_800, rel=0.02)
    assert domains.loc["module-0", "kind"] == "psys"
    assert any("module-0" in text for text in session.events()["message"])
