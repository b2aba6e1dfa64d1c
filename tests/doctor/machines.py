"""Machines as files below a folder: what doctor looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.backends.powercap_tree import PowercapTree, Zone, build_tree

INTEL = "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Gold 6330\n"
AMD = "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7543\n"
GUEST = "flags\t\t: fpu hypervisor sse\n"


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def with_zones(root: Path, zones: Sequence[Zone], files: dict[str, str] | None = None) -> PowercapTree:
    """Write a machine whose powercap tree stands where the kernel has it."""
    tree = build_tree(root / "sys", zones)
    write(root, {"proc/cpuinfo": INTEL, **(files or {})})
    return tree
