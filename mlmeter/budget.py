"""Budgets of energy, and training that stops when more energy gains too little; for any framework.

budget = EnergyBudget(joules=50_000, on_exceed="stop")
with EnergyMeter() as meter:
    for batch in budget.limit(loader):
        step(batch)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from mlmeter.errors import ArgumentError, BudgetWarning, NothingMeteredWarning
from mlmeter.event_log import frames_of_ours
from mlmeter.live import LiveSession
from mlmeter.measurement import COUNTED_KINDS, Energy
from mlmeter.meter import active_meter, active_recorder
from mlmeter.report.text import number
from mlmeter.units import NANOSECONDS_PER_SECOND

Item = TypeVar("Item")

WARN, STOP = "warn", "stop"
_SOURCES = {
    "grams_co2e": "factors= or a meter that have it, as EnergyMeter(grid=...) with a place has",
    "money": "factors= or a meter that have it, as EnergyMeter(price=...) has",
}
# To look at the energy of a long session takes a while: at most this share of the time goes there.
MOST_SHARE = 0.01
# A session that has just begun has no energy yet.
PATIENCE_SECONDS = 1.0


class Metering(Protocol):
    """A meter."""

    @property
    def recorder(self) -> LiveSession:
        """What records its session."""


class _Spent:
    """The energy of a session so far, looked up not too often."""

    def __init__(self, meter: Metering | None, kind: str | None, check_seconds: float) -> None:
        if kind is not None and kind not in COUNTED_KINDS:
            raise ArgumentError(f"kind={kind!r}: expected one of {', '.join(COUNTED_KINDS)}, or None")
        if meter is not None and not hasattr(meter, "recorder"):
            raise ArgumentError(f"meter={meter!r}: expected an EnergyMeter, or None")
        self._meter, self._kind = meter, kind
        self._recorder: LiveSession | None = None
        self._period_ns = round(check_seconds * NANOSECONDS_PER_SECOND)
        self._next_ns: int | None = None
        self.energy, self.duration_seconds = Energy(energy_joules=None), 0.0

    @property
    def recorder(self) -> LiveSession:
        """The session that counts: of the given meter, else of the one that was active at the first look."""
        if self._recorder is None:
            self._recorder = active_recorder() if self._meter is None else self._meter.recorder
        return self._recorder

    def look(self, *, now: bool = False) -> Energy:
        """Return the energy, looked up again if that is due, or at once if `now`."""
        now_ns = self.recorder.now_ns()
        if now or self._next_ns is None or now_ns >= self._next_ns:
            self._look_up()
            cost_ns = self.recorder.now_ns() - now_ns
            self._next_ns = now_ns + max(self._period_ns, round(cost_ns / MOST_SHARE))
        return self.energy

    def _look_up(self) -> None:
        try:
            session = self.recorder.session()
            self.energy, self.duration_seconds = session.total(self._kind), session.duration_seconds
        except Exception as error:  # whatever goes wrong here, the user's loop goes on
            text = f"the energy could not be looked up: {type(error).__name__}: {error}"
            self.recorder.remark("budget", text)


class EnergyBudget:
    """A limit of energy, CO2e or money for a session, and what happens when it is exceeded.

    Looked at where the program asks: in `limit`, `exceeded` and `check`. Energy is that of the session since
    the start of its meter. Where no energy can be read a budget cannot be kept: it warns once and lets
    everything run.

    Args:
        joules: limit of energy.
        grams_co2e: limit of carbon dioxide equivalents; needs grams per joule.
        money: limit of cost; needs money per joule, in the same currency.
        grams_per_joule, money_per_joule: factors, everything that is to be in them included.
        factors: an object with attributes of these two names, in place of numbers; None for those of the
            meter that counts, if it was made with ``grid=`` or ``price=``.
        on_exceed: ``"warn"``: a `BudgetWarning`, once; ``"stop"``: `limit` ends its loop, too; or a function
            that is called once with the budget. What it raises reaches the loop.
        meter: whose energy counts; None for the meter that is active where the budget is first looked at, or
            is made if its factors are needed.
        kind: ``"cpu"``, ``"dram"`` or ``"gpu"``; None for all of them.
        check_seconds: least time between two looks at the energy.

    Attributes:
        limit_joules: the least of the limits, in joules.
        limit_text: that limit as it was given.

    Raises:
        ArgumentError: no limit, or one that is not a number above 0; a factor is missing; no such kind.

    Example:
        >>> budget = EnergyBudget(grams_co2e=10.0, grams_per_joule=1e-4)
        >>> round(budget.limit_joules)
        100000
    """

    def __init__(
        self,
        joules: float | None = None,
        *,
        grams_co2e: float | None = None,
        money: float | None = None,
        grams_per_joule: float | None = None,
        money_per_joule: float | None = None,
        factors: object = None,
        on_exceed: str | Callable[[EnergyBudget], object] = WARN,
        meter: Metering | None = None,
        kind: str | None = None,
        check_seconds: float = 1.0,
    ) -> None:
        if on_exceed not in (WARN, STOP) and not callable(on_exceed):
            raise ArgumentError(
                f'on_exceed={on_exceed!r}: expected "warn", "stop" or a function of one budget'
            )
        converted = (
            ("grams_co2e", grams_co2e, "grams_per_joule", grams_per_joule),
            ("money", money, "money_per_joule", money_per_joule),
        )
        if factors is None and any(given is not None and factor is None for _, given, _, factor in converted):
            # The meter whose factors they are must be the one whose energy counts.
            meter = active_meter() if meter is None else meter
            factors = getattr(meter, "factors", None)
        limits = [] if joules is None else [(_positive("joules", joules), f"{number(joules)} J")]
        for name, given, factor_name, factor in converted:
            if given is not None:
                limits.append(_converted(name, given, factor_name, factor, factors))
        if not limits:
            raise ArgumentError("a budget needs a limit: joules=, grams_co2e= or money=")
        self.limit_joules, self.limit_text = min(limits)
        self._on_exceed = on_exceed
        self._spent = _Spent(meter, kind, _not_negative("check_seconds", check_seconds))
        self._exceeded = self._told_nothing = False

    @property
    def spent(self) -> Energy:
        """Energy at the last look."""
        return self._spent.energy

    @property
    def used_ratio(self) -> float | None:
        """Energy at the last look / limit; None if no energy is known."""
        joules = self.spent.energy_joules
        return None if joules is None else joules / self.limit_joules

    @property
    def remaining_joules(self) -> float | None:
        """What was left at the last look, 0 if nothing; None if no energy is known."""
        joules = self.spent.energy_joules
        return None if joules is None else max(0.0, self.limit_joules - joules)

    @property
    def exceeded(self) -> bool:
        """Whether more than the limit has been used; looks at the energy if that is due."""
        return self._look(now=False)

    def check(self) -> bool:
        """Look at the energy now, and return whether more than the limit has been used."""
        return self._look(now=True)

    def limit(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and with ``on_exceed="stop"`` no more once the budget is exceeded.

        The energy of an item is known when it has been worked on, so a loop exceeds its budget by the energy
        of `check_seconds` or of one item, whichever is more.
        """
        for item in items:
            if self.exceeded and self._on_exceed == STOP:
                return
            yield item
        _ = self.exceeded

    def _look(self, *, now: bool) -> bool:
        if self._exceeded:
            return True
        joules = self._spent.look(now=now).energy_joules
        if joules is None:
            self._tell_nothing()
        elif joules > self.limit_joules:
            self._exceeded = True
            self._act()
        return self._exceeded

    def _act(self) -> None:
        text = f"budget of {self.limit_text} exceeded: {self.spent}"
        self._spent.recorder.remark("budget", text)
        if callable(self._on_exceed):
            self._on_exceed(self)
        else:
            _warn(text, BudgetWarning)

    def _tell_nothing(self) -> None:
        if not self._told_nothing and self._spent.duration_seconds >= PATIENCE_SECONDS:
            self._told_nothing = True
            _warn("no energy can be read: the budget cannot be kept", NothingMeteredWarning)

    def __repr__(self) -> str:
        used = "nothing known of it" if self.used_ratio is None else f"{self.used_ratio:.1%} used"
        return f"<EnergyBudget {self.limit_text}, {used}>"


