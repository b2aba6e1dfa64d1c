"""Studies of what saves energy; ``python -m benchmarks.workloads`` runs them."""

import os

# Before NumPy is loaded: several threads of BLAS on a busy machine measure how they wait for each other.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
