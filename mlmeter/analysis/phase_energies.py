"""Energy by phase of one or many sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from mlmeter.analysis.figure import Figure, added
from mlmeter.errors import ArgumentError
from mlmeter.recording import TOTAL, Recording

TUNING = "tuning"


class Metered(Protocol):
    """A session."""

    @property
    def recording(self) -> Recording:
        """What it has found."""


def recordings_of(sessions: Metered | Iterable[Metered]) -> list[Recording]:
    """Return the recordings of one session or many.

    Raises:
        ArgumentError: something given is no session.
    """
    given: Any = sessions
    # A path, which is a mistake, is not taken letter by letter.
    many = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    for session in many:
        if not isinstance(getattr(session, "recording", None), Recording):
            raise ArgumentError(f"{session!r} is no session: give meter.session or mlmeter.load(path)")
    return [session.recording for session in many]


def check_distinct(recordings: Sequence[Recording]) -> None:
    """Check that no session is there twice.

    Raises:
        ArgumentError: one is.
    """
    seen: set[str] = set()
    for recording in recordings:
        if recording.run.id in seen:
            raise ArgumentError(f"session {recording.run.id} is given twice: its energy would count twice")
        seen.add(recording.run.id)


def energies_by_phase(
    chosen: Sequence[Recording], tried: Sequence[Recording], renamed: Mapping[str, str]
) -> dict[str, tuple[Figure, float]]:
    """Return energy and seconds by phase, in order of appearance; phases without time are left out."""
    parts: dict[str, list[tuple[Figure, float]]] = {}
    for recording in chosen:
        for phase, energy, seconds in phase_energies(recording):
            parts.setdefault(renamed.get(phase, phase), []).append((energy, seconds))
    for recording in tried:
        for _, energy, seconds in phase_energies(recording):
            parts.setdefault(TUNING, []).append((energy, seconds))
    return {
        phase: (added(energy for energy, _ in found), sum(seconds for _, seconds in found))
        for phase, found in parts.items()
    }


def phases_of(recording: Recording) -> tuple[str, ...]:
    """Return the names of all phases of a session; the base phase first."""
    from mlmeter.chapters.whole import results

    return results(recording).phases


def phase_energies(recording: Recording) -> Iterator[tuple[str, Figure, float]]:
    """Yield phase, joules and seconds of every phase of a session that has time."""
    from mlmeter.chapters.tables import build_table
    from mlmeter.chapters.whole import results
    from mlmeter.energy.columns import energy_value

    whole = results(recording)
    columns = whole.total("phases")
    seconds = {
        record["phase"]: float(record["duration_seconds"])
        for record in build_table(recording, "phases").records()
        if record["domain"] == TOTAL
    }
    for row, phase in enumerate(whole.phases):
        if seconds[phase] > 0:
            yield phase, Figure.of_energy(energy_value(columns, row)), seconds[phase]


def overlaps(recordings: Sequence[Recording]) -> Iterator[str]:
    """Say which sessions metered one whole machine at the same time: their energy is there twice."""
    whole = [recording.run for recording in recordings if recording.process is None]
    runs = sorted(whole, key=lambda run: (str(run.facts.get("host")), run.start_wall_ns))
    for before, after in pairwise(runs):
        end_wall_ns = before.start_wall_ns + before.end_ns - before.start_ns
        if before.facts.get("host") == after.facts.get("host") and after.start_wall_ns < end_wall_ns:
            yield (
                f"{before.id} and {after.id} metered one machine at the same time: "
                'that energy counts twice. Use scope="process".'
            )
