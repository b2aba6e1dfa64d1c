"""What kind of machine this is: system, container, virtual machine, and who may read its counters."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP_VARIABLE = "MLMETER_POWERCAP_ROOT"
CLASS_FOLDER = "sys/class/powercap"
RULE_FILE = "etc/udev/rules.d/70-rapl.rules"
GROUP = "rapl"
# Files and words by which container runtimes show themselves.
RUNTIME_FILES = {".dockerenv": "Docker", "run/.containerenv": "Podman"}
RUNTIME_WORDS = {
    "kubepods": "Kubernetes",
    "docker": "Docker",
    "containerd": "containerd",
    "libpod": "Podman",
    "lxc": "LXC",
}
# PCI vendors of GPUs; display controllers have classes 0x03....
GPU_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
# A hypervisor that does not say its name.
UNKNOWN = "unknown"
MOST_CHARACTERS = 4096
USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class ZoneFile:
    """One counter of the powercap tree: its folder, what it counts, and what a read would do.

    Attributes:
        state: ``"readable"``, ``"closed"`` (no permission), ``"root only"`` (we are root, others cannot
            read it) or ``"hidden"`` (a link to nowhere).
    """

    label: str
    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Facts about the machine that say which counters it can have.

    Attributes:
        system: ``"linux"``, ``"darwin"``, ``"win32"``, as `sys.platform`.
        cpu: model name of the processor.
        vendor: ``"GenuineIntel"``, ``"AuthenticAMD"`` or another.
        container: runtime that this process runs in; None outside of one.
        hypervisor: who runs this virtual machine; None on real hardware.
        wsl: whether this is Linux inside Windows.
        user: who would be given access; ``"$USER"`` if that is not known.
        is_root: whether this process is root's.
        zones: counters of the powercap tree.
        paranoid: the kernel's `perf_event_paranoid`; None without perf events.
        power_events: whether the kernel offers RAPL as perf events.
        gpus: vendors of the display controllers on the PCI bus.
        rule: whether the udev rule is there already.
        root: folder that stands for ``/``.
    """

    system: str
    cpu: str | None = None
    vendor: str | None = None
    container: str | None = None
    hypervisor: str | None = None
    wsl: bool = False
    user: str = "$USER"
    is_root: bool = False
    zones: tuple[ZoneFile, ...] = ()
    paranoid: int | None = None
    power_events: bool = False
    gpus: tuple[str, ...] = ()
    rule: bool = False
    root: Path = Path("/")

    @property
    def closed(self) -> bool:
        """Whether there are counters that ordinary users lack the permission for."""
        return any(zone.state in ("closed", "root only") for zone in self.zones)

    @property
    def hidden(self) -> bool:
        """Whether a container's runtime hides all the counters."""
        return bool(self.zones) and all(zone.state == "hidden" for zone in self.zones)


def surroundings_of(
    root: str | os.PathLike[str] = "/",
    *,
    environment: Mapping[str, str] = os.environ,
    system: str = sys.platform,
    is_root: bool | None = None,
) -> Surroundings:
    """Look at the machine whose files are below `root`; what cannot be found out is left out."""
    folder = Path(root)
    if is_root is None:
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    facts = _cpu_facts(folder)
    powercap = Path(environment.get(POWERCAP_VARIABLE) or folder / CLASS_FOLDER)
    wsl = "microsoft" in _text(folder / "proc/version").lower()
    paranoid = _text(folder / "proc/sys/kernel/perf_event_paranoid").strip()
    return Surroundings(
        system="linux" if system.startswith("linux") else system,
        cpu=facts.get("model name"),
        vendor=facts.get("vendor_id"),
        container=_container(folder, environment),
        hypervisor="Windows (WSL)" if wsl else _hypervisor(folder, facts),
        wsl=wsl,
        user=_user(environment),
        is_root=is_root,
        zones=tuple(_zones(powercap, is_root=is_root)),
        paranoid=int(paranoid) if paranoid.lstrip("-").isdigit() else None,
        power_events=_exists(folder / "sys/bus/event_source/devices/power/events/energy-pkg"),
        gpus=tuple(_gpus(folder)),
        rule=_exists(folder / RULE_FILE),
        root=folder,
    )


def _user(environment: Mapping[str, str]) -> str:
    """Return who asks; what is no name of a user is not put into a command."""
    names = (environment.get(name, "") for name in ("SUDO_USER", "USER", "LOGNAME"))
    return next((name for name in names if USER_NAME.fullmatch(name)), "$USER")


def _zones(powercap: Path, *, is_root: bool) -> list[ZoneFile]:
    try:
        labels = sorted(path.name for path in powercap.iterdir() if path.name.startswith("intel-rapl"))
    except OSError:
        return []
    found = []
    for label in labels:
        # Without a colon it is the folder of the driver, not a zone.
        if ":" not in label:
            continue
        counter = powercap / label / "energy_uj"
        state = _state(counter, is_root=is_root) if _exists(counter) else "hidden"
        found.append(ZoneFile(label, _text(powercap / label / "name").strip(), state))
    return found


def _state(counter: Path, *, is_root: bool) -> str:
    try:
        mode = counter.stat().st_mode
    except OSError:
        return "closed"
    if not os.access(counter, os.R_OK):
        return "closed"
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return "readable"
    if is_root:
        return "root only"
    # Root may ask how an ordinary user stands; anybody else can read it by a capability.
    return "closed" if hasattr(os, "geteuid") and os.geteuid() == 0 else "readable"


def _container(folder: Path, environment: Mapping[str, str]) -> str | None:
    if "KUBERNETES_SERVICE_HOST" in environment:
        return "Kubernetes"
    for file, runtime in RUNTIME_FILES.items():
        if _exists(folder / file):
            return runtime
    # Of the mounts only that of the root folder tells: a host has those of its containers, too.
    mounts = [line for line in _text(folder / "proc/self/mountinfo").splitlines() if " / / " in line]
    groups = "\n".join([_text(folder / "proc/1/cgroup"), *mounts])
    return next((runtime for word, runtime in RUNTIME_WORDS.items() if f"/{word}" in groups), None)


def _hypervisor(folder: Path, facts: Mapping[str, str]) -> str | None:
    if "hypervisor" not in facts.get("flags", "").split():
        return None
    names = (_text(folder / "sys/class/dmi/id" / name).strip() for name in ("sys_vendor", "product_name"))
    return " ".join(dict.fromkeys(filter(None, names))) or UNKNOWN


def _cpu_facts(folder: Path) -> dict[str, str]:
    facts: dict[str, str] = {}
    for line in _text(folder / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def _gpus(folder: Path) -> list[str]:
    found = []
    for device in sorted((folder / "sys/bus/pci/devices").glob("*")):
        vendor = GPU_VENDORS.get(_text(device / "vendor").strip())
        if vendor is not None and _text(device / "class").startswith("0x03") and vendor not in found:
            found.append(vendor)
    return found


def _exists(path: Path) -> bool:
    """Whether there is such a file; one in a folder that is closed to us may be there."""
    try:
        return path.exists()
    except PermissionError:
        return True
    except OSError:
        return False


def _text(path: Path) -> str:
    """Return the beginning of a file, nothing if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MOST_CHARACTERS)
    except OSError:
        return ""
