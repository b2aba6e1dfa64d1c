"""The formats of others: model cards, AI Energy Score, CodeCarbon's CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlmeter
from mlmeter.errors import ArgumentError
from mlmeter.impact.factors import checked_number
from mlmeter.impact.result import Impact
from mlmeter.report.csv_tables import cells
from mlmeter.units import JOULES_PER_KILOWATT_HOUR, JOULES_PER_WATT_HOUR
from mlmeter.whole_files import writing

MODEL_CARD_FIELDS = ("source", "training_type", "geographical_location", "hardware_used")
GRAMS_PER_KILOGRAM = 1000.0
QUERIES = 1000
QUERY_UNITS = ("requests", "queries", "samples")
# What AI Energy Score compares models on.
REFERENCE_GPU = "H100"
# As CodeCarbon 3 writes them; it makes a new file where they differ.
CODECARBON_COLUMNS = (
    "timestamp",
    "project_name",
    "run_id",
    "experiment_id",
    "duration",
    "emissions",
    "emissions_rate",
    "cpu_power",
    "gpu_power",
    "ram_power",
    "cpu_energy",
    "gpu_energy",
    "ram_energy",
    "energy_consumed",
    "water_consumed",
    "country_name",
    "country_iso_code",
    "region",
    "cloud_provider",
    "cloud_region",
    "os",
    "python_version",
    "codecarbon_version",
    "cpu_count",
    "cpu_model",
    "gpu_count",
    "gpu_model",
    "longitude",
    "latitude",
    "ram_total_size",
    "tracking_mode",
    "cpu_utilization_percent",
    "gpu_utilization_percent",
    "ram_utilization_percent",
    "ram_used_gb",
    "on_cloud",
    "pue",
    "wue",
)


def model_card(impact: Impact, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata; arguments and errors as of `Impact.model_card`."""
    unknown = [name for name in fields if name not in MODEL_CARD_FIELDS]
    if unknown:
        raise ArgumentError(f"model_card({unknown[0]}=): expected {', '.join(MODEL_CARD_FIELDS)}")
    grid = impact.factors.grid
    known = {
        "source": f"mlmeter {mlmeter.__version__}, {impact.whole.metered.provenance} energy, {grid}",
        "geographical_location": grid.place,
        "hardware_used": ", ".join(_hardware(impact)),
    }
    block: dict[str, Any] = {"emissions": _value(impact, "a model card")}
    for name in MODEL_CARD_FIELDS:
        if text := fields.get(name) or known.get(name):
            block[name] = text
    return {"co2_eq_emissions": block}


def energy_score(impact: Impact, model: str, task: str, queries: float | None) -> dict[str, Any]:
    """Return the fields; arguments and errors as of `Impact.energy_score`."""
    gpus = impact.facts.models.get("gpu", ())
    joules = impact.facts.joules_by_kind.get("gpu") if gpus else None
    if joules is None:
        raise ArgumentError("AI Energy Score is about GPU energy, and no GPU was metered in this session")
    others = [part.phase for part in impact.phases if part.phase != "inference"]
    if others:
        raise ArgumentError(
            f"AI Energy Score is about inference, and this session also has {', '.join(others)}: "
            'meter the queries in a session of their own, EnergyMeter(phase="inference")'
        )
    counts = [impact.whole.units[unit] for unit in QUERY_UNITS if unit in impact.whole.units]
    if queries is None and not counts:
        raise ArgumentError(f"no window counted {', '.join(QUERY_UNITS)}: give queries=")
    number = checked_number("queries", counts[0] if queries is None else queries, 1.0, 1e18)
    return {
        "model": model,
        "task": task,
        "hardware": ", ".join(gpus),
        "date": impact.facts.start[:10],
        "queries": number,
        "gpu_energy_wh_per_1000_queries": joules / JOULES_PER_WATT_HOUR * QUERIES / number,
        "comparable": len(gpus) == 1 and REFERENCE_GPU in gpus[0],
        "stars": None,
        "note": "stars are relative to a leaderboard, which compares one H100 on the data sets of the task",
    }


