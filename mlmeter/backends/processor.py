"""Who made the processor, and what it is called: some counters mean other things on some vendors' ones."""

from __future__ import annotations

from mlmeter.backends.powercap_zones import read_text

DEFAULT_CPUINFO = "/proc/cpuinfo"
AMD_VENDORS = ("AuthenticAMD", "HygonGenuine")

_CPUINFO_BYTES = 4096  # the first processor; all of them take milliseconds on a server


def vendor_and_model(cpuinfo: str) -> tuple[str | None, str | None]:
    """Return vendor and model name of the first processor, None for what the file does not tell."""
    facts: dict[str, str] = {}
    try:
        lines = read_text(cpuinfo, _CPUINFO_BYTES).splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts.get("vendor_id"), facts.get("model name") or None
