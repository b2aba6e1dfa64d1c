"""The immutable result of a metered run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mlmeter.errors import ArgumentError
from mlmeter.measurement import KINDS, Energy
from mlmeter.recording import AS_METERED, ELECTRICITY, SESSION_ROW, TABLES, TOTAL, Recording

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from mlmeter.analysis.figure import Figure
    from mlmeter.analysis.lifecycle import Lifecycle
    from mlmeter.impact import CarbonProvider, Embodied, Factor, Impact, IntensitySeries
    from mlmeter.report.page.impact_section import ImpactOfSession


class Session:
    """What one metered run found: energies by phase and window, domains, events.

    Got from `EnergyMeter.session` or `mlmeter.load`. The methods that return frames import
    pandas; the others do not.

    Example:
        >>> from mlmeter import EnergyMeter
        >>> with EnergyMeter(name="example") as meter:
        ...     pass
        >>> meter.session.name
        'example'
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    @property
    def id(self) -> str:
        """Unique name of the run."""
        return self._recording.run.id

    @property
    def name(self) -> str:
        """Name given to the meter."""
        return self._recording.run.name

    @property
    def finished(self) -> bool:
        """False for the snapshot of a meter that is still running."""
        return self._recording.run.finished

    @property
    def duration_seconds(self) -> float:
        """Length of the run in seconds."""
        return self._recording.run.duration_seconds

    @property
    def recording(self) -> Recording:
        """The raw readings, windows and events from which every number is computed."""
        return self._recording

    def phases(self) -> pd.DataFrame:
        """Return one row per phase and domain, and a domain ``total`` per phase."""
        return self._frame("phases")

    def windows(self) -> pd.DataFrame:
        """Return one row per window, domain and scope; window 0 is the session itself.

        Of a very long session only the windows of late are told one by one; an event says so.
        """
        return self._frame("windows")

    def window_names(self) -> pd.DataFrame:
        """Return windows of one name and phase pooled: count, total, mean, per unit of work."""
        return self._frame("window_names")

    def bursts(self) -> pd.DataFrame:
        """Return windows that follow each other closely, as in a tight loop, pooled by name and phase.

        The energy of a whole run of calls, gaps included, is known where that of one call is not:
        ``joules_per_window`` is right to a few tenths of a percent.
        """
        return self._frame("bursts")

    def domains(self) -> pd.DataFrame:
        """Return one row per domain, also for those that could not be read, with the reason."""
        return self._frame("domains")

    def shares(self) -> pd.DataFrame:
        """Return, with ``scope="process"``, one row per domain and part of its energy.

        The parts are ``process`` (this process and its children), ``others``, ``idle`` and
        ``unattributed``; they add up to the energy of the domain. Without rows for the whole machine.
        """
        return self._frame("shares")

    def samples(self) -> pd.DataFrame:
        """Return the time series: joules since the start and watts of each domain."""
        return self._frame("samples")

    def events(self) -> pd.DataFrame:
        """Return warnings, gaps, resets and losses in order of time."""
        return self._frame("events")

    def total(self, kind: str | None = None) -> Energy:
        """Return the energy of the session: packages, DRAM and GPUs, nothing twice.

        With ``scope="process"`` that of this process and its children.

        Args:
            kind: only domains of this kind, such as ``"gpu"``.

        Raises:
            ArgumentError: there is no such kind, or it is ``"other"``, which has no sum.
        """
        return self.window_energy(SESSION_ROW, kind)

    def window_energy(self, row: int, kind: str | None = None) -> Energy:
        """Return the energy of one window, children included.

        Args:
            row: position among the windows in order of opening, from 1; 0 is the session. Of a very long
                session only windows of late have one.
            kind: as for `total`.

        Raises:
            ArgumentError: there is no such kind.
        """
        from mlmeter.chapters.whole import results
        from mlmeter.energy.columns import energy_value

        if kind == "other":
            raise ArgumentError('kind="other": such sensors can contain each other; see domains()')
        if kind is not None and kind not in KINDS:
            raise ArgumentError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
        spans = TOTAL if row == SESSION_ROW else "inclusive"
        return energy_value(results(self._recording).total(spans, kind), row)

    def impact(
        self,
        grid: str | float | Factor | IntensitySeries | CarbonProvider | None = None,
        *,
        pue: float | str | None = None,
        price: str | Factor | None = None,
        embodied: float | Mapping[str, float] | Embodied | None = None,
        water: float | str | None = None,
        fallback: str | float | Factor | None = None,
    ) -> Impact:
        """Return emissions, money and water of the session, every factor with year and source.

        Grid, PUE and price that were named at the meter hold where they are not named here.

        Args:
            grid: where the electricity came from: a country (``"DE"``), a state of the US (``"US-CA"``), a
                cloud region (``"aws:eu-west-1"``), or grams of CO2e per kWh; a `Factor` with a source of
                your own; an `IntensitySeries` or a provider for intensity over time. The place is never
                guessed: without one, here or at the meter, emissions are a range over the world's grids.
            pue: energy of the data centre / energy of its computers: a number from 1, or an id of the
                shipped table such as ``"world"``; without one cooling and losses are left out.
            price: of a kWh: ``"0.30 EUR"``, or a place of the shipped table such as ``"DE"``.
            embodied: hardware that the program had to itself: kilograms of CO2e of its manufacture, pieces
                such as ``{"gpu_h100_sxm": 8}``, or an `Embodied` with lifetime and share.
            water: litres per kWh, or an id of the shipped table such as ``"us"``.
            fallback: what stands in, labelled, for a provider that gives nothing or a series that does
                not cover the run.

        Raises:
            ArgumentError: a place is not known, a factor is negative or absurd, or a series does not
                cover the run and there is no fallback.
            ProviderError: the provider gives nothing, and there is no fallback.
        """
        from mlmeter.impact.of_session import impact_of

        return impact_of(
            self._recording,
            grid,
            pue=pue,
            price=price,
            embodied=embodied,
            water=water,
            fallback=fallback,
        )

    def lifecycle(
        self,
        *,
        expected_inferences: float | None = None,
        unit: str | None = None,
        phases: Mapping[str, str] | None = None,
    ) -> Lifecycle:
        """Return training against inference: shares, joules per inference, break-even count.

        `mlmeter.lifecycle` does the same over many sessions and says what the arguments mean.

        Raises:
            ArgumentError: see `mlmeter.lifecycle`.
        """
        from mlmeter.analysis.lifecycle import lifecycle

        return lifecycle(self, expected_inferences=expected_inferences, unit=unit, phases=phases)

    def efficiency(self) -> pd.DataFrame:
        """Return energy per unit of work, one row per phase, name of windows and unit.

        With Wh per thousand, energy-delay products of a window, and mean, 95th percentile and peak power.
        The columns are described on the page of tables. Of a very long session the powers over time are
        not known: `load` with ``everything=True`` tells them.
        """
        from mlmeter.analysis.efficiency import efficiency

        return efficiency(self)

    def energy_to(self, metric: str, target: float, *, falling: bool = False) -> Figure:
        """Return the energy from the start until a metric reached a target, linear between evaluations.

        Args:
            metric: what windows recorded, as in ``window.metric(accuracy=0.91)``.
            target: the value to reach.
            falling: True for a metric that is better the lower it is, such as a loss.

        Returns:
            joules; without a value, and with the reason, where the target was not reached or of a very long
            session only sums are in memory: `load` with ``everything=True`` tells it.

        Raises:
            ArgumentError: no window has the metric, or the target is no number.
        """
        from mlmeter.analysis.target import energy_to

        return energy_to(self, metric, target, falling=falling)

    def summary(self) -> str:
        """Return the table of phases and domains with intervals, provenance and warnings.

        With emissions and cost where the meter was told a grid, a PUE or a price.
        """
        from mlmeter.report.summary import summary_text

        return summary_text(self._recording, self._impact_text())

    def to_csv(self, path: str | os.PathLike[str] | IO[str], table: str = "phases") -> None:
        """Write one table as CSV; an absent number is an empty cell.

        Args:
            path: file to write, replaced only when the new one is complete; or an open text file.
            table: ``"phases"``, ``"windows"``, ``"window_names"``, ``"bursts"``, ``"domains"``,
                ``"shares"``, ``"samples"`` or ``"events"``.

        Raises:
            ArgumentError: there is no such table.
            OSError: the file cannot be written.
        """
        from mlmeter.report.csv_tables import write_table

        write_table(self._table(table), path)

    def to_parquet(self, path: str | os.PathLike[str], table: str = "phases") -> None:
        """Write one table as Parquet.

        Raises:
            ImportError: the extra ``mlmeter[parquet]`` is not installed.
        """
        try:
            import pyarrow  # noqa: F401  # pandas would name several engines
        except ImportError as error:
            raise ImportError('Parquet needs pyarrow: pip install "mlmeter[parquet]"') from error
        self._frame(table).to_parquet(path)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return all tables but the samples as JSON, and write them to `path` if given."""
        from mlmeter.report.json_tables import tables_json
        from mlmeter.whole_files import writing

        text = tables_json(self._recording)
        if path is not None:
            with writing(Path(path)) as file:
                file.write(text)
        return text

    def to_html(self, path: str | os.PathLike[str], *, impact: ImpactOfSession | None = None) -> None:
        """Write the report page: one HTML file with everything in it, that opens without a network.

        Args:
            path: file to write, replaced only when the new one is complete.
            impact: what the energy means, to be shown with its factors; None for that of the grid, PUE and
                price named at the meter. Where none was, there is no such section.

        Raises:
            ArgumentError: `impact` is something else.
            OSError: the file cannot be written.
        """
        from mlmeter.report.page.document import page_html
        from mlmeter.whole_files import writing

        if impact is not None and not hasattr(impact, "records"):
            raise ArgumentError(f"impact={impact!r}: expected what session.impact(...) returns")
        if impact is None and ELECTRICITY in self._recording.run.facts:
            from mlmeter.impact.of_session import impact_as_metered

            impact = impact_as_metered(self._recording)
        text = page_html(self._recording, impact)
        with writing(Path(path)) as file:
            file.write(text)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw power over time with the phases shaded; the ending of the file chooses PNG, SVG or PDF.

        Raises:
            ImportError: the extra ``mlmeter[plots]`` is not installed.
            OSError: the file cannot be written.
            ArgumentError: no picture has such an ending.
        """
        from mlmeter.report.power_plot import plot_power

        plot_power(self._recording, Path(path))

    def records(self, table: str = "phases") -> list[dict[str, Any]]:
        """Return a table's rows as dictionaries of plain values; needs no pandas.

        Raises:
            ArgumentError: there is no such table.
        """
        from mlmeter.report.json_tables import plain_records

        return plain_records(self._table(table))

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the run directory, raw readings included, and return its path.

        Raises:
            OSError: a file cannot be written.
        """
        from mlmeter.report.run_directory import write_run_directory

        write_run_directory(self._recording, Path(directory))
        return Path(directory)

    def recompute(
        self,
        *,
        baseline: str | os.PathLike[str] | Mapping[str, Any] | None = AS_METERED,
        base_phase: str | None = None,
        phases: Mapping[str, str] | None = None,
    ) -> Session:
        """Return the session as computed again from its raw readings, with other settings.

        Args:
            baseline: as for `EnergyMeter`; unless given, what the session was metered with.
            base_phase: label of the time in no window.
            phases: new labels of windows, by old label.

        Raises:
            ArgumentError: an argument is wrong, or the baseline does not fit the session.
        """
        from mlmeter.recomputation import recomputed

        return Session(recomputed(self._recording, base_phase, phases, baseline))

    def _table(self, name: str) -> Any:
        from mlmeter.chapters.tables import build_table

        if name not in TABLES:
            raise ArgumentError(f"table={name!r}: expected one of {', '.join(TABLES)}")
        return build_table(self._recording, name)

    def _frame(self, name: str) -> pd.DataFrame:
        frame: pd.DataFrame = self._table(name).to_frame()
        return frame

    def _repr_html_(self) -> str:
        from mlmeter.report.summary import summary_html

        return summary_html(self._recording, self._impact_text())

    def _impact_text(self) -> str:
        """Return emissions and cost with the factors named at the meter; an empty text without any."""
        if ELECTRICITY not in self._recording.run.facts:
            return ""
        from mlmeter.impact.of_session import impact_as_metered
        from mlmeter.impact.text import short_text

        impact = impact_as_metered(self._recording)
        # Of no energy nothing follows, and the notes say why there is none.
        return "" if impact is None or impact.energy.low is None else short_text(impact)

    def __repr__(self) -> str:
        return f"<Session {self.name!r}: {self.duration_seconds:.3f} s, {self.total()}>"


def load(path: str | os.PathLike[str], *, everything: bool = False) -> Session:
    """Load a session from its run directory; all numbers are computed again from the readings.

    Of a run whose program was killed it is the session up to the last reading; see `recover`.

    Args:
        path: the run directory.
        everything: compute the past of a long session from its readings again, too, with a row for each
            window, in place of the sums that were kept of it. Needs about a gigabyte for a day of
            twenty domains.

    Raises:
        RunFileError: a file is missing, damaged or of a newer version.
    """
    from mlmeter.report.run_directory import read_run_directory

    return Session(read_run_directory(path, everything=everything))


def recover(path: str | os.PathLike[str]) -> Session:
    """Finish the files of a run whose program was killed, and return its session.

    Everything that had been read up to a second before the end is there; windows that were open end
    with the last reading and are marked ``unfinished``. A run that is complete is only loaded.

    Args:
        path: the run directory.

    Raises:
        RunFileError: the journal is missing, damaged, or still being written.
        OSError: a file cannot be written.
    """
    from mlmeter.report.recovery import recover_run

    return Session(recover_run(path))
