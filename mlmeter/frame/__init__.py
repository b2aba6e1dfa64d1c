"""Results as tidy tables, and those as pandas frames."""
