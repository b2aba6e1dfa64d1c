"""Apple silicon through the package zeus-apple-silicon, which reads energy counters without root."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mlmeter.errors import BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import JOULES_PER_MILLIJOULE

# Not published; the sampler measures it.
_UPDATE_PERIOD_SECONDS = 0.01


class _Part(NamedTuple):
    """One counter: its field in AppleEnergyMetrics and what it counts."""

    field: str
    name: str
    kind: str
    parent: str | None = None


# Cores and clusters are inside cpu_total_mj. Whether the cache of the GPU is inside gpu_mj is not
# published: it is not added.
_PARTS = (
    _Part("cpu_total_mj", "cpu", "cpu"),
    _Part("dram_mj", "dram", "dram"),
    _Part("gpu_mj", "gpu", "gpu"),
    _Part("gpu_sram_mj", "gpu-sram", "gpu", parent="gpu"),
    _Part("ane_mj", "ane", "gpu"),
)


class AppleSiliconBackend:
    """Reads the cumulative energy of CPU, memory, GPU and Neural Engine in millijoules.

    The Neural Engine (``ane``) counts as kind ``gpu``: it is an accelerator beside the GPU.
    Domains that the chip does not have are left out.

    Args:
        platform: the operating system, as in `sys.platform`.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        notes: what users of the figures must know.

    Example:
        >>> try:
        ...     AppleSiliconBackend(platform="linux").open()
        ... except BackendUnavailableError as error:
        ...     print(error.reason)
        this is no Mac
    """

    name = "apple_silicon"

    def __init__(
        self, *, platform: str = sys.platform, now_ns: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._platform = platform
        self._now_ns = now_ns
        self._monitor: Any = None
        self._parts: list[_Part] = []
        self.notes: tuple[str, ...] = ()

    def open(self) -> Sequence[Domain]:
        """Start the energy monitor and see which counters this chip has.

        Raises:
            BackendUnavailableError: this is no Mac, the package is missing, or there is no counter.
        """
        self.close()
        if self._platform != "darwin":
            raise BackendUnavailableError(self.name, "this is no Mac")
        try:
            from zeus_apple_silicon import AppleEnergyMonitor
        except (Exception, SystemExit) as error:
            reason = f"zeus-apple-silicon cannot be imported ({type(error).__name__}: {error})"
            remedy = 'Install it with: pip install "mlmeter[apple]"'
            raise BackendUnavailableError(self.name, reason, remedy) from error
        try:
            monitor = AppleEnergyMonitor()
            metrics = monitor.get_cumulative_energy()
        except Exception as error:
            reason = f"the energy counters cannot be read ({type(error).__name__}: {error})"
            raise BackendUnavailableError(self.name, reason, "Intel Macs have none") from error
        parts = [part for part in _PARTS if _is_count(getattr(metrics, part.field, None))]
        if not parts:
            reason = "the chip gives no energy counter that zeus-apple-silicon knows"
            raise BackendUnavailableError(self.name, reason, "Install a newer zeus-apple-silicon")
        self._monitor, self._parts = monitor, parts
        self.notes = (
            "apple_silicon: Apple's counters are a model of the chip, whose accuracy is not published",
        )
        return [_domain(part, parts) for part in parts]

    def read(self) -> Sequence[Reading | Failure]:
        """Read all counters with one call."""
        if self._monitor is None:
            return ()
        begin_ns = self._now_ns()
        try:
            metrics = self._monitor.get_cumulative_energy()
        except Exception as error:  # C++ errors of the package come as RuntimeError and others
            reason = f"the energy counters cannot be read ({type(error).__name__}: {error})"
            return [Failure(position, reason, False, begin_ns) for position in range(len(self._parts))]
        end_ns = self._now_ns()
        results: list[Reading | Failure] = []
        for position, part in enumerate(self._parts):
            value: Any = getattr(metrics, part.field, None)
            if _is_count(value):
                results.append(Reading(position, value, begin_ns, end_ns))
            else:
                results.append(Failure(position, f"{part.field} is {value!r}", False, begin_ns))
        return results

    def close(self) -> None:
        """Let go of the monitor."""
        self._monitor = None
        self._parts = []
        self.notes = ()


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _domain(part: _Part, parts: Sequence[_Part]) -> Domain:
    has_parent = any(other.name == part.parent for other in parts)
    return Domain(
        name=part.name,
        id=f"apple_silicon:{part.name}",
        kind=part.kind,
        source=AppleSiliconBackend.name,
        provenance=Provenance.MEASURED,
        joules_per_count=JOULES_PER_MILLIJOULE,
        update_period_seconds=_UPDATE_PERIOD_SECONDS,
        parent=part.parent if has_parent else None,
    )
