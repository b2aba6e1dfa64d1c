"""The benchmarks are scripts beside each other, not a package."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS / "accuracy"))
# Behind, for some of their files are called like those of the accuracy.
sys.path += [str(BENCHMARKS / "overhead"), str(BENCHMARKS / "soak")]
