"""Emissions, money and water of metered energy; every factor has a year and a source.

`Session.impact` is the usual way in. Nothing here uses the network, but for the providers, and these
only when a user makes one and passes it on.
"""

from mlmeter.impact.cleanest import RunTime, cleanest
from mlmeter.impact.conversion import ImpactFactors, impact_factors
from mlmeter.impact.embodied import Embodied
from mlmeter.impact.equivalences import Equivalence
from mlmeter.impact.factors import Amount, Factor
from mlmeter.impact.providers.base import CarbonProvider
from mlmeter.impact.providers.eia import Eia
from mlmeter.impact.providers.electricity_maps import ElectricityMaps
from mlmeter.impact.providers.energi_data_service import EnergiDataService
from mlmeter.impact.providers.entsoe import EntsoE
from mlmeter.impact.providers.uk_carbon_intensity import UkCarbonIntensity
from mlmeter.impact.providers.watttime import WattTime
from mlmeter.impact.result import Impact, PhaseImpact, total_carbon, total_cost
from mlmeter.impact.sci import SciScore
from mlmeter.impact.series import IntensitySeries

__all__ = [
    "Amount",
    "CarbonProvider",
    "Eia",
    "ElectricityMaps",
    "Embodied",
    "EnergiDataService",
    "EntsoE",
    "Equivalence",
    "Factor",
    "Impact",
    "ImpactFactors",
    "IntensitySeries",
    "PhaseImpact",
    "RunTime",
    "SciScore",
    "UkCarbonIntensity",
    "WattTime",
    "cleanest",
    "impact_factors",
    "total_carbon",
    "total_cost",
]
