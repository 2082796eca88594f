.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow chaos bench bench-store table check lint format clean
# The first of these that runs, is new enough and can make an environment is taken; name yours: make PYTHON=...
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python
BIN := .venv/bin
STAMP := .venv/.installed

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@for python in $(PYTHON); do \
	  "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  exec "$$python" -m venv .venv; \
	done; \
	echo "Python 3.11 or newer with its venv module was not found (tried: $(PYTHON));" \
	  "install it, or name it: make PYTHON=/path/to/python" >&2; \
	exit 1

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(STAMP) ## create .venv and install the pinned dependencies

demo: $(STAMP) ## train a small network on photographs (under 3 minutes on 2 cores) and print the table
	$(BIN)/python -m sr_lab experiment=demo

# Two tests at a time; on two cores a second thread for each would make small networks a hundred times slower.
test test-slow chaos: export OMP_NUM_THREADS ?= 1

test: $(STAMP) ## the default tests (about 6 minutes on 2 cores)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 12

test-slow: $(STAMP) ## the rest: compilation of whole networks, learning
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m slow

chaos: $(STAMP) ## break runs thousands of times (hours), store what was lost in experiments/reliability
	SR_LAB_CHAOS=1 $(BIN)/python -m pytest -m slow tests/reliability

bench bench-store: export OMP_NUM_THREADS ?= 1

bench: $(STAMP) ## how fast we are here; fails if a ratio is worse than stored by more than 10 %
	$(BIN)/python -m sr_lab task=benchmark

bench-store: $(STAMP) ## the same, stored in experiments/benchmarks
	$(BIN)/python -m sr_lab task=benchmark store=true

table: $(STAMP) ## write README's results from experiments/*/results.csv
	$(BIN)/python -m sr_lab.reporting.readme

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## the whole gate

clean: ## remove what was built
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
