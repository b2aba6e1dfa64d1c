"""What is being done, on stderr, where somebody watches a terminal."""

from __future__ import annotations

import sys


def progress(text: str) -> None:
    """Replace the line that stands there; nothing is written to files and pipes."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
