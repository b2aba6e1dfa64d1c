"""All sources of this machine, opened and read for a second: the facts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlmeter.backends import registry
from mlmeter.backends.registry import Opened, Probe, backend_names, default_names, probe
from mlmeter.clock import Clock, MonotonicClock
from mlmeter.doctor.advice import advice_for
from mlmeter.doctor.observation import LOOK_SECONDS, Observation, observe, within
from mlmeter.doctor.surroundings import Surroundings, surroundings_of
from mlmeter.energy.counters import DEFAULT_MAX_POWER_WATTS
from mlmeter.energy.expected_error import ExpectedError, counter_error, gauge_error
from mlmeter.measurement import Domain, Provenance, Unavailable

SCHEMA_VERSION = 1
OPEN_SECONDS = 5.0
WINDOWS_SECONDS = (0.01, 0.1, 10.0)
KINDS = ("cpu", "dram", "gpu")
# Words in the reason of a source that is there but tells nothing, is closed to us, or hidden; the first wins.
STATUS_WORDS = {
    "hidden": ("hidden",),
    "no permission": ("permission", "not permitted", "denied"),
    "stands still": ("stands still",),
}
NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Found:
    """One backend: what opening it gave and what its readings told."""

    name: str
    opened: tuple[Opened, ...]
    observations: dict[str, Observation]
    unavailable: tuple[Unavailable, ...]
    notes: tuple[str, ...]


def diagnose(
    around: Surroundings | None = None,
    *,
    clock: Clock | None = None,
    look_seconds: float = LOOK_SECONDS,
    everything: bool = False,
) -> dict[str, Any]:
    """Open the sources that sessions open by themselves, read each for a second, and return what was found.

    The keys are those of docs/reference/cli.md; absent numbers are None.

    Args:
        around: the machine; None to look at it.
        clock: for the readings.
        look_seconds: how long each source is read.
        everything: whether to try those, too, that sessions open by name only.
    """
    around = around or surroundings_of()
    clock = clock or MonotonicClock()
    best = _session_choice()
    used = {(domain.source, domain.id): domain for opened in best.opened for domain in opened.domains}
    checks = {
        item.second.registry_name: item.registry_name for item in best.opened if item.second is not None
    }
    tried = backend_names() if everything else default_names()
    found = [_look_at(name, clock, look_seconds) for name in tried]
    domains = [
        _domain_facts(domain, one.observations[domain.id], used, checks.get(one.name))
        for one in found
        for opened in one.opened
        for domain in opened.domains
    ]
    unavailable = [item for one in found for item in one.unavailable]
    kinds = _kinds(domains)
    advice = advice_for(
        around,
        # Those that are opened by name only need more than a command, or are worse than another one.
        [item for item in unavailable if item.source in default_names()],
        measured=(*kinds["measured"], *kinds["derived"]),
        names=default_names(),
    )
    notes = dict.fromkeys((*best.notes, *(note for one in found for note in one.notes), *_twins(around)))
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": _machine_facts(around),
        "verdict": {**kinds, "text": _verdict(kinds)},
        "sources": [
            *(_source_facts(one, used, checks.get(one.name)) for one in found),
            *(_not_tried(name) for name in backend_names() if name not in tried),
        ],
        "domains": domains,
        "unavailable": [_unavailable_facts(item) for item in unavailable],
        "notes": list(notes),
        "advice": [
            {**asdict(item), "kinds": list(item.kinds), "commands": list(item.commands)} for item in advice
        ],
    }


def _session_choice() -> Probe:
    """Return what a session would open, closed again; nothing if a source hangs."""
    try:
        best = within(OPEN_SECONDS, lambda: probe(None))
    except Exception as error:  # the list of entry points can be broken, too
        return Probe((), (), (f"the choice of a session failed: {type(error).__name__}: {error}",))
    if best is None:
        return Probe(
            (), (), (f"a source did not open within {OPEN_SECONDS:.0f} s: a session would wait, too",)
        )
    _close(best.opened)
    return best


def _look_at(name: str, clock: Clock, look_seconds: float) -> Found:
    """Open one backend, read it, close it; one that hangs is left to its thread."""
    try:
        found = within(OPEN_SECONDS, lambda: probe((name,)))
        if found is None:
            return _failed(name, f"opening it took longer than {OPEN_SECONDS:.0f} s")
        observations = {}
        for opened in found.opened:
            seen = within(OPEN_SECONDS + look_seconds, lambda: _observe(opened, clock, look_seconds))  # noqa: B023
            if seen is None:
                return _failed(name, f"a read took longer than {OPEN_SECONDS:.0f} s")
            observations.update(seen)
        _close(found.opened)
    except Exception as error:  # a foreign backend may raise anything
        return _failed(name, f"{type(error).__name__}: {error}")
    return Found(name, found.opened, observations, found.unavailable, found.notes)


def _observe(opened: Opened, clock: Clock, look_seconds: float) -> dict[str, Observation]:
    seen = observe(opened.backend, opened.domains, clock, look_seconds)
    return {domain.id: one for domain, one in zip(opened.domains, seen, strict=True)}


def _failed(name: str, reason: str) -> Found:
    return Found(name, (), {}, (Unavailable(source=name, kinds=(), reason=reason),), ())


def _domain_facts(
    domain: Domain, seen: Observation, used: dict[tuple[str, str], Domain], checked: str | None
) -> dict[str, Any]:
    mine = used.get((domain.source, domain.id))
    period = seen.period_seconds or domain.update_period_seconds
    step = seen.step_joules or domain.resolution_joules
    stuck = seen.stuck(domain)
    readable = seen.readings > 0
    return {
        "domain": domain.name,
        "id": domain.id,
        "kind": domain.kind,
        "source": domain.source,
        "provenance": str(domain.provenance),
        "model_name": domain.model_name,
        "uuid": domain.uuid,
        "update_period_seconds": domain.update_period_seconds,
        "measured_period_seconds": seen.period_seconds,
        "resolution_joules": domain.resolution_joules,
        "measured_step_joules": seen.step_joules,
        "mean_power_watts": seen.watts,
        "interval_low_ratio": domain.interval_low_ratio,
        "interval_high_ratio": domain.interval_high_ratio,
        "wrap_horizon_seconds": _wrap_horizon(domain),
        "parent": domain.parent,
        "counted": domain.counted,
        "readable": readable,
        "moves": None if not readable else not stuck,
        "failure": seen.failure,
        "used": mine is not None,
        "ignored_because": _ignored_because(domain, mine, used, checked),
        "expected_error": [
            {
                "window_seconds": seconds,
                **_expected(domain, seconds, period, step or 0.0, seen.watts)._asdict(),
            }
            for seconds in WINDOWS_SECONDS
        ],
    }


def _expected(
    domain: Domain, seconds: float, period: float, step: float, watts: float | None
) -> ExpectedError:
    if domain.provenance is Provenance.ESTIMATED:
        return ExpectedError(None, None)
    if domain.watts_per_count is not None:
        return gauge_error(seconds, period, domain.averaging_window_seconds)
    return counter_error(seconds, period, resolution_joules=step, watts=watts)


def _wrap_horizon(domain: Domain) -> float | None:
    """Return after how many seconds at its highest power a counter starts again."""
    if domain.modulus is None or domain.joules_per_count is None:
        return None
    return domain.modulus * domain.joules_per_count / (domain.max_power_watts or DEFAULT_MAX_POWER_WATTS)


def _ignored_because(
    domain: Domain, mine: Domain | None, used: dict[tuple[str, str], Domain], checked: str | None
) -> str | None:
    """Say why a domain does not add to the total; None if it does."""
    if mine is not None:
        if mine.counted:
            return None
        if mine.parent is not None:
            return f"inside {mine.parent}"
        return "contains the others" if mine.kind in ("psys", "machine") else "shown only"
    if checked is not None:
        return f"only compared with {checked}"
    # Formulas stand together: none is used where the CPU is measured.
    kinds = {domain.kind, "cpu"} if domain.provenance is Provenance.ESTIMATED else {domain.kind}
    rivals = sorted({other.source for other in used.values() if other.kind in kinds and other.counted})
    if rivals:
        return f"{', '.join(rivals)} is used"
    return "not opened by default"


def _source_facts(found: Found, used: dict[tuple[str, str], Domain], checked: str | None) -> dict[str, Any]:
    domains = [domain for opened in found.opened for domain in opened.domains]
    moving = [
        d for d in domains if not found.observations[d.id].stuck(d) and found.observations[d.id].readings
    ]
    return {
        **_not_tried(found.name),
        "status": _status(found, bool(domains), bool(moving)),
        "domains": [domain.name for domain in domains],
        "used": any(source == domain.source for source, _ in used for domain in domains),
        "checks": checked,
        "reason": "; ".join(item.reason for item in found.unavailable) or None,
        "remedy": "; ".join(dict.fromkeys(item.remedy for item in found.unavailable if item.remedy)) or None,
    }


def _not_tried(name: str) -> dict[str, Any]:
    """Return what is known of a source without opening it."""
    builtin = next((entry for entry in registry.BUILTINS if entry.name == name), None)
    return {
        "source": name,
        "status": NOT_TRIED,
        "domains": [],
        "used": False,
        "default": name in default_names(),
        "special": builtin is not None and builtin.special,
        "second_to": None if builtin is None else builtin.second_to,
        "checks": None,
        "reason": None,
        "remedy": None,
    }


def _status(found: Found, opened: bool, moving: bool) -> str:  # noqa: FBT001
    """Return one word or two about a source; the words are documented."""
    if moving:
        return "works"
    if opened:
        return "stands still"
    reason = " ".join(item.reason for item in found.unavailable).lower()
    for status, words in STATUS_WORDS.items():
        if any(word in reason for word in words):
            return status
    return "not found"


def _kinds(domains: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the kinds of energy by what they are worth, each once, by the best of its domains."""
    result: dict[str, list[str]] = {str(worth): [] for worth in Provenance}
    rest = list(KINDS)
    for worth in Provenance:
        for facts in domains:
            good = facts["used"] and facts["counted"] and facts["moves"] and facts["provenance"] == worth
            if good and facts["kind"] in rest:
                result[worth].append(facts["kind"])
                rest.remove(facts["kind"])
    return {**result, "missing": rest}


