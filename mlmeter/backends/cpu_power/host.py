"""From what a machine tells to the inputs of the formulas: what was found, what is assumed.

A virtual machine stands for its share of the threads of the machine that carries it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlmeter.backends.cpu_power.facts import Facts
from mlmeter.backends.cpu_power.machine_model import MachineInputs
from mlmeter.backends.cpu_power.names import Generation, generation, is_client, model_key
from mlmeter.backends.cpu_power.spreads import Spread, factor
from mlmeter.backends.cpu_power.tables import Family, Processor, find_family, processors

# A common host of the years of this release's data, where nothing else is known.
TYPICAL_YEAR, TYPICAL_SOCKETS, TYPICAL_CORES_PER_SOCKET = 2020, 2, 24
ARM_CORES_OF_AMAZON = {3340: "graviton2", 3392: "graviton3", 3407: "graviton4"}

# Who else works on the host, and how many virtual threads share a real one, nobody tells.
SHARE_SPREAD = factor(1.4, 2.0)
FAMILY_SPREAD = factor(1.2, 1.45)
UNKNOWN_HOST_SPREAD = factor(1.6, 2.5)
# Desktops and laptops were not checked, and draw well above their thermal design power for a while.
CLIENT_SPREAD = factor(1.4, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that the estimates are made for.

    Attributes:
        inputs: of the whole machine that carries this system.
        share: part of that machine that this system stands for, above 0, at most 1.
        spread: of what was assumed, besides that of the formulas.
        memory_in_package: memory is part of the processor's power.
        found, assumed: in words.
    """

    inputs: MachineInputs
    share: float
    spread: Spread
    memory_in_package: bool
    found: tuple[str, ...]
    assumed: tuple[str, ...]


@dataclass(slots=True)
class _Words:
    found: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)


def describe(facts: Facts, *, tdp_watts: float | None = None, share: float | None = None) -> Host:
    """Return the host of a system.

    Args:
        tdp_watts: of one socket, from the user.
        share: of the host's threads that this system may use, from the user.
    """
    words = _Words()
    key = _key(facts)
    processor = processors().get(key)
    scheme = generation(key)
    family = None if processor or scheme else _family(facts)
    _tell_name(facts, processor, scheme, family, words)
    sockets, cores, threads = _size(facts, processor, scheme, family, words)
    inputs = MachineInputs(
        sockets=sockets,
        cores=cores,
        threads=threads,
        year=_year(facts, processor, scheme, family, words),
        tdp_watts=_tdp_watts(facts, processor, family, tdp_watts, words),
        # The host's memory cannot be seen from inside.
        memory_gigabytes=None if facts.virtual else facts.memory_gigabytes,
        base_ghz=(processor.base_ghz if processor else None) or facts.base_ghz,
        intel=_is_intel(facts, key),
    )
    if is_client(key):
        words.spreads.append(CLIENT_SPREAD)
        words.assumed.append("a desktop or laptop processor draws like a server's, which was not checked")
    share = _share(facts, threads, share, words)
    factors = words.spreads
    return Host(
        inputs=inputs,
        share=share,
        spread=factors[0].combined(*factors[1:]) if factors else factor(1.0, 1.0),
        memory_in_package=key.startswith("grace"),
        found=tuple(words.found),
        assumed=tuple(words.assumed),
    )


def _key(facts: Facts) -> str:
    key = model_key(facts.model_name or "")
    if not key and facts.vendor == "ARM" and (facts.system_vendor or "").startswith("Amazon"):
        key = ARM_CORES_OF_AMAZON.get(facts.model or 0, "")
    return key


def _family(facts: Facts) -> Family | None:
    if facts.vendor is None or facts.family is None or facts.model is None:
        return None
    return find_family(facts.vendor, facts.family, facts.model, facts.stepping)


def _tell_name(
    facts: Facts,
    processor: Processor | None,
    scheme: Generation | None,
    family: Family | None,
    words: _Words,
) -> None:
    name = facts.model_name or "the processor"
    if processor:
        words.found.append(f"{name} is in the table")
    elif scheme:
        words.assumed.append(f"{name} is not in the table; its number tells a processor of {scheme.year}")
    elif family:
        words.assumed.append(f"{name} has no model number; its CPUID says {family.name}")
    else:
        words.assumed.append(f"{name} is not known")
        # What a virtual machine cannot see of its host is then no more than a guess.
        if facts.virtual:
            words.spreads.append(UNKNOWN_HOST_SPREAD)


