"""Chapters of a running session: what stays in memory, what can still be asked."""

from __future__ import annotations

import gc
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mlmeter import window_log
from mlmeter.chapters.closing import Limits
from mlmeter.energy.attribution import Attribution
from mlmeter.energy.counters import MOST_REMARKS, Remark, Remarks
from mlmeter.energy.thinning import MOST_SAMPLES, step_seconds, thinned
from mlmeter.errors import RunFileError
from mlmeter.journal.encoding import Decoder
from mlmeter.meter import EnergyMeter
from mlmeter.recording import TABLES, Resolution
from mlmeter.sampling.sampler import Sampler
from mlmeter.session import Session, load, recover
from mlmeter.testing import FakeBackend, FakeClock, advance, fake_domain, fake_meter
from mlmeter.window_log import WindowLog
from tests.chapters.sessions import LARGE, SMALL, Machine, both, metered, steps


def held_rows(meter: EnergyMeter) -> int:
    return sum(len(rows.counts) for _, rows in meter.session.recording.domains)


def all_rows(meter: EnergyMeter) -> int:
    return sum(source.held_rows() for source in meter.recorder.collected.sources)


def step(meter: EnergyMeter, number: int) -> object:
    return meter.training("step", samples=8)


def test_rows_and_windows_stay_within_their_limits() -> None:
    """However long the session is."""
    held: list[tuple[int, int]] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        for seed in range(6):
            steps(seed, 80, step)(meter, machine)
            held.append((held_rows(meter), len(meter.session.recording.windows)))

    metered(program, SMALL)
    # What is newer than the context is held in any case.
    assert max(rows for rows, _ in held) <= SMALL.rows + 300
    assert max(windows for _, windows in held) * 2 <= SMALL.windows + 60


def test_what_was_computed_goes_with_what_it_was_computed_for() -> None:
    """The arrays of a chapter or of a session do not wait until the interpreter looks for cycles."""

    def computed() -> list[object]:
        found = (item for item in gc.get_objects() if isinstance(item, Resolution | Attribution))
        return [item for item in found if id(item) not in of_others]

    of_others: set[int] = set()
    gc.collect()
    others = computed()
    of_others.update(map(id, others))
    gc.disable()
    try:
        meter = metered(steps(1, 120, step), SMALL)
        assert meter.session.recording.chapters
        assert not computed()
        session = Session(replace(meter.session.recording))
        for table in TABLES:
            session.records(table)
        session.summary()
        assert computed()
        del session
        assert not computed()
    finally:
        gc.enable()


def test_a_running_session_tells_all_of_it() -> None:
    """Energy so far, of the session and of a window that began chapters ago."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        with meter.training("month") as month:
            steps(1, 200, step)(meter, machine)
            assert meter.session.recording.chapters
            start = machine.nanojoules(10**9)
            used = (machine.nanojoules(machine.clock.now_ns()) - start) * 1e-9 * 3
            assert meter.energy().energy_joules == pytest.approx(used, rel=1e-4)
            assert month.energy().energy_joules == pytest.approx(used, rel=1e-4)
            assert meter.energy("cpu").energy_joules == pytest.approx(used, rel=1e-4)
            assert "still running" in meter.session.summary()
        used = (machine.nanojoules(month.end_ns) - start) * 1e-9 * 3
        assert month.result().energy_joules == pytest.approx(used, rel=1e-4)

    metered(program, SMALL)


def test_a_window_that_is_no_longer_held_has_no_energy() -> None:
    """It is absent, not 0."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        with meter.training("first") as first:
            advance(meter, 0.5)
        assert first.result().energy_joules is not None
        steps(1, 200, step)(meter, machine)
        assert first.result().energy_joules is None
        first.add(samples=1)

    session = metered(program, SMALL).session
    texts = session.events()["message"].tolist()
    assert any("no longer told one by one" in text for text in texts)
    assert any("no longer in memory" in text for text in texts)


