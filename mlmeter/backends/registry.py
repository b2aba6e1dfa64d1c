"""Which backends there are, in which order they are tried, and which domains win.

Adding hardware is one file and one line here, or an entry point of the group
``mlmeter.backends`` in somebody else's package.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import NamedTuple, cast

from mlmeter.backends.base import Backend
from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Domain, Provenance, Unavailable

ENTRY_POINT_GROUP = "mlmeter.backends"


class Builtin(NamedTuple):
    """A backend of ours: where its class is and what it can read.

    `second_to` names the backend whose counters it reads in another way: it is used for what that one
    cannot read, and else to check it. `by_name_only` keeps it closed unless it is asked for.
    """

    name: str
    target: str
    kinds: tuple[str, ...]
    estimates: bool = False
    second_to: str | None = None
    by_name_only: bool = False


# Probe order: counters first, an estimate only for a kind that nothing measures.
BUILTINS = (
    Builtin("rapl", "mlmeter.backends.rapl:RaplBackend", ("cpu", "dram", "psys")),
    Builtin(
        "perf_rapl", "mlmeter.backends.perf_rapl:PerfRaplBackend", ("cpu", "dram", "psys"), second_to="rapl"
    ),
    Builtin("pyrapl", "mlmeter.backends.pyrapl:PyRaplBackend", ("cpu", "dram"), by_name_only=True),
    Builtin("nvml", "mlmeter.backends.nvml:NvmlBackend", ("gpu",)),
    Builtin("cpu_estimate", "mlmeter.backends.cpu_estimate:CpuEstimateBackend", ("cpu",), estimates=True),
)


class Opened(NamedTuple):
    """One opened backend with its domains, and its name if it was opened by that.

    `second` is another way to the same counters, to compare with; none of its readings is reported.
    """

    backend: Backend
    domains: tuple[Domain, ...]
    registry_name: str | None = None
    second: Opened | None = None


class Probe(NamedTuple):
    """What a machine offers: opened backends, and what gave nothing and why."""

    opened: tuple[Opened, ...]
    unavailable: tuple[Unavailable, ...]
    notes: tuple[str, ...]


def backend_names() -> tuple[str, ...]:
    """Return the names that `backends=[...]` accepts."""
    return (*(builtin.name for builtin in BUILTINS), *_entry_points())


def check_selection(backends: Sequence[str | Backend] | None) -> tuple[str | Backend, ...] | None:
    """Validate the `backends` argument of a meter.

    Raises:
        ArgumentError: a name is unknown, an object is no backend, or something is named twice.
    """
    if backends is None:
        return None
    if isinstance(backends, (str, bytes)) or not isinstance(backends, Iterable):
        raise ArgumentError(f'backends: expected a list such as ["rapl", "nvml"], not {backends!r}')
    selection = tuple(backends)
    if not selection:
        raise ArgumentError("backends: an empty list meters nothing; use None for the best of this machine")
    for item in selection:
        if isinstance(item, str):
            if item not in backend_names():
                known = ", ".join(backend_names())
                raise ArgumentError(f"backends: unknown backend {item!r}; known are {known}")
        elif isinstance(item, type) or not isinstance(item, Backend):
            raise ArgumentError(
                f"backends: {item!r} is neither a name nor an object with name, open(), read() and close()"
            )
    for position, item in enumerate(selection):
        if any(item is other or item == other for other in selection[:position]):
            raise ArgumentError(f"backends: {item!r} is named twice: its energy would be counted twice")
    return selection


def probe(selection: Sequence[str | Backend] | None = None) -> Probe:
    """Open the selected backends, or the best source of every domain.

    A backend that cannot be opened, for whatever reason, is reported, not raised.
    """
    opened: list[Opened] = []
    unavailable: list[Unavailable] = []
    notes: list[str] = []
    metered: set[str] = set()
    for item in _probe_order(_default_names() if selection is None else selection):
        name = item if isinstance(item, str) else item.name
        builtin = next((entry for entry in BUILTINS if entry.name == item), None)
        if builtin is not None and builtin.estimates and metered.issuperset(builtin.kinds):
            if selection is not None:
                notes.append(f"{name}: not used, because something else meters {'/'.join(builtin.kinds)}")
            continue
        try:
            backend = load_backend(item) if isinstance(item, str) else item
            domains = tuple(backend.open())
        except Exception as error:  # a foreign backend may raise anything; the others go on
            if selection is not None or not _needs_no_second(builtin, opened):
                unavailable.append(_explain(name, builtin.kinds if builtin else (), error))
            continue
        first = _first_of(builtin, opened) if selection is None else None
        if _becomes_second(Opened(backend, domains, name), first, opened, notes):
            continue
        domains = _distinct(domains, [domain for other in opened for domain in other.domains], notes)
        opened.append(Opened(backend, domains, item if isinstance(item, str) else None))
        measured = (domain for domain in domains if domain.provenance is not Provenance.ESTIMATED)
        metered.update(domain.kind for domain in measured if domain.counted)
        unavailable.extend(getattr(backend, "unreadable", ()))
        notes.extend(getattr(backend, "notes", ()))
    return Probe(tuple(opened), tuple(unavailable), tuple(notes))


def _default_names() -> tuple[str, ...]:
    """Return what is opened if nothing is asked for."""
    by_name_only = {builtin.name for builtin in BUILTINS if builtin.by_name_only}
    return tuple(name for name in backend_names() if name not in by_name_only)


def _first_of(builtin: Builtin | None, opened: Sequence[Opened]) -> int | None:
    """Return the position of the backend to which this one is second, if that one was opened."""
    first = None if builtin is None else builtin.second_to
    names = [item.registry_name for item in opened]
    return names.index(first) if first is not None and first in names else None


def _needs_no_second(builtin: Builtin | None, opened: Sequence[Opened]) -> bool:
    """Return whether the backend to which this one is second reads all that there is."""
    first = _first_of(builtin, opened)
    return first is not None and not getattr(opened[first].backend, "unreadable", ())


def _becomes_second(item: Opened, first: int | None, opened: list[Opened], notes: list[str]) -> bool:
    """Let a backend only check the first one if that one meters all that it would add to the total."""
    if first is None:
        return False
    metered = opened[first].domains
    if any(domain.counted and _same_thing(domain, metered) is None for domain in item.domains):
        return False
    opened[first] = opened[first]._replace(second=item)
    notes.append(
        f"{opened[first].registry_name}: {item.registry_name} reads the same counters; "
        "it is compared at the end of the session, not added"
    )
    return True


def _probe_order(selection: Sequence[str | Backend]) -> list[str | Backend]:
    """Estimates last: what something else measures needs no estimate."""
    estimates = {builtin.name for builtin in BUILTINS if builtin.estimates}
    return sorted(selection, key=lambda item: isinstance(item, str) and item in estimates)


def _distinct(domains: tuple[Domain, ...], others: list[Domain], notes: list[str]) -> tuple[Domain, ...]:
    """Give domains names of their own; one that another backend reads already is shown, not added."""
    taken = {domain.name for domain in others}
    names: dict[str, str] = {}
    for domain in domains:
        names[domain.name] = _free_name(domain, taken)
        taken.add(names[domain.name])
    result = []
    for domain in domains:
        parent = names.get(domain.parent or "", domain.parent)
        same = _same_thing(domain, others)
        if same is not None:
            parent = same
            notes.append(f"{domain.source}: {domain.id} is metered as {parent} already and not added again")
        result.append(replace(domain, name=names[domain.name], parent=parent))
    return tuple(result)


def _same_thing(domain: Domain, others: Sequence[Domain]) -> str | None:
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


def _entry_points() -> tuple[str, ...]:
    from importlib.metadata import entry_points

    return tuple(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))


def load_backend(name: str) -> Backend:
    """Return a new backend of one of `backend_names`, not opened.

    Raises:
        Exception: whatever the import of a foreign backend raises; ValueError if there is none.
    """
    for builtin in BUILTINS:
        if builtin.name == name:
            module, _, attribute = builtin.target.partition(":")
            return cast("Backend", getattr(import_module(module), attribute)())
    from importlib.metadata import entry_points

    (entry,) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    return cast("Backend", entry.load()())


def _explain(name: str, kinds: tuple[str, ...], error: Exception) -> Unavailable:
    if isinstance(error, BackendUnavailableError):
        return Unavailable(source=name, kinds=kinds, reason=error.reason, remedy=error.remedy)
    reason = f"opening it raised {type(error).__name__}: {error}"
    return Unavailable(source=name, kinds=kinds, reason=reason)
