"""Rules of uncertainty that are shared by all energies (GUM terms)."""

from __future__ import annotations

# Standard uncertainty of a quantity known only to lie within an interval, per unit of its
# width: a uniform distribution (GUM, 4.3.7).
UNIFORM_SIGMA = 12**-0.5

# A value whose standard uncertainty reaches this share of it is reported as an interval.
RESOLVED_RATIO = 0.10
