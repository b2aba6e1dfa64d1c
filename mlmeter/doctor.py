"""What can be metered on this machine, from where, and what would give more."""

from __future__ import annotations

import textwrap
from typing import Any

from mlmeter.backends.registry import Opened, backend_names, probe
from mlmeter.energy.counters import DEFAULT_MAX_POWER_WATTS
from mlmeter.measurement import Domain, Provenance
from mlmeter.report.text import number, table

WIDTH = 80


def diagnose() -> dict[str, Any]:
    """Open every source once, close it again, and return what was found."""
    best = probe(None)
    used = {domain.id for opened in best.opened for domain in opened.domains}
    domains: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    notes = list(best.notes)
    _close(best.opened)
    for name in backend_names():
        found = probe((name,))
        for opened in found.opened:
            domains.extend(_facts(domain, used=domain.id in used) for domain in opened.domains)
        missing.extend(
            {"source": item.source, "kinds": list(item.kinds), "reason": item.reason, "remedy": item.remedy}
            for item in found.unavailable
        )
        notes.extend(note for note in found.notes if note not in notes)
        _close(found.opened)
    return {"domains": domains, "unavailable": missing, "notes": notes, "verdict": _verdict(domains)}


def report_text(diagnosis: dict[str, Any]) -> str:
    """Return the diagnosis as text of at most 80 columns."""
    parts = []
    if diagnosis["domains"]:
        header = ("domain", "kind", "source", "worth", "period", "wraps after", "used")
        parts.append(table(header, [_row(facts) for facts in diagnosis["domains"]], left=4))
    for missing in diagnosis["unavailable"]:
        kinds = "/".join(missing["kinds"]) or "domains"
        lines = [f"not available: {missing['source']} ({kinds}): {missing['reason']}"]
        if missing["remedy"]:
            lines.append(f"  {missing['remedy']}")
        parts.append("\n".join(_wrap(line) for line in lines))
    parts.extend(_wrap(note) for note in diagnosis["notes"])
    parts.append(_wrap(diagnosis["verdict"]))
    return "\n\n".join(parts)


def _facts(domain: Domain, *, used: bool) -> dict[str, Any]:
    wrap = None
    if domain.modulus is not None and domain.joules_per_count is not None:
        watts = domain.max_power_watts or DEFAULT_MAX_POWER_WATTS
        wrap = domain.modulus * domain.joules_per_count / watts
    return {
        "domain": domain.name,
        "kind": domain.kind,
        "source": domain.source,
        "provenance": str(domain.provenance),
        "model_name": domain.model_name,
        "uuid": domain.uuid,
        "update_period_seconds": domain.update_period_seconds,
        "resolution_joules": domain.resolution_joules,
        "wrap_horizon_seconds": wrap,
        "counted": domain.counted,
        "used": used,
    }


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    wrap = facts["wrap_horizon_seconds"]
    return (
        facts["domain"],
        facts["kind"],
        facts["source"],
        facts["provenance"],
        f"{number(1e3 * facts['update_period_seconds'], 3)} ms",
        "never" if wrap is None else f"{number(wrap, 3)} s",
        ("yes" if facts["counted"] else "shown") if facts["used"] else "no",
    )


def _verdict(domains: list[dict[str, Any]]) -> str:
    used = [facts for facts in domains if facts["used"]]
    measured = sorted({f["kind"] for f in used if f["provenance"] != Provenance.ESTIMATED and f["counted"]})
    if measured:
        return f"A session here measures: {', '.join(measured)}."
    if used:
        return "A session here can only estimate the CPU's energy from its load; nothing is measured."
    return "A session here has times only: no energy can be read or estimated."


def _close(opened: tuple[Opened, ...]) -> None:
    for item in opened:
        item.backend.close()


def _wrap(text: str) -> str:
    indent = "  " if text.startswith("  ") else ""
    return textwrap.fill(text.strip(), WIDTH, initial_indent=indent, subsequent_indent="  ")
