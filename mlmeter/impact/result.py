"""The impact of a session: emissions, money and water, with every factor that went into them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlmeter.errors import ArgumentError
from mlmeter.impact.conversion import PER_FACILITY, ImpactFactors
from mlmeter.impact.equivalences import Equivalence, equivalences
from mlmeter.impact.factors import GRAMS, Amount, Factor, kilowatt_hours
from mlmeter.impact.money import currency_of
from mlmeter.measurement import Energy

if TYPE_CHECKING:
    import pandas as pd

    from mlmeter.impact.sci import SciScore

SESSION = "session"
LITRES = "l"


@dataclass(frozen=True, slots=True)
class PhaseImpact:
    """Impact of one phase, or of the whole session.

    Attributes:
        phase: its label, or ``"session"``.
        duration_seconds: its time.
        metered: its energy as metered.
        factors: what turns that into the rest.
        units: counts of work, such as ``{"samples": 1000.0}``.
    """

    phase: str
    duration_seconds: float
    metered: Energy
    factors: ImpactFactors
    units: Mapping[str, float] = field(default_factory=dict)

    @property
    def energy(self) -> Amount:
        """Metered energy in kWh, without PUE."""
        return kilowatt_hours(self.metered.energy_joules, self.metered.low_joules, self.metered.high_joules)

    @property
    def facility_energy(self) -> Amount:
        """Energy of the data centre in kWh: metered * PUE; the metered one without a PUE."""
        return self._with_pue(self.energy)

    @property
    def operational_without_pue(self) -> Amount:
        """Emissions of the metered electricity, gCO2e."""
        return self.energy.times(self.factors.grid, GRAMS)

    @property
    def operational(self) -> Amount:
        """Emissions of electricity, gCO2e, with PUE if one was given."""
        return self._with_pue(self.operational_without_pue)

    @property
    def embodied(self) -> Amount | None:
        """Share of the emissions of manufacture, gCO2e; None if no hardware was named."""
        if self.factors.embodied is None:
            return None
        seconds = Amount(self.duration_seconds, self.duration_seconds, self.duration_seconds, "s")
        return seconds.times(self.factors.embodied, GRAMS)

    @property
    def carbon(self) -> Amount:
        """All emissions that are known, gCO2e: of electricity, and of manufacture if it was named."""
        return self.operational if self.embodied is None else self.operational.plus(self.embodied)

    @property
    def cost_without_pue(self) -> Amount | None:
        """Price of the metered electricity; None without a price."""
        price = self.factors.price
        return None if price is None else self.energy.times(price, currency_of(price))

    @property
    def cost(self) -> Amount | None:
        """Price of the electricity, with PUE if one was given; None without a price."""
        return None if self.cost_without_pue is None else self._with_pue(self.cost_without_pue)

    @property
    def water(self) -> Amount | None:
        """Litres of water; None if no figure was named."""
        water = self.factors.water
        if water is None:
            return None
        energy = self.facility_energy if water.unit == PER_FACILITY else self.energy
        return energy.times(water, LITRES)

    def quantities(self) -> list[tuple[str, Amount, tuple[Factor, ...]]]:
        """Return name, amount and factors of all that is known."""
        grid, pue = self.factors.grid, self.factors.pue
        with_pue = () if pue is None else (pue,)
        rows: list[tuple[str, Amount | None, tuple[Factor | None, ...]]] = [
            ("metered_energy", self.energy, ()),
            ("facility_energy", None if pue is None else self.facility_energy, with_pue),
            ("operational_without_pue", None if pue is None else self.operational_without_pue, (grid,)),
            ("operational", self.operational, (grid, *with_pue)),
            ("embodied", self.embodied, (self.factors.embodied,)),
            ("carbon", self.carbon, (grid, *with_pue, self.factors.embodied)),
            ("cost_without_pue", None if pue is None else self.cost_without_pue, (self.factors.price,)),
            ("cost", self.cost, (self.factors.price, *with_pue)),
            ("water", self.water, (self.factors.water,)),
        ]
        return [
            (name, amount, tuple(factor for factor in factors if factor is not None))
            for name, amount, factors in rows
            if amount is not None
        ]

    def _with_pue(self, amount: Amount) -> Amount:
        pue = self.factors.pue
        return amount if pue is None else amount.times(pue, amount.unit)


@dataclass(frozen=True)
class Impact:
    """What a session emitted and cost; got from `Session.impact`.

    Example:
        >>> from mlmeter.testing import FakeBackend, FakeClock, advance, fake_meter
        >>> clock = FakeClock()
        >>> with fake_meter(FakeBackend.with_power(clock, watts=1000.0), clock=clock) as meter:
        ...     advance(meter, 3600.0, step_seconds=60.0)
        >>> impact = meter.session.impact(grid="FR", pue=1.2, price="0.20 EUR")
        >>> print(impact.cost)
        0.24 EUR, in 0.24 .. 0.24 EUR

    Attributes:
        session: id of the run.
        name: name of the run.
        whole: impact of the whole session.
        phases: impact of each phase.
        notes: what a reader of the numbers must know.
        facts: machine and time of the run, for exports.
    """

    session: str
    name: str
    whole: PhaseImpact
    phases: tuple[PhaseImpact, ...]
    notes: tuple[str, ...]
    facts: RunFacts

    @property
    def factors(self) -> ImpactFactors:
        """Factors of the whole session, each with year and source."""
        return self.whole.factors

    @property
    def energy(self) -> Amount:
        """Metered energy of the session in kWh, without PUE."""
        return self.whole.energy

    @property
    def facility_energy(self) -> Amount:
        """Energy of the data centre in kWh: metered * PUE."""
        return self.whole.facility_energy

    @property
    def operational(self) -> Amount:
        """Emissions of electricity, gCO2e, with PUE if one was given."""
        return self.whole.operational

    @property
    def embodied(self) -> Amount | None:
        """Share of the emissions of manufacture, gCO2e; None if no hardware was named."""
        return self.whole.embodied

    @property
    def carbon(self) -> Amount:
        """All emissions that are known, gCO2e: of electricity, and of manufacture if it was named."""
        return self.whole.carbon

    @property
    def cost(self) -> Amount | None:
        """Price of the electricity, with PUE if one was given; None without a price."""
        return self.whole.cost

    @property
    def water(self) -> Amount | None:
        """Litres of water; None if no figure was named."""
        return self.whole.water

    @property
    def grams_per_joule(self) -> float | None:
        """Grams of CO2e of a metered joule, PUE included; None if the grid is only a range."""
        return self.factors.grams_per_joule

    @property
    def money_per_joule(self) -> float | None:
        """Price of a metered joule, PUE included; None without a price."""
        return self.factors.money_per_joule

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of `frame` as dictionaries; needs no pandas."""
        return [
            {
                "session": self.session,
                "phase": part.phase,
                "quantity": name,
                "value": amount.value,
                "low": amount.low,
                "high": amount.high,
                "unit": amount.unit,
                "energy_resolved": part.metered.resolved,
                "energy_provenance": None
                if part.metered.provenance is None
                else str(part.metered.provenance),
                "factors": "; ".join(map(str, factors)),
            }
            for part in (*self.phases, self.whole)
            for name, amount, factors in part.quantities()
        ]

    def frame(self) -> pd.DataFrame:
        """Return one row per phase and quantity, the session last: value, interval, unit, factors."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def factor_records(self) -> list[dict[str, Any]]:
        """Return one dictionary per factor: name, value, range, unit, place, year, source, basis, licence."""
        names = ("name", "value", "low", "high", "unit", "place", "year", "source", "basis", "licence")
        return [{name: getattr(factor, name) for name in names} for factor in self.factors.all]

    def equivalences(self) -> tuple[Equivalence, ...]:
        """Return what the emissions and the energy are as much as, such as km in a car."""
        return equivalences(self.carbon, self.facility_energy)

    def equivalence_records(self) -> list[dict[str, Any]]:
        """Return `equivalences` as dictionaries: name, value, low, high, and what one is, year and source."""
        return [
            {
                "name": item.name,
                "value": item.amount.value,
                "low": item.amount.low,
                "high": item.amount.high,
                "energy_resolved": self.whole.metered.resolved,
                "factor": f"{item.each} ({item.factor.year}, {item.factor.source})",
            }
            for item in self.equivalences()
        ]

    def sci(
        self, unit: str, count: float | None = None, *, boundary: str = "consumer", phases: Sequence[str] = ()
    ) -> SciScore:
        """Return the software carbon intensity (ISO/IEC 21031): emissions of one unit of work.

        Args:
            unit: functional unit, such as ``"tokens"`` or ``"requests"``.
            count: how many were done; None to take what the windows of these phases counted.
            boundary: ``"consumer"`` (phase inference) or ``"provider"`` (training, evaluation and data)
                of SCI for AI, or ``"all"``.
            phases: the phases to take instead of those of the boundary.

        Raises:
            ArgumentError: there is no such boundary or phase in the session, or no count.
        """
        from mlmeter.impact.sci import sci_score

        return sci_score(self, unit, count, boundary=boundary, phases=phases)

    def model_card(self, **fields: str) -> dict[str, Any]:
        """Return the ``co2_eq_emissions`` of a Hugging Face model card.

        Args:
            fields: ``training_type`` (``"pre-training"`` or ``"fine-tuning"``),
                ``geographical_location``, ``hardware_used`` or ``source``, where what mlmeter knows is
                not enough.

        Raises:
            ArgumentError: there is no such field, or only a range of emissions is known.
        """
        from mlmeter.impact.exports import model_card

        return model_card(self, fields)

    def energy_score(self, *, model: str, task: str, queries: float | None = None) -> dict[str, Any]:
        """Return the fields of AI Energy Score: GPU energy of 1,000 queries.

        Args:
            model: name of the model.
            task: such as ``"text_generation"``.
            queries: how many were answered; None to take ``requests``, ``queries`` or ``samples`` of the
                phase inference.

        Raises:
            ArgumentError: no GPU was metered, or there is no count.
        """
        from mlmeter.impact.exports import energy_score

        return energy_score(self, model, task, queries)

    def to_codecarbon_csv(self, path: str | os.PathLike[str]) -> None:
        """Append a row to an ``emissions.csv`` as CodeCarbon writes it; what is not known stays empty.

        Raises:
            ArgumentError: there is a file of other columns, or only a range of emissions is known.
            OSError: the file cannot be written.
        """
        from mlmeter.impact.exports import append_codecarbon_row

        append_codecarbon_row(self, path)

    def summary(self) -> str:
        """Return tables of quantities, phases and equivalences, the factors and the notes, as text."""
        from mlmeter.impact.text import impact_text

        return impact_text(self)

    def __repr__(self) -> str:
        return f"<Impact of {self.name!r}: {self.carbon}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What exports say about machine and time beside the numbers.

    Attributes:
        start: of the run, ISO 8601 with time zone.
        scope: ``"machine"`` or ``"process"``.
        joules_by_kind: energy of CPUs, memory and GPUs; None where nothing was read.
        models: names of the devices by kind.
        host: facts about host and software of the manifest.
        grid_name: the place as the user named it; empty if none was.
    """

    start: str
    scope: str
    joules_by_kind: Mapping[str, float | None]
    models: Mapping[str, tuple[str, ...]]
    host: Mapping[str, Any]
    grid_name: str = ""


def total_carbon(impacts: Sequence[Impact]) -> Amount:
    """Add the emissions of several sessions, such as training and serving.

    Raises:
        ArgumentError: there are none.
    """
    return _total([impact.carbon for impact in impacts])


def total_cost(impacts: Sequence[Impact]) -> Amount:
    """Add what several sessions cost.

    Raises:
        ArgumentError: there are none, one has no price, or they have different currencies.
    """
    costs = []
    for impact in impacts:
        if impact.cost is None:
            raise ArgumentError(f"the impact of {impact.name!r} has no price: give price= to all of them")
        costs.append(impact.cost)
    return _total(costs)


def _total(amounts: Sequence[Amount]) -> Amount:
    if not amounts:
        raise ArgumentError("no impacts were given")
    first, *others = amounts
    for other in others:
        first = first.plus(other)
    return first
