"""Which backends there are, in which order they are tried, and which domains win.

Adding hardware is one file and one line here, or an entry point of the group
``mlmeter.backends`` in somebody else's package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import NamedTuple, TypeVar, cast

from mlmeter.backends.base import Backend
from mlmeter.backends.distinct_domains import (
    checked,
    distinct,
    measured_kinds,
    same_thing,
    with_estimates_beside,
)
from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Domain, Unavailable

T = TypeVar("T")

ENTRY_POINT_GROUP = "mlmeter.backends"


class Builtin(NamedTuple):
    """A backend of ours: where its class is, what it can read, and when it is opened.

    Those that are not `default` need an address, a subprocess or more than a millisecond per
    read, or are worse than another one, so a user has to name them. One for `special` hardware is
    not worth a word where a session looked for it by itself, there is none, and nothing could be
    done about it. `second_to` names the backend whose counters it reads in another way: it is used
    for what that one cannot read, and else to check it.
    """

    name: str
    target: str
    kinds: tuple[str, ...]
    estimates: bool = False
    second_to: str | None = None
    default: bool = True
    special: bool = False


# Probe order: counters first, an estimate only for a kind that nothing measures.
BUILTINS = (
    Builtin("rapl", "mlmeter.backends.rapl:RaplBackend", ("cpu", "dram", "psys")),
    Builtin(
        "perf_rapl", "mlmeter.backends.perf_rapl:PerfRaplBackend", ("cpu", "dram", "psys"), second_to="rapl"
    ),
    Builtin("pyrapl", "mlmeter.backends.pyrapl:PyRaplBackend", ("cpu", "dram"), default=False),
    Builtin("nvml", "mlmeter.backends.nvml:NvmlBackend", ("gpu",)),
    Builtin("amdsmi", "mlmeter.backends.amdsmi:AmdSmiBackend", ("gpu",), special=True),
    Builtin("hwmon", "mlmeter.backends.hwmon:HwmonBackend", ("gpu", "cpu", "other"), special=True),
    Builtin(
        "jetson", "mlmeter.backends.jetson:JetsonBackend", ("machine", "gpu", "cpu", "dram"), special=True
    ),
    Builtin(
        "apple_silicon",
        "mlmeter.backends.apple_silicon:AppleSiliconBackend",
        ("cpu", "dram", "gpu"),
        special=True,
    ),
    Builtin("battery", "mlmeter.backends.battery:BatteryBackend", ("machine",), default=False),
    Builtin("ipmi", "mlmeter.backends.ipmi:IpmiBackend", ("machine",), default=False),
    Builtin("smart_plug", "mlmeter.backends.smart_plug:SmartPlug", ("machine",), default=False),
    Builtin(
        "accelerator_estimate",
        "mlmeter.backends.accelerator_estimate:AcceleratorEstimate",
        ("gpu",),
        default=False,
    ),
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


def default_names() -> tuple[str, ...]:
    """Return the names of what is opened if a meter is not told what to open."""
    return (*(builtin.name for builtin in BUILTINS if builtin.default), *_entry_points())


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
    for item in _probe_order(default_names() if selection is None else selection):
        name = item if isinstance(item, str) else item.name
        builtin = next((entry for entry in BUILTINS if entry.name == item), None)
        metered = measured_kinds(domain for other in opened for domain in other.domains)
        if builtin is not None and builtin.estimates and metered.keys() >= set(builtin.kinds):
            if selection is not None:
                notes.append(f"{name}: not used, because something else meters {'/'.join(builtin.kinds)}")
            continue
        try:
            backend, domains = _opened(item)
        except KeyboardInterrupt:
            for other in opened:
                _close(other.backend)
            raise
        except BaseException as error:  # also what exits a program: the others go on
            missing = _explain(name, builtin.kinds if builtin else (), error)
            if selection is not None or builtin is None or _worth_a_word(builtin, missing, opened):
                unavailable.append(missing)
            continue
        first = _first_of(builtin, opened) if selection is None else None
        if _becomes_second(Opened(backend, domains, name), first, opened, notes):
            continue
        domains = distinct(domains, [domain for other in opened for domain in other.domains], notes)
        opened.append(Opened(backend, domains, item if isinstance(item, str) else None))
        unavailable.extend(_told(backend, "unreadable", Unavailable))
        notes.extend(_told(backend, "notes", str))
    metered = measured_kinds(domain for other in opened for domain in other.domains)
    opened = [
        other._replace(domains=with_estimates_beside(other.domains, metered, notes)) for other in opened
    ]
    return Probe(tuple(opened), tuple(unavailable), tuple(notes))


def _opened(item: str | Backend) -> tuple[Backend, tuple[Domain, ...]]:
    """Open a backend; one whose domains are nonsense is closed again.

    Raises:
        BaseException: whatever a foreign backend raises.
    """
    backend = load_backend(item) if isinstance(item, str) else item
    domains = backend.open()
    try:
        return backend, checked(domains)
    except BaseException:
        _close(backend)
        raise


def _close(backend: Backend) -> None:
    """Close a backend that is not going to be used; what has gone wrong before is what users shall hear."""
    with contextlib.suppress(Exception):
        backend.close()


def _told(backend: Backend, attribute: str, kind: type[T]) -> list[T]:
    """Return what a backend tells beside its domains; a foreign one may tell anything."""
    try:
        return [item for item in getattr(backend, attribute, ()) if isinstance(item, kind)]
    except Exception:
        return []


def _first_of(builtin: Builtin | None, opened: Sequence[Opened]) -> int | None:
    """Return the position of the backend to which this one is second, if that one was opened."""
    first = None if builtin is None else builtin.second_to
    names = [item.registry_name for item in opened]
    return names.index(first) if first is not None and first in names else None


def _worth_a_word(builtin: Builtin, missing: Unavailable, opened: Sequence[Opened]) -> bool:
    """Return whether users who named no backend should hear that this one could not be opened."""
    first = _first_of(builtin, opened)
    if first is not None and not _told(opened[first].backend, "unreadable", Unavailable):
        # The backend to which it is second reads all that there is.
        return False
    return bool(not builtin.special or missing.remedy)


def _becomes_second(item: Opened, first: int | None, opened: list[Opened], notes: list[str]) -> bool:
    """Let a backend only check the first one if that one meters all that it would add to the total."""
    if first is None:
        return False
    metered = opened[first].domains
    if any(domain.counted and same_thing(domain, metered) is None for domain in item.domains):
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


def _explain(name: str, kinds: tuple[str, ...], error: BaseException) -> Unavailable:
    if isinstance(error, BackendUnavailableError):
        return Unavailable(source=name, kinds=kinds, reason=error.reason, remedy=error.remedy)
    reason = f"opening it raised {type(error).__name__}: {error}"
    what = "an import" if isinstance(error, ImportError) else "it"
    remedy = f'Repair {what} that failed, or leave "{name}" out of backends=[...]'
    return Unavailable(source=name, kinds=kinds, reason=reason, remedy=remedy)
