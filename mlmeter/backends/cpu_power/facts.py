"""What a machine's files tell about its processors: names, numbers, topology, memory.

Every path hangs below a root that tests replace. A file that is missing or makes no sense is a
fact that is not known, never an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

KIBIBYTES_PER_GIGABYTE = 1e9 / 1024
KILOHERTZ_PER_GIGAHERTZ = 1e6
ARM_LIMITED = "0x41"
HYPERVISOR_WORDS = ("qemu", "kvm", "google compute engine", "virtual machine", "vmware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a machine; None is unknown.

    Attributes:
        model_name: as the system shows it.
        vendor: CPUID vendor, or ``"ARM"``.
        family, model, stepping: CPUID numbers in decimal; an ARM core's part number is `model`.
        sockets, cores, threads: that the system sees: of a virtual machine, its own.
        memory_gigabytes: that the system sees.
        base_ghz: base clock.
        firmware_year: of the firmware's date.
        virtual: runs under a hypervisor.
        system_vendor: of the machine, such as ``"Amazon EC2"``.
    """

    model_name: str | None = None
    vendor: str | None = None
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    memory_gigabytes: float | None = None
    base_ghz: float | None = None
    firmware_year: int | None = None
    virtual: bool = False
    system_vendor: str | None = None


def read_facts(root: Path) -> Facts:
    """Return what the files below `root` tell."""
    entries = _cpuinfo(root)
    first = entries[0] if entries else {}
    system_vendor = read_text(root / "sys/class/dmi/id/sys_vendor")
    product = read_text(root / "sys/class/dmi/id/product_name")
    arm = first.get("CPU implementer") == ARM_LIMITED
    siblings = core_threads(root)
    return Facts(
        model_name=first.get("model name"),
        vendor="ARM" if arm else first.get("vendor_id"),
        family=8 if arm else _integer(first.get("cpu family")),
        model=_integer(first.get("CPU part" if arm else "model")),
        stepping=None if arm else _integer(first.get("stepping")),
        sockets=_sockets(root),
        cores=len(siblings) or None,
        threads=sum(map(len, siblings)) or len(entries) or None,
        memory_gigabytes=_memory_gigabytes(root),
        base_ghz=_base_ghz(root),
        firmware_year=_year(read_text(root / "sys/class/dmi/id/bios_date")),
        virtual=_is_virtual(first, system_vendor, product),
        system_vendor=system_vendor,
    )


def core_threads(root: Path) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the hardware threads of each physical core; empty if not told."""
    cores = set()
    for folder in _cpu_folders(root):
        text = read_text(folder / "topology/thread_siblings_list")
        threads = cpu_list(text) if text else ()
        if threads:
            cores.add(threads)
    return tuple(sorted(cores))


def cpu_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as ``"0-3,8"``; empty if it makes no sense."""
    numbers: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if bounds is None:
            return ()
        numbers.update(range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1))
    return tuple(sorted(numbers))


def clock_paths(root: Path, most: int) -> tuple[Path, ...]:
    """Return files with the current clock of at most so many threads, spread over all of them."""
    paths = [folder / "cpufreq/scaling_cur_freq" for folder in _cpu_folders(root)]
    paths = [path for path in paths if read_text(path)]
    step = max(-(-len(paths) // most), 1)
    return tuple(paths[::step])


def read_ghz(paths: tuple[Path, ...]) -> float | None:
    """Return the mean clock of `clock_paths`; None if none can be read now."""
    values = [_integer(read_text(path)) for path in paths]
    known = [value for value in values if value]
    return sum(known) / len(known) / KILOHERTZ_PER_GIGAHERTZ if known else None


def read_text(path: Path) -> str | None:
    """Return a file's text without outer blanks; None if it cannot be read or is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """Return the fields of each thread in /proc/cpuinfo."""
    entries: list[dict[str, str]] = []
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "processor":
            entries.append({})
        if entries and value.strip():
            entries[-1].setdefault(key.strip(), value.strip())
    return entries


def _cpu_folders(root: Path) -> list[Path]:
    try:
        folders = list((root / "sys/devices/system/cpu").iterdir())
    except OSError:
        return []
    numbered = [path for path in folders if re.fullmatch(r"cpu\d+", path.name)]
    return sorted(numbered, key=lambda path: int(path.name[3:]))


def _sockets(root: Path) -> int | None:
    ids = {read_text(folder / "topology/physical_package_id") for folder in _cpu_folders(root)}
    # Virtual machines and some ARM firmware say -1.
    return len(ids - {None, "-1"}) or None


def _memory_gigabytes(root: Path) -> float | None:
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        found = re.fullmatch(r"MemTotal:\s*(\d+) kB", line.strip())
        if found:
            return int(found[1]) / KIBIBYTES_PER_GIGABYTE or None
    return None


def _base_ghz(root: Path) -> float | None:
    kilohertz = _integer(read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/base_frequency"))
    return kilohertz / KILOHERTZ_PER_GIGAHERTZ if kilohertz else None


def _is_virtual(cpu: dict[str, str], system_vendor: str | None, product: str | None) -> bool:
    if "hypervisor" in cpu.get("flags", "").split():
        return True
    # ARM has no such flag. Bare metal of Amazon names itself "....metal".
    words = f"{system_vendor or ''} {product or ''}".lower()
    if "amazon ec2" in words:
        return ".metal" not in words
    return any(
        word in words for word in ("qemu", "kvm", "google compute engine", "virtual machine", "vmware")
    )


def _year(date: str | None) -> int | None:
    """Return the year of a firmware date such as ``"03/14/2023"``."""
    found = re.fullmatch(r"\d\d/\d\d/((?:19|20)\d\d)", date or "")
    return int(found[1]) if found else None


def _integer(text: str | None) -> int | None:
    try:
        return int(text or "", 0)
    except ValueError:
        return None