def _size(
    facts: Facts,
    processor: Processor | None,
    scheme: Generation | None,
    family: Family | None,
    words: _Words,
) -> tuple[int, int, int]:
    """Return sockets, cores and threads of the host."""
    if not facts.virtual:
        return _seen_size(facts, processor, scheme, words)
    sockets = scheme.sockets if scheme else family.sockets if family else TYPICAL_SOCKETS
    per_socket = family.cores_per_socket if family else TYPICAL_CORES_PER_SOCKET
    per_core = family.threads_per_core if family else 2
    if processor and processor.cores:
        per_socket = processor.cores
        per_core = (processor.threads or 0) // processor.cores or 2
        words.assumed.append(f"the host has {sockets} of these processors")
    else:
        words.assumed.append(f"the host has {sockets} processors of {per_socket} cores")
    # A virtual machine can be larger than the host that its name suggests.
    seen_threads = facts.threads or 1
    sockets = max(sockets, -(-seen_threads // (per_socket * per_core)))
    cores = sockets * per_socket
    return sockets, cores, cores * per_core


def _seen_size(
    facts: Facts, processor: Processor | None, scheme: Generation | None, words: _Words
) -> tuple[int, int, int]:
    sockets = facts.sockets
    if sockets is None:
        sockets = scheme.sockets if scheme and facts.cores is None and facts.threads is None else 1
        if processor and processor.cores and facts.cores:
            sockets = max(round(facts.cores / processor.cores), 1)
        elif processor and processor.threads and facts.threads:
            sockets = max(round(facts.threads / processor.threads), 1)
        words.assumed.append(f"{sockets} processors" if sockets > 1 else "one processor")
    cores, threads = facts.cores, facts.threads
    if cores is None and processor and processor.cores:
        cores = processor.cores * sockets
        threads = max(threads or 0, (processor.threads or 0) * sockets)
    if cores is None:
        cores = max((threads or 2) // 2, 1)
        words.assumed.append(f"{cores} cores")
    cores = max(cores, sockets)
    return sockets, cores, max(threads or cores, cores)


def _year(
    facts: Facts,
    processor: Processor | None,
    scheme: Generation | None,
    family: Family | None,
    words: _Words,
) -> float:
    """Return the year of the processor."""
    if processor and processor.year:
        return processor.year
    if scheme or family:
        return (scheme or family).year  # type: ignore[union-attr]
    # Firmware of a virtual machine is the hypervisor's.
    if facts.firmware_year and not facts.virtual:
        words.assumed.append(f"the processor is of the firmware's year {facts.firmware_year}")
        return facts.firmware_year
    words.assumed.append(f"the processor is of {TYPICAL_YEAR}")
    words.spreads.append(FAMILY_SPREAD)
    return TYPICAL_YEAR


def _tdp_watts(
    facts: Facts,
    processor: Processor | None,
    family: Family | None,
    given_watts: float | None,
    words: _Words,
) -> float | None:
    """Return the thermal design power of one socket; None if the cores must stand for it."""
    if given_watts is not None:
        words.found.append(f"TDP {given_watts:g} W as given")
        return given_watts
    if processor:
        if processor.note == "nearest":
            words.assumed.append(f"TDP {processor.tdp_watts:g} W of the nearest public processor")
            words.spreads.append(FAMILY_SPREAD)
        else:
            words.found.append(f"TDP {processor.tdp_watts:g} W")
        return processor.tdp_watts
    if family and facts.virtual:
        words.assumed.append(f"TDP {family.tdp_watts:g} W, typical of {family.name}")
        words.spreads.append(FAMILY_SPREAD)
        return family.tdp_watts
    words.assumed.append("TDP unknown: taken from cores and year")
    return None


def _is_intel(facts: Facts, key: str) -> bool:
    if facts.vendor is not None:
        return facts.vendor == "GenuineIntel"
    return key.startswith(("xeon", "core", "pentium", "celeron", "atom"))


def _share(facts: Facts, host_threads: int, given: float | None, words: _Words) -> float:
    if given is not None:
        words.found.append(f"share {given:.3g} of the host as given")
        return given
    if not facts.virtual:
        return 1.0
    share = min((facts.threads or 1) / host_threads, 1.0)
    words.assumed.append(f"share of the host {share:.3g}: {facts.threads or 1} of its {host_threads} threads")
    words.spreads.append(SHARE_SPREAD)
    return share
