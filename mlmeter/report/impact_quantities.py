"""What readers call the quantities of an impact."""

from __future__ import annotations

# By their names in tables and exports.
IMPACT_QUANTITIES = {
    "metered_energy": "metered energy",
    "facility_energy": "energy with PUE",
    "operational_without_pue": "emissions without PUE",
    "operational": "emissions of electricity",
    "embodied": "emissions of manufacture",
    "carbon": "emissions, all of these",
    "cost_without_pue": "cost without PUE",
    "cost": "cost of electricity",
    "water": "water",
}
