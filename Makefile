# Everything happens in .venv of this checkout; a second call installs nothing again.
# Needs python3 (3.11 or later) with venv, and make. Wheels only: no compiler.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --prefer-binary
READY := $(VENV)/.ready
# Small matrices gain nothing from threads, and on a busy machine these wait for each other.
ONE_BLAS_THREAD := OPENBLAS_NUM_THREADS=1
# Some distributions install a package `tests`, which must not stand in for that of this checkout.
OURS := PYTHONPATH=.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment must not run at the same time.
.NOTPARALLEL:
.PHONY: help demo test coverage lint format types layers docs bench-overhead bench-edges bench-load bench-accuracy \
  bench-plots bench-resolving bench-compare bench-estimate bench-peers bench-page bench-workloads gpu-experiments \
  soak soak-cycles soak-kills soak-month soak-runs-file soak-journal fuzz build clean

help:  ## show this list
	@echo "mlmeter: make TARGET [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' Makefile \
	| while IFS='|' read -r name text; do printf '  %-15s %s\n' "$$name" "$$text"; done

demo: $(READY)-demo  ## meter a real training and inference run on this machine
	@$(BIN)/mlmeter demo

test: $(READY)-test  ## run the tests
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)

coverage: $(READY)-test  ## run the tests and report branch coverage
	@$(BIN)/python -m pytest -q --cov --cov-report=term $(PYTEST_ARGS)

soak-runs-file: $(READY)-test  ## let 8 processes append 100 sessions each to one runs.csv, and kill others
	@$(OURS) $(BIN)/python tests/soak/runs_file.py $(SOAK_ARGS)

fuzz: $(READY)-fuzz  ## read made-up journals, baselines and tables for ten minutes; needs a wheel of atheris
	@$(OURS) $(BIN)/python tests/fuzz/fuzz_files.py $(or $(FUZZ_ARGS),-max_total_time=600)

lint: $(READY)-lint  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY)-lint  ## apply the formatter and safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(READY)-lint  ## check types, strictly
	@$(BIN)/mypy

layers: $(READY)-lint  ## check which module imports which
	@$(BIN)/lint-imports --no-logo

docs: $(READY)-docs  ## build the documentation into build/docs; a warning is an error
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

bench-overhead: $(READY)-demo  ## measure what metering costs the metered program
	@$(BIN)/python benchmarks/overhead/run.py $(BENCH_ARGS)

bench-edges: $(READY)-test  ## measure entering and leaving windows while backends are slow, hang or fail
	@$(OURS) $(BIN)/python benchmarks/overhead/edges.py $(BENCH_ARGS)

bench-load: $(READY)-test  ## measure how much slower a metered training loop runs
	@$(ONE_BLAS_THREAD) $(OURS) $(BIN)/python benchmarks/overhead/training_loop.py $(BENCH_ARGS)

bench-accuracy: $(READY)-demo  ## replay loads of known energy and judge the split of short windows
	@$(ONE_BLAS_THREAD) $(BIN)/python benchmarks/accuracy/run.py $(BENCH_ARGS)

bench-resolving: $(READY)-demo  ## measure what resolving up to a million windows costs
	@$(ONE_BLAS_THREAD) $(BIN)/python benchmarks/accuracy/cost.py $(BENCH_ARGS)

bench-estimate: $(READY)-demo  ## judge the CPU estimate against servers of known power
	@$(BIN)/python benchmarks/accuracy/cpu_estimate.py $(BENCH_ARGS)

bench-compare: $(READY)-demo  ## judge comparisons and the schedule of mlmeter bench on simulated runs
	@$(BIN)/python benchmarks/accuracy/compare.py $(BENCH_ARGS)

bench-plots: $(READY)-plots  ## draw the accuracy of short windows into benchmarks/results
	@$(ONE_BLAS_THREAD) $(BIN)/python benchmarks/accuracy/plots.py $(BENCH_ARGS)

soak-month: $(READY)-demo  ## simulate a month in one session: bounded memory, right totals; half an hour
	@$(ONE_BLAS_THREAD) $(BIN)/python benchmarks/soak/month.py $(BENCH_ARGS)

gpu-experiments: $(READY)-demo  ## find out how the counter of this machine's GPU works; reads only
	@$(BIN)/python benchmarks/accuracy/gpu_experiments.py $(BENCH_ARGS)

bench-peers: $(READY)-demo  ## compare mlmeter with other tools on live counters of known energy
	@$(BIN)/python benchmarks/accuracy/peers/run.py $(BENCH_ARGS)

# The quick form does without PyTorch and pictures.
bench-workloads: $(READY)-$(if $(findstring --quick,$(BENCH_ARGS)),demo,workloads)  ## study what saves energy, on real data
	@$(BIN)/python -m benchmarks.workloads $(BENCH_ARGS)

bench-page: $(READY)-demo  ## measure how large the report page is and how fast a browser draws it
	@$(BIN)/python benchmarks/page/run.py $(BENCH_ARGS)

soak-cycles: $(READY)-test  ## start and stop a thousand meters in ten ways and count what is left
	@$(ONE_BLAS_THREAD) $(OURS) $(BIN)/python benchmarks/soak/cycles.py $(BENCH_ARGS)

soak-journal: $(READY)-demo  ## measure what the journal of a day costs, and recover it
	@$(BIN)/python benchmarks/soak/journal.py $(BENCH_ARGS)

soak: soak-journal soak-kills soak-cycles soak-runs-file soak-month  ## run everything that takes long: an hour

soak-kills: $(READY)-demo  ## kill a thousand metered programs and see what of their runs is left (minutes)
	@$(BIN)/python -W ignore benchmarks/soak/kills.py $(BENCH_ARGS)

build: $(READY)-build  ## build the wheel and the sdist into dist
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .

clean:  ## remove the virtual environment, caches and everything built
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
	  .coverage .coverage.*
	@find mlmeter tests docs benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- the virtual environment, in steps: a stamp file tells what is installed --------------------

$(READY):
	@command -v $(PYTHON) >/dev/null || { \
	  echo "mlmeter needs Python 3.11 or later, and '$(PYTHON)' was not found."; \
	  echo "  Debian, Ubuntu: sudo apt-get install python3 python3-venv"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mlmeter needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)."; \
	  echo "  If a newer one is installed, name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv module is incomplete."; \
	  echo "  Debian, Ubuntu: sudo apt-get install python3-venv"; exit 1; } >&2
	@echo "making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The checkout is installed as a link (-e): only a change of pyproject.toml installs again.
$(READY)-%: pyproject.toml | $(READY)
	@echo "installing mlmeter[$*] into $(VENV) (the first time takes a minute)"
	@$(PIP_INSTALL) -e '.[$(or $(EXTRAS_$*),$*)]'
	@touch $@

EXTRAS_test := demo,test
# The type checker reads the libraries that the tests and the demo use.
EXTRAS_lint := demo,lint
# Only the pictures of the benchmarks need matplotlib.
$(READY)-plots: | $(READY)-demo
	@echo "installing matplotlib into $(VENV)"
	@$(PIP_INSTALL) 'matplotlib>=3.8'
	@touch $@
# For some versions of Python only.
$(READY)-fuzz: | $(READY)-test
	@echo "installing atheris into $(VENV)"
	@$(PIP_INSTALL) --only-binary :all: 'atheris>=3.0'
	@touch $@
$(READY)-build: | $(READY)
	@echo "installing build into $(VENV)"
	@$(PIP_INSTALL) 'build>=1.2'
	@touch $@
