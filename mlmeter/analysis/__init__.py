"""From joules to decisions: lifecycle, efficiency, comparison; every figure with an interval."""
