"""Idle power of this machine as measured once: where it is kept, and when it may be used.

`mlmeter baseline` measures it. A session that knows it tells energy above idle as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlmeter import __version__
from mlmeter.energy.idle_power import IdlePower
from mlmeter.errors import ArgumentError, RunFileError
from mlmeter.measurement import Domain, Provenance

SCHEMA_VERSION = 1
AUTO = "auto"
# Dust, seasons and updates change the idle power of a machine.
OLDEST_DAYS = 30
# A thousand times what a server with many GPUs needs.
MOST_BYTES = 1 << 24
MACHINE_ID_FILES = ("etc/machine-id", "var/lib/dbus/machine-id")
# One line each; a new driver can idle a board differently.
DRIVER_FILES = {
    "nvidia": "sys/module/nvidia/version",
    "amdgpu": "sys/module/amdgpu/version",
    "xe": "sys/module/xe/version",
    "i915": "sys/module/i915/version",
}
# The first processor; all of them take milliseconds on a server.
FIRST_CHARACTERS = 4096
FACTS = ("machine", "cpu", "kernel", "drivers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What must be the same for a baseline to hold.

    Attributes:
        machine: a hash of the machine's id, which itself is not to be shown around.
        cpu: model name of the processor.
        kernel: system and release.
        drivers: version of each GPU driver that is loaded.
    """

    machine: str
    cpu: str | None
    kernel: str
    drivers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_root(cls, root: str | os.PathLike[str] = "/") -> Machine:
        """Return the facts of this machine, with files below `root`."""
        folder = Path(root)
        name = next(filter(None, (_first_line(folder / file) for file in MACHINE_ID_FILES)), platform.node())
        cpu = next((line for line in _lines(folder / "proc/cpuinfo") if line.startswith("model name")), None)
        drivers = {name: _first_line(folder / file) for name, file in DRIVER_FILES.items()}
        return cls(
            machine=hashlib.sha256(f"mlmeter:{name}".encode()).hexdigest()[:16],
            cpu=None if cpu is None else cpu.partition(":")[2].strip(),
            kernel=f"{platform.system()} {platform.release()}",
            drivers={name: version for name, version in drivers.items() if version},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIdlePower:
    """Idle power of one domain, whose `name` is for people; `provenance` that of its energy."""

    name: str
    source: str
    provenance: str
    power: IdlePower


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Idle power of the domains of one machine.

    Attributes:
        machine: where it was measured.
        measured_at: when, by the wall clock.
        seconds: how long.
        domains: by id of the domain.
        remarks: what was not as idle as it should be.
        version: of mlmeter; another one can estimate differently.
    """

    machine: Machine
    measured_at: datetime
    seconds: float
    domains: Mapping[str, StoredIdlePower]
    remarks: tuple[str, ...] = ()
    version: str = __version__

    def powers(self) -> dict[str, IdlePower]:
        """Return the idle powers by id of the domain; of estimates only those of this version's formula."""
        return {
            identity: item.power
            for identity, item in self.domains.items()
            if item.provenance != Provenance.ESTIMATED or self.version == __version__
        }

    def objections(self, machine: Machine, now: datetime) -> list[str]:
        """Say why this baseline does not hold on `machine` at the time `now`; nothing if it does."""
        found = []
        for name in FACTS:
            then, here = getattr(self.machine, name), getattr(machine, name)
            if then != here:
                text = "another machine" if name == "machine" else f"{name} {_text(then)}, here {_text(here)}"
                found.append(text)
        days = (now - self.measured_at).total_seconds() / 86_400
        if days > OLDEST_DAYS:
            found.append(f"{days:.0f} days old")
        if days < -1:
            found.append("measured in the future")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what is written to the file."""
        return {
            "schema_version": SCHEMA_VERSION,
            "mlmeter": self.version,
            "machine": asdict(self.machine),
            "measured_at": self.measured_at.isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "remarks": list(self.remarks),
            "domains": {
                identity: {
                    "name": item.name,
                    "source": item.source,
                    "provenance": item.provenance,
                    **asdict(item.power),
                }
                for identity, item in self.domains.items()
            },
        }


def baseline_path(machine: Machine) -> Path:
    """Return where the baseline of a machine is kept: in the user's data folder."""
    import platformdirs

    return (
        Path(platformdirs.user_data_dir("mlmeter", appauthor=False)) / "baselines" / f"{machine.machine}.json"
    )


def store(baseline: Baseline, path: Path) -> None:
    """Write a baseline in place of an older one.

    Raises:
        OSError: the file cannot be written.
    """
    from mlmeter.whole_files import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        json.dump(baseline.to_json(), file, indent=1, allow_nan=False)


def read(path: Path) -> Baseline:
    """Read what `store` wrote.

    Raises:
        RunFileError: the file is missing, damaged or of a newer version.
    """
    from mlmeter.foreign_files import damaged, read_object

    document = read_object(path, MOST_BYTES)
    try:
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunFileError(
                str(path), f"has schema version {version!r}; this mlmeter reads {SCHEMA_VERSION}"
            )
        measured_at = datetime.fromisoformat(document["measured_at"])
        return Baseline(
            machine=Machine(**document["machine"]),
            measured_at=measured_at if measured_at.tzinfo else measured_at.replace(tzinfo=UTC),
            seconds=float(document["seconds"]),
            version=str(document["mlmeter"]),
            remarks=tuple(map(str, document["remarks"])),
            domains={str(name): _stored(item) for name, item in document["domains"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise damaged(path, "is no baseline", error) from error


def _stored(item: Mapping[str, Any]) -> StoredIdlePower:
    names = ("watts", "scatter_watts", "systematic_watts", "piece_seconds")
    return StoredIdlePower(
        name=str(item["name"]),
        source=str(item["source"]),
        provenance=str(item["provenance"]),
        power=IdlePower(*(item[name] for name in names)),
    )


# -- what a meter is given ---------------------------------------------------------------------

Given = str | os.PathLike[str] | Mapping[str, Any] | None


def checked(baseline: object) -> Given:
    """Validate the `baseline` argument of a meter.

    Raises:
        ArgumentError: it is neither ``"auto"``, None, a path nor watts by domain.
    """
    if baseline is None or (isinstance(baseline, (str, os.PathLike)) and os.fspath(baseline)):
        return baseline
    if isinstance(baseline, Mapping):
        try:
            return {str(name): _given_power(power) for name, power in baseline.items()}
        except (TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(f"baseline={baseline!r}: {error}") from error
    accepted = '"auto", a path, watts by domain such as {"gpu-0": 62.5} or {"gpu-0": (62.5, 3.0)}, or None'
    raise ArgumentError(f"baseline={baseline!r}: expected {accepted}")


def _given_power(power: Any) -> IdlePower:
    if not isinstance(power, (tuple, list)):
        return IdlePower(power)
    if len(power) != 2:
        raise ValueError(f"{power!r}: expected watts and their uncertainty")
    watts, sigma = power
    return IdlePower(watts, systematic_watts=sigma)


def baseline_facts(
    given: Given, domains: list[Domain], now: datetime, root: str | os.PathLike[str] = "/"
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the idle powers that a session uses, for its manifest, and what to note; never raise.

    Args:
        given: of `checked`.
        domains: of the session.
        now: the time of day.
        root: where the files of the system are.
    """
    if given is None or not domains:
        return None, []
    if isinstance(given, Mapping):
        powers = {
            domain.id: given[key] for domain in domains for key in (domain.id, domain.name) if key in given
        }
        return _used(powers, domains, {"from": "argument"}, _not_there(given, domains))
    try:
        machine = Machine.of_root(root)
        path = baseline_path(machine) if given == AUTO else Path(given)
        if given == AUTO and not path.exists():
            return None, []
        baseline = read(path)
        objections = baseline.objections(machine, now)
    except Exception as error:  # whatever is wrong with a file, the program is metered
        return None, [f"no baseline is used: {error}"]
    day = baseline.measured_at.strftime("%Y-%m-%d")
    if objections:
        text = f"the baseline of {day} is not used ({'; '.join(objections)})"
        return None, [f"{text}: measure again with `mlmeter baseline`"]
    facts = {
        "from": str(path),
        "measured_at": baseline.measured_at.isoformat(timespec="seconds"),
        "seconds": baseline.seconds,
    }
    notes = [f"baseline of {day}: {remark}" for remark in baseline.remarks]
    return _used(baseline.powers(), domains, facts, notes)


def _not_there(given: Mapping[str, Any], domains: list[Domain]) -> list[str]:
    """Tell names that no domain has: they may be mistyped."""
    names = [domain.name for domain in domains]
    known = {*names, *(domain.id for domain in domains)}
    return [
        f"the baseline names {name}, but the domains of this session are {', '.join(names)}"
        for name in given
        if name not in known
    ]


def _used(
    powers: Mapping[str, IdlePower], domains: list[Domain], facts: dict[str, Any], notes: list[str]
) -> tuple[dict[str, Any] | None, list[str]]:
    found = {domain.name: asdict(powers[domain.id]) for domain in domains if domain.id in powers}
    missing = [domain.name for domain in domains if domain.id not in powers and domain.counted]
    if not found:
        text = "the baseline has none of the domains of this session: no energy above idle is told"
        return None, [*notes, text]
    if missing:
        notes = [*notes, f"the baseline does not have {', '.join(missing)}: no energy above idle for these"]
    return {**facts, "domains": found}, notes


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(FIRST_CHARACTERS).splitlines()
    except OSError:
        return []


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items()) or "none"
    return str(value) if value else "unknown"
