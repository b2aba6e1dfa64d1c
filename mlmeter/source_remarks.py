"""What users must know of the sources of a session when it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlmeter.errors import EstimateWarning, NothingMeteredWarning
from mlmeter.measurement import Provenance, Unavailable

if TYPE_CHECKING:
    from mlmeter.event_log import EventLog
    from mlmeter.sampling.sources import Source


def remark_sources(
    events: EventLog, sources: Sequence[Source], unavailable: Sequence[Unavailable], notes: Sequence[str]
) -> None:
    """Say what is estimated or missing: as events, and in one warning.

    Args:
        events: where.
        sources: those of the session.
        unavailable: what gave nothing.
        notes: of the backends.
    """
    for note in notes:
        events.remark("note", note)
    for missing in unavailable:
        events.remark("unavailable", f"{missing.source}: {missing.reason}")
    domains = [domain for source in sources for domain in source.domains]
    estimated = [domain.name for domain in domains if domain.provenance is Provenance.ESTIMATED]
    if not domains:
        text = "no energy can be read on this machine: the session has times only; see `mlmeter doctor`"
        events.warn("unavailable", text, NothingMeteredWarning)
    elif estimated:
        text = f"{', '.join(estimated)}: estimated from load, not measured; see `mlmeter doctor`"
        events.warn("estimate", text, EstimateWarning)


def slow_remarks(sources: Sequence[Source], period_seconds: float) -> list[str]:
    """Say of which sources the calls are so slow that they are read less often than asked for."""
    period_ns = round(period_seconds * 1e9)
    return [text for source in sources if (text := source.slow_remark(period_ns)) is not None]
