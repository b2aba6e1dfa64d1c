"""Ties to tools that have a plug-in or callback mechanism of their own; one file for each."""
