.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow chaos bench bench-store table costs ledger docs check lint format clean
# The first of these that runs, is new enough and can create an environment is used. To choose: make PYTHON=...
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python
BIN := .venv/bin
STAMP := .venv/.installed

help: ## print this list
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
	@echo 'Installed. Next: . .venv/bin/activate, then python -m sr_lab --help'

demo: $(STAMP) ## train a small network on photographs (3 to 7 minutes on 2 cores) and print the table
	$(BIN)/python -m sr_lab experiment=demo

# One thread for each test: with more threads than cores, small networks are a hundred times slower. Three tests run
# at a time on two cores, since many tests wait for a signal, a lock or another process.
test test-slow chaos: export OMP_NUM_THREADS ?= 1
# Without .pyc files, each process of the tests compiles the modules again, which takes half a minute in all.
test test-slow chaos: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP) ## run the default tests (about 6 minutes on 2 cores)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 12

test-slow: $(STAMP) ## run the slow tests: compilation of whole networks, learning
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m slow

chaos: $(STAMP) ## kill runs thousands of times (hours); experiments/reliability gets a row for what was lost
	SR_LAB_CHAOS=1 $(BIN)/python -m pytest -m slow tests/reliability

bench bench-store: export OMP_NUM_THREADS ?= 1

bench: $(STAMP) ## measure speed; fail if a ratio is more than 10 % worse than the stored one
	$(BIN)/python -m sr_lab task=benchmark

bench-store: $(STAMP) ## measure speed and store it in experiments/benchmarks
	$(BIN)/python -m sr_lab task=benchmark store=true

table: $(STAMP) ## update the README's results from experiments/*/results.csv
	$(BIN)/python -m sr_lab.reporting.readme

costs: $(STAMP) ## update the tables of data and cost in experiments/*/README.md (minutes)
	$(BIN)/python -m sr_lab.help.costs

ledger: $(STAMP) ## measure the weights in the package; fail if PSNR or SSIM differs from the stored value
	$(BIN)/python -m pytest --quiet -m '' tests/checkpoints/test_pretrained.py

docs: $(STAMP) ## build a site from the texts of --help and experiments/ (open build/docs/site/index.html)
	$(BIN)/python -m sr_lab.help.site build/docs
	$(BIN)/zensical build --strict --config-file build/docs/mkdocs.yml

lint: $(STAMP) ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## run everything that CI runs

clean: ## remove everything that was built, including .venv
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