def test_a_meter_inside_another_one_keeps_what_it_needs() -> None:
    """The rows are shared: what one meter has forgotten the other one may still need."""
    clock = FakeClock()
    backend = FakeBackend.with_power(clock, watts=100)
    long, short = fake_meter(backend, clock=clock), None
    with long:
        assert long.recorder.collected.chapters is not None
        long.recorder.collected.chapters.limits = Limits(rows=200, windows=100, context_seconds=1.0)
        advance(long, 5.0)
        short = EnergyMeter(backends=[backend], sampler=long._sampler)
        with short:
            advance(long, 30.0)
            assert long.session.recording.chapters
            assert all_rows(long) > 1500
        advance(long, 5.0)
        assert all_rows(long) < 400
    assert short.session.total().energy_joules == pytest.approx(3000, rel=1e-3)
    assert long.session.total().energy_joules == pytest.approx(4000, rel=1e-3)


def test_a_chapter_is_closed_on_a_thread_of_its_own() -> None:
    """Where the sampler has a thread, neither it nor the program waits for the arithmetic."""
    clock = FakeClock()
    meter = fake_meter(FakeBackend.with_power(clock, watts=100), clock=clock)
    threads: list[str] = []
    done = threading.Event()
    with meter:
        chapters = meter.recorder.collected.chapters
        assert chapters is not None
        chapters.limits = Limits(rows=200, windows=100, context_seconds=1.0)

        def note(_: object) -> None:
            threads.append(threading.current_thread().name)
            done.set()

        chapters.on_chapter = note
        sampler = meter._sampler
        assert isinstance(sampler, Sampler)
        advance(meter, 1.5)
        assert not threads
        sampler._threaded = True
        advance(meter, 5.0)
        assert done.wait(30)
        assert set(threads) == {"mlmeter-chapter"}
        sampler._threaded = False


def test_what_cannot_be_added_up_is_an_event_and_stays() -> None:
    """The metered program goes on, and nothing is lost."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        chapters = meter.recorder.collected.chapters
        assert chapters is not None

        def fail(end_ns: int) -> None:
            raise MemoryError

        chapters._close_chapter = fail  # type: ignore[method-assign]
        steps(1, 120, step)(meter, machine)

    session = metered(program, SMALL).session
    assert not session.recording.chapters
    assert any("could not be closed" in text for text in session.events()["message"])


def test_the_samples_of_the_past_are_thinned_and_exact() -> None:
    """What is kept of the time series is as it was."""
    short, whole = both(steps(2, 220, step))
    one, other = (
        session.samples().query("domain == 'fake-0'").set_index("time_seconds") for session in (short, whole)
    )
    assert one.index.is_monotonic_increasing
    assert one["energy_joules"].is_monotonic_increasing
    for seconds, joules in one["energy_joules"].items():
        near = other.index.get_indexer([seconds], method="nearest")[0]
        if abs(other.index[near] - seconds) < 1e-9:
            assert joules == pytest.approx(other["energy_joules"].iloc[near], rel=1e-7, abs=1e-6)


def test_a_month_of_samples_has_a_bounded_number() -> None:
    """Thinning again what has been thinned gives the same as thinning everything at once."""
    import numpy as np

    seconds = np.arange(0, 40_000.0, 0.5)
    once = thinned(seconds, seconds * 2)
    early = thinned(seconds[:30_000], seconds[:30_000] * 2)
    again = thinned(np.append(early[0], seconds[30_000:]), np.append(early[1], seconds[30_000:] * 2))
    assert len(once[0]) <= MOST_SAMPLES
    assert once[0].tolist() == again[0].tolist()
    assert once[0][0] == 0
    assert once[0][-1] == seconds[-1]
    assert 30 * 86_400 / step_seconds(30 * 86_400) <= MOST_SAMPLES


def test_a_session_with_chapters_can_be_saved_and_loaded(tmp_path: Path) -> None:
    """All tables but the windows of the past."""
    short = metered(steps(3, 220, step), SMALL).session
    again = load(short.save(tmp_path))
    for table in ("phases", "window_names", "windows", "bursts", "domains", "samples", "events"):
        assert again.records(table) == short.records(table), table


def test_the_journal_of_a_session_with_chapters_has_all_of_it(tmp_path: Path) -> None:
    """Every reading and every window, also those that are no longer in memory."""
    meter = metered(steps(3, 220, step), SMALL, output_dir=tmp_path)
    assert meter.session.recording.chapters
    assert meter.run_directory is not None
    again = load(meter.run_directory, everything=True)
    assert not again.recording.chapters
    whole = metered(steps(3, 220, step), LARGE).session
    assert len(again.recording.windows) == len(whole.recording.windows)
    for (_, one), (_, other) in zip(again.recording.domains, whole.recording.domains, strict=True):
        assert one.counts == other.counts
    for table in ("phases", "window_names"):
        mine, theirs = again.records(table), whole.records(table)
        assert [row["energy_joules"] for row in mine] == pytest.approx(
            [row["energy_joules"] for row in theirs], rel=1e-9
        )
        assert [row["windows"] for row in mine] == [row["windows"] for row in theirs]


def test_the_journal_of_a_session_with_chapters_is_read_from_the_last_one_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are those of the session; what the sums hold already is not even decoded."""
    monkeypatch.setattr("mlmeter.journal.file.MERGED_BATCHES", 3)
    taken: list[int] = []
    take = Decoder.take

    def counted(decoder: Decoder, blob: bytes) -> int:
        taken.append(1)
        return take(decoder, blob)

    monkeypatch.setattr(Decoder, "take", counted)
    meter = metered(steps(3, 220, step), SMALL, output_dir=tmp_path)
    assert meter.run_directory is not None
    again = load(meter.run_directory)
    read = len(taken)
    assert again.recording.chapters
    for table in TABLES:
        assert again.records(table) == meter.session.records(table), table
    load(meter.run_directory, everything=True)
    assert read < (len(taken) - read) / 2


