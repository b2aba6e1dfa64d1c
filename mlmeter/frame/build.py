"""All tables by their names."""

from __future__ import annotations

from collections.abc import Callable

from mlmeter.frame.sources import domains_table, events_table, samples_table, shares_table
from mlmeter.frame.table import Table
from mlmeter.frame.windows import bursts_table, phases_table, window_names_table, windows_table
from mlmeter.recording import Recording


def build_table(recording: Recording, name: str) -> Table:
    """Build one of `TABLES` from a recording."""
    builders: dict[str, Callable[[Recording], Table]] = {
        "phases": phases_table,
        "windows": windows_table,
        "window_names": window_names_table,
        "bursts": bursts_table,
        "domains": domains_table,
        "shares": shares_table,
        "samples": samples_table,
        "events": events_table,
    }
    return builders[name](recording)
