"""mlmeter: the energy of machine learning, measured in the process that uses it.

    from mlmeter import EnergyMeter

    with EnergyMeter() as meter:
        train()
    print(meter.session.summary())

Importing this module reads no hardware, starts no thread and loads no third-party package.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlmeter.analysis.compare import Comparison, compare
    from mlmeter.analysis.lifecycle import Lifecycle, crossover, lifecycle
    from mlmeter.analysis.target import energy_to_target
    from mlmeter.budget import EnergyBudget, EnergyEarlyStopping
    from mlmeter.measurement import Domain, Energy, Event, Failure, Provenance, Reading
    from mlmeter.meter import (
        EnergyMeter,
        default_meter,
        evaluation,
        inference,
        training,
        window,
    )
    from mlmeter.session import Session, load, recover
    from mlmeter.windows import Window, current_window

__version__ = "0.1.0"

# Public names and the modules that hold them; each is imported when it is first used.
_HOMES = {
    "EnergyBudget": "budget",
    "EnergyEarlyStopping": "budget",
    "EnergyMeter": "meter",
    "current_window": "windows",
    "default_meter": "meter",
    "evaluation": "meter",
    "inference": "meter",
    "training": "meter",
    "window": "meter",
    "Session": "session",
    "load": "session",
    "recover": "session",
    "Window": "windows",
    "Comparison": "analysis.compare",
    "Lifecycle": "analysis.lifecycle",
    "compare": "analysis.compare",
    "crossover": "analysis.lifecycle",
    "lifecycle": "analysis.lifecycle",
    "energy_to_target": "analysis.target",
    "Domain": "measurement",
    "Energy": "measurement",
    "Event": "measurement",
    "Failure": "measurement",
    "Provenance": "measurement",
    "Reading": "measurement",
}

__all__ = [
    "Comparison",
    "Domain",
    "Energy",
    "EnergyBudget",
    "EnergyEarlyStopping",
    "EnergyMeter",
    "Event",
    "Failure",
    "Lifecycle",
    "Provenance",
    "Reading",
    "Session",
    "Window",
    "compare",
    "crossover",
    "current_window",
    "default_meter",
    "energy_to_target",
    "evaluation",
    "inference",
    "lifecycle",
    "load",
    "recover",
    "training",
    "window",
]

# A library is silent unless the application configures logging.
logging.getLogger("mlmeter").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mlmeter' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"mlmeter.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
