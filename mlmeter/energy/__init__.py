"""Arithmetic of energy: pure, no thread, clock, file or log."""
