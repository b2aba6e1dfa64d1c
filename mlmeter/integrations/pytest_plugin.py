"""The pytest plug-in: energies of tests, and limits for them.

    @pytest.mark.max_joules(5.0)
    def test_prediction_is_cheap(energy_meter):
        with energy_meter.inference("predict", samples=100):
            ...

Installed with mlmeter; where no test asks for it, it meters nothing and imports nothing but itself.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mlmeter.meter import EnergyMeter

MARKER, FIXTURE = "max_joules", "energy_meter"
PROPERTIES = ("energy_joules", "low_joules", "high_joules", "provenance")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings of the meter."""
    parser.addini(
        "mlmeter_backends", "sources of energy readings, such as rapl nvml; by default the best", "args"
    )
    parser.addini("mlmeter_scope", "machine (default) or process", default="machine")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(joules, unit=None, phase=None): fail if the test uses more energy, or more per unit",
    )


@pytest.fixture
def energy_meter(request: pytest.FixtureRequest) -> Generator[EnergyMeter, None, None]:
    """A running EnergyMeter whose session is this test; in the reports as properties of the test."""
    meter = _meter(request.node)
    _start(meter)
    yield meter
    meter.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Meter a test that has the marker or the fixture, and hold it to its limit."""
    marker = item.get_closest_marker(MARKER)
    meter = getattr(item, "funcargs", {}).get(FIXTURE)
    if marker is None and meter is None:
        return (yield)
    limit = None if marker is None else _limit(marker)
    if meter is None:
        meter = _meter(item)
        _start(meter)
    try:
        result = yield
    finally:
        meter.stop()
    total = meter.session.total()
    for name in PROPERTIES:
        value = getattr(total, name)
        item.user_properties.append((name, None if value is None else str(value)))
    if limit is not None:
        _check(meter, *limit)
    return result


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell the energies of the metered tests, wherever they ran."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    lines = [line for report in reports if (line := _line(report)) is not None]
    if lines:
        terminalreporter.section("energy (mlmeter)")
        for line in lines:
            terminalreporter.line(line)


def _line(report: object) -> str | None:
    """Return what the report of a metered test says; None of any other one."""
    told = dict(getattr(report, "user_properties", ()))
    if getattr(report, "when", None) != "call" or not told.keys() >= set(PROPERTIES):
        return None
    from mlmeter.report.text import interval, number

    joules, low, high = (None if told[name] is None else float(told[name]) for name in PROPERTIES[:3])
    worth = told["provenance"] or "no energy could be read"
    return f"{getattr(report, 'nodeid', '')}: {number(joules)} J in {interval(low, high)} ({worth})"


def _limit(marker: pytest.Mark) -> tuple[float, str | None, str | None]:
    """Return the arguments of a marker; fail the test, before it runs, if one is wrong."""

    def arguments(
        joules: float, *, unit: str | None = None, phase: str | None = None
    ) -> tuple[float, str | None, str | None]:
        if isinstance(joules, bool) or not 0 <= joules < math.inf:
            raise TypeError(f"{joules!r} is no limit in joules")
        return joules, unit, phase

    try:
        return arguments(*marker.args, **marker.kwargs)
    except TypeError as error:
        accepted = f"@pytest.mark.{MARKER}(joules, unit=None, phase=None)"
        pytest.fail(f"expected {accepted}: {error}", pytrace=False)


def _check(meter: EnergyMeter, joules: float, unit: str | None, phase: str | None) -> None:
    """Fail the test that used more, or that cannot be judged."""
    from mlmeter.analysis.gate import keeps_limit
    from mlmeter.analysis.run_figures import run_figures
    from mlmeter.errors import ArgumentError

    try:
        outcome = keeps_limit([run_figures(meter.session.recording)], joules, phase=phase, unit=unit)
    except ArgumentError as error:
        pytest.fail(f"{MARKER}: {error}", pytrace=False)
    if outcome.passed is not True:
        pytest.fail(outcome.text, pytrace=False)


def _meter(item: pytest.Item) -> EnergyMeter:
    """Return a meter with the settings of the project."""
    from mlmeter.meter import EnergyMeter

    return EnergyMeter(
        item.name,
        phase="other",
        backends=item.config.getini("mlmeter_backends") or None,
        scope=item.config.getini("mlmeter_scope"),
    )


def _start(meter: EnergyMeter) -> None:
    """Start without a warning that energy is estimated: the report of the test tells."""
    import warnings

    from mlmeter.errors import MLMeterWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MLMeterWarning)
        meter.start()
