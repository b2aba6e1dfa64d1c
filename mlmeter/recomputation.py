"""A recording with other settings: its readings stay, all numbers are computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mlmeter import baseline as baselines
from mlmeter.errors import ArgumentError
from mlmeter.measurement import Event
from mlmeter.recording import AS_METERED, Recording
from mlmeter.window_records import Label


def recomputed(
    recording: Recording,
    base_phase: str | None,
    phases: Mapping[str, str] | None,
    baseline: object,
) -> Recording:
    """Return the recording with other labels or another idle power.

    Raises:
        ArgumentError: a label is no text, or the baseline is wrong or does not fit.
    """
    run, windows, events = recording.run, recording.windows, recording.events
    if recording.chapters and (base_phase is not None or phases):
        text = "of a session this long only sums are in memory, whose labels cannot change"
        raise ArgumentError(f"{text}: load its journal")
    if base_phase is not None:
        run = replace(run, base_phase=_checked(base_phase))
    if phases:
        new = {old: _checked(label) for old, label in phases.items()}
        table = tuple(Label(name, new.get(phase, phase)) for name, phase in windows.label_table)
        windows = replace(windows, label_table=table)
    if baseline != AS_METERED:
        facts = {name: value for name, value in run.facts.items() if name != "baseline"}
        found, notes = _baseline(recording, baseline)
        run = replace(run, facts={**facts, "baseline": found} if found else facts)
        seconds = run.duration_seconds
        events += tuple(Event(time_seconds=seconds, kind="note", domain=None, message=note) for note in notes)
    return replace(recording, run=run, windows=windows, events=events)


def _checked(phase: object) -> str:
    if not isinstance(phase, str) or not phase:
        raise ArgumentError(f"phase {phase!r}: expected a text that is not empty")
    return phase


def _baseline(recording: Recording, given: Any) -> tuple[dict[str, Any] | None, list[str]]:
    domains = [domain for domain, _ in recording.domains]
    day = datetime.fromtimestamp(recording.run.start_wall_ns / 1e9, UTC)
    checked = baselines.checked(given)
    facts, notes = baselines.baseline_facts(checked, domains, day)
    if checked not in (None, baselines.AUTO) and facts is None:
        raise ArgumentError(f"baseline={given!r}: {'; '.join(notes) or 'this session has no domain'}")
    return facts, notes
