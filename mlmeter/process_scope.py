"""With ``scope="process"``: this process' part of a recording's energies, domain by domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mlmeter.energy.process_parts import ProcessParts, part_of
from mlmeter.energy.process_rows import TICK_NS, ProcessRows
from mlmeter.energy.process_share import Shares, cpu_shares, gpu_shares, unexplained_ns
from mlmeter.units import SECONDS_PER_NANOSECOND

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlmeter.energy.attribution import Attribution, Energies
    from mlmeter.energy.idle_power import IdlePower
    from mlmeter.energy.labels import LabelledWindows
    from mlmeter.energy.windows import Ownership, Windows
    from mlmeter.measurement import Domain
    from mlmeter.time_bases import TimeBase

CPU_KINDS = ("cpu", "dram")
# Fewer of them are rounding of times that are told in ticks.
MOST_UNEXPLAINED_NS = 10 * TICK_NS
WHOLE_MACHINE = (
    "it measures the whole machine: CPU time does not tell who used disks, fans and power supplies"
)
NO_TIMES = "CPU times were not read, or all within one tick of 10 ms"
NO_USES = "the processes on it were not read"


class ProcessScope:
    """Takes this process' part of energies.

    Args:
        rows: CPU times and users of GPUs.
        origin_ns: start of the session, monotonic nanoseconds.
        bases: windows and owners of instants by name of the domain.
        idle_powers: power without any work by name of the domain, where it is known.
    """

    def __init__(
        self,
        rows: ProcessRows,
        origin_ns: int,
        bases: Mapping[str, TimeBase],
        idle_powers: Mapping[str, IdlePower],
    ) -> None:
        self._idle_powers = idle_powers
        self._rows, self._origin_ns, self._bases = rows, origin_ns, bases
        self._parts: dict[str, ProcessParts] = {}

    def of_spans(
        self, attribution: Attribution, energies: Energies, spans: str, phase_of_window: NDArray[np.int64]
    ) -> Energies:
        """Return the part of one kind of spans.

        Args:
            attribution: of the whole domain.
            energies: what it gave for `spans`.
            spans: ``"exclusive"``, ``"inclusive"``, ``"phases"`` or ``"total"``.
            phase_of_window: number of the phase of each window.
        """
        parts = self._parts_of(attribution, energies.domain)
        if spans == "phases":
            ratios = parts.phases(phase_of_window, len(energies.joules))
        else:
            ratios = {"exclusive": parts.exclusive, "inclusive": parts.inclusive, "total": parts.total}[
                spans
            ]()
        return part_of(energies, ratios, parts.method)

    def pooled(
        self,
        attribution: Attribution,
        energies: Energies,
        rows: NDArray[np.int64],
        group: NDArray[np.int64],
    ) -> Energies:
        """Return the part of groups of windows, as `ProcessParts.pooled` takes them."""
        parts = self._parts_of(attribution, energies.domain)
        return part_of(energies, parts.pooled(rows, group, len(energies.joules)), parts.method)

    def of_phases(
        self,
        attribution: Attribution,
        labelled: LabelledWindows,
        energies: Energies,
    ) -> Energies:
        """Return the part of phases of other windows than the session's, such as bursts."""
        parts = self._made(attribution, labelled.windows, labelled.ownership, energies.domain)
        ratios = parts.phases(labelled.phase_of_window, len(energies.joules))
        return part_of(energies, ratios, parts.method)

    def session_part(self, attribution: Attribution, part: int) -> Energies:
        """Return one of the `PARTS` of the session's energy, shape (1,)."""
        whole = attribution.total
        parts = self._parts_of(attribution, whole.domain)
        return part_of(whole, parts.total(), parts.method, part)

    def reason(self, domain: Domain) -> str | None:
        """Say why energy of a domain is not attributed; None if all of it is."""
        shares = self._shares(domain)
        if shares is not None and not shares.unknown:
            return None
        if domain.kind in CPU_KINDS:
            return self._rows.reason or NO_TIMES
        if domain.kind != "gpu":
            return WHOLE_MACHINE
        uses = self._rows.gpus.get(domain.name)
        return (uses.reason if uses is not None else None) or self._rows.reason or NO_USES

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield kind and sentence of what users of the energies must know."""
        unexplained = unexplained_ns(self._rows)
        if unexplained > MOST_UNEXPLAINED_NS:
            seconds = unexplained * SECONDS_PER_NANOSECOND
            text = f"the process and its children worked {seconds:.3g} s more CPU time than the system"
            yield "process", f"{text} shows for all CPUs: its share is too small"

    def _shares(self, domain: Domain) -> Shares | None:
        if domain.kind in CPU_KINDS:
            return cpu_shares(self._rows, self._origin_ns)
        uses = self._rows.gpus.get(domain.name)
        return None if uses is None else gpu_shares(uses, self._origin_ns)

    def _parts_of(self, attribution: Attribution, domain: Domain) -> ProcessParts:
        if domain.name not in self._parts:
            base = self._bases[domain.name]
            self._parts[domain.name] = self._made(attribution, base.windows, base.ownership, domain)
        return self._parts[domain.name]

    def _made(
        self, attribution: Attribution, windows: Windows, ownership: Ownership, domain: Domain
    ) -> ProcessParts:
        idle = self._idle_powers.get(domain.name)
        return ProcessParts(attribution, windows, ownership, self._shares(domain), idle)
