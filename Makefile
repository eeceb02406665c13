# One environment for everything; its stamp is newer than setup.cfg once it is installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests run in parallel, one thread for each process: threads that share a core wait for each other most of the time.
WORKERS ?= auto
ARGS ?=
PYTEST := -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
CODE := madx pipelines benchmarks notebooks tests

.PHONY: quickstart help test test-fast lint format install oracle notebooks campaign bench bench-peers test-peers \
	test-transformers4 test-transformers4-fast clean

quickstart: $(STAMP)  ## train, swap and evaluate on the embedded miniature world, offline
	$(BIN)/madx quickstart

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*##  *\(.*\)/\1\t\2/p' Makefile | expand -t 26

test: export OMP_NUM_THREADS = 1
test: $(STAMP)  ## all tests in parallel; ARGS='tests/test_store.py -k killed' chooses some, WORKERS=0 takes one process
	$(BIN)/python $(PYTEST) $(ARGS)

test-fast: export OMP_NUM_THREADS = 1
test-fast: $(STAMP)  ## all tests but those marked `slow`
	$(BIN)/python $(PYTEST) -m 'not slow' $(ARGS)

lint: $(STAMP)  ## style, layout and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: $(STAMP)  ## lay out the code and mend what ruff can mend
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

oracle: $(STAMP)  ## how far madx is from the incumbent's own numbers, case by case
	$(BIN)/python tests/interop/oracle_table.py

notebooks: $(STAMP)  ## run the notebooks and keep their outputs
	$(BIN)/python tests/notebook_tools.py

# A longer campaign finds more; the same seed finds the same again, attempt by attempt.
CAMPAIGN_SECONDS ?= 1200
CAMPAIGN_SEED ?= 1
CAMPAIGN ?=
campaign: export PYTHONPATH = .:tests
campaign: $(STAMP)  ## kills, damaged files, crowds, limits, hostile hubs and text; CAMPAIGN_SECONDS=7200 CAMPAIGN_SEED=2
	$(BIN)/python -m campaign --seconds $(CAMPAIGN_SECONDS) --seed $(CAMPAIGN_SEED) --out runs/campaign $(CAMPAIGN)

BENCH ?= --out runs/benchmarks
bench: $(STAMP)  ## speed and memory: a table, JSON and a plot in runs/benchmarks; BENCH='--only train --shape small'
	$(BIN)/python benchmarks/run.py $(BENCH)

# The incumbent pins transformers 4.57, so it gets an environment of its own.
PEERS ?= .venv-peers
$(PEERS)/.installed: setup.cfg
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -e '.[test]' 'transformers>=4.57,<5' 'adapters==1.3.0'
	touch $@

# composable-sft was never published as a package; its sources are read, its trainers are not imported.
$(PEERS)/composable-sft: | $(PEERS)/.installed
	git clone --quiet --depth 1 https://github.com/cambridgeltl/composable-sft $@

bench-peers: $(PEERS)/.installed  ## the benchmarks, with AdapterHub's adapters interleaved
	$(PEERS)/bin/python benchmarks/run.py $(BENCH)

test-peers: $(PEERS)/.installed $(PEERS)/composable-sft  ## live round trips with AdapterHub's adapters and composable-sft
	$(PEERS)/bin/python tests/peers/round_trip.py
	$(PEERS)/bin/python tests/peers/composable_sft.py --source $(PEERS)/composable-sft/src

test-transformers4: export OMP_NUM_THREADS = 1
test-transformers4: $(PEERS)/.installed  ## all tests on transformers 4.57
	$(PEERS)/bin/python $(PYTEST) $(ARGS)

test-transformers4-fast: export OMP_NUM_THREADS = 1
test-transformers4-fast: $(PEERS)/.installed  ## all tests but those marked `slow` on transformers 4.57
	$(PEERS)/bin/python $(PYTEST) -m 'not slow' $(ARGS)

install: $(STAMP)  ## the environment alone

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 10) else 'madx needs Python 3.10 or newer; set PYTHON=python3.x')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $(STAMP)

clean:  ## remove the environment and what a build leaves
	rm -rf $(VENV) build dist *.egg-info
