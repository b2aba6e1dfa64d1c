"""Tables of domains, parts, samples and events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlmeter.energy.columns import ENERGY_COLUMNS
from mlmeter.energy.process_share import PARTS, UNATTRIBUTED
from mlmeter.frame.table import Table, join, object_column, ratio, repeat
from mlmeter.recording import Recording, Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlmeter.energy.columns import Columns
    from mlmeter.energy.counters import Rows
    from mlmeter.measurement import Domain, Event
    from mlmeter.process_scope import ProcessScope

    Points = tuple[NDArray[np.float64], NDArray[np.float64]]

# The idea of MLPerf Power's shortest run.
SHORTEST_SECONDS, FEWEST_REFRESHES = 60.0, 100
_DOMAIN_COLUMNS = (
    "session",
    "domain",
    "kind",
    "source",
    "uuid",
    "model_name",
    "host",
    "update_period_seconds",
    "resolution_joules",
    "provenance",
    "energy_joules",
    "coverage_ratio",
    "readings",
    "resets",
    "gaps_seconds",
    "parent",
    "counted",
    "shared",
    "reason",
    "cross_check_counter_joules",
    "cross_check_power_joules",
    "measured_period_seconds",
    "short",
)
_SHARE_COLUMNS = ("session", "domain", "kind", "part", *ENERGY_COLUMNS, "share_ratio", "reason")


class Parts(Protocol):
    """What tells whose the energy of a session is."""

    @property
    def process(self) -> ProcessScope | None:
        """What takes a process' part."""

    def wholes(self) -> dict[str, Columns]:
        """Return the energy of each domain and of all."""

    def session_parts(self, part: int) -> Iterator[tuple[str, str, Columns]]:
        """Yield name, kind and energy of one part of each domain, and of all."""


def domains_table(
    recording: Recording,
    totals: Mapping[str, Columns] | None = None,
    gaps_seconds: Mapping[str, float] | None = None,
) -> Table:
    """One row per domain, and one per source that gave nothing, with the reason.

    Args:
        recording: the session.
        totals: energies of the session by domain; None for those of the recording.
        gaps_seconds: how long each was not metered; None for what the recording tells.
    """
    rows = []
    run = recording.run
    if totals is None:
        totals = recording.resolution.wholes()
    if gaps_seconds is None:
        gaps_seconds = {
            domain.name: overlap_seconds(found.gaps_ns, run) for domain, found in recording.domains
        }
    for domain, collected in recording.domains:
        energies = totals.get(domain.name)
        readable = energies is not None and energies["provenance"][0] is not None
        check = collected.cross_check if collected.cross_check and collected.cross_check.seconds > 0 else None
        rows.append(
            {
                "session": run.id,
                "domain": domain.name,
                "kind": domain.kind,
                "source": domain.source,
                "uuid": domain.uuid,
                "model_name": domain.model_name,
                "host": run.facts.get("host"),
                "update_period_seconds": domain.update_period_seconds,
                "resolution_joules": domain.resolution_joules,
                "provenance": str(domain.provenance) if readable else None,
                "energy_joules": float(energies["energy_joules"][0]) if energies else np.nan,
                "coverage_ratio": float(energies["coverage_ratio"][0]) if energies else 0.0,
                "readings": collected.readings,
                "resets": collected.resets,
                "gaps_seconds": gaps_seconds[domain.name],
                "parent": domain.parent,
                "counted": domain.counted,
                "shared": domain.shared,
                "reason": None if readable else unread_reason(recording, domain.name),
                "cross_check_counter_joules": check.counter_joules if check else np.nan,
                "cross_check_power_joules": check.power_joules if check else np.nan,
                "measured_period_seconds": collected.period_seconds,
                "short": _is_short(run, domain, collected) if readable else None,
            }
        )
    for missing in recording.unavailable:
        reason = f"{missing.reason}. {missing.remedy}" if missing.remedy else missing.reason
        rows.append(
            {
                "session": run.id,
                "domain": missing.source,
                "kind": "/".join(missing.kinds),
                "source": missing.source,
                "host": run.facts.get("host"),
                "coverage_ratio": 0.0,
                "counted": False,
                "reason": reason,
            }
        )
    return Table("domains", {name: [row.get(name) for row in rows] for name in _DOMAIN_COLUMNS})


def _is_short(run: Run, domain: Domain, collected: Rows) -> bool:
    """Whether a session is too short for figures that another run would give again."""
    period = collected.period_seconds or domain.update_period_seconds
    return run.duration_seconds < max(SHORTEST_SECONDS, FEWEST_REFRESHES * period)


