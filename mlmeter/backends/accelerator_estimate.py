"""Energy of accelerators that have no energy interface at all, from what their user knows of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from mlmeter.errors import ArgumentError, BackendUnavailableError
from mlmeter.measurement import Domain, Failure, Provenance, Reading
from mlmeter.units import JOULES_PER_MICROJOULE, SECONDS_PER_NANOSECOND

# How often the utilisation is asked for.
_UPDATE_PERIOD_SECONDS = 0.1
# Of the board power, where the idle power is not given: boards with memory of their own keep 10 to 40 %.
_IDLE_RATIO = 0.25
# Between idle and full load, power is not linear in utilisation, and a board's limit is not its load.
_LOW_RATIO, _HIGH_RATIO = 0.5, 1.5
# A device without any idle power still has a lower end that can be divided by.
_LOWEST_RATIO = 0.001

_REMEDY = "Give the board power: backends=[AcceleratorEstimate('tpu-0', board_watts=192)]; it is not guessed"


class AcceleratorEstimate:
    """Estimates the energy of a TPU, an IPU or another device by board power and utilisation.

    P = idle + (board - idle) * utilisation, integrated over the reads; the truth is taken to lie
    between half and one and a half times that. Without a utilisation the power is the middle
    between idle and board power, and the interval reaches from the one to the other.

    The domain is of kind ``gpu`` (an accelerator that is added to the total), has the
    provenance ``estimated``, and is metered only where it is given to a meter.

    Args:
        label: name of the domain, such as ``"tpu-0"``.
        board_watts: power at full load, of all boards together.
        idle_watts: power without load; None for a quarter of the board power, which a note tells.
        utilisation: share of full load, 0 to 1, as a number or as a function that returns the
            present one; None if it is not known.
        now_ns: monotonic clock for the time stamps of the readings.

    Attributes:
        notes: what was assumed.

    Raises:
        ArgumentError: a power or a constant utilisation is out of range.

    Example:
        >>> tpu = AcceleratorEstimate("tpu-0", board_watts=200, idle_watts=50, utilisation=0.5)
        >>> [domain] = tpu.open()
        >>> domain.provenance, domain.max_power_watts
        (<Provenance.ESTIMATED: 'estimated'>, 300.0)
    """

    name = "accelerator_estimate"

    def __init__(
        self,
        label: str = "accelerator",
        *,
        board_watts: float | None = None,
        idle_watts: float | None = None,
        utilisation: Callable[[], float] | float | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if board_watts is not None and not (math.isfinite(board_watts) and board_watts > 0):
            raise ArgumentError(f"board_watts={board_watts!r}: expected a positive number")
        if idle_watts is not None and not 0 <= idle_watts <= (board_watts or 0.0):
            raise ArgumentError(f"idle_watts={idle_watts!r}: expected a number from 0 to board_watts")
        if isinstance(utilisation, (int, float)) and not 0 <= utilisation <= 1:
            raise ArgumentError(f"utilisation={utilisation!r}: expected a number from 0 to 1")
        self._label = label
        self._board_watts = board_watts or 0.0
        self._idle_watts = _IDLE_RATIO * self._board_watts if idle_watts is None else idle_watts
        self._idle_is_assumed = idle_watts is None
        self._utilisation = utilisation
        self._now_ns = now_ns
        self._open = False
        # Joules since `open`, and the time and the power of the last read.
        self._joules = 0.0
        self._last: tuple[int, float] | None = None
        self.notes: tuple[str, ...] = ()

    def open(self) -> Sequence[Domain]:
        """Describe the accelerator.

        Raises:
            BackendUnavailableError: no board power was given.
        """
        if not self._board_watts:
            raise BackendUnavailableError(self.name, "no board power was given", _REMEDY)
        self._open, self._joules, self._last = True, 0.0, None
        middle_watts = (self._idle_watts + self._board_watts) / 2
        low, high = _LOW_RATIO, _HIGH_RATIO
        if self._utilisation is None:
            low = max(self._idle_watts / middle_watts, _LOWEST_RATIO)
            high = self._board_watts / middle_watts
        self.notes = tuple(self._assumptions())
        return (
            Domain(
                name=self._label,
                id=f"accelerator_estimate:{self._label}",
                kind="gpu",
                source=self.name,
                provenance=Provenance.ESTIMATED,
                joules_per_count=JOULES_PER_MICROJOULE,
                update_period_seconds=_UPDATE_PERIOD_SECONDS,
                max_power_watts=_HIGH_RATIO * self._board_watts,
                interval_low_ratio=low,
                interval_high_ratio=high,
            ),
        )

    def read(self) -> Sequence[Reading | Failure]:
        """Return microjoules since `open`: the power of two reads holds for the time between them."""
        if not self._open:
            return ()
        begin_ns = self._now_ns()
        try:
            share = self._share()
        except Exception as error:  # the user's function may raise anything
            reason = f"{self._label}: utilisation: {type(error).__name__}: {error}"
            return (Failure(0, reason, False, begin_ns),)
        end_ns = self._now_ns()
        watts = self._idle_watts + (self._board_watts - self._idle_watts) * share
        last_ns, last_watts = self._last or (end_ns, watts)
        self._joules += (watts + last_watts) / 2 * (end_ns - last_ns) * SECONDS_PER_NANOSECOND
        self._last = end_ns, watts
        return (Reading(0, round(self._joules / JOULES_PER_MICROJOULE), begin_ns, end_ns),)

    def close(self) -> None:
        """Estimate no more."""
        self._open = False

    def _share(self) -> float:
        if self._utilisation is None:
            return 0.5
        share = float(self._utilisation() if callable(self._utilisation) else self._utilisation)
        if not 0 <= share <= 1:
            raise ValueError(f"{share} is not between 0 and 1")
        return share

    def _assumptions(self) -> list[str]:
        found = []
        if self._idle_is_assumed:
            found.append(f"{self._label}: idle power is not given: {self._idle_watts:g} W are assumed")
        if self._utilisation is None:
            found.append(
                f"{self._label}: utilisation is not known: the power lies between idle and board power"
            )
        return found
