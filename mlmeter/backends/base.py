"""What a source of readings is: a structural protocol, no base class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mlmeter.measurement import Domain, Failure, Reading


@runtime_checkable
class Backend(Protocol):
    """Reads raw integers from one kind of hardware.

    A backend reports facts. It never scales, unwraps, subtracts, sleeps or starts threads.
    It is opened once, then read from the sampler's thread and, if its domains are cheap to
    read, from the threads of the metered program too.

    More attributes are used where they exist: `unreadable`, a sequence of `Unavailable` for
    domains that are there but cannot be read; `notes`, texts that users must know; `call_seconds`,
    what reading one domain costs, so that slow ones are read less often; `longest_period_seconds`,
    the time after which it must be read again, whatever the user asked for; ``blocking = True``: a
    read waits for a network, a process or slow firmware, so it is called on a thread of its own,
    once per update period; and a method `device_states`, which returns for each domain a table of
    facts (clocks, temperature) for the manifest. It is called at the start and the end of a session
    and may be slow.

    A backend of GPUs may have a method `gpu_uses`: it returns, by position of the domain, the
    processes on each GPU (a sequence of `GpuUse`, also those of other users, compute and graphics),
    or a text that says why they cannot be told. It is called at most once a second, and only for
    meters with ``scope="process"``.

    Attributes:
        name: one word, the `source` of its domains.
    """

    name: str

    def open(self) -> Sequence[Domain]:
        """Find the domains and prepare to read them.

        Raises:
            BackendUnavailableError: nothing can be read here; reason and remedy say why.
        """

    def read(self) -> Sequence[Reading | Failure]:
        """Read every open domain once.

        A domain that fails gives a `Failure`: transient, or lost (``lost=True``: the device
        is gone; the next `read` tries again). Any exception means that the whole backend has
        failed; it is then asked again at longer and longer intervals.
        """

    def close(self) -> None:
        """Release what `open` took; harmless when called twice."""