class EnergyEarlyStopping:
    """Tells when training gains too little for its energy.

    After each evaluation it is told the metric. The gain per joule is counted from the last evaluation that
    was worth its energy; where it stays below the threshold for some evaluations in a row, training should
    stop. Where no energy is known it never says so.

    Args:
        min_gain_per_joule: threshold, in the metric's unit per joule: an accuracy (0 to 1) that must rise
            by 0.01 per 10 kJ has 1e-6.
        patience: evaluations in a row below the threshold before it stops.
        falling: True for a metric that is better the lower it is, such as a loss.
        meter: whose energy counts; None for the meter that is active at the first update.

    Attributes:
        stopped: whether training should stop.
        gain_per_joule: of the last evaluation; None before the second.

    Raises:
        ArgumentError: an argument is wrong.

    Example:
        >>> stopping = EnergyEarlyStopping(1e-4)
        >>> [stopping.update(accuracy, joules) for accuracy, joules in ((0.5, 100), (0.8, 200), (0.805, 300))]
        [False, False, True]
    """

    def __init__(
        self,
        min_gain_per_joule: float,
        *,
        patience: int = 1,
        falling: bool = False,
        meter: Metering | None = None,
    ) -> None:
        self._threshold = _not_negative("min_gain_per_joule", min_gain_per_joule)
        if type(patience) is not int or patience < 1:
            raise ArgumentError(f"patience={patience!r}: expected a whole number of 1 or more")
        self._patience, self._sign = patience, -1.0 if falling else 1.0
        self._spent = _Spent(meter, None, 0.0)
        self._reference: tuple[float, float] | None = None
        self._below = 0
        self.stopped = False
        self.gain_per_joule: float | None = None

    def update(self, value: float, joules: float | None = None) -> bool:
        """Take an evaluation into account, and return whether training should stop.

        Args:
            value: the metric; one that is no number counts as no gain.
            joules: energy used so far; None for that of the session.
        """
        energy = self._spent.look(now=True).energy_joules if joules is None else joules
        if energy is None or not math.isfinite(energy):
            return self.stopped
        value = self._sign * float(value)
        if self._reference is None:
            self._reference = (value, energy) if math.isfinite(value) else None
            return self.stopped
        before, joules_before = self._reference
        used = energy - joules_before
        if used <= 0:
            # The counter has not moved since: nothing can be said of this evaluation.
            return self.stopped
        self.gain_per_joule = (value - before) / used if math.isfinite(value) else 0.0
        if self.gain_per_joule >= self._threshold and value > before:
            self._reference, self._below = (value, energy), 0
        else:
            self._below += 1
            self.stopped = self.stopped or self._below >= self._patience
        return self.stopped


