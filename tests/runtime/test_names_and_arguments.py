"""What users write: arguments, names, and the warnings they get."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import mlmeter
from mlmeter.errors import (
    ArgumentError,
    EstimateWarning,
    NothingMeteredWarning,
    NotWrittenWarning,
    StateWarning,
)
from mlmeter.meter import EnergyMeter, _running
from mlmeter.testing import FakeBackend, FakeClock, fake_meter


@pytest.fixture
def meter(clock: FakeClock) -> EnergyMeter:
    """A meter of one 100 W counter."""
    return fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock, name="test")


def test_module_functions_use_the_innermost_meter(clock: FakeClock) -> None:
    """`mlmeter.inference` records on the meter whose block it is in."""
    outer = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)
    inner = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)
    with outer:
        with inner, mlmeter.inference("deep"):
            clock.advance(1)
        with mlmeter.inference("shallow"):
            clock.advance(1)
    assert "deep" in set(inner.session.windows()["name"])
    assert set(outer.session.windows()["name"]) == {"(session)", "shallow"}


def test_module_functions_in_a_thread_use_the_running_meter(clock: FakeClock, meter: EnergyMeter) -> None:
    """A thread of a pool has no context of the block, but the block's meter is the one that is meant."""

    def work() -> None:
        with mlmeter.inference("in thread"):
            clock.advance(1)

    with meter:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "in thread" in set(meter.session.windows()["name"])


def test_no_meter_is_left_running(meter: EnergyMeter) -> None:
    """A stopped meter is forgotten."""
    with meter:
        assert meter in _running
    assert meter not in _running


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"phase": ""}, "training"),
        ({"phase": 3}, "training"),
        ({"name": ""}, "not empty"),
        ({"scope": "host"}, "machine"),
        ({"period_seconds": 0}, "0.001 to 60"),
        ({"period_seconds": "fast"}, "0.001 to 60"),
        ({"period_seconds": float("nan")}, "0.001 to 60"),
        ({"period_seconds": True}, "0.001 to 60"),
        ({"backends": "rapl"}, "a list"),
        ({"backends": []}, "empty list"),
        ({"backends": ["nvlm"]}, "known are rapl"),
        ({"backends": [object()]}, "read()"),
        ({"backends": [FakeBackend]}, "read()"),
        ({"backends": 5}, "a list"),
        ({"sync": "cuda"}, '"events", "device", "none"'),
        ({"sync": 3}, "without arguments"),
        ({"on_window": "print"}, "a function"),
        ({"output_dir": 5}, "path"),
        ({"output_dir": ""}, "path"),
        ({"output_dir": __file__}, "not a directory"),
    ],
)
def test_wrong_argument_is_refused_at_construction(arguments: dict[str, object], words: str) -> None:
    """The message names the accepted values."""
    with pytest.raises(ArgumentError, match=words.replace("(", r"\(").replace(")", r"\)")):
        EnergyMeter(**arguments)  # type: ignore[arg-type]


def test_unknown_keyword_is_a_type_error() -> None:
    """A misspelt argument is not swallowed."""
    with pytest.raises(TypeError):
        EnergyMeter(outputdir="x")  # type: ignore[call-arg]


def test_no_hardware_gives_times_and_a_warning(clock: FakeClock) -> None:
    """Without any source the session has durations, no joules, and says why."""

    class Missing(FakeBackend):
        def open(self) -> tuple[()]:
            raise OSError("no such device")

    meter = fake_meter(Missing([], [], clock), clock=clock)
    with pytest.warns(NothingMeteredWarning, match="doctor"), meter:
        clock.advance(1)
    assert meter.session.total().energy_joules is None
    frame = meter.session.phases()
    assert frame["energy_joules"].isna().all()
    assert frame["duration_seconds"].iloc[0] == pytest.approx(1)
    assert "no such device" in meter.session.domains()["reason"].iloc[0]


def test_an_estimate_warns_once(clock: FakeClock) -> None:
    """A session with an estimated domain says so at the start."""
    domain = {"provenance": "estimated", "interval_low_ratio": 0.5, "interval_high_ratio": 2.0}
    backend = FakeBackend.with_power(clock, 100, **domain, update_period_seconds=0.01, cheap_read=False)
    with pytest.warns(EstimateWarning) as caught, fake_meter(backend, clock=clock):
        clock.advance(1)
    assert len(caught) == 1


