"""Tables of a session as JSON and as records of plain values."""

from __future__ import annotations

import json
from typing import Any

from mlmeter.chapters.tables import build_table
from mlmeter.frame.table import Table
from mlmeter.recording import TABLES, Recording


def tables_json(recording: Recording) -> str:
    """Return all tables but the samples as JSON; an absent number is null."""
    run = recording.run
    tables = {name: plain_records(build_table(recording, name)) for name in TABLES if name != "samples"}
    document = {"session": run.id, "name": run.name, "duration_seconds": run.duration_seconds, **tables}
    return json.dumps(document, indent=1, allow_nan=False)


def plain_records(table: Table) -> list[dict[str, Any]]:
    """Return the rows with Python numbers, absent ones as None."""
    return [{name: _plain(value) for name, value in record.items()} for record in table.records()]


def _plain(value: Any) -> Any:
    item = value.item() if hasattr(value, "item") else value
    return None if isinstance(item, float) and item != item else item
