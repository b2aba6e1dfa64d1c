"""The journal of a run: every row, window and event, in one SQLite file that survives a crash."""

# Name of the file in a run directory.
JOURNAL = "journal.sqlite"