def test_warnings_as_errors_do_not_stop_the_program(clock: FakeClock) -> None:
    """Where the program turns warnings into errors, the meter still starts."""
    domain = {"provenance": "estimated", "update_period_seconds": 0.01, "cheap_read": False}
    meter = fake_meter(FakeBackend.with_power(clock, 100, **domain), clock=clock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with meter:
            clock.advance(1)
    assert "estimate" in set(meter.session.events()["kind"])


def test_unknown_kind_is_refused(clock: FakeClock, meter: EnergyMeter) -> None:
    """The message lists the kinds."""
    with meter:
        clock.advance(1)
    with pytest.raises(ArgumentError, match="dram"):
        meter.session.total("gpus")


def test_import_loads_no_third_party_package_and_starts_no_thread() -> None:
    """`import mlmeter` is light: no numpy, pandas, psutil, pynvml, click; no thread."""
    code = (
        "import sys, threading; before = set(sys.modules); import mlmeter;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - {'mlmeter'};"
        "print(sorted(new - set(sys.stdlib_module_names)), threading.active_count())"
    )
    root = str(Path(mlmeter.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": root}
    )
    assert result.stdout.strip() == "[] 1"


def test_public_names_are_what_is_documented() -> None:
    """Every public name exists; nothing else is offered."""
    for name in mlmeter.__all__:
        assert getattr(mlmeter, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Tracker'"):
        _ = mlmeter.Tracker


def test_warning_points_at_the_users_line(clock: FakeClock) -> None:
    """The warning of an estimate names the file that opened the session."""
    domain = {"provenance": "estimated", "update_period_seconds": 0.01, "cheap_read": False}
    with pytest.warns(EstimateWarning) as caught:
        fake_meter(FakeBackend.with_power(clock, 100, **domain), clock=clock).start().stop()
    assert caught[0].filename == __file__


def test_public_names_are_not_hidden_by_modules() -> None:
    """`mlmeter.window` and the others are what the reference says, whatever was imported before."""
    code = (
        "import pkgutil, types, mlmeter\n"
        "for module in pkgutil.walk_packages(mlmeter.__path__, 'mlmeter.'):\n"
        "    if not module.name.endswith('__main__'):\n        __import__(module.name)\n"
        "bad = [n for n in mlmeter.__all__ if isinstance(getattr(mlmeter, n), types.ModuleType)]\n"
        "assert not bad, bad\n"
    )
    root = str(Path(mlmeter.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": root})


def test_window_function_uses_the_active_meter(clock: FakeClock, meter: EnergyMeter) -> None:
    """`mlmeter.window` opens a window on the meter whose block runs."""
    with meter, mlmeter.window("part"):
        clock.advance(1)
    assert set(meter.session.window_names()["name"]) == {"part"}


@pytest.mark.parametrize("twice", [["rapl", "rapl"], "objects"])
def test_nothing_is_named_twice(clock: FakeClock, twice: object) -> None:
    """The same backend twice would count its energy twice."""
    backend = FakeBackend.with_power(clock, 100)
    with pytest.raises(ArgumentError, match="twice"):
        EnergyMeter(backends=[backend, backend] if twice == "objects" else twice)


def test_windows_on_a_meter_that_does_not_run_warn_once(clock: FakeClock, meter: EnergyMeter) -> None:
    """Who forgets to start the meter is told, and the block runs."""
    with pytest.warns(StateWarning, match="never started"), meter.window("first"):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with meter.window("second"):
            pass


def test_a_run_that_cannot_be_written_warns(clock: FakeClock) -> None:
    """The reason is in the warning and in `write_error`; nothing is raised."""
    meter = fake_meter(FakeBackend.with_power(clock, 100), clock=clock, output_dir="/proc/nowhere")
    with pytest.warns(NotWrittenWarning, match="/proc/nowhere"), meter:
        clock.advance(1)
    assert meter.run_directory is None
    assert "FileNotFoundError" in str(meter.write_error)


@pytest.mark.parametrize("name", ["energy_joules", "windows", "thread", "joules_per_x", "=1+1", "phase"])
def test_units_cannot_be_named_like_columns(meter: EnergyMeter, name: str) -> None:
    """A count of work cannot overwrite a column; the message names it."""
    with pytest.raises(ArgumentError, match="cannot name a count of work"):
        meter.inference("a", **{name: 1})


def test_many_names_cost_no_memory(clock: FakeClock, meter: EnergyMeter) -> None:
    """A name per step is common: the pooled table and the summary stay small and quick."""
    with meter:
        for step in range(3_000):
            with meter.window(f"step {step}", samples=1):
                clock.advance(0.01)
    assert len(meter.session.window_names()) == 2 * 3_000
    assert len(meter.session.summary()) < 5_000