def _verdict(kinds: dict[str, list[str]]) -> str:
    measured = [*kinds["measured"], *kinds["derived"]]
    if measured:
        return f"A session here measures: {', '.join(measured)}."
    if kinds["estimated"]:
        return "Nothing is measured here: the CPU's energy is estimated from its load."
    return "A session here has times only: no energy can be read or estimated."


def _twins(around: Surroundings) -> list[str]:
    """Say which zones are the same counter through another register interface."""
    names = {zone.name: zone.label for zone in around.zones if "mmio" not in zone.label and zone.name != ""}
    return [
        f"{zone.label} ({zone.name}) shows what {names[zone.name]} shows: it is read once"
        for zone in around.zones
        if "mmio" in zone.label and zone.name in names and zone.name.startswith("package")
    ]


def _machine_facts(around: Surroundings) -> dict[str, Any]:
    return {
        "system": around.system,
        "cpu": around.cpu,
        "container": around.container,
        "hypervisor": around.hypervisor,
        "root": around.is_root,
        "gpus": list(around.gpus),
        "perf_event_paranoid": around.paranoid,
        "udev_rule": around.rule,
    }


def _unavailable_facts(item: Unavailable) -> dict[str, Any]:
    return {"source": item.source, "kinds": list(item.kinds), "reason": item.reason, "remedy": item.remedy}


def _close(opened: Sequence[Opened]) -> None:
    for item in opened:
        item.backend.close()