def append_codecarbon_row(impact: Impact, path: str | os.PathLike[str]) -> None:
    """Append the row; errors as of `Impact.to_codecarbon_csv`."""
    target = Path(path)
    row = codecarbon_row(impact)
    old = target.read_text(encoding="utf-8") if target.exists() else ""
    if old:
        header = next(csv.reader(old.splitlines()), [])
        if sorted(header) != sorted(CODECARBON_COLUMNS):
            raise ArgumentError(f"{target}: its columns are not those of CodeCarbon 3; name another file")
    else:
        header = list(CODECARBON_COLUMNS)
    with writing(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        if old:
            file.write(old if old.endswith("\n") else f"{old}\n")
        else:
            writer.writerow(header)
        writer.writerow(cells(tuple(row[name] for name in header)))


def codecarbon_row(impact: Impact) -> dict[str, Any]:
    """Return what CodeCarbon's columns hold, None where mlmeter does not know: kg, kWh, W, s."""
    seconds = impact.whole.duration_seconds
    kilograms = _value(impact, "CodeCarbon's file") / GRAMS_PER_KILOGRAM
    joules = impact.facts.joules_by_kind
    names = {"cpu": "cpu", "gpu": "gpu", "dram": "ram"}
    water, pue = impact.water, impact.factors.pue
    cloud, _, region = impact.facts.grid_name.partition(":")
    country = _country(impact)
    row: dict[str, Any] = dict.fromkeys(CODECARBON_COLUMNS)
    # CodeCarbon multiplies every energy and power with PUE.
    overhead = 1.0 if pue is None or pue.value is None else pue.value
    for kind, name in names.items():
        energy = joules.get(kind)
        energy = None if energy is None else energy * overhead
        row[f"{name}_energy"] = None if energy is None else energy / JOULES_PER_KILOWATT_HOUR
        row[f"{name}_power"] = None if energy is None or not seconds > 0 else energy / seconds
    host = impact.facts.host
    return row | {
        "timestamp": impact.facts.start[:19],
        "project_name": impact.name,
        "run_id": impact.session,
        "duration": seconds,
        "emissions": kilograms,
        "emissions_rate": kilograms / seconds if seconds > 0 else None,
        "energy_consumed": impact.facility_energy.value,
        "water_consumed": None if water is None else water.value,
        "country_name": country.get("name"),
        "country_iso_code": country.get("iso3"),
        "region": impact.factors.grid.place or None,
        "cloud_provider": cloud if region else None,
        "cloud_region": region or None,
        "on_cloud": "Y" if region else "N",
        "os": host.get("system"),
        "python_version": host.get("python"),
        "codecarbon_version": f"mlmeter {mlmeter.__version__}",
        "cpu_count": host.get("logical_cpus"),
        "cpu_model": host.get("cpu"),
        "gpu_count": len(impact.facts.models.get("gpu", ())) or None,
        "gpu_model": ", ".join(impact.facts.models.get("gpu", ())) or None,
        "tracking_mode": impact.facts.scope,
        "pue": None if pue is None else pue.value,
    }


def _value(impact: Impact, whom: str) -> float:
    """Return grams of the electricity; both formats are for training or runs, without manufacture."""
    value = impact.operational.value
    if value is None:
        low, high = impact.operational.low, impact.operational.high
        known = f"a range, {low:.3g} to {high:.3g} g" if low is not None else "nothing, as no energy was read"
        raise ArgumentError(
            f"{whom} needs one figure of emissions, and known is {known}; name a place with grid="
        )
    return value


def _hardware(impact: Impact) -> list[str]:
    """Return the names of GPUs and of the processor, equal ones counted."""
    found = []
    for kind in ("gpu", "cpu"):
        names = impact.facts.models.get(kind, ())
        counts = {name: names.count(name) for name in names}
        found += [name if count == 1 else f"{count} x {name}" for name, count in counts.items()]
    return found


def _country(impact: Impact) -> Mapping[str, str]:
    """Return the row of the country that the user named, empty if it was none."""
    from mlmeter.impact.grid import country_row

    return country_row(impact.facts.grid_name) or {}