def test_a_killed_session_with_chapters_is_recovered(tmp_path: Path) -> None:
    """From the sums of its past and the readings since."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        steps(3, 220, step)(meter, machine)
        shutil.copytree(next((tmp_path / "runs").iterdir()), tmp_path / "killed")

    whole = metered(program, SMALL, output_dir=tmp_path / "runs").session
    killed = recover(tmp_path / "killed")
    assert killed.recording.chapters
    assert whole.duration_seconds - killed.duration_seconds < 2
    mine, theirs = (session.recording.chapters[0] for session in (killed, whole))
    assert mine.end_ns <= theirs.end_ns
    names = {row["name"]: row["windows"] for row in killed.records("window_names")}
    assert names["step"] >= 170


def test_a_journal_that_becomes_too_large_drops_its_oldest_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sums stay; who wants everything is told that it is not there."""
    monkeypatch.setattr("mlmeter.journal.file.MERGED_BATCHES", 3)
    monkeypatch.setattr("mlmeter.journal.live_journal.MOST_BYTES", 10_000)
    meter = metered(steps(3, 220, step), SMALL, output_dir=tmp_path)
    assert meter.run_directory is not None
    again = load(meter.run_directory)
    assert again.records("phases") == meter.session.records("phases")
    assert any("oldest readings are dropped" in event["message"] for event in again.records("events"))
    with pytest.raises(RunFileError, match="were dropped"):
        load(meter.run_directory, everything=True)


def test_the_page_of_a_session_with_chapters_can_be_made(tmp_path: Path) -> None:
    """Tables, power and windows of a run whose past is sums."""
    session = metered(steps(3, 220, step), SMALL).session
    session.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "epoch" in text
    assert "no longer told one by one" in text


def test_a_journal_that_has_missed_something_is_written_as_a_whole(tmp_path: Path) -> None:
    """Somebody removes the directory in mid-run: the sums of the past are not lost."""

    def program(meter: EnergyMeter, machine: Machine) -> None:
        steps(3, 150, step)(meter, machine)
        assert meter.session.recording.chapters
        shutil.rmtree(next(tmp_path.iterdir()))
        steps(4, 60, step)(meter, machine)

    meter = metered(program, SMALL, output_dir=tmp_path)
    assert meter.run_directory is not None
    again = load(meter.run_directory)
    assert again.recording.chapters
    assert again.records("phases") == meter.session.records("phases")


