"""Files and texts of a session: CSV tables, the run directory, the summary."""