def unread_reason(recording: Recording, domain_name: str) -> str:
    """Say why a domain gave no energy: its first trouble, or that its counter stood still."""
    for event in recording.events:
        if event.domain == domain_name and event.kind in ("lost", "gap"):
            return event.message.removeprefix(f"{domain_name}: ")
    return "its counter stood still"


def overlap_seconds(gaps_ns: Sequence[tuple[int, int]], run: Run) -> float:
    """Return how long gaps are within a run."""
    return sum(max(0, min(end, run.end_ns) - max(start, run.start_ns)) for start, end in gaps_ns) * 1e-9


def shares_table(recording: Recording, found: Parts | None = None) -> Table:
    """One row per domain and part of the session's energy: the process', others', idle, not attributed.

    Args:
        recording: the session.
        found: its parts; None for those of the recording.
    """
    resolution = found or recording.resolution
    blocks: list[dict[str, Any]] = [{column: np.zeros(0, dtype=object) for column in _SHARE_COLUMNS}]
    domains = {domain.name: domain for domain, _ in recording.domains}
    wholes = resolution.wholes()
    for number, part in enumerate(PARTS):
        for name, kind, energies in resolution.session_parts(number):
            scope = resolution.process if number == UNATTRIBUTED and name in domains else None
            blocks.append(
                {
                    "session": repeat(recording.run.id, 1),
                    "domain": repeat(name, 1),
                    "kind": repeat(kind, 1),
                    "part": repeat(part, 1),
                    **energies,
                    "share_ratio": ratio(energies["energy_joules"], wholes[name]["energy_joules"]),
                    "reason": object_column(None if scope is None else scope.reason(domains[name])),
                }
            )
    parts = join("shares", blocks)
    # Part by part is how they are found; domain by domain is how they are read.
    order = np.argsort([list(wholes).index(name) for name in parts.columns["domain"]], kind="stable")
    return Table("shares", {name: np.asarray(column)[order] for name, column in parts.columns.items()})


def samples_table(recording: Recording, points: Mapping[str, Points] | None = None) -> Table:
    """Time series: joules since the start and mean watts since the row before.

    Args:
        recording: the session.
        points: seconds and joules since its start, by domain; None for those of the recording.
    """
    blocks = []
    for domain, _ in recording.domains:
        found = sample_points(recording, domain) if points is None else points.get(domain.name)
        if found is None:
            continue
        times, joules = found
        watts = np.concatenate(([np.nan], ratio(np.diff(joules), np.diff(times))))
        blocks.append(
            {
                "session": repeat(recording.run.id, len(times)),
                "time_seconds": times,
                "domain": repeat(domain.name, len(times)),
                "kind": repeat(domain.kind, len(times)),
                "energy_joules": joules,
                "power_watts": watts,
            }
        )
    empty: dict[str, Sequence[Any] | NDArray[Any]] = {
        name: [] for name in ("session", "time_seconds", "domain", "kind", "energy_joules", "power_watts")
    }
    return join("samples", blocks) if blocks else Table("samples", empty)


def sample_points(recording: Recording, domain: Domain) -> Points | None:
    """Return seconds and joules since the start at each reading of a domain; None if nothing is known.

    Args:
        recording: without chapters.
        domain: one of its domains.
    """
    duration = recording.run.duration_seconds
    attribution = recording.resolution.attributions.get(domain.name)
    if attribution is None or not attribution.timeline.known:
        return None
    timeline = attribution.timeline
    rows = dict(recording.domains)[domain]
    read_at = (np.array(rows.before_ns, dtype=np.int64) - recording.run.start_ns) * 1e-9
    inside = read_at[(read_at > 0) & (read_at < duration)]
    times = np.unique(np.concatenate(([0.0], inside, [duration])))
    return times, timeline.energy_at(times) - timeline.energy_at(np.zeros(1))


def events_table(recording: Recording, further: Sequence[Event] | None = None) -> Table:
    """One row per event, in order of time.

    Args:
        recording: the session.
        further: events beside its own; None for what the fits of the recording say.
    """
    found = (*recording.events, *(recording.resolution.events if further is None else further))
    events = sorted(found, key=lambda event: event.time_seconds)
    return Table(
        "events",
        {
            "session": [recording.run.id] * len(events),
            "time_seconds": [event.time_seconds for event in events],
            "kind": [event.kind for event in events],
            "domain": [event.domain for event in events],
            "message": [event.message for event in events],
        },
    )
