"""Loaded by every Python process of a metered run with a GPU, the children of tools included."""

import os
import sys
from pathlib import Path

if "MLMETER_BENCHMARK_GPU" in os.environ:
    _folder = str(Path(__file__).parents[1])
    sys.path.insert(0, _folder)
    import nvml_library

    sys.path.remove(_folder)
    nvml_library.install()
