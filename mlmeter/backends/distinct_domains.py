"""Rules for the domains of several backends: names of their own, and each joule in the total once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mlmeter.measurement import Domain, Provenance

# A formula of these stands for all of the machine; an estimated accelerator is one of several.
WHOLE_KINDS = ("cpu", "dram")


def checked(answer: object) -> tuple[Domain, ...]:
    """Return the domains that a backend's `open` gave.

    Raises:
        ValueError: they are nothing that could be metered.
    """
    domains = tuple(answer) if isinstance(answer, Iterable) else ()
    if not domains or not all(isinstance(domain, Domain) for domain in domains):
        raise ValueError(f"open() gave {answer!r} in place of domains")
    for domain in domains:
        if not 0 < domain.update_period_seconds < math.inf:
            period = domain.update_period_seconds
            raise ValueError(f"update_period_seconds of {domain.name} is {period!r}, not a time")
    return domains


def distinct(domains: tuple[Domain, ...], others: list[Domain], notes: list[str]) -> tuple[Domain, ...]:
    """Give domains names of their own; one that another backend reads already is shown, not added.

    The whole machine is one thing, too: its second meter, of another backend, is shown beside the first.
    """
    taken = {domain.name for domain in others}
    whole = next((other.name for other in others if other.kind == "machine" and not other.parent), None)
    names: dict[str, str] = {}
    for domain in domains:
        names[domain.name] = _free_name(domain, taken)
        taken.add(names[domain.name])
    result = []
    for domain in domains:
        parent = names.get(domain.parent or "", domain.parent)
        same = same_thing(domain, others)
        if same is not None:
            parent = same
            notes.append(f"{domain.source}: {domain.id} is metered as {parent} already and not added again")
        elif whole and domain.kind == "machine" and parent is None:
            parent = whole
            notes.append(f"{domain.source}: {domain.name} and {whole} both meter the machine: not added up")
        result.append(replace(domain, name=names[domain.name], parent=parent))
    return tuple(result)


def same_thing(domain: Domain, others: Sequence[Domain]) -> str | None:
    """Return the name of the domain that counts the same; a package and one of its dies do, too."""
    package = _without_die(domain.id)
    for other in others:
        if other.id == domain.id:
            return other.name
    for other in others:
        if package in (domain.id, other.id) and _without_die(other.id) == package:
            return other.name
    return None


def _without_die(domain_id: str) -> str:
    return domain_id.partition("-die-")[0]


def _free_name(domain: Domain, taken: set[str]) -> str:
    """Return the domain's name, or one like it that is not taken."""
    name, number = domain.name, 1
    while name in taken:
        number += 1
        name = f"{domain.name}-{number}"
    return name


def measured_kinds(domains: Iterable[Domain]) -> dict[str, str]:
    """Return the kinds that a total has without estimates, each with the name of its first domain."""
    found: dict[str, str] = {}
    for domain in domains:
        if domain.counted and domain.provenance is not Provenance.ESTIMATED:
            found.setdefault(domain.kind, domain.name)
    return found


def with_estimates_beside(
    domains: tuple[Domain, ...], measured: Mapping[str, str], notes: list[str]
) -> tuple[Domain, ...]:
    """Show an estimate of what is measured, too, beside that: a total never has both.

    Args:
        domains: of one backend.
        measured: of all of them: kinds with a domain of each, as `measured_kinds` returns them.
        notes: takes what users must know.
    """
    result = []
    for domain in domains:
        rival = measured.get(domain.kind) if domain.kind in WHOLE_KINDS else None
        if rival is None or not domain.counted or domain.provenance is not Provenance.ESTIMATED:
            result.append(domain)
            continue
        notes.append(f"{domain.source}: {domain.name} is not added, because {rival} measures {domain.kind}")
        result.append(replace(domain, parent=rival))
    return tuple(result)
