"""The tables that ship with the package; read when a backend opens, never at import."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from mlmeter.backends.cpu_power.machine_model import Coefficients, Surface
from mlmeter.backends.cpu_power.spreads import Spread


class Processor(NamedTuple):
    """A processor by name; None where the sources do not tell.

    Attributes:
        cores, threads: of one socket.
        note: ``"nearest"`` if the power is that of the nearest public part.
    """

    tdp_watts: float
    cores: int | None
    threads: int | None
    base_ghz: float | None
    year: int | None
    note: str


class Family(NamedTuple):
    """Processors that share a CPUID family and model, and the machine that they usually sit in."""

    name: str
    year: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    tdp_watts: float


@cache
def processors() -> Mapping[str, Processor]:
    """Return processors by `names.model_key`."""
    return {
        row["key"]: Processor(
            float(row["tdp_watts"]),
            int(row["cores"]) if row["cores"] else None,
            int(row["threads"]) if row["threads"] else None,
            float(row["base_ghz"]) if row["base_ghz"] else None,
            int(row["year"]) if row["year"] else None,
            row["note"],
        )
        for row in _rows("cpu_tdp.csv")
    }


def find_family(vendor: str, family: int, model: int, stepping: int | None) -> Family | None:
    """Return the family of these CPUID numbers, or of an ARM core's part number as `model`."""
    for row in _rows("cpu_families.csv"):
        if (row["vendor"], int(row["family"]), int(row["model"])) != (vendor, family, model):
            continue
        last = row["last_stepping"]
        # Where the stepping tells two families apart, an unknown one tells nothing.
        if last and (stepping is None or not int(row["first_stepping"]) <= stepping <= int(last)):
            continue
        return Family(
            row["name"],
            int(row["year"]),
            int(row["sockets"]),
            int(row["cores_per_socket"]),
            int(row["threads_per_core"]),
            float(row["tdp_watts"]),
        )
    return None


@cache
def coefficients() -> Coefficients:
    """Return the coefficients of the machine formula."""
    return read_coefficients(json.loads(_text("machine_power.json")))


def fitted_processors() -> frozenset[str]:
    """Return the keys of the processors whose servers the machine formula was fitted to."""
    return frozenset(json.loads(_text("machine_power.json"))["processors"])


def read_coefficients(data: Mapping[str, Any]) -> Coefficients:
    """Return coefficients from the fields of ``machine_power.json``."""
    return Coefficients(
        data["kernel_length"],
        _surface(data["with_tdp"]),
        _surface(data["without_tdp"]),
        data["implied_tdp"],
        Spread(*data["implied_tdp_spread"]),
    )


def _surface(data: Mapping[str, Any]) -> Surface:
    spreads = [Spread(*row) for row in data["spreads"]]
    return Surface(data["linear"], data["centres"], data["weights"], spreads)


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(_text(name).splitlines()))


def _text(name: str) -> str:
    return files("mlmeter.backends.cpu_power").joinpath("data", name).read_text(encoding="utf-8")
