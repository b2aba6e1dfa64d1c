"""Energy above idle of phases and the session as rows, for the summary and the report page."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlmeter.chapters.tables import build_table
from mlmeter.chapters.whole import results
from mlmeter.dynamic_energy import DynamicEnergy, idle_powers
from mlmeter.recording import TOTAL, Recording


def above_idle_records(recording: Recording, session: str) -> list[dict[str, Any]]:
    """Return rows of the table of phases that have energy above idle, then those of the session.

    Args:
        recording: whose manifest has a baseline; without one there are no rows.
        session: what the session is called in the place of a phase.
    """
    if not idle_powers(recording):
        return []
    records = [r for r in build_table(recording, "phases").records() if r["duration_seconds"] > 0]
    dynamic = DynamicEnergy(recording, TOTAL, lambda _: np.array([recording.run.duration_seconds]))
    for domain, _, energies in results(recording).by_domain(TOTAL):
        columns = dynamic.columns(domain, energies)
        whole = {name: column[0] for name, column in columns.items()}
        records.append({"phase": session, "domain": domain, **whole})
    return [record for record in records if record["above_idle"] is not None]