def _converted(
    name: str, limit: float, factor_name: str, factor: float | None, factors: object
) -> tuple[float, str]:
    """Return a limit of grams or money in joules, and as a text."""
    per_joule = getattr(factors, factor_name, None) if factor is None else factor
    if per_joule is None:
        raise ArgumentError(f"{name}={limit!r} needs {factor_name}=..., or {_SOURCES[name]}")
    currency = getattr(factors, "currency", None) if name == "money" and factor is None else None
    text = f"{name} {number(_positive(name, limit))}{f' {currency}' if currency else ''}"
    return limit / _positive(factor_name, per_joule), text


def _positive(name: str, value: Any) -> float:
    if _not_negative(name, value) == 0:
        raise ArgumentError(f"{name}={value!r}: expected a finite number above 0")
    return float(value)


def _not_negative(name: str, value: Any) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not usable or not math.isfinite(value) or value < 0:
        raise ArgumentError(f"{name}={value!r}: expected a finite number that is not negative")
    return float(value)


def _warn(text: str, category: type[BudgetWarning | NothingMeteredWarning]) -> None:
    """Warn at the line of the program; where warnings are errors it must still run."""
    try:
        warnings.warn(text, category, stacklevel=frames_of_ours() + 1)
    except (BudgetWarning, NothingMeteredWarning):
        return