def test_bursts_and_shares_and_gauges_have_chapters() -> None:
    """A process' part of a counter and of a gauge."""
    clock = FakeClock(start_ns=10**9)
    domains = [
        fake_domain(name="package-0"),
        fake_domain(name="gpu-0", kind="gpu", joules_per_count=None, watts_per_count=1.0, cheap_read=False),
    ]
    sessions = []
    for limits in (SMALL, LARGE):
        clock = FakeClock(start_ns=10**9)
        backend = FakeBackend(domains, [lambda ns: 90 * ns // 1000, 200], clock)
        meter = fake_meter(backend, clock=clock, scope="process")
        with meter:
            assert meter.recorder.collected.chapters is not None
            meter.recorder.collected.chapters.limits = limits
            for _ in range(150):
                with meter.inference("call"):
                    clock.advance(0.1)
                advance(meter, 0.05)
        sessions.append(meter.session)
    short, whole = sessions
    assert short.recording.chapters
    one, other = short.records("bursts"), whole.records("bursts")
    assert [row["energy_joules"] for row in one if row["domain"] == "gpu-0"] == pytest.approx(
        [row["energy_joules"] for row in other if row["domain"] == "gpu-0"], rel=0.02
    )
    by_part = {(row["domain"], row["part"]): row["energy_joules"] for row in short.records("shares")}
    for domain, joules in (("package-0", 90 * 22.5), ("gpu-0", 200 * 22.5)):
        parts = [part or 0.0 for (name, _), part in by_part.items() if name == domain]
        assert sum(parts) == pytest.approx(joules, rel=1e-2)


def test_names_phases_and_threads_without_end_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of its own name, or thread, for each of ten million steps."""
    for limit in ("MOST_LABELS", "MOST_PHASES", "MOST_THREADS"):
        monkeypatch.setattr(window_log, limit, 3)
    noted: list[str] = []
    log = WindowLog(lambda kind, message: noted.append(message))
    numbers = [log.label_number(f"step {number}", "training") for number in range(10)]
    assert len(set(numbers)) == 4
    assert numbers[3:] == [3] * 7
    phases = {log.label_number("step 0", f"phase {number}") for number in range(10)}
    assert len(phases) <= 4
    threads = [log._thread_number(ident) for ident in range(10)]
    assert threads[3:] == [3] * 7
    assert len({text.split(":")[0] for text in noted}) == 3


def test_remarks_of_a_domain_are_bounded() -> None:
    """A fault that comes again for weeks; the last remark says that there were more."""
    remarks = Remarks()
    for number in range(2 * MOST_REMARKS):
        remarks.append(Remark(number, "gap", f"gap {number}"))
    assert len(remarks) == MOST_REMARKS
    assert "not kept" in remarks[-1].message


def test_work_and_metrics_that_were_told_chapters_ago_are_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a window that is still open, and of one that has ended but that another one was opened in."""
    monkeypatch.setattr("mlmeter.journal.file.MERGED_BATCHES", 3)
    killed: list[Path] = []

    def program(meter: EnergyMeter, machine: Machine) -> None:
        outer = meter.training("outer", samples=3)
        outer.__enter__()
        task = meter.inference("task")
        task.__enter__()
        outer.__exit__(None, None, None)
        outer.add(samples=4)
        with meter.training("run", samples=1) as run:
            run.metric(loss=1.0)
            steps(12, 300, step)(meter, machine)
            run.metric(accuracy=0.5)
            advance(meter, 2.0)
            (directory,) = (tmp_path / "runs").glob("*/")
            killed.append(Path(shutil.copytree(directory, tmp_path / "killed" / directory.name)))
        task.__exit__(None, None, None)

    meter = metered(program, SMALL, output_dir=tmp_path / "runs")
    assert meter.run_directory is not None
    for session in (meter.session, load(meter.run_directory), load(killed[0])):
        assert session.recording.chapters
        rows = {row["name"]: row for row in session.records("windows") if row["scope"] == "inclusive"}
        assert rows["outer"]["samples"] == 7
        assert (rows["run"]["samples"], rows["run"]["metric_loss"]) == (1, 1.0)
        assert rows["run"]["metric_accuracy"] == 0.5
    assert load(meter.run_directory).records("windows") == meter.session.records("windows")
