"""The benchmarks are scripts beside each other, not a package."""

from __future__ import annotations

import sys
from pathlib import Path

ACCURACY = Path(__file__).parents[2] / "benchmarks" / "accuracy"
sys.path.insert(0, str(ACCURACY))
