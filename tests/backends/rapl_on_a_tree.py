"""A RAPL backend on a powercap tree: opened, read, and refused by the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from pytest_mock import MockerFixture

from mlmeter.backends.rapl import RaplBackend
from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Reading
from tests.backends.powercap_tree import PowercapTree, Zone
from tests.backends.refusals import refused

ONE_PACKAGE = (Zone("intel-rapl:0", "package-0", 5_000_000),)

OpenBackend = Callable[..., tuple[RaplBackend, list[Domain]]]


def names_of(domains: Sequence[Domain]) -> list[str]:
    return [domain.name for domain in domains]


def values_of(backend: RaplBackend, domains: Sequence[Domain]) -> dict[str, int]:
    items = backend.read()
    assert all(isinstance(item, Reading) for item in items)
    return {domains[item.position].name: item.value for item in items if isinstance(item, Reading)}


def refusal_of(backend: RaplBackend) -> BackendUnavailableError:
    return refused(backend, "rapl")


def deny(mocker: MockerFixture, tree: PowercapTree, *labels: str) -> None:
    """Refuse to open the counters of these zones, as the kernel does for users (root ignores modes)."""
    real_open = os.open
    denied = {os.path.realpath(tree.energy_file(label)) for label in labels}

    def guarded(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if os.path.realpath(path) in denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real_open(path, flags, mode, **options)

    mocker.patch("mlmeter.backends.rapl.os.open", side_effect=guarded)
