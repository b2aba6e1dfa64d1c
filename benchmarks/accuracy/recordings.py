"""A replay as the recording of a session, so that what is judged is what users get."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray
from scenarios import GAP, MAX_WATTS, Floats, Replay, Scenario

from mlmeter.energy.counters import Rows
from mlmeter.measurement import Domain, Provenance
from mlmeter.recording import Recording, Run
from mlmeter.window_records import Label, WindowRecords

NANOSECONDS = 1e9
NAMES = ("gap", "A", "B")
# A counter's times start well after 0: a bracket may begin before the session does.
ORIGIN_NS = 10_000_000_000


def recording_of(replay: Replay, scenario: Scenario) -> Recording:
    """Return the replay as a sampler and a program's windows would have recorded it."""
    windows = replay.windows
    count = len(windows)
    ids = np.arange(1, count + 1)
    records = WindowRecords(
        ids=integers(ids),
        parent_ids=integers(np.zeros(count)),
        labels=integers(replay.label[windows] - 1),
        threads=integers(np.zeros(count)),
        starts_ns=nanoseconds(replay.edges[windows]),
        ends_ns=nanoseconds(replay.edges[windows + 1]),
        flags=integers(np.zeros(count)),
        pieces=(),
        units={},
        label_table=tuple(Label(name, name) for name in NAMES[1:]),
        thread_names=("main",),
    )
    end_ns = ORIGIN_NS + round(float(replay.edges[-1]) * NANOSECONDS)
    run = Run("replay", "replay", NAMES[GAP], ORIGIN_NS, end_ns, 0, True, {})
    return Recording(run, ((_domain(scenario), _rows(replay, scenario)),), records, (), ())


def _domain(scenario: Scenario) -> Domain:
    return Domain(
        name="package-0" if scenario.fast else "gpu-0",
        id="replay",
        kind="cpu" if scenario.fast else "gpu",
        source="replay",
        provenance=Provenance.MEASURED,
        update_period_seconds=scenario.period_seconds,
        joules_per_count=scenario.count_joules,
        max_power_watts=MAX_WATTS,
        cheap_read=scenario.fast,
    )


def _rows(replay: Replay, scenario: Scenario) -> Rows:
    before = nanoseconds(replay.before)
    return Rows(
        after_ns=nanoseconds(replay.after),
        before_ns=before,
        counts=integers(replay.row_joules / scenario.count_joules),
        gaps_ns=(),
        last_ns=before[-1],
        readings=len(before),
        resets=0,
        largest_mean_watts=0.0,
    )


def nanoseconds(seconds: Floats) -> array[int]:
    return integers(ORIGIN_NS + seconds * NANOSECONDS)


def integers(values: NDArray[np.generic]) -> array[int]:
    return array("q", np.rint(values).astype(np.int64).tobytes())
