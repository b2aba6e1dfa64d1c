"""Which two readings of power a trapezoid may join."""

from __future__ import annotations

from mlmeter.measurement import Domain

GAP_PERIODS = 3
GAP_SECONDS = 1.0


def longest_step_seconds(domain: Domain) -> float:
    """Return the time between two readings of power from which on nothing is known between them."""
    return max(GAP_PERIODS * domain.update_period_seconds, GAP_SECONDS)
